"""What a plan is made from: plain values that mean what the trainer's arguments mean, free of preset models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lorakit.dataset.blueprint import Blueprint
from lorakit.plan.network import NetworkSize

__all__ = ["Caching", "PlanInput", "Sampling", "Saving", "ScheduleInput"]


@dataclass(frozen=True)
class ScheduleInput:
    """The learning-rate schedule as the trainer is told; ``warmup`` and ``decay``: int = ticks, float = share of the run.

    ``base_lr`` is ``--learning_rate``. ``name`` None: the rate stays as it is (an optimizer without a scheduler).
    """

    name: str | None = "constant"
    warmup: float = 0
    decay: float = 0
    num_cycles: int = 1
    power: float = 1.0
    timescale: int | None = None
    min_lr_ratio: float | None = None
    base_lr: float = 1.0
    step_rules: str = ""


@dataclass(frozen=True)
class Saving:
    """Which files the trainer writes and keeps; names without prefix are those of its ``--save_…`` options."""

    every_n_epochs: int | None = None
    every_n_steps: int | None = None
    n_epoch_ratio: int | None = None
    last_n_epochs: int | None = None
    last_n_steps: int | None = None
    state: bool = False
    state_on_train_end: bool = False
    last_n_epochs_state: int | None = None
    last_n_steps_state: int | None = None
    suffix: str = "safetensors"
    bytes_per_parameter: int = 4


@dataclass(frozen=True)
class Sampling:
    """When samples are drawn; ``sizes`` has (width, height) of each prompt's image."""

    every_n_epochs: int | None = None
    every_n_steps: int | None = None
    at_first: bool = False
    sizes: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Caching:
    """What is encoded once, and what of it is kept on disk."""

    latents: bool = False
    latents_to_disk: bool = False
    text_encoder_outputs_to_disk: bool = False
    max_token_length: int = 75


@dataclass(frozen=True)
class PlanInput:
    """Everything that decides a plan.

    ``rates`` holds the rate of each part that is trained ("unet", "te1", "te2"), and of the groups in it that have another:
    LoRA+'s ("unet plus") and those of the UNet's blocks ("unet_block5"); None: the optimizer finds its own.
    ``output_dir`` tells which disk must hold the files; it need not exist yet.
    """

    blueprint: Blueprint
    output_name: str
    output_dir: Path
    rates: Mapping[str, float | None]
    network: NetworkSize
    schedule: ScheduleInput = field(default_factory=ScheduleInput)
    max_train_epochs: int | None = None
    max_train_steps: int = 1600
    gradient_accumulation_steps: int = 1
    processes: int = 1
    optimizer_type: str = "AdamW"
    max_validation_steps: int | None = None
    saving: Saving = field(default_factory=Saving)
    sampling: Sampling = field(default_factory=Sampling)
    caching: Caching = field(default_factory=Caching)
    skip_unreadable: bool = False
    warnings: tuple[str, ...] = ()
