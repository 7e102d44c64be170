"""Reading one preset file: its text, its values, and the line of every key; every way a file can be unreadable is a sentence."""

from __future__ import annotations

import difflib
import os
import re
import stat
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from lorakit.errors import PresetError, Problem
from lorakit.preset.toml_lines import KeyPath, key_lines
from lorakit.preset.units import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MAX_BYTES", "Source", "display", "parse_source", "read_source", "similar"]

#: No preset comes near this; a checkpoint given by mistake passes it by far.
MAX_BYTES = 1_000_000

UNREADABLE = "LK907"


@dataclass(frozen=True)
class Source:
    """One TOML file: ``text`` verbatim, ``data`` its values, ``lines`` the line (from 1) of each key."""

    path: Path
    text: str
    data: Mapping[str, Any] = field(default_factory=dict)
    lines: Mapping[KeyPath, int] = field(default_factory=dict)

    def line_of(self, key: KeyPath) -> int | None:
        """The line of the key, or of the nearest table around it."""
        return next((self.lines[key[:n]] for n in range(len(key), 0, -1) if key[:n] in self.lines), None)

    def line_text(self, line: int) -> str:
        """One line (from 1), without the space around it."""
        return self.text.split("\n")[line - 1].strip()

    def where(self, key: KeyPath) -> str:
        """``file:line`` of the key, or the file alone."""
        line = self.line_of(key)
        return display(self.path) if line is None else f"{display(self.path)}:{line}"


def display(path: Path) -> str:
    """The path as a message shows it: counted from the current folder where it lies inside, printable in any case."""
    try:
        path = path.absolute().relative_to(Path.cwd())
    except (ValueError, OSError):
        path = Path(os.path.normpath(path))
    return printable(str(path))


def read_source(path: Path) -> Source:
    """Read and parse a preset file. Raises PresetError with one problem."""
    try:
        path = path.absolute()  # provenance stays true when the current folder changes
        raw = _read(path)
    except ValueError as error:
        _refuse(path, f"{display(path)} is not a path", f"the system refuses it: {error}")
    except OSError as error:
        _refuse_missing(path) if isinstance(error, FileNotFoundError | NotADirectoryError) else _refuse(
            path, f"{display(path)} cannot be read", error.strerror or str(error)
        )
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        _refuse(
            path,
            f"{display(path)} is not UTF-8 text",
            f"byte 0x{raw[error.start]:02x} in line {line} does not belong to any UTF-8 character",
            "save the file as UTF-8; if it is not a preset at all, give the .toml file",
            line,
        )
    return parse_source(path, text)


def parse_source(path: Path, text: str) -> Source:
    """Parse the text of a preset file that stands at ``path``. Raises PresetError with one problem."""
    plain = text.removeprefix("\ufeff")  # Windows editors begin UTF-8 files with this mark
    try:
        return Source(path, text, tomllib.loads(plain), key_lines(plain))
    except RecursionError:
        _refuse(path, f"{display(path)} cannot be read", "its arrays or tables are nested too deeply to be a preset")
    except tomllib.TOMLDecodeError as error:
        line = _syntax_line(str(error), plain)
        quoted = plain.split("\n")[line - 1].strip()
        _refuse(
            path,
            f"{display(path)} is not valid TOML",
            f"{_reason(str(error))}: {printable(quoted[:200])}" if quoted else _reason(str(error)),
            _syntax_hint(quoted, str(error)),
            line,
        )

    except ValueError as error:  # Python reads no whole number of more than 4300 digits
        _refuse(path, f"{display(path)} cannot be read", f"one of its values is beyond all measure: {error}")


def _read(path: Path) -> bytes:
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        presets = sorted(entry.name for entry in path.iterdir() if entry.suffix == ".toml")
        todo = f"give one of its files: {', '.join(presets[:5])}" if presets else "give a .toml file"
        _refuse(path, f"{display(path)} is a folder, not a preset", todo=todo)
    if not stat.S_ISREG(status.st_mode):
        _refuse(path, f"{display(path)} is not a regular file", "presets are read more than once", "give a .toml file")
    if status.st_size > MAX_BYTES:
        _refuse(
            path,
            f"{display(path)} is too large for a preset",
            f"it has {status.st_size / 1e6:.1f} MB, and a preset has a few kB",
            "give the .toml file of the preset, not a model or an archive",
        )
    with path.open("rb") as file:
        return file.read(MAX_BYTES)


def _syntax_line(message: str, text: str) -> int:
    match = re.search(r"at line (\d+)", message)
    # "at end of document" names no line: it is the last one that holds something.
    return int(match[1]) if match else text.rstrip().count("\n") + 1


def _reason(message: str) -> str:
    return re.sub(r"\s*\(at (?:line \d+, column (\d+)|end of document)\)", r"", message)


def _syntax_hint(line: str, message: str) -> str:
    if "\\" in line and ("escape" in message.lower() or "hex" in message.lower()):
        return "write paths with / or in 'single quotes', where a backslash is only a backslash"
    if re.match(r"[A-Za-z0-9_.-]+\s*=\s*[A-Za-z~/.]", line) and not re.match(r".*=\s*(true|false)\b", line):
        return 'write texts and paths in "quotes"'
    if "=" not in line and re.match(r"[A-Za-z0-9_.-]+\s*:", line):
        return "write key = value, not key: value"
    return ""


def _refuse_missing(path: Path) -> NoReturn:
    names = similar(path)
    todo = (
        f"did you mean {' or '.join(names)}?"
        if names
        else "check the name; `lorakit init` lays out presets to start from"
    )
    _refuse(path, f"{display(path)} does not exist", todo=todo)


def similar(path: Path) -> list[str]:
    """Preset files with names like this one's in its folder, best first, as paths to show."""
    try:
        stems = {entry.stem: entry for entry in sorted(path.parent.iterdir()) if entry.suffix == ".toml"}
    except OSError:
        return []
    return [display(stems[stem]) for stem in difflib.get_close_matches(path.stem, stems, n=3, cutoff=0.5)]


def _refuse(path: Path, what: str, why: str = "", todo: str = "", line: int | None = None) -> NoReturn:
    where = display(path) if line is None else f"{display(path)}:{line}"
    problem = Problem(what, why, todo, where=where, code=UNREADABLE)
    raise PresetError(what, why=why, todo=todo, problems=(problem,))
