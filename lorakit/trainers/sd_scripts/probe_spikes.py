"""Notices a loss or a gradient norm that has left its ordinary size for good, where a preset asks for it.

Stdlib only and one file: sd-scripts' Python loads it through the probe, the built-in trainer imports it.
"""

from __future__ import annotations

import math
import os
import statistics
from collections import deque
from collections.abc import Mapping

#: Names the limits: ``loss=5 gradient=10``; a part that is not there is not watched.
SPIKES_ENV = "LORAKIT_SPIKES"
#: Steps whose median is the ordinary size, how many of them it takes before anything is judged, and how many in a row must be too
#: large. One alone says little: the loss of a batch goes with the timesteps that were drawn for it, and may well be ten times another's.
WINDOW, FEWEST, IN_A_ROW = 50, 20, 3


class Series:
    """One curve: its last ordinary values, and how many in a row were not."""

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.ordinary: deque[float] = deque(maxlen=WINDOW)
        self.above = 0

    def add(self, value: float) -> float | None:
        """Take the value of one more step; the median that it and those before it are far above, else None.

        Values that are too large do not count as ordinary; those that are no numbers are another matter, and passed over.
        """
        if not math.isfinite(value):
            return None
        usual = statistics.median(self.ordinary) if len(self.ordinary) >= FEWEST else None
        if usual is None or value <= self.factor * usual:
            self.ordinary.append(value)
            self.above = 0
            return None
        self.above += 1
        return usual if self.above >= IN_A_ROW else None


class Spikes:
    """Watches the loss, and the gradient norm of each part, of one training; ``None`` leaves that out."""

    def __init__(self, loss: float | None = None, gradient: float | None = None) -> None:
        self.loss = Series(loss) if loss else None
        self.gradient = gradient
        self.parts: dict[str, Series] = {}

    @classmethod
    def from_env(cls) -> Spikes:
        """As ``LORAKIT_SPIKES`` asks; nothing is watched when it is not set."""
        return cls.of(os.environ.get(SPIKES_ENV, ""))

    @classmethod
    def of(cls, words: str) -> Spikes:
        """As these words ask, which are those of ``LORAKIT_SPIKES``."""
        told = dict(word.partition("=")[::2] for word in words.split())
        return cls(**{name: float(told[name]) for name in ("loss", "gradient") if name in told})

    def add(self, step: int, loss: float, norms: Mapping[str, float]) -> str:
        """Take one more step; in one sentence why the training should end, or "".

        ``loss``: mean over the batches and processes of the step. ``norms``: the l2 norm of each part's gradients before clipping.
        """
        if self.loss is not None and (usual := self.loss.add(loss)) is not None:
            return self._sentence("the loss", step, loss, usual, self.loss.factor)
        for part, norm in norms.items() if self.gradient else ():
            series = self.parts.setdefault(part, Series(self.gradient or math.inf))
            if (usual := series.add(norm)) is not None:
                return self._sentence(f"the gradient norm of {part}", step, norm, usual, series.factor)
        return ""

    @staticmethod
    def _sentence(what: str, step: int, value: float, usual: float, factor: float) -> str:
        steps = f"steps {step - IN_A_ROW + 1} to {step}"
        return f"{what} was more than {factor:g} times its median of {usual:.3g} in {steps} (at last {value:.3g})"
