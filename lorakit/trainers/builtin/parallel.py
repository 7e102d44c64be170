"""Several processes as one trainer: averaged gradients, agreed numbers.

The frozen base model does not fit torch's DDP wrapper, and the LoRA is small: its gradients travel in one piece.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch.nn import Parameter

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["average_gradients", "mean_over_processes", "same_weights"]


def average_gradients(accelerator: Accelerator, parameters: Sequence[Parameter]) -> None:
    """Replace every gradient by its mean over all processes. A parameter without one counts as zero."""
    if accelerator.num_processes == 1:
        return
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    torch.distributed.all_reduce(flat)
    flat /= accelerator.num_processes
    _spread(flat, gradients)


def same_weights(accelerator: Accelerator, parameters: Sequence[Parameter]) -> None:
    """Give every process the first one's weights."""
    if accelerator.num_processes == 1:
        return
    with torch.no_grad():
        flat = torch.cat([parameter.reshape(-1) for parameter in parameters])
        torch.distributed.broadcast(flat, src=0)
        _spread(flat, list(parameters))


def mean_over_processes(accelerator: Accelerator, values: Sequence[float]) -> list[float]:
    """The mean of each number over all processes; the same list everywhere."""
    if accelerator.num_processes == 1:
        return list(values)
    tensor = torch.tensor(values, dtype=torch.float64, device=accelerator.device)
    torch.distributed.all_reduce(tensor)
    mean: list[float] = (tensor / accelerator.num_processes).tolist()
    return mean


def _spread(flat: torch.Tensor, targets: Sequence[torch.Tensor]) -> None:
    with torch.no_grad():
        for target, part in zip(targets, torch.split(flat, [target.numel() for target in targets]), strict=True):
            target.copy_(part.view_as(target))
