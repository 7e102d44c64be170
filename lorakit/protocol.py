"""The run protocol: JSON lines that every trainer process appends and every reader follows (stdlib only)."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

__all__ = ["PROGRESS_ENV", "SPIKES_ENV", "STOP_ENV", "Follower", "Writer", "read", "stop_requested"]

VERSION: Final = 1
PROGRESS_ENV: Final = "LORAKIT_PROGRESS"
STOP_ENV: Final = "LORAKIT_STOP_FILE"
#: What ends a training early: see trainers/sd_scripts/probe_spikes.py, which reads it.
SPIKES_ENV: Final = "LORAKIT_SPIKES"


class Writer:
    """Appends protocol records to a file; a writer without a path swallows them.

    One record is one ``write`` of one line on a file opened for appending, so a reader sees whole lines or an
    incomplete last one, and a killed writer loses at most the line it was writing.
    """

    def __init__(self, path: Path | None) -> None:
        self._file = None if path is None else open(path, "ab", buffering=0)  # noqa: SIM115 (held for the run)

    @classmethod
    def from_env(cls) -> Writer:
        """The writer named by ``LORAKIT_PROGRESS``; silent when the variable is not set."""
        name = os.environ.get(PROGRESS_ENV)
        return cls(Path(name) if name else None)

    def write(self, type: str, **values: Any) -> None:
        """Append one record. Non-finite floats become strings, for JSON has no word for them."""
        if self._file is None:
            return
        record = {"v": VERSION, "t": round(time.time(), 3), "type": type, **values}
        line = json.dumps(_finite(record), ensure_ascii=False, separators=(",", ":"))
        self._file.write(line.encode("utf-8", "surrogateescape") + b"\n")

    def close(self) -> None:
        """Close the file; further records are swallowed."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


@dataclass
class Follower:
    """Reads the records that were added since the last call; remembers its place in the file."""

    path: Path
    offset: int = 0

    def poll(self) -> list[dict[str, Any]]:
        """New complete records, oldest first. A missing file gives none; damaged lines are left out."""
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                data = file.read()
        except FileNotFoundError:
            return []
        end = data.rfind(b"\n") + 1
        self.offset += end
        return list(_parse(data[:end]))


def _parse(data: bytes) -> Iterator[dict[str, Any]]:
    for line in data.split(b"\n"):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):  # torn by a kill or damaged on disk: the other lines still count
            continue
        if isinstance(record, dict) and isinstance(record.get("type"), str):
            yield record


def read(path: Path) -> list[dict[str, Any]]:
    """Every complete record of a progress file, oldest first; empty when there is no file."""
    return Follower(path).poll()


def stop_requested() -> bool:
    """Whether somebody created the file named by ``LORAKIT_STOP_FILE``."""
    name = os.environ.get(STOP_ENV)
    return bool(name) and os.path.exists(name or "")
