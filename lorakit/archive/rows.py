"""What the index remembers of a run, how it is made from the folder, and when it is out of date (stdlib only)."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Final

from lorakit.archive.diagnose_log import Reason, Status
from lorakit.archive.facts import Value, facts
from lorakit.archive.records import RunState, state
from lorakit.archive.run import RUN_ID, Run
from lorakit.archive.shared import patient
from lorakit.errors import ArchiveError

__all__ = [
    "EDITED",
    "Entry",
    "check",
    "folder_time",
    "folder_times",
    "key_of",
    "read_run",
    "restored",
    "time_of",
    "unpacked",
    "written",
]

#: A change less than this long ago could be followed by another within the same time stamp, so such a row is not trusted yet.
_SETTLE_NS: Final = 2_000_000_000
#: Files that people edit in place, by the key that shows them.
EDITED: Final = MappingProxyType({"tag": "tags.json", "note": "notes.md"})


@dataclass(frozen=True)
class Entry:
    """What is remembered of a run; ``signature`` is 0 for one that has to be looked at each time."""

    state: RunState
    signature: int
    edited: tuple[int, ...]
    checked: str
    created: float
    row: str
    facts: Mapping[str, Value]


def read_run(run: Run, signature: int) -> Entry | None:
    """Read a run's folder; None when it is gone."""
    attempt = run.last_attempt.number
    checked = check(run, attempt)  # before reading: what changes meanwhile is noticed the next time
    edited = tuple(time_of(f"{run.path}/{name}") for name in EDITED.values())
    found = state(run)
    values = facts(run, found)
    if not run.path.is_dir():
        return None
    settled = found.sealed and found.is_final and not found.problems
    return Entry(
        state=found,
        signature=signature if settled else 0,
        edited=tuple(0 if _is_fresh(changed) else changed for changed in edited),
        checked=checked if found.attempt == attempt else "",
        created=found.created or 0.0,
        row=json.dumps(found.to_json() | {"path": ""}),
        facts=values,
    )


def unpacked(run: Run, row: str) -> RunState | None:
    """The state that a row holds; None when the row makes no sense."""
    try:
        held = json.loads(row)
        values = {item.name: held[item.name] for item in fields(RunState) if item.name != "run"}
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        return RunState(**values | {"run": run, "status": Status(values["status"]), "reason": Reason(values["reason"])})
    except (ValueError, KeyError, TypeError):
        return None


def folder_times(runs_dir: Path) -> dict[str, int]:
    """Every run folder's name with its time as one number; 0 when it is too fresh to be trusted."""
    try:
        return patient(lambda: _folder_times(runs_dir))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ArchiveError(f"{runs_dir} cannot be read", why=error.strerror or str(error)) from error


def _folder_times(runs_dir: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    newest = time.time_ns() - _SETTLE_NS
    handle = os.open(runs_dir, os.O_RDONLY)
    try:
        for name in os.listdir(handle):
            if RUN_ID.fullmatch(name) is None:
                continue
            try:
                now = os.stat(name, dir_fd=handle)
            except OSError as error:  # gone meanwhile
                if error.errno == errno.ESTALE:
                    raise
                continue
            if stat.S_ISDIR(now.st_mode):
                found[name] = 0 if now.st_mtime_ns > newest else hash((now.st_mtime_ns, now.st_ino)) or 1
    finally:
        os.close(handle)
    return found


def folder_time(path: Path) -> int:
    """A run folder's time as one number; 0 when it is too fresh to be trusted, or there is no folder."""
    try:
        now = os.stat(path)
    except OSError:
        return 0
    return 0 if _is_fresh(now.st_mtime_ns) else hash((now.st_mtime_ns, now.st_ino)) or 1


def _is_fresh(changed: int) -> bool:
    return changed > time.time_ns() - _SETTLE_NS


def time_of(path: str) -> int:
    """When a file was changed, in nanoseconds; -1 where there is none."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return -1


def check(run: Run, attempt: int) -> str:
    """Sizes and times of the records that a row was made from."""
    base, folder = str(run.path), str(run.attempt(attempt).path)
    records = [f"{base}/{name}" for name in ("attempts", "request.json", "preset.toml", *EDITED.values())]
    parts = []
    for path in (*records, f"{folder}/started.json", f"{folder}/ended.json"):
        try:
            now = os.stat(path)
            parts.append(f"{now.st_mtime_ns}.{now.st_size}")
        except OSError:
            parts.append("-")
    return " ".join(parts)


def key_of(name: str) -> str:
    """A folder's name as SQLite can hold it: one that is no text is spelled out."""
    return name if name.isascii() else name.encode("utf-8", "backslashreplace").decode("utf-8")


def written(value: Value) -> float | str:
    """A value as SQLite holds it: numbers as they are, texts and the rest with a letter before that tells them apart."""
    if isinstance(value, bool):
        return f"b{int(value)}"
    if isinstance(value, int):
        return value if abs(value) < 1 << 62 else float(value)
    if isinstance(value, float):
        return value
    if isinstance(value, list):
        return f"l{json.dumps(value)}"
    return f"t{value.encode('utf-8', 'backslashreplace').decode('utf-8')}"


def restored(value: object) -> Value:
    """What written wrote; of a damaged file anything, so nothing is taken for granted."""
    if isinstance(value, (int, float)):
        return value
    text = value if isinstance(value, str) else ""
    if text.startswith("l"):
        with contextlib.suppress(ValueError):
            return [str(item) for item in json.loads(text[1:])]
    return text == "b1" if text.startswith("b") else text[1:]
