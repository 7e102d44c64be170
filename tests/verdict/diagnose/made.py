"""Facts made up for tests: a healthy SDXL training, of which each test changes one thing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lorakit.verdict.diagnose.diagnosis import Diagnosis, diagnose
from lorakit.verdict.diagnose.facts import (
    CaptionFacts,
    CheckpointFacts,
    EmbeddingFacts,
    Facts,
    PartFacts,
    PictureFacts,
    Setup,
)
from lorakit.verdict.diagnose.findings import Finding
from lorakit.verdict.diagnose.thresholds import settle

SETUP = Setup(
    unet_lr=1e-4, te1_lr=5e-5, te2_lr=5e-5, schedule="cosine", optimizer="AdamW8bit", warmup_steps=20, total_steps=400, epochs=10,
    dim=32, alpha=16.0, batch_size=4, images=40, batches_per_epoch=40, short_batches=0, trainer="builtin",
)  # fmt: skip


def parts(
    unet: float | None = 0.05,
    te1: float | None = 0.03,
    te2: float | None = 0.03,
    *,
    te_share: float = 0.1,
    dead: int = 0,
) -> dict[str, PartFacts]:
    """The parts of a checkpoint with these relative movements."""
    return {
        "unet": PartFacts(12.0, 1 - te_share, 722, dead, unet),
        "te1": PartFacts(3.0, te_share * 0.6, 72, 0, te1),
        "te2": PartFacts(2.0, te_share * 0.4, 192, 0, te2),
    }


def checkpoint(step: int = 400, **changes: Any) -> CheckpointFacts:
    return CheckpointFacts(f"weights/hifumi-{step:06d}.safetensors", step, parts(**changes))


def falling(count: int = 400, first: float = 0.14, last: float = 0.10, noise: float = 0.01) -> tuple[float, ...]:
    """A loss that falls to its end, with noise that no test depends on: up and down in turn."""
    return tuple(first + (last - first) * at / count + (noise if at % 2 else -noise) for at in range(count))


def similar(
    te1: float = 0.7, te2: float = 0.6, base: float = 0.5, file: str = "hifumi-000400.safetensors"
) -> EmbeddingFacts:
    return EmbeddingFacts(file, 40, {"te1": te1, "te2": te2}, {"te1": base, "te2": base})


def picture(grain: float = 0.95, spread: float = 0.2, change: float | None = 0.1) -> PictureFacts:
    return PictureFacts("samples/hifumi_000400.png", 400, grain, spread, change)


def facts(**changes: Any) -> Facts:
    """A healthy SDXL training with these of its facts changed; ``setup`` may be a mapping of changes to its settings."""
    setup = changes.pop("setup", {})
    whole = Facts(
        subject="2026-11-22_0701_hifumi_k3f9",
        scale="sdxl",
        status="ok",
        setup=replace(SETUP, **setup),
        losses=falling(),
        grads={"unet": (0.045, 0.2), "te1": (0.02, 0.1), "te2": (0.05, 0.1)},
        rates={"unet": (1e-4, 0.0), "te1": (5e-5, 0.0), "te2": (5e-5, 0.0)},
        checkpoints=(checkpoint(200, unet=0.03), checkpoint()),
        embeddings=(similar(),),
        captions=CaptionFacts(40, 38, "a photo of hifumi"),
        pictures=(picture(),),
    )
    return replace(whole, **changes)


def diagnosed(limits: list[str] | None = None, **changes: Any) -> Diagnosis:
    found = facts(**changes)
    return diagnose(found, settle(found.scale, words=limits or []))


def codes(limits: list[str] | None = None, **changes: Any) -> set[str]:
    return {one.code for one in diagnosed(limits, **changes).findings}


def finding(code: str, **changes: Any) -> Finding:
    return next(one for one in diagnosed(**changes).findings if one.code == code)
