"""Draws sample pictures when they are due and tells about them."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass

from lorakit.trainers.builtin.monitor import Monitor
from lorakit.trainers.builtin.sampling import Sampler, due_after_epoch, due_after_step

__all__ = ["DueSamples"]


@dataclass(frozen=True)
class DueSamples:
    """The sampler on the trainer's schedule. Only the first process has one."""

    sampler: Sampler
    arguments: Namespace
    monitor: Monitor

    def after_step(self, step: int, epoch: int) -> None:
        """Draw if the cadence in steps says so; step 0 is before the first."""
        if due_after_step(self.arguments, step):
            self._draw(step, epoch, named_by_epoch=step == 0)

    def after_epoch(self, step: int, epoch: int) -> None:
        """Draw if the cadence in epochs says so."""
        if due_after_epoch(self.arguments, epoch):
            self._draw(step, epoch, named_by_epoch=True)

    def _draw(self, step: int, epoch: int, *, named_by_epoch: bool) -> None:
        for path, prompt in self.sampler.draw(step=step, epoch=epoch if named_by_epoch else None):
            self.monitor.say(f"sample: {path}")
            self.monitor.record("sample", step=step, epoch=epoch, path=str(path), prompt=prompt)
