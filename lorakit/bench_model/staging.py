"""What long trainings share: states saved whole or not at all, so that a killed one goes on, and running means."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Ema", "load_stage", "save_stage"]


class Ema:
    """The running mean of trained parameters, which draws better than those of the last step."""

    def __init__(self, trained: Mapping[str, nn.Parameter], decay: float) -> None:
        self._decay = decay
        self._trained = trained
        self._mean = {name: value.detach().clone() for name, value in trained.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the parameters after ``step``; the first steps are forgotten quickly."""
        decay = min(self._decay, (1 + step) / (10 + step))
        values = [value.detach() for value in self._trained.values()]
        torch._foreach_lerp_(list(self._mean.values()), values, 1.0 - decay)

    @torch.no_grad()
    def apply(self) -> None:
        """Set the parameters to their means."""
        for name, value in self._trained.items():
            value.copy_(self._mean[name])

    def state_dict(self) -> dict[str, Tensor]:
        """The means, by parameter name."""
        return self._mean

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from ``state``."""
        self._mean = {name: state[name] for name in self._mean}


def save_stage(path: Path, parts: Mapping[str, Any], step: int) -> None:
    """Save the states of ``parts`` (modules, optimizers) after ``step`` steps."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = path.with_name(path.name + ".tmp")
    with open(temp, "wb") as file:
        torch.save({"step": step, **{name: part.state_dict() for name, part in parts.items()}}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temp, path)


def load_stage(path: Path, parts: Mapping[str, Any]) -> int:
    """Load what :func:`save_stage` wrote into ``parts``; returns the step, 0 when there is no file."""
    if not path.is_file():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return int(state["step"])
