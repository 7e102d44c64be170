"""What the records of a bake under way add up to, for the live view: the series behind its curves, its pace."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["Tally", "number"]

#: So many steps are looked back upon for the present speed.
_WINDOW: Final = 30
#: Weight of the past in the smoothed loss.
_INERTIA: Final = 0.9
#: Seconds between two steps beyond which the time of day was set, rather than something waited for.
_JUMP: Final = 1800.0

Record = Mapping[str, Any]


@dataclass
class Tally:
    """Adds up the protocol records of one attempt in the order they come; unknown types and broken values are passed over."""

    start: Record = field(default_factory=dict)
    phase: Record | None = None
    step: Record | None = None
    memory: Record | None = None
    losses: list[float] = field(default_factory=list)
    validation: float | None = None
    saves: list[Record] = field(default_factory=list)
    samples: int = 0
    ended: bool = False
    smoothed: float | None = None
    _seconds: list[float] = field(default_factory=list)
    _first_step: int | None = None
    _elapsed: float = 0.0
    _last_mark: tuple[int, float] | None = None

    def add(self, record: Record) -> None:
        """Take one record into account."""
        match record.get("type"):
            case "start":
                self.start = record
            case "phase":
                self.phase = record
            case "step":
                self._add_step(record)
            case "memory":
                self.memory = record
            case "save":
                self.saves.append(record)
            case "sample":
                self.samples += 1
            case "validation":
                self.validation = number(record.get("loss"))
            case "end":
                self.ended = True

    def _add_step(self, record: Record) -> None:
        self.step = record
        loss = number(record.get("loss"))
        if loss is not None:
            self.losses.append(loss)
            if self.smoothed is None or not math.isfinite(loss) or not math.isfinite(self.smoothed):
                self.smoothed = loss
            else:
                self.smoothed = _INERTIA * self.smoothed + (1 - _INERTIA) * loss
        seconds, step, time = number(record.get("seconds")), record.get("step"), number(record.get("t"))
        if seconds is not None:
            self._seconds = [*self._seconds[1 - _WINDOW :], seconds]
        if isinstance(step, int) and time is not None:
            self._first_step = step if self._first_step is None else self._first_step
            if self._last_mark is not None:
                between = time - self._last_mark[1]
                self._elapsed += between if 0 <= between < _JUMP else seconds or 0.0
            self._last_mark = (step, time)

    @property
    def total_steps(self) -> int | None:
        """Optimizer steps that the trainer said it would do."""
        total = self.start.get("total_steps")
        return total if isinstance(total, int) and total > 0 else None

    @property
    def steps(self) -> int:
        """The last optimizer step that was done."""
        last = self.step.get("step") if self.step else None
        return last if isinstance(last, int) else 0

    @property
    def speed(self) -> float | None:
        """Optimizer steps per second over the last few, by the trainer's own clock."""
        spent = sum(self._seconds)
        return len(self._seconds) / spent if spent > 0 else None

    @property
    def pace(self) -> float | None:
        """Seconds from one step to the next, with the saves and samples between them."""
        if self._first_step is None or self._last_mark is None or self._last_mark[0] <= self._first_step:
            return None
        return self._elapsed / (self._last_mark[0] - self._first_step)


def number(value: Any) -> float | None:
    """A protocol number: floats that are not finite travel as text."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except ValueError:
        return None
