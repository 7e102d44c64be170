"""The preset: what is asked of a bake, as frozen typed tables. Each field names the trainer's option it becomes."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from lorakit.preset.fields import (
    Argument,
    ArgumentName,
    Count,
    HighTimestep,
    LowTimestep,
    Name,
    NonNegative,
    Number,
    PathText,
    Positive,
    Rate,
    Seed,
    Separator,
    Share,
    Spike,
    TeRates,
    Text,
    TrainResolution,
    WarmupLength,
    Word,
    field_flag,
    flag,
)
from lorakit.preset.network import Network
from lorakit.preset.spans import Span
from lorakit.preset.table import Table
from lorakit.preset.units import Resolution, Warmup

__all__ = [
    "Base",
    "Dataset",
    "Launch",
    "Length",
    "Log",
    "Loss",
    "Memory",
    "Network",
    "Optim",
    "Precision",
    "Preset",
    "Sample",
    "Save",
    "Trainer",
    "Validation",
    "field_flag",
]


class Base(Table):
    """The model that is trained upon."""

    model: PathText = flag(
        "--pretrained_model_name_or_path",
        ...,
        "SDXL checkpoint (.safetensors) or diffusers folder; relative to the workspace",
    )
    vae: PathText | None = flag("--vae", None, "a VAE to use in place of the checkpoint's own")
    v_prediction: bool = flag("--v_parameterization", False, "the base model predicts velocity rather than noise")
    clip_skip: Positive | None = flag(
        "--clip_skip", None, "kept in the metadata only: SDXL training always reads the penultimate layers"
    )
    tokenizer_cache: PathText | None = flag(
        "--tokenizer_cache_dir", None, "folder with the two CLIP tokenizers, for a machine without a hub"
    )
    allow_pickle: bool = flag(None, False, "accept a .ckpt: a pickle can run code when it is opened")


class Dataset(Table):
    """What it is trained on, and how pictures and captions are fed."""

    path: PathText | None = flag(
        "--train_data_dir", None, "folder that holds `N_name` folders: N repeats of the pictures in it"
    )
    reg_path: PathText | None = flag("--reg_data_dir", None, "the same for regularisation pictures")
    config: PathText | None = flag("--dataset_config", None, "a dataset TOML in place of path and reg_path")
    resolution: TrainResolution = flag(
        "--resolution", Resolution(1024, 1024), "area that pictures are brought to: 1024 or [832, 1216]"
    )
    bucket: bool = flag(
        "--enable_bucket", True, "group pictures by aspect ratio instead of cropping them all to one shape"
    )
    bucket_min: Positive = flag("--min_bucket_reso", 256, "shortest side of a bucket, pixels")
    bucket_max: Positive = flag(
        "--max_bucket_reso", 2048, "longest side of a bucket, pixels (the trainer's own 1024 shrinks every portrait)"
    )
    bucket_step: Positive = flag("--bucket_reso_steps", 64, "bucket sides are multiples of this; a multiple of 32")
    bucket_no_upscale: bool = flag("--bucket_no_upscale", False, "never enlarge a picture")
    resize_interpolation: Literal["lanczos", "nearest", "bilinear", "linear", "bicubic", "cubic", "area"] | None = flag(
        "--resize_interpolation", None, "how pictures are resized; unset: area to shrink, lanczos to enlarge"
    )
    caption_extension: Word = flag(
        "--caption_extension", ".txt", "suffix of caption files (the trainer's own default is .caption)"
    )
    caption_separator: Separator = flag("--caption_separator", ",", "what stands between tags")
    shuffle_caption: bool = flag("--shuffle_caption", False, "shuffle the tags at every step")
    keep_tokens: Count = flag("--keep_tokens", 0, "so many first tags keep their place")
    keep_tokens_separator: Text = flag("--keep_tokens_separator", "", "tags before this mark keep their place")
    secondary_separator: Text | None = flag("--secondary_separator", None, "tags joined by this move and drop as one")
    enable_wildcard: bool = flag("--enable_wildcard", False, "{a|b} and several caption lines are drawn from")
    caption_prefix: Text | None = flag("--caption_prefix", None, "text before every caption")
    caption_suffix: Text | None = flag("--caption_suffix", None, "text after every caption")
    caption_dropout_rate: Share = flag("--caption_dropout_rate", 0.0, "share of captions replaced by the empty one")
    caption_dropout_every_n_epochs: Count = flag(
        "--caption_dropout_every_n_epochs", 0, "every n-th epoch without captions; 0 is never"
    )
    caption_tag_dropout_rate: Share = flag("--caption_tag_dropout_rate", 0.0, "share of tags left out")
    token_warmup_min: Count = flag("--token_warmup_min", 1, "tags at the start when tags are phased in")
    token_warmup_step: NonNegative = flag(
        "--token_warmup_step", 0.0, "steps (or ratio of the run) until all tags are in; 0 is off"
    )
    max_token_length: Literal[75, 150, 225] = flag(
        "--max_token_length", 75, "tokens of a caption that are read, in chunks of 75"
    )
    weighted_captions: bool = flag("--weighted_captions", False, "(word:1.2) in captions")
    flip_aug: bool = flag("--flip_aug", False, "mirror pictures at random")
    color_aug: bool = flag("--color_aug", False, "vary colours at random")
    random_crop: bool = flag("--random_crop", False, "crop at random rather than centred")
    face_crop_aug_range: Word | None = flag(
        "--face_crop_aug_range", None, '"1.5,2.0": crop around faces whose box stands in the file name'
    )
    alpha_mask: bool = flag("--alpha_mask", False, "the alpha channel weighs the loss")
    workers: Count = flag(
        "--max_data_loader_n_workers", 2, "processes that load pictures; 0 loads in the trainer itself"
    )
    persistent_workers: bool = flag("--persistent_data_loader_workers", False, "keep them between epochs")
    skip_unreadable: bool = flag(None, False, "leave unreadable pictures out, naming them, in place of stopping")

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if self.path is None and self.config is None:
            raise PydanticCustomError("incomplete", "neither dataset.path nor dataset.config says what to train on")
        if self.path is not None and self.config is not None:
            raise PydanticCustomError("exclusive", "dataset.path and dataset.config are both given")
        return self


class Validation(Table):
    """Pictures held out, and how often the loss on them is measured."""

    split: Share = flag("--validation_split", 0.0, "share of every folder's pictures that is held out")
    seed: Count | None = flag(
        "--validation_seed",
        None,
        "draws the split; unset: the run's seed (never left to the trainer, which would leak)",
    )
    every_n_epochs: Positive | None = flag("--validate_every_n_epochs", None, "measure every n epochs")
    every_n_steps: Positive | None = flag("--validate_every_n_steps", None, "measure every n steps")
    max_steps: Positive | None = flag("--max_validation_steps", None, "at most so many validation batches")


class Optim(Table):
    """Rates, schedule, optimizer."""

    type: Word = flag("--optimizer_type", "AdamW8bit", "AdamW, AdamW8bit, Adafactor, Prodigy, Lion …")
    unet_lr: Rate = flag("--unet_lr", ..., "rate of the UNet; 0: not trained")
    te_lr: TeRates = flag("--text_encoder_lr", ..., "rate of the text encoders, or a pair [TE1, TE2]; 0: not trained")
    schedule: Word = flag(
        "--lr_scheduler", "cosine", "constant, constant_with_warmup, linear, cosine, cosine_with_restarts, polynomial …"
    )
    warmup: WarmupLength = flag("--lr_warmup_steps", Warmup(steps=0), '"5%", 0.05 or "100 steps"')
    decay: WarmupLength | None = flag("--lr_decay_steps", None, "the same, for warmup_stable_decay")
    cycles: Positive = flag("--lr_scheduler_num_cycles", 1, "restarts of cosine_with_restarts")
    power: NonNegative = flag("--lr_scheduler_power", 1.0, "exponent of polynomial")
    timescale: Positive | None = flag("--lr_scheduler_timescale", None, "of inverse_sqrt")
    min_lr_ratio: Share | None = flag(
        "--lr_scheduler_min_lr_ratio",
        None,
        "where cosine_with_min_lr and warmup_stable_decay end, as a share of the rate",
    )
    args: dict[ArgumentName, Argument] = flag(
        "--optimizer_args", {}, "arguments of the optimizer: weight_decay = 0.01, betas = [0.9, 0.99]"
    )
    max_grad_norm: NonNegative = flag(
        "--max_grad_norm", 1.0, "gradients are clipped to this norm over all parts; 0 is off"
    )


class Length(Table):
    """How long: epochs or steps, exactly one."""

    epochs: Positive | None = flag("--max_train_epochs", None, "passes over the dataset with its repeats")
    steps: Positive | None = flag("--max_train_steps", None, "optimizer steps")
    batch_size: Positive = flag("--train_batch_size", 1, "pictures per device and micro-step")
    gradient_accumulation: Positive = flag("--gradient_accumulation_steps", 1, "micro-steps per optimizer step")
    stop_at_loss_spike: Spike | None = flag(
        None, None, "end early when the loss is above so many times its median in 3 steps in a row; unset: never"
    )
    stop_at_gradient_spike: Spike | None = flag(None, None, "the same for the gradient norm of any part")

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if self.epochs is None and self.steps is None:
            raise PydanticCustomError("incomplete", "neither length.epochs nor length.steps says how long to train")
        if self.epochs is not None and self.steps is not None:
            raise PydanticCustomError("exclusive", "length.epochs and length.steps are both given")
        return self

    @property
    def spikes(self) -> str:
        """What ends the training early, in the words of the environment variable ``LORAKIT_SPIKES``; "" for nothing."""
        asked = {"loss": self.stop_at_loss_spike, "gradient": self.stop_at_gradient_spike}
        return " ".join(f"{name}={factor:g}" for name, factor in asked.items() if factor is not None)


class Loss(Table):
    """The objective: noise, weights, timesteps."""

    type: Literal["l1", "l2", "huber", "smooth_l1"] = flag(
        "--loss_type", "l2", "distance between prediction and target"
    )
    huber_schedule: Literal["constant", "exponential", "snr"] = flag(
        "--huber_schedule", "snr", "how huber's c goes with the timestep"
    )
    huber_c: NonNegative = flag("--huber_c", 0.1, "huber's c")
    huber_scale: NonNegative = flag("--huber_scale", 1.0, "scales huber's c; ignored with snr")
    min_snr_gamma: NonNegative | None = flag("--min_snr_gamma", None, "min-SNR weighting; 5 is usual")
    debiased: bool = flag("--debiased_estimation_loss", False, "debiased estimation weighting")
    noise_offset: NonNegative | None = flag(
        "--noise_offset", None, "shift of the noise per channel; 0.05 helps dark and bright pictures"
    )
    noise_offset_random: bool = flag(
        "--noise_offset_random_strength", False, "draw its strength from 0 to noise_offset"
    )
    adaptive_noise_scale: Number | None = flag(
        "--adaptive_noise_scale", None, "adds to noise_offset by the latents' mean"
    )
    multires_noise_iterations: Positive | None = flag(
        "--multires_noise_iterations", None, "pyramid noise of so many levels"
    )
    multires_noise_discount: NonNegative = flag("--multires_noise_discount", 0.3, "what each level counts for")
    ip_noise_gamma: NonNegative | None = flag("--ip_noise_gamma", None, "input perturbation noise")
    ip_noise_gamma_random: bool = flag(
        "--ip_noise_gamma_random_strength", False, "draw its strength from 0 to ip_noise_gamma"
    )
    zero_terminal_snr: bool = flag(
        "--zero_terminal_snr", False, "rescale the schedule so that the last timestep is pure noise (with v_prediction)"
    )
    scale_v_pred_like_noise_pred: bool = flag(
        "--scale_v_pred_loss_like_noise_pred", False, "weigh the velocity loss as the noise loss would be"
    )
    v_pred_like: NonNegative | None = flag(
        "--v_pred_like_loss", None, "weigh the noise loss as a velocity loss would be, by this much"
    )
    min_timestep: LowTimestep | None = flag("--min_timestep", None, "lowest timestep that is drawn")
    max_timestep: HighTimestep | None = flag("--max_timestep", None, "timesteps below this are drawn")
    prior_loss_weight: NonNegative = flag("--prior_loss_weight", 1.0, "weight of regularisation pictures")
    masked: bool = flag("--masked_loss", False, "masks weigh the loss (with alpha_mask or a dataset TOML)")


class Precision(Table):
    """Number formats."""

    mixed: Literal["no", "fp16", "bf16"] = flag("--mixed_precision", "bf16", "format of the computation")
    full: bool = flag(None, False, "the LoRA and its gradients in that format too")
    save: Literal["float", "fp16", "bf16"] = flag("--save_precision", "fp16", "format of the saved LoRA")
    no_half_vae: bool = flag("--no_half_vae", False, "keep the VAE in fp32 (SDXL's original VAE overflows in fp16)")
    fp8_base: bool = flag("--fp8_base", False, "UNet and text encoders in 8 bits")
    fp8_base_unet: bool = flag("--fp8_base_unet", False, "the UNet alone in 8 bits")


class Memory(Table):
    """What is traded for memory."""

    gradient_checkpointing: bool = flag(
        "--gradient_checkpointing", False, "compute activations again in place of keeping them"
    )
    cpu_offload_checkpointing: bool = flag("--cpu_offload_checkpointing", False, "keep them in main memory")
    attention: Literal["sdpa", "xformers", "mem_eff", "none"] = flag(None, "sdpa", "implementation of attention")
    cache_latents: bool = flag("--cache_latents", True, "encode the pictures once")
    cache_latents_to_disk: bool = flag("--cache_latents_to_disk", False, "and keep that for later runs")
    cache_text_encoder_outputs: bool = flag(
        "--cache_text_encoder_outputs", False, "encode the captions once (UNet only)"
    )
    cache_text_encoder_outputs_to_disk: bool = flag(
        "--cache_text_encoder_outputs_to_disk", False, "and keep that for later runs"
    )
    vae_batch_size: Positive = flag("--vae_batch_size", 1, "pictures encoded at once")
    lowram: bool = flag("--lowram", False, "load models straight to the device")
    highvram: bool = flag("--highvram", False, "do not empty the device's cache while latents are cached")
    disable_mmap: bool = flag("--disable_mmap_load_safetensors", False, "read the checkpoint without mapping it")


class Save(Table):
    """What is kept while it bakes. The finished LoRA always is."""

    every_n_epochs: Positive | None = flag("--save_every_n_epochs", None, "a checkpoint every n epochs")
    every_n_steps: Positive | None = flag("--save_every_n_steps", None, "a checkpoint every n steps")
    last_n_epochs: Positive | None = flag(
        "--save_last_n_epochs", None, "keep the checkpoints of the last n epochs only"
    )
    last_n_steps: Positive | None = flag("--save_last_n_steps", None, "keep the checkpoints of the last n steps only")
    state: bool = flag("--save_state", False, "with each checkpoint, what is needed to go on from it")
    state_on_end: bool = flag("--save_state_on_train_end", False, "that at the end only")
    last_n_epochs_state: Positive | None = flag("--save_last_n_epochs_state", None, "the same limit for states")
    last_n_steps_state: Positive | None = flag("--save_last_n_steps_state", None, "the same limit for states")
    format: Literal["safetensors", "ckpt", "pt"] = flag(
        "--save_model_as", "safetensors", "file format; only safetensors holds metadata"
    )


class Sample(Table):
    """Pictures drawn while it bakes."""

    prompts: PathText | None = flag("--sample_prompts", None, "prompt file (.txt, .toml or .json)")
    every_n_epochs: Positive | None = flag("--sample_every_n_epochs", None, "draw every n epochs")
    every_n_steps: Positive | None = flag("--sample_every_n_steps", None, "draw every n steps")
    at_first: bool = flag("--sample_at_first", False, "and before the first step")
    sampler: Literal[
        "ddim", "pndm", "lms", "euler", "euler_a", "heun", "dpm_2", "dpm_2_a", "dpmsolver", "dpmsolver++",
        "dpmsingle", "k_lms", "k_euler", "k_euler_a", "k_dpm_2", "k_dpm_2_a",
    ] = flag("--sample_sampler", "euler_a", "sampler")  # fmt: skip


class Log(Table):
    """What is written about the run, and into the LoRA's metadata."""

    tensorboard: bool = flag(None, True, "write TensorBoard curves into the run folder")
    comment: Text = flag("--training_comment", "", "kept in the metadata, before lorakit's run id")
    metadata: bool = flag(None, True, "write the full ss_* metadata")
    title: Text | None = flag("--metadata_title", None, "modelspec title")
    author: Text | None = flag("--metadata_author", None, "modelspec author")
    description: Text | None = flag("--metadata_description", None, "modelspec description")
    license: Text | None = flag("--metadata_license", None, "modelspec licence")
    tags: Text | None = flag("--metadata_tags", None, "modelspec tags")
    trigger_phrase: Text | None = flag("--metadata_trigger_phrase", None, "modelspec trigger phrase")
    usage_hint: Text | None = flag("--metadata_usage_hint", None, "modelspec usage hint")


