"""One trial of a pack: its options, log, progress, stop files and training. Whatever ends it ends it alone."""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TextIO

from lorakit import protocol
from lorakit.errors import LorakitError, Stopped
from lorakit.trainers.builtin.ends import end_with, explained, told
from lorakit.trainers.builtin.monitor import Monitor
from lorakit.trainers.builtin.stopping import Stopper

if TYPE_CHECKING:
    from lorakit.trainers.builtin.data import Loaded
    from lorakit.trainers.builtin.loop import Loop
    from lorakit.trainers.builtin.pack_learning import Turn

__all__ = ["Everyone", "Member", "Trial", "TrialStopper"]

#: A stop that waits for nothing: what the trial has not saved is lost.
_AT_ONCE = "stop-3"


@dataclass(frozen=True)
class Member:
    """What a pack is told about a trial: its attempt's folder, the trainer's arguments, and what ends it early (LORAKIT_SPIKES)."""

    number: int
    attempt: Path
    arguments: tuple[str, ...]
    spikes: str = ""

    @classmethod
    def of(cls, number: int, record: Mapping[str, Any]) -> Self:
        """As one of the file's ``members`` says it."""
        return cls(number, Path(record["attempt"]), tuple(record["arguments"]), str(record.get("spikes", "")))


class TrialStopper(Stopper):
    """Asked to stop when the whole pack is, or when the trial's own stop file is there."""

    def __init__(self, pack: Stopper, attempt: Path) -> None:
        super().__init__()
        self._pack = pack
        self._files = (attempt / "stop", attempt / "stop-2")
        self._at_once = attempt / _AT_ONCE

    def asked(self) -> bool:
        """Whether the trial should end after its current step."""
        return self._pack.asked() or any(os.path.exists(path) for path in self._files)

    def at_once(self) -> bool:
        """Whether it should end now, as it is."""
        return os.path.exists(self._at_once)


@dataclass
class Trial:
    """A trial under way. ``turn`` is the batch that it waits to learn from, ``learnt`` how many it has learnt from here."""

    member: Member
    stopper: TrialStopper
    monitor: Monitor
    log: TextIO
    lock: int
    on_end: Callable[[int, int], None]
    loop: Loop | None = None
    course: Generator[Loaded, float, bool] | None = None
    turn: Turn | None = None
    learnt: int = 0
    over: bool = field(default=False)

    @classmethod
    def open(cls, member: Member, pack: Stopper, on_end: Callable[[int, int], None]) -> Self:
        """With its log and progress open and its attempt marked as alive. ``on_end`` is told its number and exit code."""
        attempt = member.attempt
        log = open(attempt / "trainer.log", "a", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115 (held)
        monitor = Monitor(progress=protocol.Writer(attempt / "progress.jsonl"), output=log)
        return cls(member, TrialStopper(pack, attempt), monitor, log, _hold(attempt / "alive.lock"), on_end)

    @property
    def number(self) -> int:
        """Its place in the pack."""
        return self.member.number

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Whatever goes wrong within ends this trial, with the words it would have ended with by itself, and no other."""
        try:
            yield
        except Stopped as stopped:
            self.end("stopped", stopped.what)
        except LorakitError as error:
            self.fail(error)
        except Exception as error:  # noqa: BLE001 (told in the trial's log with its traceback, and in its progress)
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """End it with an error; one that nobody foresaw gets its traceback into the log."""
        known = explained(error)
        if known is not None:
            self.monitor.say(told(known))
            end_with(known, self.monitor)
            self._leave(known.exit_code)
            return
        self.monitor.say("".join(traceback.format_exception(error)).rstrip())
        with contextlib.suppress(OSError):
            self.monitor.end("error", f"{type(error).__name__}: {error}")
        self._leave(1)

    def end(self, reason: str, message: str = "") -> None:
        """End it in order."""
        if message:
            self.monitor.say(message)
        self.monitor.end(reason, message)
        self._leave(0)

    def leave(self) -> None:
        """It has ended by itself, and said so."""
        self._leave(0)

    def _leave(self, code: int) -> None:
        """Let go of everything, and say so: from then on its keeper may seal the run."""
        if self.over:
            return
        self.over = True
        self.loop = self.course = self.turn = None
        self.monitor.close()
        self.log.close()
        os.close(self.lock)
        self.on_end(self.number, code)


class Everyone(Monitor):
    """Tells all trials that are not over what concerns all: loading and caching."""

    def __init__(self, trials: list[Trial]) -> None:
        super().__init__(progress=protocol.Writer(None))
        self._trials = trials

    def say(self, text: str) -> None:
        """Into every log."""
        for trial in self._trials:
            if not trial.over:
                trial.monitor.say(text)

    def record(self, type: str, **values: Any) -> None:
        """Into every progress."""
        for trial in self._trials:
            if not trial.over:
                trial.monitor.record(type, **values)


def _hold(path: Path) -> int:
    """A descriptor with a shared lock on ``path``, as every process of an attempt has one (see launch.processes)."""
    import fcntl
    import struct

    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.fcntl(handle, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0))
    return handle
