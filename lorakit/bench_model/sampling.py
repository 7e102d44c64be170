"""Drawing pictures with the bench model: DDIM with classifier-free guidance."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lorakit.bench_model.world import SIDE
from lorakit.trainers.builtin.objective import NUM_TIMESTEPS, sdxl_alphas_cumprod
from lorakit.trainers.builtin.shapes import SCALING_FACTOR
from lorakit.trainers.builtin.text import TextCondition, encode, size_condition
from lorakit.trainers.builtin.tokenizers import Tokenizers


@torch.no_grad()
def sample(
    base: Any,
    tokenizers: Tokenizers,
    prompts: Sequence[str],
    *,
    seed: int,
    steps: int = 25,
    guidance: float = 3.0,
    batch: int = 32,
) -> NDArray[np.uint8]:
    """One picture for each prompt, (B, 128, 128, 3) uint8.

    The noise of a picture depends on ``seed`` and its place in ``prompts``, so two models can be compared picture by
    picture. Deterministic DDIM (Song et al., 2021) on timesteps in even "trailing" distances, with no clipping.
    """
    parts = []
    for start in range(0, len(prompts), batch):
        some = prompts[start : start + batch]
        condition = encode(base, tokenizers, [*some, *[""] * len(some)])
        parts.append(_draw(base, condition, _noise(seed, start, len(some)), steps=steps, guidance=guidance))
    return np.concatenate(parts)


def _noise(seed: int, start: int, count: int) -> Tensor:
    rows = []
    for place in range(start, start + count):
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{place}".encode()))
        rows.append(torch.randn((4, SIDE // 8, SIDE // 8), generator=generator))
    return torch.stack(rows)


def _draw(base: Any, condition: TextCondition, latents: Tensor, *, steps: int, guidance: float) -> NDArray[np.uint8]:
    """Pictures from noise (B, 4, 16, 16); ``condition`` has the B prompts and then B empty ones."""
    count = len(latents)
    sizes = size_condition([(SIDE, SIDE)] * 2 * count, [(0, 0)] * 2 * count, [(SIDE, SIDE)] * 2 * count)
    added = {"text_embeds": condition.pooled, "time_ids": sizes}
    alphas = sdxl_alphas_cumprod()
    times = [round(NUM_TIMESTEPS * (1 - step / steps)) - 1 for step in range(steps)]
    for now, after in zip(times, [*times[1:], -1], strict=True):
        twice = torch.cat([latents, latents]).contiguous(memory_format=torch.channels_last)
        noise = base.unet(twice, torch.full((2 * count,), now), condition.hidden, added_cond_kwargs=added).sample
        with_text, without = noise.chunk(2)
        noise = without + guidance * (with_text - without)
        alpha, following = alphas[now], alphas[after] if after >= 0 else torch.tensor(1.0)
        clean = (latents - (1 - alpha).sqrt() * noise) / alpha.sqrt()
        latents = following.sqrt() * clean + (1 - following).sqrt() * noise
    pixels = base.vae.decode(latents / SCALING_FACTOR).sample
    drawn: NDArray[np.uint8] = pixels.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return drawn
