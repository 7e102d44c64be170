"""The noise floor of a sweep: how far replicates lie apart, and which differences between cells exceed that.

Replicates are bakes of one cell that differ in their seed alone. Their standard deviation is pooled over all cells (the root of the
sum of squares within cells by its degrees of freedom), with the interval that the chi-squared distribution gives. Cells are compared
in pairs by Tukey's test in Kramer's form for cells of unlike size (Tukey 1949, Kramer 1956), which keeps the chance of a single false
difference among all pairs at five per cent; with two cells it is Student's t-test with pooled variance. The distributions are scipy's.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from lorakit.errors import UsageError

if TYPE_CHECKING:
    from lorakit.sweep.report import Cell, Measure

__all__ = ["ALPHA", "Noise", "Pair", "noise_of", "require_scipy"]

#: The chance of calling any difference real when there is none.
ALPHA: Final = 0.05
#: Below this, cells have spreads so unlike that one for all is wrong (Bartlett's test).
_UNLIKE: Final = 0.01


@dataclass(frozen=True)
class Pair:
    """Two cells: the difference of their means (other minus one), the least one that would count, and p (adjusted for all pairs)."""

    one: Cell
    other: Cell
    difference: float
    least: float
    p: float

    @property
    def counts(self) -> bool:
        """Whether the difference exceeds the noise."""
        return abs(self.difference) > self.least


@dataclass(frozen=True)
class Noise:
    """The spread between replicates for one measure: ``sd`` with ``df`` degrees of freedom, and its 95 % interval from low to high.

    ``cells`` are those that were measured; ``unlike`` is the p of Bartlett's test that all have one spread, None below two to compare.
    """

    measure: Measure
    sd: float
    df: int
    low: float
    high: float
    cells: tuple[Cell, ...]
    unlike: float | None = None

    @property
    def is_uneven(self) -> bool:
        """Whether the cells' spreads differ so much that one number for all of them misleads."""
        return self.unlike is not None and self.unlike < _UNLIKE

    def least(self, one: Cell, other: Cell) -> float:
        """The least difference of two cells' means that exceeds the noise."""
        return _critical(len(self.cells), self.df) * self._error(one, other)

    def counts(self, one: Cell, other: Cell) -> bool:
        """Whether two cells differ by more than the noise; False for one that was not measured."""
        if one.mean is None or other.mean is None or one is other:
            return False
        return abs(one.mean - other.mean) > self.least(one, other)

    def compare(self, one: Cell, other: Cell) -> Pair:
        """Two measured cells side by side."""
        from scipy.stats import studentized_range

        assert one.mean is not None
        assert other.mean is not None
        difference, error = other.mean - one.mean, self._error(one, other)
        if error == 0:
            p = 1.0 if difference == 0 else 0.0
        else:
            p = float(studentized_range.sf(abs(difference) / error, len(self.cells), self.df))
        return Pair(one, other, difference, self.least(one, other), p)

    def pairs(self) -> tuple[tuple[Cell, Cell], ...]:
        """Every two cells that were measured."""
        return tuple((one, other) for at, one in enumerate(self.cells) for other in self.cells[at + 1 :])

    def _error(self, one: Cell, other: Cell) -> float:
        """Kramer's standard error of a difference, in the units of the studentized range."""
        return self.sd * math.sqrt((1 / len(one.values) + 1 / len(other.values)) / 2)

    def to_json(self) -> dict[str, Any]:
        """Plain values, with every pair of cells."""
        return {
            "measure": self.measure.name,
            "sd": self.sd,
            "df": self.df,
            "interval": [self.low, self.high],
            "alpha": ALPHA,
            "method": "pooled standard deviation, Tukey-Kramer",
            "bartlett_p": self.unlike,
            "pairs": [
                {
                    "one": dict(one.point),
                    "other": dict(other.point),
                    "difference": (other.mean or 0.0) - (one.mean or 0.0),
                    "least": self.least(one, other),
                    "counts": self.counts(one, other),
                }
                for one, other in self.pairs()
            ],
        }


def noise_of(measure: Measure, cells: Sequence[Cell]) -> Noise | None:
    """The noise of a measure; None where no cell has two replicates that were measured. Raises UsageError without scipy."""
    known = tuple(cell for cell in cells if cell.values)
    df = sum(len(cell.values) - 1 for cell in known)
    if df < 1:
        return None
    require_scipy()
    from scipy.stats import chi2

    within = sum(sum((value - _mean(cell.values)) ** 2 for value in cell.values) for cell in known)
    low = math.sqrt(within / float(chi2.ppf(1 - ALPHA / 2, df)))
    high = math.sqrt(within / float(chi2.ppf(ALPHA / 2, df)))
    return Noise(measure, math.sqrt(within / df), df, low, high, known, _bartlett(known))


def _bartlett(cells: Sequence[Cell]) -> float | None:
    from scipy.stats import bartlett

    groups = [[float(value) for value in cell.values] for cell in cells if len(cell.values) > 1]
    if len(groups) < 2 or any(len(set(values)) == 1 for values in groups):
        return None  # it takes logarithms of the spreads
    return float(bartlett(*groups).pvalue)


@functools.cache
def _critical(cells: int, df: int) -> float:
    """How many standard errors a difference has to exceed, for so many cells."""
    if cells < 2:
        return math.inf
    if cells == 2:  # the same, but quicker to compute
        from scipy.stats import t

        return math.sqrt(2) * float(t.ppf(1 - ALPHA / 2, df))
    from scipy.stats import studentized_range

    return float(studentized_range.ppf(1 - ALPHA, cells, df))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def require_scipy() -> None:
    """Raise UsageError where scipy is not installed."""
    import importlib.util

    if importlib.util.find_spec("scipy") is None:
        raise UsageError(
            "scipy is not installed",
            why="the noise of a sweep is told with its distributions",
            todo="pip install 'lorakit[noise]'",
        )
