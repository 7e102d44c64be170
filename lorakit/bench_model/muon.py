"""The optimizer that trains the bench model: Muon for matrices, AdamW for the rest."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Muon", "orthogonalized"]

_MOMENTUM = 0.95
_LEAST = 8  # a matrix with a shorter side has little to be made orthogonal


class Muon:
    """Muon (Jordan et al., 2024), and AdamW for all that is no matrix.

    The momentum of a matrix is replaced by the nearest one whose directions all count the same, at the size of a step of
    Adam (Liu et al., 2025), so that one learning rate serves both. Convolutions are matrices of (out, in x area).
    """

    def __init__(self, parameters: Iterable[nn.Parameter], *, weight_decay: float = 0.01) -> None:
        self._weight_decay = weight_decay
        self._matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for parameter in parameters:
            wide = parameter.ndim > 1 and min(len(parameter), parameter[0].numel()) >= _LEAST
            (self._matrices if wide else others).append(parameter)
        self._momenta = [torch.zeros_like(matrix) for matrix in self._matrices]
        self._adam = torch.optim.AdamW(others, lr=0.0, betas=(0.9, 0.99), weight_decay=0.0, foreach=True)

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One step along the gradients with learning rate ``rate``; a parameter without a gradient stays as it is."""
        by_shape: dict[tuple[int, int], list[tuple[nn.Parameter, Tensor]]] = {}
        for matrix, momentum in zip(self._matrices, self._momenta, strict=True):
            if matrix.grad is None:
                continue
            momentum.lerp_(matrix.grad, 1.0 - _MOMENTUM)
            direction = matrix.grad.lerp(momentum, _MOMENTUM).flatten(1)
            by_shape.setdefault((len(direction), direction.shape[1]), []).append((matrix, direction))
        for (high, wide), group in by_shape.items():
            # matrices of one shape go through the iteration together: few small products cost more than one large
            directions = orthogonalized(torch.stack([direction for _, direction in group]))
            length = 0.2 * math.sqrt(max(high, wide))  # the root mean square of a step of Adam is about 0.2
            for (matrix, _), direction in zip(group, directions, strict=True):
                matrix.mul_(1.0 - rate * self._weight_decay)
                matrix.add_(direction.view(matrix.shape), alpha=-rate * length)
        for options in self._adam.param_groups:
            options["lr"] = rate
        self._adam.step()

    def state_dict(self) -> dict[str, Any]:
        """The momenta, and the state of AdamW."""
        return {"momenta": self._momenta, "adam": self._adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state``."""
        for ours, theirs in zip(self._momenta, state["momenta"], strict=True):
            ours.copy_(theirs)
        self._adam.load_state_dict(state["adam"])


def orthogonalized(matrices: Tensor) -> Tensor:
    """The matrices (B, m, n) with singular values brought near 1, by five steps of the quintic iteration of Muon."""
    high = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if high else matrices
    x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)).bfloat16()  # only directions matter, and roughly
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * (gram @ gram)) @ x
    result: Tensor = (x.mT if high else x).to(matrices.dtype)
    return result
