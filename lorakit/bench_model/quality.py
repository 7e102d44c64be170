"""How well a model draws the world of shapes: prompts it has never seen, drawn and judged attribute by attribute."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from lorakit.bench_model.judge import ATTRIBUTES, judge, right
from lorakit.bench_model.sampling import sample
from lorakit.bench_model.vae_training import psnr, to_tensor
from lorakit.bench_model.world import BACKGROUNDS, HELD_OUT, Scene, caption, draw, picture, sample_scene
from lorakit.trainers.builtin.checkpoint import BaseModel
from lorakit.trainers.builtin.tokenizers import load_tokenizers

__all__ = [
    "KINDS",
    "Quality",
    "easy_scenes",
    "held_out_scenes",
    "judge_pictures",
    "measure",
    "quality_table",
    "vae_quality",
]

_FIRST_UNSEEN = 5_000_000  # training of no part looks at pictures from this number on


@dataclass(frozen=True)
class Quality:
    """Shares of pictures, 0 … 1, in which each attribute is right, and in which all are."""

    pictures: int
    attributes: dict[str, float]
    everything: float


def held_out_scenes(count: int, seed: int = 11) -> list[Scene]:
    """Scenes with a pair of colour and shape that training never shows; all sizes, places and both styles."""
    rng = random.Random(seed)
    return [sample_scene(rng, held_out=True) for _ in range(count)]


def easy_scenes(count: int, seed: int = 11) -> list[Scene]:
    """Photos of a held-out pair in medium size in the middle, without a stripe."""
    rng = random.Random(seed)
    scenes: list[Scene] = []
    while len(scenes) < count:
        (colour, shape), background = rng.choice(sorted(HELD_OUT)), rng.choice(list(BACKGROUNDS))
        if colour != background:
            scenes.append(Scene(shape, colour, background))
    return scenes


#: The two kinds of prompts, by name.
KINDS: dict[str, Callable[[int], list[Scene]]] = {"held-out": held_out_scenes, "easy": easy_scenes}


def measure(base: BaseModel, scenes: list[Scene], *, seed: int = 1, steps: int = 25) -> Quality:
    """Draw each scene's caption in ``steps`` DDIM steps and judge it."""
    drawn = sample(base, load_tokenizers(), [caption(scene) for scene in scenes], seed=seed, steps=steps)
    return judge_pictures(drawn, scenes)


def judge_pictures(pictures: NDArray[np.uint8], scenes: list[Scene]) -> Quality:
    """What the judge says of ``pictures`` (B, 128, 128, 3), which should show ``scenes``."""
    found = [right(judge(pixels), scene) for pixels, scene in zip(pictures, scenes, strict=True)]
    shares = {name: float(np.mean([one[name] for one in found])) for name in ATTRIBUTES}
    return Quality(len(scenes), shares, float(np.mean([all(one.values()) for one in found])))


def vae_quality(base: BaseModel, count: int, *, seed: int = 7) -> tuple[float, Quality]:
    """Mean PSNR in dB of unseen pictures after encoding and decoding, and what the judge says of them then."""
    unseen = [picture(seed, _FIRST_UNSEEN + number) for number in range(count)]
    pixels = to_tensor(np.stack([one.pixels for one in unseen]))
    parts = [base.vae.decode(base.vae.encode(part).latent_dist.mean).sample for part in torch.split(pixels, 16)]
    drawn = [part.clamp(-1, 1).add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).numpy() for part in parts]
    return float(psnr(base.vae, pixels).mean()), judge_pictures(np.concatenate(drawn), [one.scene for one in unseen])


def quality_table(measured: dict[str, Quality]) -> str:
    """A table in Markdown, a row for each kind of pictures."""
    columns = ["number", *ATTRIBUTES, "all"]
    lines = ["| pictures | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, found in measured.items():
        shares = [*found.attributes.values(), found.everything]
        lines.append(f"| {name} | {found.pictures} | " + " | ".join(f"{share:.3f}" for share in shares) + " |")
    return "\n".join(lines)


def ceiling(count: int, *, seed: int = 3) -> Quality:
    """What the judge says of pictures as they were drawn by the world's program."""
    rng = random.Random(seed)
    scenes = [sample_scene(rng, held_out=bool(number % 2)) for number in range(count)]
    return judge_pictures(np.stack([draw(scene, rng) for scene in scenes]), scenes)
