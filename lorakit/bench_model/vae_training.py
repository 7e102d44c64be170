"""Training the bench model's VAE: pictures of 128 px to 4 x 16 x 16 latents of unit size, and back."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor

from lorakit.bench_model.muon import Muon
from lorakit.bench_model.shape import LEARNED
from lorakit.bench_model.staging import Ema, load_stage, save_stage
from lorakit.bench_model.twin import VaeTwin
from lorakit.bench_model.world import SIDE, picture, wide_picture
from lorakit.trainers.builtin.shapes import SCALING_FACTOR

__all__ = ["VaeRecipe", "fold_whitening", "new_vae", "psnr", "to_tensor", "train_vae"]

_LOG_VARIANCE = -10.0  # of the finished encoder: next to no noise, in units of latents before SDXL's factor
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class VaeRecipe:
    """How the VAE is trained: steps on crops of 64 px, then steps on as many whole pictures as have the same area."""

    crop_steps: int = 2_200
    crop_batch: int = 16
    whole_steps: int = 400
    whole_batch: int = 4
    learning_rate: float = 3e-3
    warmup: int = 50
    latent_noise: float = 0.12  # largest standard deviation; latents have 1
    ema: float = 0.995

    @property
    def steps(self) -> int:
        """Optimizer steps in all."""
        return self.crop_steps + self.whole_steps

    def rate(self, step: int) -> float:
        """Learning rate of ``step`` (from 0): a warmup, then a cosine to 1 %."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def new_vae(seed: int) -> AutoencoderKL:
    """An untrained VAE whose residual branches are silent and whose resampling layers nearly copy.

    From PyTorch's default start, training stays on a plateau of blurred pictures for most of its time.
    """
    torch.manual_seed(seed)
    vae = AutoencoderKL(**LEARNED.vae_config())
    with torch.no_grad():
        for name, module in vae.named_modules():
            if name.endswith((".conv2", ".to_out.0")):
                module.weight.zero_()
                module.bias.zero_()
            elif name.endswith(("downsamplers.0.conv", "upsamplers.0.conv")):
                module.weight.mul_(0.1)
                _add_identity(module.weight, spread=name.startswith("encoder"))
    return vae.to(memory_format=torch.channels_last)


def _add_identity(weight: Tensor, *, spread: bool) -> None:
    """Let a 3x3 convolution copy its channels; ``spread`` averages 2x2 pixels, for a convolution with stride 2."""
    for channel in range(min(weight.shape[:2])):
        if spread:
            weight[channel, channel, :2, :2] += 0.25
        else:
            weight[channel, channel, 1, 1] += 1.0


def train_vae(recipe: VaeRecipe, seed: int, cache: Path, progress: Progress, *, save_every: int = 200) -> AutoencoderKL:
    """Train, or go on where ``cache`` says an earlier call stopped; returns the VAE with whitened latents.

    The VAE is the running mean of what training goes through.
    """
    vae = new_vae(seed)
    optimizer, ema, twin = Muon(vae.parameters()), Ema(dict(vae.named_parameters()), recipe.ema), VaeTwin(vae)
    parts = {"model": vae, "optimizer": optimizer, "ema": ema}
    start = load_stage(cache / "vae.pt", parts)
    for step in range(start, recipe.steps):
        twin.refresh()
        pixels = _batch(recipe, seed, step)
        loss = _loss(twin, pixels, recipe.latent_noise, torch.Generator().manual_seed(seed * 1_000_003 + step))
        torch.autograd.backward(loss)
        twin.hand_over()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0, foreach=True)
        optimizer.step(recipe.rate(step))
        ema.update(step)
        progress(step + 1, recipe.steps, f"loss {loss.item():.4f}")
        if (step + 1) % save_every == 0 or step + 1 == recipe.steps:
            save_stage(cache / "vae.pt", parts, step + 1)
    ema.apply()
    vae.eval().requires_grad_(False)
    fold_whitening(vae, _world_batch(seed, range(1_000_000, 1_000_512)))
    return vae


