"""What a sweep came to: the best by a measure, a grid over two axes, and what failed why."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from lorakit.sweep.axes import SEED
from lorakit.sweep.standing import Phase

if TYPE_CHECKING:
    from lorakit.archive.records import RunState
    from lorakit.sweep.standing import Standing, TrialStanding

__all__ = [
    "MEASURES",
    "Cell",
    "Measure",
    "best_of",
    "cells",
    "default_measure",
    "gradients",
    "grid",
    "rank",
    "weight_norms",
]


@dataclass(frozen=True)
class Measure:
    """A number of a run by which trials are put in order; ``unit`` is how it is written: loss, norm, seconds, steps/s or bytes."""

    name: str
    what: str
    value: Callable[[RunState], float | None]
    unit: str = "loss"
    less_is_better: bool = True


def gradients(found: RunState) -> dict[str, float]:
    """The mean gradient norm of each part over the last steps; empty where none was told."""
    from lorakit.evidence.curves import last_gradients

    return last_gradients(found.run)


def weight_norms(found: RunState) -> dict[str, float]:
    """‖ΔW‖ of each part in the last whole checkpoint, measured once and kept; empty where there is none that can be measured."""
    from lorakit.archive.states import whole_checkpoints
    from lorakit.errors import ModelFileError
    from lorakit.evidence.measured import of_checkpoint

    files = whole_checkpoints(found.run)
    if not files:
        return {}
    try:
        summary = of_checkpoint(found.run, files[-1])
    except (ModelFileError, OSError):  # no LoRA that has A and B, or gone meanwhile
        return {}
    return {} if summary is None else {part: one.norm for part, one in summary.parts.items()}


def _length(parts: Mapping[str, float]) -> float | None:
    """The norm of all parts together."""
    return math.sqrt(sum(value**2 for value in parts.values())) if parts else None


MEASURES: Final[Mapping[str, Measure]] = MappingProxyType(
    {
        one.name: one
        for one in (
            Measure("validation", "last validation loss", lambda found: found.validation),
            Measure("loss.last", "mean loss of the last epoch", lambda found: found.loss_last),
            Measure("loss.average", "mean loss of all steps", lambda found: found.loss_average),
            Measure("grad", "gradient norm over the last steps", lambda found: _length(gradients(found)), unit="norm"),
            Measure("weights", "norm of ΔW at the end", lambda found: _length(weight_norms(found)), unit="norm"),
            Measure("seconds", "time", lambda found: found.seconds, unit="seconds"),
            Measure("speed", "steps per second", lambda found: found.steps_per_second, "steps/s", less_is_better=False),
            Measure("vram", "peak GPU memory", lambda found: found.vram, unit="bytes"),
            Measure("rss", "peak main memory", lambda found: found.rss, unit="bytes"),
        )
    }
)


@dataclass(frozen=True)
class Cell:
    """The trials of one point, which differ in their seed alone, and what a measure says of those that are done."""

    point: tuple[tuple[str, str], ...]
    trials: tuple[TrialStanding, ...]
    values: tuple[float, ...]

    @property
    def mean(self) -> float | None:
        """Over the replicates that are done."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def spread(self) -> float | None:
        """Standard deviation between replicates (of a sample: n - 1); None below two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "point": dict(self.point),
            "mean": self.mean,
            "spread": self.spread,
            "values": list(self.values),
            "runs": [one.run.id for one in self.trials if one.run is not None],
        }


def default_measure(now: Standing) -> Measure:
    """Validation where any run has it (training loss says little of images), else the last epoch's loss."""
    has = any(one.state is not None and one.state.validation is not None for one in now.trials)
    return MEASURES["validation" if has else "loss.last"]


def cells(now: Standing, measure: Measure) -> tuple[Cell, ...]:
    """The sweep's points with their replicates together, in the order of the sweep."""
    found: dict[tuple[tuple[str, str], ...], list[TrialStanding]] = {}
    for one in now.trials:
        point = tuple((key, value) for key, value in one.trial.point.items() if key != SEED)
        found.setdefault(point, []).append(one)
    return tuple(Cell(point, tuple(trials), tuple(_values(trials, measure))) for point, trials in found.items())


def _values(trials: Iterable[TrialStanding], measure: Measure) -> Iterable[float]:
    for one in trials:
        if one.phase is Phase.DONE and one.state is not None:
            value = measure.value(one.state)
            if value is not None:
                yield value


def best_of(found: Iterable[Cell], measure: Measure) -> Cell | None:
    """The best cell that was measured."""
    return min((cell for cell in found if cell.mean is not None), key=lambda cell: rank(cell, measure), default=None)


def rank(cell: Cell, measure: Measure) -> float:
    """By what cells are put in order, the best first and those that were not measured last."""
    if cell.mean is None:
        return math.inf
    return cell.mean if measure.less_is_better else -cell.mean


def grid(
    found: Sequence[Cell], rows: str, columns: str
) -> tuple[list[str], list[str], dict[tuple[str, str], tuple[Cell, ...]]]:
    """The cells over two axes: the values of both, and the cells at each pair (several, where there are further axes)."""
    down = list(dict.fromkeys(dict(cell.point)[rows] for cell in found if rows in dict(cell.point)))
    across = list(dict.fromkeys(dict(cell.point)[columns] for cell in found if columns in dict(cell.point)))
    placed: dict[tuple[str, str], list[Cell]] = {}
    for cell in found:
        point = dict(cell.point)
        if rows in point and columns in point:
            placed.setdefault((point[rows], point[columns]), []).append(cell)
    return down, across, {pair: tuple(cells_there) for pair, cells_there in placed.items()}
