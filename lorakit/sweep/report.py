"""What a sweep came to: the best by a measure, a grid over two axes, and what failed why."""

from __future__ import annotations

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

__all__ = ["MEASURES", "Cell", "Measure", "cells", "default_measure", "grid"]


@dataclass(frozen=True)
class Measure:
    """A number of a run by which trials are put in order; ``unit`` is how it is written: loss, seconds, steps/s or bytes."""

    name: str
    what: str
    value: Callable[[RunState], float | None]
    unit: str = "loss"
    less_is_better: bool = True


MEASURES: Final[Mapping[str, Measure]] = MappingProxyType(
    {
        one.name: one
        for one in (
            Measure("validation", "last validation loss", lambda found: found.validation),
            Measure("loss.last", "mean loss of the last epoch", lambda found: found.loss_last),
            Measure("loss.average", "mean loss of all steps", lambda found: found.loss_average),
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
