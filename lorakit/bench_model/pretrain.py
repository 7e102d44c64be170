"""Pre-training of the bench model's UNet and text encoders on latents of the world's pictures."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lorakit.bench_model.learner import Learner, new_learner
from lorakit.bench_model.muon import Muon
from lorakit.bench_model.staging import Ema, load_stage, save_stage
from lorakit.bench_model.twin import Twin
from lorakit.bench_model.vae_training import to_tensor
from lorakit.bench_model.world import SIDE, Scene, caption, picture, picture_scene
from lorakit.trainers.builtin.objective import NUM_TIMESTEPS, sdxl_alphas_cumprod
from lorakit.trainers.builtin.shapes import SCALING_FACTOR
from lorakit.trainers.builtin.text import encode_ids, size_condition
from lorakit.trainers.builtin.tokenizers import load_tokenizers

__all__ = ["Recipe", "Round", "encode_pictures", "loss_weights", "noisy_caption", "train_unet"]

_PART = 1600  # pictures in one file of latents
_TOKENS = 77

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Round:
    """Steps up to ``end``, and what their loss asks for.

    ``pull`` is how much more the loss counts where noise is strong: see :func:`loss_weights`. ``blind`` is the share of
    examples that see nothing but noise, as drawing begins: SDXL's strongest noise still shows where things stand, so a
    model that never sees less looks there and not into the caption.
    """

    end: int
    pull: str
    blind: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """How UNet and text encoders are trained.

    The first round learns to draw and to read; the other learns to place things as the caption says, which is decided in
    the strongest noise, where plain noise prediction rewards it least. The learning rate stays until ``level``, then
    falls to nothing in a straight line. From ``full_from`` on, steps see all 77 text tokens; before, most see only the
    first 32, which hold every caption (the rest is padding): two fifths faster.
    """

    pictures: int = 10_000
    rounds: tuple[Round, ...] = (Round(1_700, "gentle"), Round(4_300, "strong", blind=0.2))
    batch: int = 48
    learning_rate: float = 4e-3
    warmup: int = 100
    level: int = 1_700
    weight_decay: float = 0.01
    ema: float = 0.998
    short: int = 32
    full_every: int = 8
    full_from: int = 4_050

    @property
    def steps(self) -> int:
        """Optimizer steps in all."""
        return self.rounds[-1].end

    def round_of(self, step: int) -> Round:
        """The round that ``step`` (from 0) is in."""
        return next(one for one in self.rounds if step < one.end)

    def sees_all(self, step: int) -> bool:
        """Whether ``step`` (from 0) sees all text tokens."""
        return step >= self.full_from or step % self.full_every == 0

    def rate(self, step: int) -> float:
        """Learning rate of ``step`` (from 0)."""
        warm, left = (step + 1) / self.warmup, (self.steps - step) / (self.steps - self.level)
        return self.learning_rate * min(1.0, warm, left)


@dataclass(frozen=True)
class Batch:
    """One step's examples: ``clean`` and ``noise`` (B, 4, 16, 16), ``times`` and ``blind`` (B,), ``sizes`` (B, 6)."""

    captions: Sequence[str]
    clean: Tensor
    noise: Tensor
    times: Tensor
    sizes: Tensor
    blind: Tensor


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
    optimizer = Muon(trained.values(), weight_decay=recipe.weight_decay)
    ema = Ema(trained, recipe.ema)
    parts: dict[str, Any] = {**learner.parts(), "optimizer": optimizer, "ema": ema}
    start = load_stage(cache / "pretrain.pt", parts)
    twin = Twin(learner.unet)
    alphas = sdxl_alphas_cumprod()
    snr = alphas / (1 - alphas)
    scenes = [picture_scene(seed, number) for number in range(len(latents))]
    words, tokenizers = strange_words(), load_tokenizers()
    mean: float | None = None
    for step in range(start, recipe.steps):
        batch = make_batch(recipe, latents, scenes, words, seed=seed, step=step)
        weights = loss_weights(snr, recipe.round_of(step).pull)
        length = _TOKENS if recipe.sees_all(step) else recipe.short
        first, second = (ids[:, :, :length] for ids in tokenizers.encode(batch.captions))
        condition = encode_ids(learner, first, second)  # type: ignore[arg-type]  # it has the two encoders
        twin.refresh()
        noisy, target = noised(batch, alphas[batch.times])
        predicted = twin.predict(noisy, batch.times, condition, batch.sizes)
        loss = ((predicted - target).square().mean(dim=(1, 2, 3)) * weights[batch.times]).mean()
        for parameter in trained.values():
            parameter.grad = None
        torch.autograd.backward(loss)
        twin.hand_over()
        torch.nn.utils.clip_grad_norm_(trained.values(), 1.0, foreach=True)
        optimizer.step(recipe.rate(step))
        ema.update(step)
        mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
        if (step + 1) % save_every == 0 or step + 1 == recipe.steps:
            save_stage(cache / "pretrain.pt", parts, step + 1)
        progress(step + 1, recipe.steps, f"loss {mean:.4f}")
    return learner, ema


def noised(batch: Batch, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """What the UNet sees and what it should predict, both (B, 4, 16, 16); ``alpha`` (B,) is the cumulative one.

    A blind example sees noise alone. Its target is the noise that would leave the clean latents when it is taken away.
    """
    signal, spread = (part[:, None, None, None] for part in (alpha.sqrt(), (1 - alpha).sqrt()))
    blind = batch.blind[:, None, None, None]
    noisy = torch.where(blind, batch.noise, signal * batch.clean + spread * batch.noise)
    target = torch.where(blind, (batch.noise - signal * batch.clean) / spread, batch.noise)
    return noisy, target


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
    blind = torch.arange(count) < round(count * recipe.round_of(step).blind)
    times[blind] = NUM_TIMESTEPS - 1
    original = [
        (SIDE, SIDE) if rng.random() < 0.5 else (rng.randint(64, 512), rng.randint(64, 512)) for _ in range(count)
    ]
    sizes = size_condition(original, [(0, 0)] * count, [(SIDE, SIDE)] * count)
    return Batch(captions, clean, noise, times, sizes, blind)


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


def loss_weights(snr: Tensor, pull: str) -> Tensor:
    """Weight of each timestep's loss, scaled to a mean of 1: min-SNR-5 (Hang et al., 2023), more where noise is strong.

    Plain noise prediction hardly rewards reading the caption, because colours and places shine through all but the
    strongest noise. ``pull`` is "gentle" (up to 4 times more) or "strong" (up to 21 times).
    """
    least = snr.clamp(min=0.01, max=5.0)
    more = {"gentle": 0.3 * least.rsqrt(), "strong": 0.1 / snr.clamp(min=0.005)}[pull]
    weights = 5.0 / snr.clamp(min=5.0) * (1.0 + more)
    return weights / weights.mean()
