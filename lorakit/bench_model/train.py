"""Making the bench model from nothing: VAE, latents, UNet with text encoders, and the small file that ships."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from lorakit import atomic
from lorakit.bench_model import pretrain, vae_training
from lorakit.bench_model.learned import checkpoint_tensors, make_projection_symmetric, pack
from lorakit.bench_model.pretrain import Recipe
from lorakit.bench_model.vae_training import VaeRecipe
from lorakit.bench_model.world import picture

__all__ = ["SEED", "Plan", "train"]

SEED = 7
Progress = Callable[[str, int, int, str], None]


@dataclass(frozen=True)
class Plan:
    """Everything that decides the weights, beside the world's program."""

    seed: int = SEED
    vae: VaeRecipe = field(default_factory=VaeRecipe)
    unet: Recipe = field(default_factory=Recipe)


def train(out: Path, cache: Path, plan: Plan, progress: Progress, *, save_every: int = 100) -> int:
    """Train the model, or go on where ``cache`` says an earlier call stopped, and write the small file to ``out``.

    ``cache`` must belong to this plan alone. ``progress`` is told the stage, steps done, steps in all and a remark.
    Returns the file's size in bytes.
    """

    def stage(name: str) -> Callable[[int, int, str], None]:
        return lambda done, total, remark: progress(name, done, total, remark)

    vae = vae_training.train_vae(plan.vae, plan.seed, cache, stage("VAE"), save_every=save_every)
    latents = pretrain.encode_pictures(vae, plan.unet.pictures, plan.seed, cache / "latents", stage("latents"))
    learner, ema = pretrain.train_unet(
        plan.unet, latents, plan.seed, cache, stage("UNet and text encoders"), save_every=save_every
    )
    ema.apply()
    unseen = np.stack([picture(plan.seed, 4_000_000 + number).pixels for number in range(32)])
    quality = float(vae_training.psnr(vae, vae_training.to_tensor(unseen)).mean())
    make_projection_symmetric(learner.unet, learner.te2)
    tensors = checkpoint_tensors(learner.unet, learner.te1, learner.te2, vae)
    content = pack(tensors, {"plan": asdict(plan), "vae_psnr": round(quality, 2)})
    out.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_bytes(out, content)
    return len(content)
