"""The trainer's arguments as frozen, typed groups; everything that is not implemented is refused here, before torch loads."""

from __future__ import annotations

import dataclasses
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from lorakit.dataset.blueprint import DatasetDefaults
from lorakit.errors import TrainerError
from lorakit.preset.blocks import RATE_COUNTS, Blocks, factors
from lorakit.preset.units import BlockList
from lorakit.trainers import builtin_support as acceptance
from lorakit.trainers.catalogue import Catalogue

__all__ = [
    "CacheOptions",
    "DataOptions",
    "LengthOptions",
    "LossOptions",
    "MetadataOptions",
    "ModelOptions",
    "NetworkOptions",
    "NoiseOptions",
    "OptimOptions",
    "PrecisionOptions",
    "SampleOptions",
    "SaveOptions",
    "ScheduleOptions",
    "TrackingOptions",
    "TrainOptions",
    "ValidationOptions",
    "implemented",
    "parse",
]

Precision = Literal["no", "fp16", "bf16"]
_Group = TypeVar("_Group")


@dataclass(frozen=True)
class ModelOptions:
    """The base model and what it predicts."""

    pretrained_model_name_or_path: str = ""
    vae: str | None = None
    no_half_vae: bool = False
    tokenizer_cache_dir: str | None = None
    max_token_length: int | None = None
    v_parameterization: bool = False


@dataclass(frozen=True)
class NetworkOptions:
    """The LoRA. ``network_args`` holds the ``key=value`` pairs, values still text."""

    network_module: str | None = "networks.lora"
    network_dim: int | None = None
    network_alpha: float = 1.0
    network_dropout: float | None = None
    network_args: tuple[tuple[str, str], ...] = ()
    network_weights: str | None = None
    network_train_unet_only: bool = False
    network_train_text_encoder_only: bool = False
    scale_weight_norms: float | None = None

    @property
    def dim(self) -> int:
        """The rank; the trainer takes 4 when none is given."""
        return self.network_dim or 4

    @property
    def alpha(self) -> float:
        """The alpha; 0 means as large as the rank."""
        return self.network_alpha or float(self.dim)

    def argument(self, name: str) -> float | None:
        """One number of ``network_args``, None when it is not there or says None."""
        text = dict(self.network_args).get(name)
        return None if text is None or text == "None" else float(text)

    @property
    def blocks(self) -> Blocks:
        """Dims, alphas and factors on the rate of the UNet's blocks, all equal where no list is given."""
        conv_dim = self.argument("conv_dim")
        return Blocks.of(
            dim=self.dim,
            alpha=self.network_alpha,
            conv_dim=None if conv_dim is None else int(conv_dim),
            conv_alpha=self.argument("conv_alpha"),
            rates=self.block_rates,
            **{name: self._list(name) for name in acceptance.BLOCK_LISTS},
        )

    @property
    def block_rates(self) -> tuple[float, ...] | None:
        """The factor on the UNet's rate for each block, None where the blocks share one rate."""
        down, mid, up = (self._list(name) for name in RATE_COUNTS)
        return factors(down, mid, up, self.argument("block_lr_zero_threshold"))

    def _list(self, name: str) -> BlockList | None:
        text = dict(self.network_args).get(name)
        return None if text is None else BlockList.parse(text)


@dataclass(frozen=True)
class OptimOptions:
    """The optimizer and the rates. ``text_encoder_lr`` has no value, one for both text encoders, or one for each."""

    optimizer_type: str = ""
    optimizer_args: tuple[str, ...] = ()
    learning_rate: float = 2e-6
    unet_lr: float | None = None
    text_encoder_lr: tuple[float, ...] = ()
    max_grad_norm: float = 1.0


@dataclass(frozen=True)
class ScheduleOptions:
    """The learning-rate schedule. Counts are scheduler ticks, fractions are shares of the run."""

    lr_scheduler: str = "constant"
    lr_scheduler_args: tuple[str, ...] = ()
    lr_warmup_steps: int | float = 0
    lr_decay_steps: int | float = 0
    lr_scheduler_num_cycles: int = 1
    lr_scheduler_power: float = 1.0
    lr_scheduler_timescale: int | None = None
    lr_scheduler_min_lr_ratio: float | None = None


@dataclass(frozen=True)
class LengthOptions:
    """How long the training lasts and where it goes on."""

    max_train_steps: int = 1600
    max_train_epochs: int | None = None
    gradient_accumulation_steps: int = 1
    seed: int | None = None
    resume: str | None = None


