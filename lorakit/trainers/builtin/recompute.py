"""Gradient checkpointing within a budget: blocks keep their activations while there is room, the rest compute them again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from lorakit.trainers.builtin.checkpoint import BaseModel

__all__ = ["Recomputation", "checkpoint_gradients", "spare_memory"]

_MOST: Final = 4 * 2**30
_SHARE: Final = 4


class Recomputation:
    """Decides block by block, in the order in which a forward pass calls them, for as long as ``budget`` bytes last.

    What is kept and what is computed again has the same numbers in it, so the budget changes time and memory only. The
    first pass of a shape counts bytes (it may pass the budget by one block); later ones repeat its decisions.
    """

    def __init__(self, budget: int, weights: Iterable[Tensor]) -> None:
        """Nothing that lies in ``weights`` counts: they are there anyway."""
        self._budget = budget
        self._weights = {weight.untyped_storage().data_ptr() for weight in weights}
        self._decisions: dict[object, list[bool]] = {}
        self._decided: list[bool] = []
        self._next = 0
        self._seen: set[int] = set()
        self._kept = 0

    def leave_out(self, weights: Iterable[Tensor]) -> None:
        """Nothing that lies in these counts either."""
        self._weights |= {weight.untyped_storage().data_ptr() for weight in weights}

    def begin(self, shape: object) -> None:
        """A forward pass begins; passes with an equal (hashable) ``shape`` call the same blocks on the same sizes."""
        self._decided = self._decisions.setdefault(shape, [])
        self._next, self._kept = 0, 0
        self._seen = set(self._weights)

    def __call__(self, block: Callable[..., Any], *args: Any) -> Any:
        """Run ``block``; what diffusers and transformers call instead of ``torch.utils.checkpoint.checkpoint``."""
        if not torch.is_grad_enabled():
            return block(*args)
        place, self._next = self._next, self._next + 1
        if place < len(self._decided):
            return block(*args) if self._decided[place] else _again(block, *args)
        keep = self._kept < self._budget
        self._decided.append(keep)
        if not keep:
            return _again(block, *args)
        with saved_tensors_hooks(self._count, lambda tensor: tensor):
            return block(*args)

    def _count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self._kept += storage.nbytes()
        return tensor.detach()  # an output that held itself would never be freed


def checkpoint_gradients(base: BaseModel, recomputation: Recomputation, *, text: bool) -> None:
    """Let the blocks of the UNet, and of the text encoders where ``text``, ask ``recomputation`` (it saves memory)."""
    base.unet.enable_gradient_checkpointing()
    for encoder in (base.te1, base.te2) if text else ():
        # transformers 5 renamed it
        enable = getattr(encoder, "activation_checkpointing_enable", None) or encoder.gradient_checkpointing_enable
        enable({"use_reentrant": False})
        encoder.train()  # transformers checkpoints in training mode only; these models have no dropout of their own
    for model in (base.unet, base.te1, base.te2):
        for module in model.modules():
            if getattr(module, "gradient_checkpointing", False):
                module._gradient_checkpointing_func = recomputation


def spare_memory(needed: int, processes: int) -> int:
    """Bytes that the activations of one of ``processes`` may take: a quarter of what is available beyond ``needed``.

    At most 4 GiB, and 0 where the system does not tell (no /proc).
    """
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
    except OSError:
        return 0
    available = int(lines["MemAvailable"].split()[0]) * 1024
    return max(0, min(_MOST, (available - needed) // (_SHARE * processes)))


def _again(block: Callable[..., Any], *args: Any) -> Any:
    return checkpoint(block, *args, use_reentrant=False)
