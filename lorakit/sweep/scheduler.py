"""Runs the trials of a sweep one after another; one that fails does not stop the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from lorakit.archive.diagnose_log import Status
from lorakit.archive.records import state
from lorakit.errors import LorakitError, RunFailed, Stopped

if TYPE_CHECKING:
    from lorakit.archive.run import Run
    from lorakit.sweep.trials import Sweep, Trial

__all__ = ["Ended", "Outcome", "exit_code", "run"]


class Ended(StrEnum):
    """What became of a trial."""

    BAKED = "baked"
    SKIPPED = "done before"
    FAILED = "failed"
    STOPPED = "stopped"
    NOT_STARTED = "not started"


@dataclass(frozen=True)
class Outcome:
    """A trial and what became of it; ``run`` is None where none was born, ``error`` says why."""

    trial: Trial
    ended: Ended
    run: Run | None = None
    error: LorakitError | None = None


def run(sweep: Sweep, bake: Callable[[Trial, dict[str, Any]], Run]) -> Iterator[Outcome]:
    """Bake what is not done yet, in the order of the grid, yielding each outcome as it is known.

    ``bake`` is given the trial and its lineage. A stopped run, or Ctrl-C before there is one, ends the sweep: the trials
    after it come out as not started.
    """
    stopped = False
    for trial in sweep.trials:
        if trial.done is not None:
            yield Outcome(trial, Ended.SKIPPED, trial.done)
        elif stopped:
            yield Outcome(trial, Ended.NOT_STARTED)
        else:
            outcome = _bake(trial, sweep.lineage(trial), bake)
            stopped = outcome.ended is Ended.STOPPED
            yield outcome


def _bake(trial: Trial, lineage: dict[str, Any], bake: Callable[[Trial, dict[str, Any]], Run]) -> Outcome:
    try:
        baked = bake(trial, lineage)
    except KeyboardInterrupt:
        return Outcome(trial, Ended.STOPPED)
    except Stopped as error:
        return Outcome(trial, Ended.STOPPED, error=error)
    except LorakitError as error:
        return Outcome(trial, Ended.FAILED, error=error)
    status = state(baked).status
    if status is Status.OK:
        return Outcome(trial, Ended.BAKED, baked)
    return Outcome(trial, Ended.STOPPED if status is Status.STOPPED else Ended.FAILED, baked)


def exit_code(outcomes: list[Outcome]) -> int:
    """0 when every trial is done, that of Stopped when the sweep was stopped, else that of RunFailed."""
    ends = {outcome.ended for outcome in outcomes}
    if Ended.STOPPED in ends:
        return Stopped.exit_code
    return RunFailed.exit_code if Ended.FAILED in ends else 0