class Trainer(Table):
    """Who trains."""

    kind: Literal["auto", "sd-scripts", "builtin"] = flag(
        None, "auto", "auto: sd-scripts where it is installed, else the built-in trainer"
    )
    probe: bool = flag(
        None,
        True,
        "sd-scripts is started through lorakit's probe: live steps, gradient norms, a rate for each text encoder, a graceful stop",
    )


class Launch(Table):
    """How it is launched."""

    processes: Positive = flag(None, 1, "training processes in all, one per GPU")
    gpu_ids: Word | None = flag(None, None, 'which GPUs: "0" or "0,1"; unset: all that are visible')
    cpu: bool | None = flag(None, None, "train on the CPU; unset: where there is no GPU")
    threads: Positive | None = flag(None, None, "CPU threads per process; unset: the cores divided by the processes")
    ddp_timeout: Positive | None = flag(
        "--ddp_timeout", None, "minutes before processes that wait for each other give up"
    )
    no_progress_timeout: Span | None = flag(
        None, None, 'end a run that makes no progress for so long ("30m"); unset: wait for ever'
    )


class Preset(Table):
    """Everything that is asked of one bake."""

    name: Name = flag(None, ..., "name of the run and of its files")
    description: Text = flag(None, "", "what it is for; shown by ls and show")
    seed: Seed | None = flag("--seed", None, "unset: one is drawn, written down and used")
    base: Base
    dataset: Dataset
    network: Network = Network()
    optim: Optim
    length: Length
    loss: Loss = Loss()
    precision: Precision = Precision()
    memory: Memory = Memory()
    save: Save = Save()
    sample: Sample = Sample()
    validation: Validation = Validation()
    log: Log = Log()
    trainer: Trainer = Trainer()
    launch: Launch = Launch()
    extra: dict[str, Argument] = flag(
        None, {}, "any other option of the trainer by its name, checked against the catalogue"
    )
