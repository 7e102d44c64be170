"""LoRA files for tests: random pairs beside every module of the tiny bench model, in kohya's names or diffusers'."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from tests.bench_models import bench_checkpoint


@functools.cache
def _shapes() -> dict[str, tuple[int, ...]]:
    """Weight shapes of the modules that get a LoRA, by kohya's name."""
    from lorakit.trainers.builtin.checkpoint import load_base
    from lorakit.trainers.builtin.lora import targets

    found = targets(load_base(bench_checkpoint()))
    return {target.name: tuple(target.module.weight.shape) for part in found.values() for target in part}


def write_lora(
    path: Path,
    *,
    parts: Sequence[str] = ("te1", "te2", "unet"),
    strength: float = 0.1,
    dim: int = 4,
    seed: int = 0,
    metadata: dict[str, str] | None = None,
) -> Path:
    """A LoRA of random pairs for the tiny bench model; the same arguments give the same bytes."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in _shapes().items():
        if name.split("_")[1] not in parts:
            continue
        tail = (1, 1) if len(shape) == 4 else ()
        down = rng.standard_normal((dim, shape[1], *tail)) / np.sqrt(shape[1])
        up = rng.standard_normal((shape[0], dim, *tail)) * strength
        tensors[f"{name}.lora_down.weight"] = down.astype(np.float32)
        tensors[f"{name}.lora_up.weight"] = up.astype(np.float32)
        tensors[f"{name}.alpha"] = np.float32(dim)
    save_file({key: np.asarray(value) for key, value in tensors.items()}, path, metadata=metadata or {})
    return path
