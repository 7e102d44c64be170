"""Where a sweep stands, computed from its folder and the runs of its trials: nothing of it is stored."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorakit.archive.diagnose_log import Status
from lorakit.archive.records import RunState, state
from lorakit.archive.run import Run, list_runs, read_record
from lorakit.sweep.orders import Orders

if TYPE_CHECKING:
    from lorakit.sweep.folder import Folder, Planned

__all__ = ["UNDER_WAY", "Phase", "Standing", "TrialStanding", "runs_by_trial", "standing"]


class Phase(StrEnum):
    """Where a trial stands; ``queued`` is the scheduler's word, see sweep.jobs."""

    WAITING = "waiting"
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"
    INTERRUPTED = "interrupted"
    CANCELLED = "cancelled"


#: Runs in these states are the trial under way.
UNDER_WAY = frozenset({Status.RUNNING, Status.PREPARED, Status.QUEUED})
_PHASES: Mapping[Status, Phase] = {
    Status.OK: Phase.DONE,
    Status.FAILED: Phase.FAILED,
    Status.STOPPED: Phase.STOPPED,
    Status.INTERRUPTED: Phase.INTERRUPTED,
    Status.DAMAGED: Phase.FAILED,
    Status.UNKNOWN: Phase.INTERRUPTED,
}


@dataclass(frozen=True)
class TrialStanding:
    """One trial, its phase, and the run that counts for it (the good one, else the one under way, else the latest)."""

    trial: Planned
    phase: Phase
    state: RunState | None = None

    @property
    def run(self) -> Run | None:
        """The run that counts."""
        return None if self.state is None else self.state.run


@dataclass(frozen=True)
class Standing:
    """A sweep at one moment. ``seconds_left`` is None until a speed was measured."""

    folder: Folder
    trials: tuple[TrialStanding, ...]
    paused: bool
    dispatched: bool
    seconds_left: float | None
    orders: Orders = field(default_factory=Orders)

    def count(self, *phases: Phase) -> int:
        """Trials in any of these phases."""
        return sum(one.phase in phases for one in self.trials)

    @property
    def is_over(self) -> bool:
        """Whether nothing of it waits or runs."""
        return not self.count(Phase.WAITING, Phase.QUEUED, Phase.RUNNING)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "sweep": self.folder.id,
            "path": str(self.folder.path),
            "axes": self.folder.axes,
            "paused": self.paused,
            "dispatched": self.dispatched,
            "seconds_left": self.seconds_left,
            "trials": [
                {
                    "index": one.trial.index,
                    "name": one.trial.name,
                    "point": dict(one.trial.point),
                    "trial": one.trial.identity,
                    "phase": one.phase.value,
                    "run": one.state.to_json() if one.state else None,
                }
                for one in self.trials
            ],
        }


def runs_by_trial(runs_dir: Path, known: dict[str, str | None] | None = None) -> dict[str, list[Run]]:
    """The runs of every trial by its identity, oldest first. ``known`` remembers what each run is of, between calls."""
    remembered = {} if known is None else known
    found: dict[str, list[Run]] = {}
    for run in list_runs(runs_dir):
        if run.id not in remembered:
            lineage = (read_record(run.request) or {}).get("lineage")
            remembered[run.id] = lineage.get("trial") if isinstance(lineage, dict) else None
        trial = remembered[run.id]
        if trial is not None:
            found.setdefault(trial, []).append(run)
    return found


def counted(runs: Sequence[Run]) -> RunState | None:
    """The state of the run that counts for a trial: a good one, else one under way, else the latest."""
    states = [state(run) for run in runs]
    for wanted in ({Status.OK}, UNDER_WAY):
        matching = [one for one in states if one.status in wanted]
        if matching:
            return matching[-1]
    return states[-1] if states else None


def standing(folder: Folder, runs_dir: Path, *, known: dict[str, str | None] | None = None) -> Standing:
    """Where the sweep stands now."""
    runs = runs_by_trial(runs_dir, known)
    orders = folder.orders()
    found = []
    for trial in sorted(folder.trials(), key=lambda trial: orders.place(trial.identity)):
        best = counted(runs.get(trial.identity, ()))
        if best is not None and best.status in UNDER_WAY:
            phase = Phase.RUNNING
        elif best is not None and best.status is Status.OK:
            phase = Phase.DONE
        elif orders.leave_out(trial.identity):
            phase = Phase.CANCELLED
        elif best is not None and orders.again.get(trial.identity, (0.0, 0))[0] <= (best.created or math.inf):
            phase = _PHASES.get(best.status, Phase.FAILED)
        else:
            phase = Phase.WAITING
        found.append(TrialStanding(trial, phase, best))
    return Standing(folder, tuple(found), orders.paused, folder.is_dispatched, _seconds_left(found), orders)


def _seconds_left(trials: Sequence[TrialStanding]) -> float | None:
    """Seconds of training that are left, one trial after another, from the time that done ones took for a step."""
    done = [
        one.state for one in trials if one.phase is Phase.DONE and one.state and one.state.seconds and one.state.steps
    ]
    if not done:
        return None
    per_step = sum(one.seconds or 0.0 for one in done) / sum(one.steps for one in done)
    left = 0.0
    for one in trials:
        if one.phase in {Phase.WAITING, Phase.QUEUED}:
            left += one.trial.steps
        elif one.phase is Phase.RUNNING and one.state is not None:
            left += max(0, one.trial.steps - one.state.steps)
    return left * per_step
