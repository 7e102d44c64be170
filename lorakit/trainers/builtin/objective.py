"""What is learned: the noise schedule, the draw of noise and timesteps, and the loss. Pure functions on tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from lorakit.trainers.builtin.options import LossOptions, NoiseOptions

__all__ = [
    "NUM_TIMESTEPS",
    "Draw",
    "NoiseSchedule",
    "Objective",
    "draw_noise",
    "draw_timesteps",
    "elementwise_loss",
    "huber_thresholds",
    "loss_weights",
    "pyramid_noise",
    "rescale_to_zero_terminal_snr",
    "sdxl_alphas_cumprod",
]

NUM_TIMESTEPS = 1000
_MAX_SNR = 1000.0


def sdxl_alphas_cumprod() -> Tensor:
    """SDXL's signal power per timestep, float32 (1000,): betas "scaled linear" from 0.00085 to 0.012."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, NUM_TIMESTEPS, dtype=torch.float32) ** 2
    return torch.cumprod(1.0 - betas, dim=0)


def rescale_to_zero_terminal_snr(alphas_cumprod: Tensor) -> Tensor:
    """The schedule shifted and scaled so that the last timestep is pure noise.

    Algorithm 1 of Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed" (2023).
    """
    root = alphas_cumprod.sqrt()
    first, last = root[0].clone(), root[-1].clone()
    return ((root - last) * (first / (first - last))) ** 2


