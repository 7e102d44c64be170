"""What is wanted of a run under way, from stop files, from signals to its keeper, and from its own limits (stdlib only)."""

from __future__ import annotations

import contextlib
import os
import signal
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from lorakit.archive.run import SCHEMA, Attempt, read_record
from lorakit.atomic import dump_json, write_once
from lorakit.bake.guard import Guard
from lorakit.bake.relay import Relay
from lorakit.launch.supervisor import StopLevel

__all__ = ["BatchJob", "Circumstances", "Wishes"]

#: A job that is ended in the last tenth of its time, or its last ten minutes, was ended by its time.
_LATE_SHARE: Final = 0.9
_LATE_SECONDS: Final = 600.0
#: Slurm may warn a job by so much earlier than it asked for.
_EARLY_SECONDS: Final = 60.0
#: Seconds of a job's grace that are kept for ending by force, recording and sealing.
_KEPT_SECONDS: Final = 30.0


@dataclass(frozen=True)
class BatchJob:
    """The Slurm job that a keeper runs in; times in unix seconds, None where Slurm does not tell them."""

    id: str
    start: float | None = None
    end: float | None = None

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> BatchJob | None:
        """The job that an environment tells of, or None."""
        name = environment.get("SLURM_JOB_ID")
        if not name:
            return None
        times = (environment.get(f"SLURM_JOB_{word}_TIME", "") for word in ("START", "END"))
        return cls(name, *(float(text) if text.isdigit() else None for text in times))

    def time_is_up(self, now: float, *, grace: float = 0.0) -> bool:
        """Whether a job that is ended now is ended because its time is over, and not before it.

        ``grace`` is how many seconds before that it asked to be warned.
        """
        if self.end is None:
            return False
        if grace and now >= self.end - grace - _EARLY_SECONDS:
            return True
        late = self.end - _LATE_SECONDS
        if self.start is not None:
            late = max(late, self.start + _LATE_SHARE * (self.end - self.start))
        return now >= late


@dataclass(frozen=True)
class Circumstances:
    """What else happened to a run: the stop that was asked for, whether by a signal, after a checkpoint; why it was ended otherwise.

    ``oom_kills`` counts the kernel's kills for want of memory meanwhile; ``stalled`` says for how long nothing moved when
    that ended the run; ``batch_job`` and ``batch_time_up`` are of the job whose end the signal was; ``log_dropped`` in bytes.
    """

    stop_level: int
    signalled: bool
    after_checkpoint: bool
    oom_kills: int
    stalled: str = ""
    batch_job: str = ""
    batch_time_up: bool = False
    log_dropped: int = 0


class Wishes:
    """Collects what is wanted; :meth:`level` is called ten times a second, so the relay and the guard do their work in it too."""

    def __init__(self, attempt: Attempt, relay: Relay | None = None, *, grace: float | None = None) -> None:
        """With ``grace``, a first TERM is a graceful stop: a batch system warns so many seconds before it kills."""
        self._attempt = attempt
        self._grace = grace
        self._relay = relay
        self.guard: Guard | None = None
        self.signalled = False
        self.after_checkpoint = False
        self._stalled = ""
        self._batch: tuple[str, bool] = ("", False)
        self._level = StopLevel.NONE
        self._hurry = float("inf")
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._terminate)  # the machine goes down, or somebody means this run

    def _terminate(self, number: int, frame: object) -> None:
        del number, frame
        if self._level == StopLevel.NONE:
            self.signalled = True
            job = BatchJob.of(os.environ)
            self._batch = (
                ("", False) if job is None else (job.id, job.time_is_up(time.time(), grace=self._grace or 0.0))
            )
            if self._grace is not None:
                self._level = StopLevel.GRACEFUL
                self._hurry = time.monotonic() + max(self._grace / 2, self._grace - _KEPT_SECONDS)
                return
        self._level = max(self._level, StopLevel.TERMINATE)

    def _ask_trainer(self) -> None:
        """After a TERM that means a graceful stop: the file that the trainer looks for."""
        record = {"schema": SCHEMA, "level": 1, "time": time.time(), "pid": os.getpid(), "signal": "TERM"}
        with contextlib.suppress(FileExistsError):
            write_once(self._attempt.stop(StopLevel.GRACEFUL), dump_json({**record, "job": self._batch[0]}))

    def level(self) -> int:
        """The highest level wanted so far."""
        for level in (StopLevel.KILL, StopLevel.TERMINATE, StopLevel.GRACEFUL):
            if level > self._level and self._attempt.stop(level).exists():
                self._level = level
                self._hurry = self._patience(level)
        if self.signalled and self._level == StopLevel.GRACEFUL and not self._attempt.stop(1).exists():
            self._ask_trainer()
        if self._level == StopLevel.GRACEFUL and time.monotonic() > self._hurry:
            self._level = StopLevel.TERMINATE
        self.relay(self._follow)
        self._look_after()
        return self._level

    def _patience(self, level: int) -> float:
        """When a graceful stop is to become a hasty one: what the request says, or never."""
        within = (read_record(self._attempt.stop(level)) or {}).get("within")
        return time.monotonic() + within if isinstance(within, (int, float)) else float("inf")

    def _look_after(self) -> None:
        if self.guard is None:
            return
        try:
            self.guard.poll()
        except OSError:  # a full disk, mostly: the training may still get on
            traceback.print_exc()
            return
        if self.guard.stalled and self._level < StopLevel.TERMINATE:
            if self._level == StopLevel.NONE:
                self._stalled = self.guard.stalled
            self._level = StopLevel.TERMINATE

    def _follow(self, relay: Relay) -> None:
        relay.poll(stop_asked=self._level == StopLevel.GRACEFUL)
        if self._level == StopLevel.GRACEFUL and relay.saved_after_stop:
            self._level = StopLevel.TERMINATE  # it cannot stop by itself, but has just saved what it has
            self.after_checkpoint = True

    def relay(self, work: Callable[[Relay], None]) -> None:
        """Let the relay work, where there is one. When it cannot write any more the training goes on untold."""
        if self._relay is None:
            return
        try:
            work(self._relay)
        except OSError:
            traceback.print_exc()
            self._relay = None

    def met(self, *, oom_kills: int) -> Circumstances:
        """What happened, once it is over."""
        job, time_up = self._batch
        return Circumstances(
            stop_level=self.level(),
            signalled=self.signalled,
            after_checkpoint=self.after_checkpoint,
            oom_kills=oom_kills,
            stalled=self._stalled,
            batch_job=job,
            batch_time_up=time_up,
            log_dropped=self.guard.log_dropped if self.guard is not None else 0,
        )
