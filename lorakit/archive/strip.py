"""A copy of a run that tells nothing of whose machine it was made on: no absolute paths, no names of user and host (stdlib only)."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lorakit.archive.run import Run, read_record
from lorakit.archive.seal import manifests, seal, sealed_files
from lorakit.archive.tensors import safetensors_fault
from lorakit.atomic import dump_json

__all__ = ["Stripper", "strip_run"]

_TEXTS: Final = frozenset({".json", ".jsonl", ".toml", ".sh", ".yaml", ".log", ".md", ".txt", ""})
#: Names of users and hosts that say nothing of anybody, and are words of every log.
_COMMON: Final = frozenset({"root", "user", "ubuntu", "admin", "localhost", "docker", "runner", "here", "host", "none"})
#: A path in quotes may have spaces; elsewhere it ends at one. Two parts at least: "and/or" and "/s" are no paths.
_QUOTED: Final = re.compile(r"""(["'])((?:[A-Za-z]:\\|/)[^"'\n]*)\1""")
_BARE: Final = re.compile(r"(?<![\w/.~:*!)\]-])/(?:[\w.+@%=-]+/)+[\w.+@%=-]*")
_NEVER: Final = "caption"


@dataclass(frozen=True)
class Stripper:
    """What is taken out: ``workspace`` (paths in it become relative), ``home`` (becomes ``~``), and words."""

    workspace: str
    home: str
    names: tuple[str, ...]

    @classmethod
    def of(cls, run: Run) -> Stripper:
        """What there is to take out of a run, from its own records and this machine."""
        request = read_record(run.request) or {}
        environment = read_record(run.environment) or {}
        keepers = [
            (read_record(run.attempt(n).started) or {}).get("keeper") for n in range(1, run.last_attempt.number + 1)
        ]
        hosts = [keeper.get("host") for keeper in keepers if isinstance(keeper, dict)]
        names = {
            str(name) for name in (request.get("user"), request.get("host"), environment.get("host"), *hosts) if name
        }
        worth = sorted((name for name in names if len(name) > 2 and name.lower() not in _COMMON), key=len, reverse=True)
        return cls(str(request.get("workspace") or run.path.parent.parent), os.path.expanduser("~"), tuple(worth))

    def text(self, text: str) -> str:
        """A text without them: paths of the workspace are relative to it, of others the last part is left."""
        for prefix, short in ((self.workspace, ""), (self.home, "~/")):
            if len(prefix) > 1:
                text = text.replace(f"{prefix}/", short).replace(prefix, short.rstrip("/") or ".")
        text = _QUOTED.sub(lambda found: found[1] + _last(found[2]) + found[1], text)
        text = _BARE.sub(lambda found: _last(found[0]), text)
        for name in self.names:
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "someone", text)
        return text

    def value(self, value: Any, key: str = "") -> Any:
        """A JSON value without them; captions are what was trained on and stay."""
        if isinstance(value, dict):
            return {self.text(name): self.value(item, name) for name, item in value.items()}
        if isinstance(value, list):
            return [self.value(item, key) for item in value]
        if key in {"user", "host"} and value:
            return "someone"
        if not isinstance(value, str) or key == _NEVER:
            return value
        if value == self.workspace:
            return "."
        inside = self.workspace and value.startswith(f"{self.workspace}/")
        return _last(value) if value.startswith("/") and not inside else self.text(value)

    def is_in(self, data: bytes) -> bool:
        """Whether any of them stands in bytes that cannot be rewritten."""
        words = [self.workspace, self.home, *(name for name in self.names if len(name) > 3)]
        return any(
            len(word) > 1 and word.encode("utf-8", "surrogateescape") in data for word in words if word != "/root"
        )


def _last(path: str) -> str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1] or path


def strip_run(run: Run, target: Run) -> list[str]:
    """Copy a run without paths and names, and seal the copy; the files that had to be left out. Raises OSError."""
    stripper = Stripper.of(run)
    left_out = []
    for path in [*sealed_files(run), run.notes, run.tags]:
        name = path.relative_to(run.path)
        if not path.is_file():
            continue
        goal = target.path / name
        goal.parent.mkdir(parents=True, exist_ok=True)
        if not _copy(path, goal, stripper):
            left_out.append(name.as_posix())
    if manifests(run):
        seal(target, run.last_attempt.number)
    return left_out


def _copy(path: Path, goal: Path, stripper: Stripper) -> bool:
    if path.suffix == ".safetensors":
        if safetensors_fault(path) is not None:  # torn: of no use, and its header cannot be gone through
            return False
        _copy_tensors(path, goal, stripper)
        return True
    if "tfevents" in path.name:  # its very name is the host's, and progress.jsonl tells the same
        return False
    if path.suffix not in _TEXTS:
        data = path.read_bytes()
        if stripper.is_in(data):
            return False
        goal.write_bytes(data)
        return True
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    goal.write_bytes(_rewritten(path, text, stripper).encode("utf-8", "surrogateescape"))
    return True


def _rewritten(path: Path, text: str, stripper: Stripper) -> str:
    try:
        if path.suffix == ".json":
            return dump_json(stripper.value(json.loads(text))).decode("utf-8", "surrogateescape")
        if path.suffix == ".jsonl":
            return "".join(f"{line}\n" for line in _json_lines(text, stripper))
    except ValueError:  # no JSON after all
        return stripper.text(text)
    return stripper.text(text)


def _json_lines(text: str, stripper: Stripper) -> Iterator[str]:
    for line in text.splitlines():
        yield json.dumps(stripper.value(json.loads(line)), ensure_ascii=False)


def _copy_tensors(path: Path, goal: Path, stripper: Stripper) -> None:
    """Copy a whole .safetensors with its metadata rewritten; the tensors stay byte for byte."""
    with open(path, "rb") as source, open(goal, "wb") as out:
        (length,) = struct.unpack("<Q", source.read(8))
        header = json.loads(source.read(length))
        if isinstance(header.get("__metadata__"), dict):
            header["__metadata__"] = {key: stripper.text(str(value)) for key, value in header["__metadata__"].items()}
        data = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        data += b" " * (-len(data) % 8)
        out.write(struct.pack("<Q", len(data)))
        out.write(data)
        shutil.copyfileobj(source, out, 1 << 20)