@dataclass(frozen=True)
class DataOptions:
    """Where the images are and how they are read; ``defaults`` is what a dataset TOML may leave out."""

    defaults: DatasetDefaults
    train_data_dir: str | None = None
    reg_data_dir: str | None = None
    dataset_config: Path | None = None
    prior_loss_weight: float = 1.0
    max_data_loader_n_workers: int = 8
    persistent_data_loader_workers: bool = False


@dataclass(frozen=True)
class CacheOptions:
    """What is computed once instead of at every step."""

    cache_latents: bool = False
    cache_latents_to_disk: bool = False
    cache_text_encoder_outputs: bool = False
    cache_text_encoder_outputs_to_disk: bool = False
    vae_batch_size: int = 1


@dataclass(frozen=True)
class NoiseOptions:
    """How the noise and the timesteps of a step are drawn."""

    noise_offset: float | None = None
    noise_offset_random_strength: bool = False
    adaptive_noise_scale: float | None = None
    multires_noise_iterations: int | None = None
    multires_noise_discount: float = 0.3
    ip_noise_gamma: float | None = None
    ip_noise_gamma_random_strength: bool = False
    zero_terminal_snr: bool = False
    min_timestep: int | None = None
    max_timestep: int | None = None


@dataclass(frozen=True)
class LossOptions:
    """How prediction and target become a number."""

    loss_type: str = "l2"
    huber_schedule: str = "snr"
    huber_c: float = 0.1
    huber_scale: float = 1.0
    min_snr_gamma: float | None = None
    scale_v_pred_loss_like_noise_pred: bool = False
    v_pred_like_loss: float | None = None
    debiased_estimation_loss: bool = False


@dataclass(frozen=True)
class PrecisionOptions:
    """Number formats and memory."""

    mixed_precision: Precision = "no"
    full_fp16: bool = False
    full_bf16: bool = False
    gradient_checkpointing: bool = False
    ddp_timeout: int | None = None

    @property
    def full_precision(self) -> Precision:
        """The format of the LoRA's own weights: "no" is float32."""
        return "fp16" if self.full_fp16 else "bf16" if self.full_bf16 else "no"


@dataclass(frozen=True)
class SaveOptions:
    """What is written, when, and what of it is kept."""

    output_dir: str = ""
    output_name: str | None = None
    save_precision: str | None = None
    save_every_n_epochs: int | None = None
    save_every_n_steps: int | None = None
    save_n_epoch_ratio: int | None = None
    save_last_n_epochs: int | None = None
    save_last_n_epochs_state: int | None = None
    save_last_n_steps: int | None = None
    save_last_n_steps_state: int | None = None
    save_state: bool = False
    save_state_on_train_end: bool = False
    save_model_as: str | None = "safetensors"


@dataclass(frozen=True)
class SampleOptions:
    """When pictures are drawn, from which prompts, how."""

    sample_every_n_steps: int | None = None
    sample_every_n_epochs: int | None = None
    sample_at_first: bool = False
    sample_prompts: str | None = None
    sample_sampler: str = "ddim"


@dataclass(frozen=True)
class ValidationOptions:
    """How the loss on held-back images is measured (which images is in ``DataOptions.defaults``)."""

    validate_every_n_steps: int | None = None
    validate_every_n_epochs: int | None = None
    max_validation_steps: int | None = None


@dataclass(frozen=True)
class TrackingOptions:
    """Where the curves go."""

    logging_dir: str | None = None
    log_with: str | None = None
    log_prefix: str | None = None
    log_tracker_name: str | None = None


@dataclass(frozen=True)
class MetadataOptions:
    """What the LoRA file says about itself."""

    no_metadata: bool = False
    training_comment: str | None = None
    clip_skip: int | None = None
    metadata_title: str | None = None
    metadata_author: str | None = None
    metadata_description: str | None = None
    metadata_license: str | None = None
    metadata_tags: str | None = None
    metadata_usage_hint: str | None = None
    metadata_thumbnail: str | None = None
    metadata_merged_from: str | None = None
    metadata_trigger_phrase: str | None = None
    metadata_preprocessor: str | None = None
    metadata_is_negative_embedding: str | None = None


