"""What a LoRA file alone tells: its parts, its scale, and in its metadata what it was trained with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from lorakit.evidence.base_norms import base_norms, norm_of
from lorakit.evidence.weights import Weights, measure, open_lora
from lorakit.verdict.diagnose.facts import PARTS, CheckpointFacts, Facts, PartFacts, Setup, Unseen
from lorakit.verdict.diagnose.thresholds import Scale
from lorakit.workspace import Workspace

__all__ = ["base_weights", "checkpoint", "of_file", "scale_of"]

#: The widest layer that a LoRA of SDXL changes has 5,120 inputs, of the bench models 512.
_SDXL_INPUTS: Final = 640
#: The base's weights must be known under so many of a part's modules.
_KNOWN: Final = 0.9


def base_weights(base: Path, workspace: Workspace) -> Mapping[str, float]:
    """The base model's norms, kept in the workspace's private folder. Raises ModelFileError."""
    return base_norms(base, workspace.private / "base-norms")


def checkpoint(path: Path, norms: Mapping[str, float], *, file: str, step: int | None) -> CheckpointFacts:
    """The facts of one LoRA file. Raises ModelFileError for what is no whole LoRA of SDXL."""
    weights = measure(path)
    parts = {part: _part(weights, part, norms) for part in PARTS if any(one.part == part for one in weights.modules)}
    return CheckpointFacts(file, step, parts)


def _part(weights: Weights, part: str, norms: Mapping[str, float]) -> PartFacts:
    modules = [one for one in weights.modules if one.part == part]
    known = [(one.norm, base) for one in modules if not math.isnan(base := norm_of(norms, one.path)) and base > 0]
    relative = None
    if len(known) >= _KNOWN * len(modules):
        relative = math.sqrt(sum(norm**2 for norm, _ in known) / sum(base**2 for _, base in known))
    return PartFacts(
        norm=_figure(weights.norm(part)),
        share=_figure(weights.share(part)),
        modules=len(modules),
        dead=sum(one.norm == 0 and one.block != _unread(weights, part) for one in modules),
        relative=None if relative is None else _figure(relative),
    )


def _unread(weights: Weights, part: str) -> str | None:
    """The block of a part that SDXL never reads: TE1 is used up to its last layer but one, so the last learns nothing."""
    return max(weights.blocks("te1"), default=None) if part == "te1" else None


def _figure(value: float) -> float:
    return float(f"{value:.4g}")


def scale_of(path: Path) -> Scale:
    """Whether a LoRA's layers are as wide as SDXL's. Raises ModelFileError."""
    lora = open_lora(path)
    inputs = (lora.file.tensors[module.roles["down"]].shape[1] for module in lora.modules)
    return "sdxl" if max(inputs, default=_SDXL_INPUTS) >= _SDXL_INPUTS else "bench"


def of_file(path: Path) -> Facts:
    """The facts of a bare LoRA file. Raises ModelFileError for what is none of SDXL."""
    weights = measure(path)
    unseen = [
        Unseen(
            "loss, rates as they were, samples, captions", "a file alone does not hold them: diagnose its run for these"
        ),
        Unseen("weights against the base model's", "a file alone does not tell where its base model is"),
    ]
    if not weights.metadata:
        unseen.append(Unseen("settings", "the file has no metadata"))
    parts = {part: _part(weights, part, {}) for part in PARTS if any(one.part == part for one in weights.modules)}
    return Facts(
        subject=path.name,
        scale=scale_of(path),
        setup=_setup(weights),
        checkpoints=(CheckpointFacts(path.name, _whole(weights.metadata.get("ss_steps")), parts),),
        source=f"metadata of {path.name}",
        unseen=tuple(unseen),
    )


def _setup(weights: Weights) -> Setup:
    told = weights.metadata
    first = weights.modules[0] if weights.modules else None
    fallback = _number(told.get("ss_learning_rate"))
    te = _number(told.get("ss_text_encoder_lr"))
    unet = _number(told.get("ss_unet_lr"))
    has = {one.part for one in weights.modules}
    # A part that is not in the file was not trained; one that is there, at a rate of its own or the common one.
    rates = {
        part: ((own or fallback) if part in has else 0.0) if told else None
        for part, own in (("unet", unet), ("te1", te), ("te2", te))
    }
    return Setup(
        unet_lr=rates["unet"],
        te1_lr=rates["te1"],
        te2_lr=rates["te2"],
        schedule=told.get("ss_lr_scheduler"),
        optimizer=told.get("ss_optimizer"),
        warmup_steps=_whole(told.get("ss_lr_warmup_steps")),
        total_steps=_whole(told.get("ss_max_train_steps")),
        epochs=_whole(told.get("ss_num_epochs")),
        dim=None if first is None else first.dim,
        alpha=None if first is None else first.alpha,
        batch_size=_whole(told.get("ss_total_batch_size")) or _whole(told.get("ss_batch_size_per_device")),
        accumulation=_whole(told.get("ss_gradient_accumulation_steps")) or 1,
        batches_per_epoch=_whole(told.get("ss_num_batches_per_epoch")),
        min_snr_gamma=_number(told.get("ss_min_snr_gamma")),
        noise_offset=_number(told.get("ss_noise_offset")),
    )


def _number(text: Any) -> float | None:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _whole(text: Any) -> int | None:
    value = _number(text)
    # The metadata counts a warmup given as a share as that share: which is no number of steps.
    return int(value) if value is not None and value.is_integer() else None
