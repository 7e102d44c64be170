"""Loss scaling for fp16: keeps small gradients from vanishing, and skips an update whose gradients overflowed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import Parameter

__all__ = ["LossScale"]


@dataclass
class LossScale:
    """A factor on the loss that halves after an overflow and doubles after ``interval`` good updates.

    Unlike torch's GradScaler it also works for LoRA weights that are fp16 themselves (``full_fp16``).
    """

    enabled: bool
    factor: float = 2.0**16
    good_updates: int = 0
    interval: int = 2000

    def up(self, loss: torch.Tensor) -> torch.Tensor:
        """The loss to call backward on."""
        return loss * self.factor if self.enabled else loss

    def down(self, parameters: list[Parameter]) -> None:
        """Take the factor out of the gradients."""
        if self.enabled:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.div_(self.factor)

    def judge(self, *, finite: bool) -> bool:
        """Whether to apply an update with gradients like these; adapts the factor."""
        if not self.enabled:
            return True
        if not finite:
            self.factor /= 2.0
            self.good_updates = 0
            return False
        self.good_updates += 1
        if self.good_updates == self.interval:
            self.factor *= 2.0
            self.good_updates = 0
        return True