@dataclass(frozen=True)
class TrainOptions:
    """Everything a training is told. ``arguments`` are the parsed values as they came, for the file's metadata."""

    data: DataOptions
    model: ModelOptions = ModelOptions()
    network: NetworkOptions = NetworkOptions()
    optim: OptimOptions = OptimOptions()
    schedule: ScheduleOptions = ScheduleOptions()
    length: LengthOptions = LengthOptions()
    cache: CacheOptions = CacheOptions()
    noise: NoiseOptions = NoiseOptions()
    loss: LossOptions = LossOptions()
    precision: PrecisionOptions = PrecisionOptions()
    save: SaveOptions = SaveOptions()
    sample: SampleOptions = SampleOptions()
    validation: ValidationOptions = ValidationOptions()
    tracking: TrackingOptions = TrackingOptions()
    metadata: MetadataOptions = MetadataOptions()
    arguments: Namespace = field(default_factory=Namespace)


_GROUPS = (
    ModelOptions, NetworkOptions, OptimOptions, ScheduleOptions, LengthOptions, CacheOptions, NoiseOptions, LossOptions,
    PrecisionOptions, SaveOptions, SampleOptions, ValidationOptions, TrackingOptions, MetadataOptions,
)  # fmt: skip
_TRANSLATED = ("resolution", "train_batch_size", "caption_extention", "use_8bit_adam", "use_lion_optimizer")


def implemented() -> frozenset[str]:
    """Names (as in the parsed namespace) of the arguments that this trainer acts upon."""
    names = {item.name for group in (*_GROUPS, DataOptions, DatasetDefaults) for item in dataclasses.fields(group)}
    names |= set(_TRANSLATED)
    return frozenset(names & set(Catalogue.load().by_dest()) - set(acceptance.REFUSED))


def parse(argv: Sequence[str]) -> TrainOptions:
    """The options that ``argv`` (without the program's name) asks for.

    Raises :class:`TrainerError` listing every argument that is not implemented and every combination that cannot work.
    """
    arguments = Catalogue.load().parser().parse_args(list(argv))
    problems = [*acceptance.not_implemented(arguments), *acceptance.contradictions(arguments)]
    if problems:
        names = ", ".join(dict.fromkeys(problem.key for problem in problems))
        raise TrainerError(
            f"the built-in trainer refuses: {names}",
            why="; ".join(f"{problem.what}" for problem in problems),
            todo='Leave these arguments out, or train with sd-scripts (trainer.kind = "sd-scripts").',
            problems=tuple(problems),
        )
    return dataclasses.replace(_options(_normalised(arguments)), arguments=arguments)


def _normalised(arguments: Namespace) -> Namespace:
    """The same arguments with aliases and implications resolved, as the trainer resolves them."""
    values = dict(vars(arguments))
    if values["use_8bit_adam"]:
        values["optimizer_type"] = "AdamW8bit"
    if values["use_lion_optimizer"]:
        values["optimizer_type"] = "Lion"
    values["caption_extension"] = values["caption_extention"] or values["caption_extension"]
    values["cache_latents"] |= values["cache_latents_to_disk"]
    values["cache_text_encoder_outputs"] |= values["cache_text_encoder_outputs_to_disk"]
    values["network_args"] = tuple(tuple(item.split("=", 1)) for item in values["network_args"] or ())
    for name in ("optimizer_args", "lr_scheduler_args", "text_encoder_lr"):
        values[name] = tuple(values[name] or ())
    return Namespace(**values)


def _options(arguments: Namespace) -> TrainOptions:
    return TrainOptions(
        data=_group(DataOptions, arguments, defaults=DatasetDefaults.from_arguments(vars(arguments))),
        model=_group(ModelOptions, arguments),
        network=_group(NetworkOptions, arguments),
        optim=_group(OptimOptions, arguments),
        schedule=_group(ScheduleOptions, arguments),
        length=_group(LengthOptions, arguments),
        cache=_group(CacheOptions, arguments),
        noise=_group(NoiseOptions, arguments),
        loss=_group(LossOptions, arguments),
        precision=_group(PrecisionOptions, arguments),
        save=_group(SaveOptions, arguments),
        sample=_group(SampleOptions, arguments),
        validation=_group(ValidationOptions, arguments),
        tracking=_group(TrackingOptions, arguments),
        metadata=_group(MetadataOptions, arguments),
    )


def _group(group: type[_Group], arguments: Namespace, **given: Any) -> _Group:
    """A group whose fields are the arguments of the same names."""
    names = [item.name for item in dataclasses.fields(group) if item.name not in given]  # type: ignore[arg-type]
    return group(**given, **{name: getattr(arguments, name) for name in names})
