"""The running average of the loss as the trainer prints it."""

from __future__ import annotations

import math
from collections.abc import Iterable

__all__ = ["LossAverage"]


class LossAverage:
    """The mean of the latest loss at every batch position of an epoch.

    During the first epoch that is the mean of all losses so far; later each new loss replaces that of the same
    position one epoch ago.
    """

    def __init__(self, losses: Iterable[float] = ()) -> None:
        self.losses = list(losses)

    def add(self, position: int, loss: float) -> None:
        """Take in the loss at ``position`` (from 0) of the current epoch."""
        if position < len(self.losses):
            self.losses[position] = loss
        else:
            self.losses.append(loss)

    @property
    def average(self) -> float:
        """The current mean, exactly rounded so that a resumed run has the same one; 0 before the first loss."""
        return math.fsum(self.losses) / len(self.losses) if self.losses else 0.0
