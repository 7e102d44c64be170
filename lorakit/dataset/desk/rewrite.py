"""Rewriting caption files so that nothing is lost: what was there is kept first, each file is replaced whole, all of it can be undone.

What a rewrite replaces stands in ``.lorakit-undo/NNNN.json`` in the folder, written before the first file is touched. A rewrite that
was interrupted is undone or done again like any other: each file is either as it was or as it should be.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from lorakit import atomic
from lorakit.errors import DatasetError, DiskError

__all__ = ["UNDO", "Change", "Undone", "apply", "undo"]

#: The folder of what can be undone; hidden, so that neither trainer nor lorakit takes it for pictures.
UNDO: Final = ".lorakit-undo"
_SHOWN: Final = 5


@dataclass(frozen=True)
class Change:
    """One file: its bytes now and then; ``before`` is None for a file that is not there yet."""

    path: Path
    before: bytes | None
    after: bytes


@dataclass(frozen=True)
class Undone:
    """What an undo did: ``what`` the rewrite was, how many files are again as they were, and which had been changed since."""

    what: str
    restored: int
    left: tuple[Path, ...]


def apply(folder: Path, changes: Sequence[Change], what: str) -> int:
    """Write every change; gives the number of files written.

    Raises DatasetError, before anything is written, where a file is no longer as it was read, and DiskError where a file or folder
    cannot be written: what was written until then can be undone.
    """
    if not changes:
        return 0
    changes = [Change(Path(os.path.realpath(one.path)), one.before, one.after) for one in changes]
    _refuse_read_only({one.path.parent for one in changes} | {folder})
    with _alone(folder) as place:
        _sweep(one.path for one in changes)
        moved = [one.path for one in changes if _read(one.path) != one.before]
        if moved:
            raise DatasetError(
                f"{_names(moved)} changed while this was worked out", why="nothing was written", todo="run it again"
            )
        record = {
            "version": 1,
            "time": time.time(),
            "what": what,
            "files": [
                {
                    "path": os.path.relpath(one.path, os.path.realpath(folder)),
                    "before": None if one.before is None else one.before.decode("utf-8", "surrogateescape"),
                    "after": sha256(one.after).hexdigest(),
                }
                for one in changes
            ],
        }
        done = 0
        try:
            atomic.write_once(place / f"{_next_number(place):04d}.json", atomic.dump_json(record))
            for one in changes:
                _replace(one.path, one.after)
                done += 1
        except OSError as error:
            todo = f"lorakit dataset undo {folder}" if done else "give yourself the right to write there"
            raise DiskError(
                f"{changes[done].path} cannot be written",
                why=f"{error.strerror or error}; {done} of {len(changes)} captions were written before it",
                todo=todo,
            ) from error
    return len(changes)


def undo(folder: Path, *, anyway: bool = False) -> Undone:
    """Put back what the last rewrite of ``folder`` replaced; the one before it is next.

    A file that was changed since is left as it is: with ``anyway`` the others are put back, else nothing is.
    Raises DatasetError where there is nothing to undo or a file was changed since, DiskError where one cannot be written.
    """
    with _alone(folder, make=False) as place:
        records = _records(place)
        if not records:
            above = next((one for one in folder.absolute().parents if _records(one / UNDO)), None)
            raise DatasetError(
                f"there is nothing to undo in {folder}",
                why="a rewrite is kept in the folder it was asked for" if above else "no rewrite of it is kept",
                todo=f"lorakit dataset undo {above}" if above else "",
            )
        number = records[-1]
        record = _record(number)
        root = Path(os.path.realpath(folder))
        changes, left = [], []
        for entry in record["files"]:
            path = Path(os.path.normpath(root / entry["path"]))
            before = None if entry["before"] is None else entry["before"].encode("utf-8", "surrogateescape")
            now = _read(path)
            if now == before:
                continue
            if now is None or sha256(now).hexdigest() != entry["after"]:
                left.append(path)
            else:
                changes.append((path, before))
        if left and not anyway:
            raise DatasetError(
                f"{_names(left)} changed since the rewrite",
                why="putting back what was there before would lose that; nothing was touched",
                todo=f"lorakit dataset undo {folder} --anyway puts back the others",
            )
        _sweep(path for path, _ in changes)
        _refuse_read_only({path.parent for path, _ in changes} | {place})
        try:
            for path, before in changes:
                if before is None:
                    path.unlink()
                    atomic.crash_point("undo:removed")
                else:
                    _replace(path, before)
            atomic.move(number, number.with_suffix(".undone"))
        except OSError as error:
            raise DiskError(
                f"{path} cannot be put back", why=error.strerror or str(error), todo="undo again"
            ) from error
    return Undone(str(record.get("what", "")), len(changes), tuple(left))


def _replace(path: Path, data: bytes) -> None:
    """Write a file whole, with the rights that it had."""
    mode = path.stat().st_mode & 0o7777 if path.exists() else None
    atomic.write_bytes(path, data)
    if mode is not None and mode != path.stat().st_mode & 0o7777:
        path.chmod(mode)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DiskError(f"{path} cannot be read", why=error.strerror or str(error)) from error


@contextmanager
def _alone(folder: Path, *, make: bool = True) -> Iterator[Path]:
    """The undo folder, held: two rewrites of one folder do not mix."""
    place = folder / UNDO
    if make:
        try:
            place.mkdir(exist_ok=True)
        except OSError as error:
            raise DiskError(
                f"{folder} cannot be written",
                why=f"{error.strerror or error}: without a place for the undo no caption is touched",
                todo="copy the dataset to where you may write",
            ) from error
    if not place.is_dir():
        yield place
        return
    with atomic.claimed(place) as held:
        if not held:
            raise DatasetError(f"another rewrite of {folder} is running", todo="wait for it")
        yield place


def _refuse_read_only(folders: Iterable[Path]) -> None:
    for folder in sorted(folders):
        if not os.access(folder, os.W_OK | os.X_OK):
            raise DiskError(
                f"{folder} cannot be written",
                why="it is read-only for you; no caption was touched",
                todo="copy the dataset to where you may write",
            )


def _sweep(paths: Iterable[Path]) -> None:
    """Remove what killed writers left beside the files."""
    for folder in {path.parent for path in paths}:
        for name in os.listdir(folder):
            if atomic.TEMP_MARK in name:
                atomic.sweep_beside(folder / name[1 : name.index(atomic.TEMP_MARK)])


def _records(place: Path) -> list[Path]:
    return sorted(place.glob("[0-9]*.json")) if place.is_dir() else []


def _next_number(place: Path) -> int:
    numbers = [int(path.stem) for path in place.glob("[0-9]*.*") if path.stem.isdecimal()]
    return max(numbers, default=0) + 1


def _record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_bytes())
        fault = "" if record["version"] == 1 and isinstance(record["files"], list) else "it is of another version"
    except (OSError, ValueError, KeyError, TypeError) as error:
        record, fault = {}, str(error)
    if fault:
        raise DatasetError(f"{path} cannot be read", why=fault, todo="no caption was touched")
    return dict(record)


def _names(paths: Sequence[Path]) -> str:
    shown = ", ".join(path.name for path in paths[:_SHOWN])
    return shown + (f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else "")
