"""Hands out the trials of a sweep to workers: one for each GPU, or as many as asked for.

A trial is baked by its run's own keeper, so that it goes on when this process dies; typed again, the sweep finds it and waits.
What is done is skipped, what failed before is tried again, and nothing is baked twice at once: whoever bakes a trial holds its lock,
in whatever sweep it stands.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from lorakit.archive.diagnose_log import Status
from lorakit.archive.records import state
from lorakit.errors import LorakitError, RunFailed, Stopped
from lorakit.sweep.contents import refuse_changed
from lorakit.sweep.orders import Orders
from lorakit.sweep.standing import Phase, Standing, TrialStanding, counted, runs_by_trial, standing

if TYPE_CHECKING:
    from lorakit.archive.run import Run
    from lorakit.sweep.folder import Folder, Planned
    from lorakit.workspace import Workspace

__all__ = ["Bake", "Ended", "Outcome", "Slot", "Stop", "claim", "exit_code", "run"]

#: Bakes one trial to its end: the trial, its lineage, the slot it may use.
Bake = Callable[["Planned", dict[str, Any], "Slot"], "Run"]

#: How often orders and foreign runs are looked at, seconds.
_TICK: Final = 0.5
#: A failure within so many seconds of its start is an instant one …
_INSTANT_SECONDS: Final = 60.0
#: … and so many in a row end the sweep: what fails at once will fail for every trial.
_BURST: Final = 3


class Ended(StrEnum):
    """What became of a trial."""

    BAKED = "baked"
    SKIPPED = "done before"
    FAILED = "failed"
    STOPPED = "stopped"
    CANCELLED = "cancelled"
    NOT_STARTED = "not started"


@dataclass(frozen=True)
class Slot:
    """A place to train at: a GPU by its number, or none in particular."""

    number: int
    gpu: str | None = None


@dataclass(frozen=True)
class Outcome:
    """A trial and what became of it; ``run`` is None where none was born, ``error`` says why."""

    trial: Planned
    ended: Ended
    run: Run | None = None
    error: LorakitError | None = None


class Stop:
    """Whether no further trial shall be started, and ``why``, for the reader: "stopped" when somebody asked for it."""

    def __init__(self) -> None:
        self.why = ""

    def ask(self, why: str) -> None:
        """Start no further trial; the first reason counts."""
        self.why = self.why or why

    def __bool__(self) -> bool:
        return bool(self.why)


def run(
    folder: Folder,
    workspace: Workspace,
    bake: Bake,
    *,
    slots: Sequence[Slot] = (Slot(0),),
    fail_fast: bool = False,
    retry: bool = True,
    stop: Stop | None = None,
) -> Iterator[Outcome]:
    """Bake what is not done yet, yielding each outcome as it is known; trials added meanwhile come too.

    With one slot ``bake`` is called in this thread, else in threads of its own. A stopped run, or Ctrl-C before there is one,
    ends the sweep, as do a burst of instant failures and, with ``fail_fast``, the first failure: the trials after that come out
    as not started. A trial that is under way already, baked by somebody else, is waited for. Trials that failed or were stopped
    before are tried again, unless ``retry`` is false: then only those that somebody brought back. Raises UsageError when another
    process hands out the trials of this sweep.
    """
    stop = Stop() if stop is None else stop
    with folder.dispatching():
        dispatcher = _Dispatcher(folder, workspace, bake, stop, fail_fast=fail_fast, retry=retry)
        yield from dispatcher.alone(slots[0]) if len(slots) == 1 else dispatcher.side_by_side(slots)


class _Dispatcher:
    def __init__(
        self, folder: Folder, workspace: Workspace, bake: Bake, stop: Stop, *, fail_fast: bool, retry: bool
    ) -> None:
        self._folder = folder
        self._workspace = workspace
        self._bake = bake
        self._stop = stop
        self._fail_fast = fail_fast
        self._retry = retry
        self._known: dict[str, str | None] = {}
        #: What became known of which trials, and how many orders there were then: one that is brought back later is not known again.
        self._told: dict[str, int] = {}
        self._orders = Orders()
        self._instant: deque[float] = deque(maxlen=_BURST)

    def alone(self, slot: Slot) -> Iterator[Outcome]:
        """One after another, in this thread."""
        while True:
            trial, settled = self._next(frozenset())
            yield from settled
            if trial is None:
                if self._finished():
                    break
                time.sleep(_TICK)  # paused, or somebody else bakes the rest
                continue
            yield self._tell(self._one(trial, slot))
        yield from self._rest()

    def side_by_side(self, slots: Sequence[Slot]) -> Iterator[Outcome]:
        """As many at once as there are slots."""
        free = list(slots)
        busy: dict[Future[Outcome], tuple[Slot, str]] = {}
        with ThreadPoolExecutor(len(slots)) as pool:
            while True:
                settled: list[Outcome] = []
                while free and not self._stop:
                    trial, found = self._next(frozenset(identity for _, identity in busy.values()))
                    settled += found
                    if trial is None:
                        break
                    slot = free.pop(0)
                    busy[pool.submit(self._one, trial, slot)] = (slot, trial.identity)
                yield from settled
                if not busy and (self._stop or self._finished()):
                    break
                done, _ = wait(busy, timeout=_TICK, return_when=FIRST_COMPLETED)
                if not busy:
                    time.sleep(_TICK)
                for future in done:
                    slot, _ = busy.pop(future)
                    free.append(slot)
                    yield self._tell(future.result())
        yield from self._rest()

    def _next(self, busy: frozenset[str]) -> tuple[Planned | None, list[Outcome]]:
        """The next trial to bake, and those of which it is known by now what became of them."""
        now = self._look()
        # Of a trial that is being baked here its own slot tells, also when its run has just ended.
        others = [one for one in now.trials if one.trial.identity not in busy]
        settled = [self._tell(found) for one in others if (found := self._settled(one)) is not None]
        if self._stop or now.paused:
            return None, settled
        waiting = (one.trial for one in others if self._is_open(one) and one.phase is not Phase.RUNNING)
        return next(waiting, None), settled

    def _settled(self, one: TrialStanding) -> Outcome | None:
        if not self._is_open(one):
            return None
        if one.phase is Phase.DONE:
            return Outcome(one.trial, Ended.SKIPPED, one.run)
        if one.phase is Phase.CANCELLED:
            return Outcome(one.trial, Ended.CANCELLED, one.run)
        return None

    def _finished(self) -> bool:
        return bool(self._stop) or not any(map(self._is_open, self._look().trials))

    def _look(self) -> Standing:
        now = standing(self._folder, self._workspace.runs, known=self._known)
        self._orders = now.orders
        return now

    def _is_open(self, one: TrialStanding) -> bool:
        """Whether something is still to be done about a trial, or to be told of it."""
        if not self._retry and one.phase in {Phase.FAILED, Phase.STOPPED}:
            return False
        told = self._told.get(one.trial.identity)
        return told is None or self._orders.brought_back(one.trial.identity) > told

    def _tell(self, outcome: Outcome) -> Outcome:
        self._told[outcome.trial.identity] = self._orders.count
        return outcome

    def _rest(self) -> Iterator[Outcome]:
        for one in self._look().trials:
            if self._is_open(one):
                yield self._tell(Outcome(one.trial, Ended.NOT_STARTED))

    def _one(self, trial: Planned, slot: Slot) -> Outcome:
        """Bake a trial, unless somebody else began it in the meantime: then wait for what becomes of it."""
        with claim(self._workspace, trial.identity) as mine:
            before = counted(runs_by_trial(self._workspace.runs).get(trial.identity, ())) if mine else None
            if not mine or (before is not None and before.status in {Status.RUNNING, Status.PREPARED, Status.QUEUED}):
                return self._awaited(trial)
            if before is not None and before.status is Status.OK:
                return Outcome(trial, Ended.SKIPPED, before.run)
            began = time.monotonic()
            outcome = self._baked(trial, slot)
        if outcome.ended is Ended.STOPPED:
            self._stop.ask("stopped")
        elif outcome.ended is Ended.FAILED:
            self._count_failure(time.monotonic() - began)
        else:
            self._instant.clear()
        return outcome

    def _baked(self, trial: Planned, slot: Slot) -> Outcome:
        try:
            refuse_changed(trial, self._workspace)
            made = self._bake(trial, self._folder.lineage(trial, len(self._folder.trials())), slot)
        except KeyboardInterrupt:
            return Outcome(trial, Ended.STOPPED)
        except Stopped as error:
            return Outcome(trial, Ended.STOPPED, error=error)
        except LorakitError as error:
            return Outcome(trial, Ended.FAILED, error=error)
        status = state(made).status
        if status is Status.OK:
            return Outcome(trial, Ended.BAKED, made)
        return Outcome(trial, Ended.STOPPED if status is Status.STOPPED else Ended.FAILED, made)

    def _awaited(self, trial: Planned) -> Outcome:
        while not self._stop:
            with claim(self._workspace, trial.identity) as free:
                pass
            found = counted(runs_by_trial(self._workspace.runs, self._known).get(trial.identity, ()))
            if free and found is None:
                return Outcome(trial, Ended.NOT_STARTED)  # who wanted to bake it is gone without a run
            if free and found is not None and found.is_final:
                ended = {Status.OK: Ended.BAKED, Status.STOPPED: Ended.STOPPED}.get(found.status, Ended.FAILED)
                return Outcome(trial, ended, found.run)
            time.sleep(_TICK)
        return Outcome(trial, Ended.NOT_STARTED)

    def _count_failure(self, seconds: float) -> None:
        if self._fail_fast:
            self._stop.ask("a trial failed, and --fail-fast was given")
        if seconds > _INSTANT_SECONDS:
            self._instant.clear()
            return
        self._instant.append(seconds)
        if len(self._instant) == _BURST:
            self._stop.ask(
                f"{_BURST} trials in a row failed within {_INSTANT_SECONDS:.0f} s of their start: the rest would too"
            )


@contextlib.contextmanager
def claim(workspace: Workspace, identity: str) -> Iterator[bool]:
    """Hold a trial, so that nobody else bakes it meanwhile; gives whether it could be held. The lock dies with the process."""
    from lorakit.launch.processes import take_lock

    folder = workspace.private / "trials"
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / identity[:32], os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        yield take_lock(handle, exclusive=True)
    finally:
        os.close(handle)


def exit_code(outcomes: list[Outcome]) -> int:
    """0 when every trial is done, that of Stopped when the sweep was stopped, else that of RunFailed."""
    ends = {outcome.ended for outcome in outcomes}
    if Ended.STOPPED in ends:
        return Stopped.exit_code
    return RunFailed.exit_code if ends & {Ended.FAILED, Ended.NOT_STARTED} else 0


def slots_for(jobs: int | None, gpus: Sequence[str]) -> tuple[Slot, ...]:
    """One slot for each GPU, at most ``jobs`` of them; ``jobs`` slots without any where there is none."""
    if gpus:
        return tuple(Slot(at, gpu) for at, gpu in enumerate(gpus[: jobs or len(gpus)]))
    return tuple(Slot(at) for at in range(jobs or 1))
