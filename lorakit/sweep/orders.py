"""What somebody wants of a sweep since it began (pause, go, cancel, first), and who handed out its trials: facts, each written once."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from lorakit.archive.run import read_record
from lorakit.atomic import dump_json, write_once
from lorakit.errors import DiskError, UsageError

__all__ = ["Orders", "Shift", "dispatching", "last_shift", "read_orders", "write_next"]

SCHEMA: Final = 1


@dataclass(frozen=True)
class Orders:
    """What is wanted of a sweep, all orders taken together.

    ``cancelled`` and ``first`` name trials by identity, ``everything`` says that all are cancelled. ``again`` are trials that somebody
    brought back: when (unix seconds), and as the how-manieth order; ``count`` is how many orders there are.
    """

    paused: bool = False
    cancelled: frozenset[str] = frozenset()
    everything: bool = False
    again: Mapping[str, tuple[float, int]] = field(default_factory=dict)
    first: tuple[str, ...] = ()
    count: int = 0

    def leave_out(self, identity: str) -> bool:
        """Whether a trial is cancelled."""
        return identity in self.cancelled or (self.everything and identity not in self.again)

    def brought_back(self, identity: str) -> int:
        """The how-manieth order it was that brought a trial back, 0 where none did."""
        return self.again.get(identity, (0.0, 0))[1]

    def place(self, identity: str) -> int:
        """By what trials are sorted that otherwise stand in the order they were added: 0, or less for what was put first."""
        return -1 - self.first.index(identity) if identity in self.first else 0


def read_orders(place: Path) -> Orders:
    """All orders in a folder; damaged ones are passed over."""
    paused, everything = False, False
    cancelled: set[str] = set()
    again: dict[str, tuple[float, int]] = {}
    first: list[str] = []
    paths = sorted(place.glob("*.json"))
    for number, path in enumerate(paths, 1):
        record = read_record(path) or {}
        named = [str(one) for one in record.get("trials") or ()]
        match record.get("order"):
            case "pause":
                paused = True
            case "go" if named:
                cancelled -= set(named)
                again |= dict.fromkeys(named, (float(record.get("time") or 0.0), number))
            case "go":
                paused = everything = False
            case "cancel" if named:
                cancelled |= set(named)
                again = {key: when for key, when in again.items() if key not in named}
            case "cancel":
                everything, again = True, {}
            case "first":
                first = [*(one for one in first if one not in named), *reversed(named)]
    return Orders(paused, frozenset(cancelled), everything, again, tuple(first), len(paths))


@dataclass(frozen=True)
class Shift:
    """One process that handed out trials: since when (unix seconds), which, and whether it said that it was done."""

    time: float
    pid: int
    ended: bool


def last_shift(sweep: Path) -> Shift | None:
    """The latest process that handed out the trials of a sweep; None when there was none."""
    paths = sorted((sweep / "shifts").glob("[0-9]*.json"))
    if not paths:
        return None
    record = read_record(paths[-1]) or {}
    process = record.get("process") or {}
    ended = paths[-1].with_suffix(".ended").is_file()
    return Shift(float(record.get("time") or 0.0), int(process.get("pid") or 0), ended)


@contextlib.contextmanager
def dispatching(sweep: Path, lock: Path) -> Iterator[None]:
    """Be the one who hands out the trials of a sweep. Raises UsageError when another process is; the lock dies with this one.

    Its beginning and its end are written down: where the end is missing and nobody holds the lock, it was killed.
    """
    from lorakit.launch.processes import ProcessId, take_lock

    handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if not take_lock(handle, exclusive=True):
            name = sweep.name.rpartition("_")[2]
            if name == "queue":
                raise UsageError("the queue is under way already", todo="look on: lorakit queue watch")
            raise UsageError(f"the sweep {name} is running already", todo=f"look on: lorakit sweep watch {name}")
        shifts = sweep / "shifts"
        shifts.mkdir(exist_ok=True)
        began = write_next(shifts, {"schema": SCHEMA, "time": time.time(), "process": asdict(ProcessId.current())})
        try:
            yield
        finally:
            # A full disk must not hide what the sweep came to; without its end the sweep counts as killed, which is the safe side.
            with contextlib.suppress(DiskError):
                write_once(began.with_suffix(".ended"), dump_json({"schema": SCHEMA, "time": time.time()}))
    finally:
        os.close(handle)


def write_next(folder: Path, record: Mapping[str, Any]) -> Path:
    """Write a record under the next free number: two who write at once get different ones. Returns its path."""
    data = dump_json(record)
    number = len(list(folder.glob("*.json"))) + 1
    while True:
        path = folder / f"{number:04d}.json"
        try:
            write_once(path, data)
        except FileExistsError:
            number += 1
        else:
            return path


def order(sweep: Path, what: str, trials: Iterable[str]) -> None:
    """Write an order down."""
    record = {"schema": SCHEMA, "order": what, "trials": list(trials), "time": time.time()}
    write_next(sweep / "orders", record)