@dataclass(frozen=True)
class NoiseSchedule:
    """Signal power ᾱ (1000,) that latents are noised with, and the signal-to-noise ratio (1000,) that losses use.

    With zero terminal SNR the ratio stays that of the schedule before rescaling, as in sd-scripts.
    """

    alphas_cumprod: Tensor
    snr: Tensor

    @classmethod
    def sdxl(cls, *, zero_terminal_snr: bool = False) -> NoiseSchedule:
        """SDXL's schedule of 1000 timesteps."""
        alphas = sdxl_alphas_cumprod()
        snr = alphas / (1.0 - alphas)
        return cls(rescale_to_zero_terminal_snr(alphas) if zero_terminal_snr else alphas, snr)

    def to(self, device: torch.device) -> NoiseSchedule:
        """The same schedule on ``device``."""
        return NoiseSchedule(self.alphas_cumprod.to(device), self.snr.to(device))

    def noisy(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """√ᾱ·latents + √(1-ᾱ)·noise; latents and noise (B,C,H,W), timesteps (B,)."""
        alphas = _per_sample(self.alphas_cumprod[timesteps])
        return alphas.sqrt() * latents + (1.0 - alphas).sqrt() * noise

    def velocity(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """√ᾱ·noise - √(1-ᾱ)·latents: the target of v-prediction (Salimans and Ho, 2022)."""
        alphas = _per_sample(self.alphas_cumprod[timesteps])
        return alphas.sqrt() * noise - (1.0 - alphas).sqrt() * latents


@dataclass(frozen=True)
class Draw:
    """One noised batch: ``noisy`` (B,C,H,W) at ``timesteps`` (B,), and the ``target`` that the U-Net should predict."""

    timesteps: Tensor
    noisy: Tensor
    target: Tensor


def draw_timesteps(count: int, options: NoiseOptions, generator: torch.Generator) -> Tensor:
    """``count`` timesteps, uniform in [min, max); all of them max when min is not below max. int64 on the CPU."""
    low = options.min_timestep or 0
    high = NUM_TIMESTEPS if options.max_timestep is None else options.max_timestep
    if low >= high:
        return torch.full((count,), high, dtype=torch.long)
    return torch.randint(low, high, (count,), generator=generator)


def draw_noise(latents: Tensor, options: NoiseOptions, generator: torch.Generator) -> Tensor:
    """Gaussian noise shaped like ``latents`` (B,C,H,W), with the offset and the pyramid that ``options`` ask for."""
    noise = _normal(latents.shape, latents, generator)
    if options.noise_offset:
        noise = noise + _offset(latents, options, generator)
    if options.multires_noise_iterations:
        noise = pyramid_noise(noise, options.multires_noise_iterations, options.multires_noise_discount, generator)
    return noise


def _offset(latents: Tensor, options: NoiseOptions, generator: torch.Generator) -> Tensor:
    """A constant per channel of each sample (B,C,1,1): lets training reach other overall brightness."""
    strength: Tensor | float = options.noise_offset or 0.0
    if options.noise_offset_random_strength:
        strength = strength * torch.rand(1, generator=generator).to(latents.device)
    if options.adaptive_noise_scale:
        level = latents.mean(dim=(2, 3), keepdim=True).abs()
        strength = (strength + options.adaptive_noise_scale * level).clamp(min=0.0)
    return strength * _normal((*latents.shape[:2], 1, 1), latents, generator)


def pyramid_noise(noise: Tensor, iterations: int, discount: float, generator: torch.Generator) -> Tensor:
    """``noise`` plus ever coarser noise, each level weighted by a further ``discount``, brought back to unit variance.

    The multi-resolution noise described by jbwhitaker (Weights & Biases, 2023): level i is drawn at a size divided by
    a random factor in [2, 4) to the power i, and enlarged bilinearly.
    """
    height, width = noise.shape[-2:]
    for level in range(iterations):
        ratio = 2.0 + 2.0 * float(torch.rand(1, generator=generator))
        size = (max(1, int(height / ratio**level)), max(1, int(width / ratio**level)))
        coarse = _normal((*noise.shape[:2], *size), noise, generator)
        noise = noise + functional.interpolate(coarse, size=(height, width), mode="bilinear") * discount**level
        if min(size) == 1:
            break
    return noise / noise.std()


def huber_thresholds(schedule: NoiseSchedule, timesteps: Tensor, options: LossOptions) -> Tensor | None:
    """The δ of (pseudo-)Huber per sample (B,), None for losses that have none.

    "constant" is one value, "exponential" falls from the scale at t = 0 to ``huber_c`` of it at t = 1000, "snr"
    falls with the noise level σ from 1 to ``huber_c`` (``huber_scale`` does not count there).
    """
    if options.loss_type not in ("huber", "smooth_l1"):
        return None
    if options.huber_schedule == "constant":
        return torch.full_like(timesteps, options.huber_c * options.huber_scale, dtype=torch.float32)
    if options.huber_schedule == "exponential":
        decay = -math.log(options.huber_c) / NUM_TIMESTEPS
        return torch.exp(-decay * timesteps.float()) * options.huber_scale
    alphas = schedule.alphas_cumprod[timesteps]
    sigma = ((1.0 - alphas) / alphas).sqrt()
    return (1.0 - options.huber_c) / (1.0 + sigma) ** 2 + options.huber_c


def elementwise_loss(prediction: Tensor, target: Tensor, loss_type: str, threshold: Tensor | None = None) -> Tensor:
    """The loss of every element, (B,C,H,W), unreduced.

    "huber" is 2δ(√(d²+δ²)-δ) and "smooth_l1" 2(√(d²+δ²)-δ) with d the difference and δ the ``threshold`` (B,): the
    smooth pseudo-Huber forms, which behave like l2 for small and like l1 for large differences.
    """
    if loss_type == "l2":
        return functional.mse_loss(prediction, target, reduction="none")
    if loss_type == "l1":
        return functional.l1_loss(prediction, target, reduction="none")
    if threshold is None:
        raise ValueError(f"loss {loss_type!r} needs a threshold")
    delta = _per_sample(threshold)
    excess = 2.0 * (((prediction - target) ** 2 + delta**2).sqrt() - delta)
    return delta * excess if loss_type == "huber" else excess


def loss_weights(snr: Tensor, options: LossOptions, *, v_prediction: bool) -> Tensor:
    """The factor on each sample's loss (B,), given its signal-to-noise ratio (B,).

    min-SNR (Hang et al., 2023) weighs by min(SNR, γ)/SNR, for v-prediction min(SNR, γ)/(SNR+1); scale_v by SNR/(SNR+1);
    v_pred_like adds its share divided by that; debiased estimation weighs by 1/√SNR, for v-prediction 1/(SNR+1).
    The last three cap SNR at 1000. All are factors, so only their product counts, not their order.
    """
    weight = torch.ones_like(snr)
    if options.min_snr_gamma:
        weight = weight * snr.clamp(max=options.min_snr_gamma) / (snr + 1.0 if v_prediction else snr)
    capped = snr.clamp(max=_MAX_SNR)
    like_noise = capped / (capped + 1.0)
    if options.scale_v_pred_loss_like_noise_pred:
        weight = weight * like_noise
    if options.v_pred_like_loss:
        weight = weight * (1.0 + options.v_pred_like_loss / like_noise)
    if options.debiased_estimation_loss:
        weight = weight / (capped + 1.0 if v_prediction else capped.sqrt())
    return weight


@dataclass(frozen=True)
class Objective:
    """The objective of one training: how to noise latents and how to judge a prediction."""

    schedule: NoiseSchedule
    noise: NoiseOptions
    loss: LossOptions
    v_prediction: bool = False

    def draw(self, latents: Tensor, generator: torch.Generator, timesteps: Tensor | None = None) -> Draw:
        """Noise ``latents`` (B,4,H,W, already scaled) at random timesteps, or at the given ones (B,)."""
        if timesteps is None:
            timesteps = draw_timesteps(len(latents), self.noise, generator)
        timesteps = timesteps.to(latents.device)
        noise = draw_noise(latents, self.noise, generator)
        added = noise
        if self.noise.ip_noise_gamma:
            strength: Tensor | float = self.noise.ip_noise_gamma
            if self.noise.ip_noise_gamma_random_strength:
                strength = strength * torch.rand(1, generator=generator).to(latents.device)
            added = noise + strength * _normal(latents.shape, latents, generator)
        noisy = self.schedule.noisy(latents, added, timesteps)
        target = self.schedule.velocity(latents, noise, timesteps) if self.v_prediction else noise
        return Draw(timesteps, noisy, target)

    def per_sample(self, prediction: Tensor, draw: Draw, weights: Tensor) -> Tensor:
        """The loss of each sample (B,), in float32; ``weights`` (B,) is the prior-loss weight of each."""
        threshold = huber_thresholds(self.schedule, draw.timesteps, self.loss)
        losses = elementwise_loss(prediction.float(), draw.target.float(), self.loss.loss_type, threshold)
        factors = loss_weights(self.schedule.snr[draw.timesteps], self.loss, v_prediction=self.v_prediction)
        return losses.mean(dim=(1, 2, 3)) * weights * factors


def _per_sample(values: Tensor) -> Tensor:
    return values.reshape(-1, 1, 1, 1)


def _normal(shape: tuple[int, ...] | torch.Size, like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal numbers, drawn on the CPU so that every device sees the same ones."""
    return torch.randn(shape, generator=generator, dtype=torch.float32).to(like.device, like.dtype)
