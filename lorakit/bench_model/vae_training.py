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

from lorakit.bench_model.shape import LEARNED
from lorakit.bench_model.staging import load_stage, save_stage
from lorakit.bench_model.world import SIDE, picture, wide_picture
from lorakit.trainers.builtin.shapes import SCALING_FACTOR

__all__ = ["VaeRecipe", "fold_whitening", "new_vae", "polish_decoder", "psnr", "to_tensor", "train_vae"]

_LOG_VARIANCE = -10.0  # of the finished encoder: next to no noise, in units of latents before SDXL's factor
_POLISH_RATE = 1e-3
_POLISH_NOISE = 0.02  # standard deviation; scaled latents have 1
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class VaeRecipe:
    """How the VAE is trained: steps on crops of 64 px, then steps on whole pictures."""

    crop_steps: int = 1050
    crop_batch: int = 16
    whole_steps: int = 200
    whole_batch: int = 4
    learning_rate: float = 2e-3
    warmup: int = 50
    horizon: int = 1800  # steps in which a cosine would end
    cooldown: int = 250  # the last steps, over which the rate falls to zero earlier than that
    latent_noise: float = 0.06  # standard deviation; latents have 1

    @property
    def steps(self) -> int:
        """Optimizer steps in all."""
        return self.crop_steps + self.whole_steps


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
    """Train, or go on where ``cache`` says an earlier call stopped; returns the VAE with whitened latents."""
    vae = new_vae(seed)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4)
    start = load_stage(cache / "vae.pt", {"model": vae, "optimizer": optimizer})
    for step in range(start, recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * _rate(step, recipe)
        pixels = _batch(recipe, seed, step)
        loss = _loss(vae, pixels, recipe.latent_noise, torch.Generator().manual_seed(seed * 1_000_003 + step))
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        progress(step + 1, recipe.steps, f"loss {loss.item():.4f}")
        if (step + 1) % save_every == 0 or step + 1 == recipe.steps:
            save_stage(cache / "vae.pt", {"model": vae, "optimizer": optimizer}, step + 1)
    vae.eval().requires_grad_(False)
    fold_whitening(vae, _world_batch(seed, range(1_000_000, 1_000_512)))
    return vae


def _rate(step: int, recipe: VaeRecipe) -> float:
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    cosine = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - recipe.warmup) / (recipe.horizon - recipe.warmup)))
    return cosine * min(1.0, (recipe.steps - step) / recipe.cooldown)


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


def _loss(vae: AutoencoderKL, pixels: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    latents = vae.encode(pixels).latent_dist.mean
    # latents are held near mean 0 and size 1, so that the noise has a fixed meaning
    flat = latents.permute(1, 0, 2, 3).flatten(1)
    anchor = flat.mean(1).square().mean() + (flat.std(1) - 1.0).square().mean()
    noisy = latents + noise * torch.randn(latents.shape, generator=generator)
    loss: Tensor = _unlike(vae.decode(noisy).sample, pixels, squares=2.0) + 0.01 * anchor
    return loss


def _unlike(drawn: Tensor, pixels: Tensor, *, squares: float) -> Tensor:
    """How far pictures are from what they should be: absolute and squared differences, and differences of edges."""
    difference = drawn - pixels
    edges = difference.diff(dim=2).abs().mean() + difference.diff(dim=3).abs().mean()
    total: Tensor = difference.abs().mean() + squares * difference.square().mean() + 0.5 * edges
    return total


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


def polish_decoder(
    vae: AutoencoderKL, steps: int, seed: int, cache: Path, progress: Progress, *, save_every: int = 100
) -> None:
    """Train the decoder further with the encoder as it is: latents, and so the UNet, stay valid."""
    trained = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    for parameter in trained:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(trained, lr=_POLISH_RATE, betas=(0.9, 0.99), weight_decay=1e-4)
    start = load_stage(cache / "decoder.pt", {"model": vae, "optimizer": optimizer})
    for step in range(start, steps):
        rate = _POLISH_RATE * min(1.0, (step + 1) / 30) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        numbers = range(3_000_000 + step * 4, 3_000_000 + step * 4 + 4)
        chosen = [wide_picture(seed, n) if n % 8 == 7 else picture(seed, n).pixels for n in numbers]
        pixels = to_tensor(np.stack(chosen))
        with torch.no_grad():
            latents = vae.encode(pixels).latent_dist.mean
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        noise = _POLISH_NOISE / SCALING_FACTOR * torch.randn(latents.shape, generator=generator)
        loss = _unlike(vae.decode(latents + noise).sample, pixels, squares=4.0)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        progress(step + 1, steps, f"loss {loss.item():.4f}")
        if (step + 1) % save_every == 0 or step + 1 == steps:
            save_stage(cache / "decoder.pt", {"model": vae, "optimizer": optimizer}, step + 1)
    vae.eval().requires_grad_(False)
