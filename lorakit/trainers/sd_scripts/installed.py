"""LK511…: what the installed sd-scripts takes, asked of its own parser, and whether a preset's command fits it."""

from __future__ import annotations

import functools
import json
import os
import re
import tempfile
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lorakit.atomic import write_json
from lorakit.errors import RuleError, TrainerError
from lorakit.preset.models import Preset
from lorakit.preset.rules import Finding, Table, ordered
from lorakit.trainers.catalogue import Catalogue
from lorakit.trainers.extra import typed_key
from lorakit.trainers.render import RenderPaths, render
from lorakit.trainers.sd_scripts import pin as pins
from lorakit.trainers.sd_scripts.checkout import look
from lorakit.trainers.sd_scripts.place import Place, find
from lorakit.trainers.sd_scripts.programs import answer

if TYPE_CHECKING:
    from lorakit.workspace import Workspace

__all__ = ["TABLE", "Installed", "check_installed", "fitting", "head_of", "make_catalogue", "path_of", "read_installed"]

TABLE: Final = Table["_Asked"]("What the installed sd-scripts takes")
_SCHEMA: Final = 1
_ASK: Final = Path(__file__).with_name("ask_parser.py")
#: Importing the script reads torch and diffusers: seconds on a fast disk, minutes on a cold one.
_ASK_SECONDS: Final = 600


@dataclass(frozen=True)
class Installed:
    """The command line of one checkout: its commit, the release it is or is like, its folder, its options."""

    commit: str
    version: str
    folder: str
    catalogue: Catalogue


def path_of(workspace: Workspace) -> Path:
    """The catalogue's file, beside the checkout."""
    return workspace.vendor / "sd-scripts.flags.json"


def make_catalogue(workspace: Workspace, place: Place | None = None) -> Installed:
    """Ask the checkout's own parser, in its environment, and write its catalogue. Changes no file of the checkout.

    Raises TrainerError when the script cannot be imported or its parser gives no help: then it cannot train either.
    """
    place = place or find(workspace)
    told = _ask(place)
    checkout = look(place.folder)
    known = Catalogue.load().flags
    rows = [_row(option, known) for option in told["options"]]
    installed = {
        "schema": _SCHEMA,
        "commit": checkout.commit,
        "version": _version(checkout.commit, {row["flag"] for row in rows}, workspace),
        "folder": str(place.folder),
        "python": told["python"],
        "options": rows,
    }
    path = path_of(workspace)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, installed)
    return _installed(installed)


def _ask(place: Place) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="lorakit-") as folder:
        out = Path(folder) / "options.json"
        code, text, errors = answer(
            [str(place.python), str(_ASK), str(out)],
            cwd=place.folder,
            seconds=_ASK_SECONDS,
            add={"PYTHONDONTWRITEBYTECODE": "1"},
        )
        if code == 0 and out.is_file():
            told: dict[str, Any] = json.loads(out.read_bytes())
            return told
    last = next((line for line in reversed((text + "\n" + errors).splitlines()) if line.strip()), f"exit code {code}")
    todo = "lorakit trainer install makes its environment again"
    if missing := re.search(r"No module named '([\w.]+)'", last):
        todo = f"install what has the module {missing[1]} into the environment of {place.python}"
        todo += "" if place.named else " (vendor/sd-scripts.toml lists its packages), and type: lorakit trainer install"
    raise TrainerError(f"sd-scripts in {place.folder} cannot be started", why=last.strip(), todo=todo)


