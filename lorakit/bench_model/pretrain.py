"""Pre-training of the bench model's UNet and text encoders on latents of the world's pictures."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lorakit.bench_model.learner import Learner, new_learner
from lorakit.bench_model.staging import load_stage, save_stage
from lorakit.bench_model.twin import Twin
from lorakit.bench_model.vae_training import to_tensor
from lorakit.bench_model.world import SIDE, Scene, caption, picture, picture_scene
from lorakit.trainers.builtin.objective import NUM_TIMESTEPS, sdxl_alphas_cumprod
from lorakit.trainers.builtin.shapes import SCALING_FACTOR
from lorakit.trainers.builtin.text import encode_ids, size_condition
from lorakit.trainers.builtin.tokenizers import load_tokenizers

__all__ = ["Ema", "Recipe", "encode_pictures", "loss_weights", "noisy_caption", "train_unet"]

_PART = 1600  # pictures in one file of latents
_TOKENS = 77

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Recipe:
    """How UNet and text encoders are trained.

    The learning rate warms up, stays, and falls along a cosine in the last ``decay_steps``, which also see all 77 text
    tokens. Before, most steps see only the first ``short`` ones, which hold every caption (the rest is padding), and
    one in ``full_every`` sees all: two fifths faster.
    """

    pictures: int = 8_000
    steps: int = 3_100
    decay_steps: int = 600
    batch: int = 48
    learning_rate: float = 1.5e-3
    warmup: int = 100
    weight_decay: float = 0.01
    ema: float = 0.998
    short: int = 32
    full_every: int = 8

    def decaying(self, step: int) -> bool:
        """Whether ``step`` (from 0) is one of the last ``decay_steps``."""
        return step >= self.steps - self.decay_steps

    def rate(self, step: int) -> float:
        """Learning rate of ``step`` (from 0)."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        if not self.steps - step <= self.decay_steps:
            return self.learning_rate
        left = (self.steps - step) / self.decay_steps
        return self.learning_rate * (0.01 + 0.99 * 0.5 * (1 - math.cos(math.pi * left)))


class Ema:
    """The running mean of the trained parameters, which draws better than those of the last step."""

    def __init__(self, learner: Learner, decay: float) -> None:
        self.decay = decay
        self.mean = {name: value.detach().clone() for name, value in learner.trained().items()}

    @torch.no_grad()
    def update(self, learner: Learner, step: int) -> None:
        """Take in the parameters after ``step``; the first steps are forgotten quickly."""
        decay = min(self.decay, (1 + step) / (10 + step))
        values = [value.detach() for value in learner.trained().values()]
        torch._foreach_lerp_(list(self.mean.values()), values, 1.0 - decay)

    @torch.no_grad()
    def apply(self, learner: Learner) -> None:
        """Set the parameters to their means."""
        for name, value in learner.trained().items():
            value.copy_(self.mean[name])

    def state_dict(self) -> dict[str, Tensor]:
        """The means, by parameter name."""
        return self.mean

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from ``state``."""
        self.mean = {name: state[name] for name in self.mean}


@dataclass(frozen=True)
class Batch:
    """One step's examples: ``clean`` and ``noise`` (B, 4, 16, 16), ``times`` (B,), ``sizes`` (B, 6)."""

    captions: Sequence[str]
    clean: Tensor
    noise: Tensor
    times: Tensor
    sizes: Tensor


def encode_pictures(vae: Any, count: int, seed: int, cache: Path, progress: Progress) -> Tensor:
    """Scaled latents (count, 4, 16, 16) float16 of the training pictures; kept in ``cache`` part by part."""
    cache.mkdir(parents=True, exist_ok=True)
    parts = []
    for start in range(0, count, _PART):
        end = min(count, start + _PART)
        path = cache / f"latents-{seed}-{start:06d}-{end:06d}.npy"
        if not path.is_file():
            pixels = to_tensor(np.stack([picture(seed, number).pixels for number in range(start, end)]))
            with torch.no_grad():
                latents = (
                    torch.cat([vae.encode(part).latent_dist.mean for part in torch.split(pixels, 32)]) * SCALING_FACTOR
                )
            temp = path.with_suffix(".tmp")
            with open(temp, "wb") as file:
                np.save(file, latents.half().numpy())
            temp.replace(path)
        parts.append(torch.from_numpy(np.load(path)))
        progress(end, count, "")
    return torch.cat(parts)