def _batch(recipe: VaeRecipe, seed: int, step: int) -> Tensor:
    """One batch (B, 3, h, w) in -1 … 1: three pictures of the world for each wider one."""
    crop = step < recipe.crop_steps
    count = recipe.crop_batch if crop else recipe.whole_batch
    rng = random.Random(f"{seed}/vae/{step}")
    chosen = []
    for place in range(count):
        number = step * recipe.crop_batch + place
        pixels = wide_picture(seed, number) if place % 4 == 3 else picture(seed, number).pixels
        if crop:
            left, top = (rng.randrange(0, SIDE - 63) for _ in range(2))
            pixels = pixels[top : top + 64, left : left + 64]
        chosen.append(pixels)
    return to_tensor(np.stack(chosen))


def _world_batch(seed: int, numbers: range) -> Tensor:
    return to_tensor(np.stack([picture(seed, number).pixels for number in numbers]))


def to_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """(B, H, W, 3) uint8 to (B, 3, H, W) float32 in -1 … 1."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(127.5).sub(1.0)


def _loss(twin: VaeTwin, pixels: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """Absolute and squared differences of the pictures, and absolute ones of their edges; and of latents from white ones.

    Latents get noise, much or little, because what a UNet draws is not exact either. For the noise to mean the same
    everywhere they are held near mean 0 and covariance 1.
    """
    latents = twin.encode(pixels)
    flat = latents.permute(1, 0, 2, 3).flatten(1)
    anchor = flat.mean(1).square().mean() + (torch.cov(flat) - torch.eye(len(flat))).square().mean()
    spread = noise * torch.rand((len(latents), 1, 1, 1), generator=generator)
    difference = twin.decode(latents + spread * torch.randn(latents.shape, generator=generator)) - pixels
    edges = difference.diff(dim=2).abs().mean() + difference.diff(dim=3).abs().mean()
    loss: Tensor = difference.abs().mean() + 2.0 * difference.square().mean() + 0.5 * edges + 0.03 * anchor
    return loss


@torch.no_grad()
def fold_whitening(vae: AutoencoderKL, pixels: Tensor) -> None:
    """Change the 1x1 convolutions around the latent so that scaled latents of ``pixels`` have mean 0, covariance 1.

    With SDXL's own scaling factor, then, the UNet sees latents of unit size. The decoder undoes it exactly.
    """
    latents = torch.cat([vae.encode(part).latent_dist.mean for part in torch.split(pixels, 32)])
    flat = latents.permute(1, 0, 2, 3).flatten(1).double()
    mean = flat.mean(1)
    values, vectors = torch.linalg.eigh(torch.cov(flat))
    whiten = vectors @ torch.diag(values.rsqrt()) @ vectors.T / SCALING_FACTOR
    unwhiten = torch.linalg.inv(whiten)
    into, out = vae.quant_conv, vae.post_quant_conv
    rows = into.weight[:4, :, 0, 0].double()
    into.bias[:4] = (whiten @ (into.bias[:4].double() - mean)).float()
    into.weight[:4, :, 0, 0] = (whiten @ rows).float()
    into.weight[4:] = 0.0
    into.bias[4:] = _LOG_VARIANCE
    columns = out.weight[:, :, 0, 0].double()
    out.bias += (columns @ mean).float()
    out.weight[:, :, 0, 0] = (columns @ unwhiten).float()


@torch.no_grad()
def psnr(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each picture after encoding and decoding, in dB, (B,)."""
    ratios = []
    for part in torch.split(pixels, 16):
        drawn = vae.decode(vae.encode(part).latent_dist.mean).sample.clamp(-1, 1)
        error = (drawn - part).square().mean(dim=(1, 2, 3)) / 4.0
        ratios.append(-10.0 * torch.log10(error))
    return torch.cat(ratios)
