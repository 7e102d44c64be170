"""Max-norm regularisation (``scale_weight_norms``): no LoRA pair may grow beyond a norm."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from lorakit.trainers.builtin.lora import LoraModule

__all__ = ["NormReport", "limit_norms"]


@dataclass(frozen=True)
class NormReport:
    """How many pairs were scaled down, and the mean and largest norm after that."""

    scaled: int
    mean: float
    largest: float


def limit_norms(modules: Iterable[LoraModule], limit: float) -> NormReport:
    """Scale up and down of every pair alike so that ‖up·down·alpha/dim‖ (Frobenius) is at most ``limit``."""
    pairs = list(modules)
    with torch.no_grad():
        norms = torch.stack([_norm(module) for module in pairs])
        ratios = (limit / norms).clamp(max=1.0)
        for module, ratio in zip(pairs, ratios, strict=True):
            if ratio < 1.0:
                module.lora_down.weight.mul_(ratio.sqrt())
                module.lora_up.weight.mul_(ratio.sqrt())
        after = norms * ratios
    return NormReport(int((ratios < 1.0).sum()), float(after.mean()), float(after.max()))


def _norm(module: LoraModule) -> torch.Tensor:
    """‖up·down‖·scale from the two small Gram matrices: ‖UD‖² = Σ (UᵀU ∘ DDᵀ)."""
    down = module.lora_down.weight.float().flatten(1)
    up = module.lora_up.weight.float().flatten(1)
    square = ((up.T @ up) * (down @ down.T)).sum().clamp(min=0.0)
    return square.sqrt() * abs(module.scale)