def train_unet(
    recipe: Recipe, latents: Tensor, seed: int, cache: Path, progress: Progress, *, save_every: int = 100
) -> tuple[Learner, Ema]:
    """Train, or go on where ``cache`` says an earlier call stopped; ``latents`` are those of pictures 0, 1, ….

    Every draw is a function of seed and step, so a resumed training ends with the same weights.
    """
    learner = new_learner(seed)
    trained = learner.trained()
    optimizer = _optimizer(list(trained.values()), recipe)
    ema = Ema(learner, recipe.ema)
    parts: dict[str, Any] = {**learner.parts(), "optimizer": optimizer, "ema": ema}
    start = load_stage(cache / "pretrain.pt", parts)
    twin = Twin(learner.unet)
    alphas = sdxl_alphas_cumprod()
    weights = loss_weights(alphas / (1 - alphas))
    scenes = [picture_scene(seed, number) for number in range(len(latents))]
    words, tokenizers = strange_words(), load_tokenizers()
    mean: float | None = None
    for step in range(start, recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(step)
        batch = make_batch(recipe, latents, scenes, words, seed=seed, step=step)
        length = _TOKENS if recipe.decaying(step) or step % recipe.full_every == 0 else recipe.short
        first, second = (ids[:, :, :length] for ids in tokenizers.encode(batch.captions))
        condition = encode_ids(learner, first, second)  # type: ignore[arg-type]  # it has the two encoders
        twin.refresh()
        alpha = alphas[batch.times][:, None, None, None]
        noisy = alpha.sqrt() * batch.clean + (1 - alpha).sqrt() * batch.noise
        predicted = twin.predict(noisy, batch.times, condition, batch.sizes)
        loss = ((predicted - batch.noise).square().mean(dim=(1, 2, 3)) * weights[batch.times]).mean()
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        twin.hand_over()
        torch.nn.utils.clip_grad_norm_(trained.values(), 1.0, foreach=True)
        optimizer.step()
        ema.update(learner, step)
        mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
        if (step + 1) % save_every == 0 or step + 1 == recipe.steps:
            save_stage(cache / "pretrain.pt", parts, step + 1)
        progress(step + 1, recipe.steps, f"loss {mean:.4f}")
    return learner, ema


def make_batch(
    recipe: Recipe, latents: Tensor, scenes: Sequence[Scene], words: Sequence[str], *, seed: int, step: int
) -> Batch:
    """The examples of ``step``. Half of them claim odd original sizes, which the model so learns to overlook."""
    rng = random.Random(f"{seed}/pretrain/{step}")
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    count = recipe.batch
    chosen = [rng.randrange(len(latents)) for _ in range(count)]
    captions = [noisy_caption(scenes[number], rng, words) for number in chosen]
    clean = latents[chosen].float()
    noise = torch.randn(clean.shape, generator=generator)
    times = torch.randint(0, NUM_TIMESTEPS, (count,), generator=generator)
    original = [
        (SIDE, SIDE) if rng.random() < 0.5 else (rng.randint(64, 512), rng.randint(64, 512)) for _ in range(count)
    ]
    sizes = size_condition(original, [(0, 0)] * count, [(SIDE, SIDE)] * count)
    return Batch(captions, clean, noise, times, sizes)


def noisy_caption(scene: Scene, rng: random.Random, words: Sequence[str]) -> str:
    """A caption as training sees it: now and then something is left unsaid, or a strange word stands in it."""
    if rng.random() < 0.10:
        return ""
    if rng.random() < 0.05:
        return caption(scene, thing=rng.choice(words))
    text, thing = caption(scene), f"{scene.colour} {scene.shape}"
    if rng.random() < 0.08:
        text = text.replace(thing, scene.shape)
    elif rng.random() < 0.06:
        text = text.replace(thing, f"{scene.colour} shape")
    if rng.random() < 0.12:
        parts = text.split(" ")
        parts.insert(rng.randint(0, len(parts)), rng.choice(words))
        text = " ".join(parts)
    return text


def strange_words() -> list[str]:
    """Made-up words: the model learns that a word it does not know says nothing, until a LoRA gives it a meaning."""
    rng = random.Random(0)
    return ["".join(_syllable(rng) for _ in range(rng.randint(1, 3))) + rng.choice(_ENDINGS) for _ in range(4000)]


_ENDINGS = ("", *"kmnprstx")


def _syllable(rng: random.Random) -> str:
    return rng.choice("bdfgklmnprstvz") + rng.choice("aeiou")


def loss_weights(snr: Tensor) -> Tensor:
    """Weight of each timestep's loss, scaled to a mean of 1: min-SNR-5 (Hang et al., 2023), more where noise is strong.

    Plain noise prediction hardly rewards reading the caption, because colours shine through all but the strongest
    noise.
    """
    weights = 5.0 / snr.clamp(min=5.0) * (1.0 + 0.3 * snr.clamp(min=0.01, max=5.0).rsqrt())
    return weights / weights.mean()


def _optimizer(parameters: Sequence[Tensor], recipe: Recipe) -> torch.optim.AdamW:
    matrices = [value for value in parameters if value.ndim > 1]
    vectors = [value for value in parameters if value.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.99), foreach=True)
