"""What a noisy series says: whether its mean fell, spikes, and where it stopped falling. Formulas only, in plain Python."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Ends", "ends", "plateau", "spikes"]

#: A loss is held against the median of so many steps before it.
_BEFORE = 50


@dataclass(frozen=True)
class Ends:
    """Means of the first and the last ``window`` values and the standard error of their difference."""

    window: int
    first: float
    last: float
    error: float

    @property
    def fell(self) -> float:
        """By how many standard errors the mean fell; negative: it rose."""
        difference = self.first - self.last
        return difference / self.error if self.error > 0 else math.copysign(math.inf, difference) if difference else 0.0


def ends(values: Sequence[float], window: int) -> Ends | None:
    """Compare both ends of a series; None below four values. The error is Welch's: √(s₁²/n + s₂²/n)."""
    window = min(window, len(values) // 2)
    if window < 2:
        return None
    first, last = values[:window], values[-window:]
    error = math.sqrt((statistics.variance(first) + statistics.variance(last)) / window)
    return Ends(window, statistics.fmean(first), statistics.fmean(last), error)


def spikes(values: Sequence[float], times: float) -> int:
    """How many values are over ``times`` the median of the 50 before them."""
    return sum(
        values[at] > times * statistics.median(values[max(0, at - _BEFORE) : at]) for at in range(10, len(values))
    )


def plateau(values: Sequence[float], windows: int, noise: float) -> int | None:
    """After how many values the mean stopped falling; None where it fell until the last window, or nothing can be told.

    The series is cut into windows of equal length. A plateau begins behind the first window that is not higher than all that
    follows by ``noise`` standard errors, when the line through what follows does not fall by as many of its slope's.
    """
    size = len(values) // windows
    if size < 4:
        return None
    for at in range(1, windows):
        before, after = values[(at - 1) * size : at * size], values[at * size :]
        error = math.sqrt(statistics.variance(before) / len(before) + statistics.variance(after) / len(after))
        if statistics.fmean(before) - statistics.fmean(after) <= noise * error and _trend(after) >= -noise:
            return at * size
    return None


def _trend(values: Sequence[float]) -> float:
    """The slope of the least-squares line over its standard error: r·√((n − 2) / (1 − r²)); 0 for a constant series."""
    if statistics.pstdev(values) == 0:
        return 0.0
    r = statistics.correlation(range(len(values)), values)
    return r * math.sqrt((len(values) - 2) / (1 - r * r)) if abs(r) < 1 else math.copysign(math.inf, r)