def _row(option: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    twin = known.get(option["flag"])
    return {
        **option,
        "group": twin.group if twin else "other",
        "since": twin.since if twin else "",
        "changed": twin.changed if twin else None,
    }


def _version(commit: str, flags: set[str], workspace: Workspace) -> str:
    """The pin's release for its commits; else the newest release all of whose options are there."""
    pin = pins.read_pin(workspace)
    if pin.means(commit):
        return pin.tag
    by_release: dict[str, set[str]] = {}
    for flag in Catalogue.load():
        by_release.setdefault(flag.since.lstrip("<="), set()).add(flag.flag)
    complete = ""
    for release in sorted(by_release, key=_numbers):
        if not by_release[release] <= flags:
            break
        complete = release
    return f"like {complete}" if complete else "older than any that lorakit knows"


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", release))


def _installed(value: Mapping[str, Any]) -> Installed:
    return Installed(value["commit"], value["version"], value["folder"], Catalogue.of_rows(value["options"]))


def read_installed(workspace: Workspace) -> Installed | None:
    """The catalogue that was made, None where there is none. Raises TrainerError when it cannot be read."""
    path = path_of(workspace)
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return _read(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=4)
def _read(path: Path, _changed: int, _size: int) -> Installed:
    try:
        return _installed(json.loads(path.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainerError(
            f"{path} cannot be read", why=f"{type(error).__name__}: {error}", todo="lorakit trainer catalogue"
        ) from error


def head_of(folder: Path) -> str:
    """The commit that a checkout is at, read from its files; "" where they do not tell it in the plain way."""
    try:
        head = (folder / ".git" / "HEAD").read_text(encoding="ascii").strip()
        if not head.startswith("ref: "):
            return head
        name = head.removeprefix("ref: ")
        loose = folder / ".git" / name
        if loose.is_file():
            return loose.read_text(encoding="ascii").strip()
        packed = (folder / ".git" / "packed-refs").read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""
    return next((line.split()[0] for line in packed.splitlines() if line.endswith(f" {name}")), "")


@dataclass(frozen=True)
class _Asked:
    """A preset's command, and what the installed version takes; ``stale`` where it was asked of another commit.

    ``changed`` are the checkout's files that differ from its commit.
    """

    arguments: Sequence[str]
    installed: Installed
    stale: bool
    changed: tuple[str, ...]

    @property
    def unknown(self) -> list[str]:
        """Options of the command that the installed version lacks."""
        names = [word.partition("=")[0] for word in self.arguments if word.startswith("--")]
        return [name for name in names if name not in self.installed.catalogue.flags]


def fitting(arguments: Sequence[str], workspace: Workspace) -> tuple[str, ...]:
    """The command's arguments as the installed sd-scripts takes them.

    An option that it does not have yet, and whose value is what the trainer did before it was there, is left out. All stand
    as they are where no catalogue was made, or one of another commit. Raises TrainerError when it cannot be read.
    """
    installed = read_installed(workspace)
    if installed is None or _is_stale(installed, find(workspace).folder):
        return tuple(arguments)
    return tuple(
        word for option in _options(arguments) if not _goes_without_saying(option, installed) for word in option
    )


def _options(arguments: Sequence[str]) -> list[list[str]]:
    """Each option with its values."""
    options: list[list[str]] = []
    for word in arguments:
        if word.startswith("--") or not options:
            options.append([])
        options[-1].append(word)
    return options


def _goes_without_saying(option: Sequence[str], installed: Installed) -> bool:
    name, known = option[0], Catalogue.load().flags
    if name in installed.catalogue.flags or name not in known or len(option) != 2 or known[name].default is None:
        return False
    default = known[name].default
    try:
        return bool(type(default)(option[1]) == default)
    except ValueError:
        return False


def _is_stale(installed: Installed, folder: Path) -> bool:
    head = head_of(folder)
    return bool(head) and (head != installed.commit or os.path.abspath(installed.folder) != str(folder))


def check_installed(preset: Preset, workspace: Workspace) -> tuple[Finding, ...]:
    """What the installed sd-scripts would not take of a preset's command. Nothing where no catalogue was made."""
    installed = read_installed(workspace)
    if installed is None:
        return ()
    place = find(workspace)
    stale = _is_stale(installed, place.folder)
    speakable = preset if preset.seed is not None else preset.model_copy(update={"seed": 0})
    try:
        whole = render(speakable, RenderPaths(Path("/"), Path("/"), Path("/")), kind="sd-scripts")
    except RuleError:  # a rule of its own says what no command line can say
        return ()
    arguments = fitting(whole, workspace)
    return ordered(TABLE.look(preset, _Asked(arguments, installed, stale, look(place.folder).changed)))


@TABLE.error(
    "LK511", "trainer.kind", "an option that the installed sd-scripts does not have",
    why="its parser would stop",
    todo="install the version that has it (lorakit trainer install), or leave the setting out",
)  # fmt: skip
def _options_are_there(_: Preset, asked: _Asked) -> bool | str:
    if asked.stale:
        return False
    known = Catalogue.load().flags
    told = []
    for name in asked.unknown:
        since = known[name].since.lstrip("<=") if name in known else ""
        key = typed_key(name.lstrip("-")).split(" ")[0]
        named = f"{name} ({key})" if key else name
        told.append(f"{named} is there since {since}" if since else named)
    return f"{', '.join(told)}; installed is {asked.installed.version}" if told else False


@TABLE.error(
    "LK512", "trainer.kind", "a value that the installed sd-scripts does not take",
    why="its parser would stop",
    todo="install the version that takes it (lorakit trainer install), or change the setting",
)  # fmt: skip
def _values_are_taken(_: Preset, asked: _Asked) -> bool | str:
    if asked.stale or asked.unknown:
        return False
    try:
        read: Namespace = asked.installed.catalogue.parser().parse_args(asked.arguments)
    except TrainerError as error:
        known = Catalogue.load().flags
        named = next((flag for name, flag in known.items() if f"argument {name}:" in error.what), None)
        detail = error.what.partition(": ")[2] or error.what
        changed = f" (changed with {named.changed})" if named is not None and named.changed else ""
        return f"{detail}{changed}; installed is {asked.installed.version}"
    del read
    return False


@TABLE.warning(
    "LK513", "trainer.kind", "sd-scripts is at another commit than the one whose options were asked",
    why="whether it takes every option of the preset is not known",
    todo="type: lorakit trainer catalogue",
)  # fmt: skip
def _catalogue_is_fresh(_: Preset, asked: _Asked) -> bool:
    return asked.stale


@TABLE.warning(
    "LK514", "trainer.kind", "the checkout of sd-scripts has local changes",
    why="what trains is not quite what its commit names; the run records that there are some, not which",
    todo="take them back with git, or commit them",
)  # fmt: skip
def _checkout_is_clean(_: Preset, asked: _Asked) -> bool | str:
    names = ", ".join(asked.changed[:3])
    return f"{names} and {len(asked.changed) - 3} more" if len(asked.changed) > 3 else names
