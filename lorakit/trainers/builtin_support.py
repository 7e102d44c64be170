"""Which of the trainer's arguments the built-in trainer refuses, and which it takes knowing that they change nothing. Needs no torch."""

from __future__ import annotations

import ast
import importlib.util
from argparse import Namespace
from collections.abc import Iterator, Sequence
from typing import Final

from lorakit.errors import Problem
from lorakit.preset.blocks import BLOCKS, RATE_COUNTS, is_curve
from lorakit.preset.units import BlockList
from lorakit.trainers.catalogue import Catalogue

__all__ = [
    "ADAPTIVE",
    "BITSANDBYTES",
    "BLOCK_LISTS",
    "HARMLESS",
    "NETWORKS",
    "REFUSED",
    "SCHEDULERS",
    "contradictions",
    "not_implemented",
]

#: Taken and not acted upon, because here they cannot change the result. Values are the reasons.
HARMLESS: Final[dict[str, str]] = {
    "lowram": "weights are memory-mapped and go to the device tensor by tensor, so there is no second copy to avoid",
    "highvram": "it only keeps the CUDA cache while latents are cached",
    "disable_mmap_load_safetensors": "it changes how the file is read, not what is read",
    "fused_backward_pass": "it has no effect on a LoRA in sd-scripts either",
    "skip_until_initial_step": "resuming here always goes on at the very step where the state was saved",
    "conditioning_data_dir": "sd-scripts never reads the command line's value for training",
    "skip_cache_check": "caches are always checked here; the check reads a few bytes per image",
    "mem_eff_attn": "attention is always torch's scaled_dot_product_attention, which picks the memory-saving kernel itself",
    "xformers": "attention is always torch's scaled_dot_product_attention; only rounding differs",
    "sdpa": "attention is always torch's scaled_dot_product_attention",
    "dynamo_backend": "it counts only with torch_compile",
    "console_log_level": "the built-in trainer prints plain lines and logs nothing else",
    "console_log_simple": "the built-in trainer prints plain lines anyway",
    "ddp_gradient_as_bucket_view": "gradients of the LoRA are averaged in one piece; there is no DDP wrapper",
    "ddp_static_graph": "gradients of the LoRA are averaged in one piece; there is no DDP wrapper",
    "wandb_run_name": "it counts only with log_with wandb, which is refused",
    "zero_stage": "it counts only with deepspeed, which is refused",
}

_HUB = "the built-in trainer never uses the network"
_DEEPSPEED = "DeepSpeed is not used by the built-in trainer"
_RESUME = "a state says itself where it stopped; the built-in trainer goes on there"

#: Not implemented: refused unless left at the default. Values are the reasons.
REFUSED: Final[dict[str, str]] = {
    "v2": "SDXL only",
    "dim_from_weights": "give network_dim and network_alpha of the weights",
    "base_weights": "merging LoRAs into the base model before training is not implemented",
    "base_weights_multiplier": "it goes with base_weights",
    "lr_scheduler_type": "only the named schedules are implemented",
    "resume_from_huggingface": _HUB,
    "initial_epoch": _RESUME,
    "initial_step": _RESUME,
    "cache_info": "sizes are read from the image headers each time, which is fast and never stale",
    "face_crop_aug_range": "not implemented",
    "debug_dataset": "not implemented; `lorakit plan` shows the dataset",
    "alpha_mask": "masks are not implemented",
    "dataset_class": "not implemented",
    "in_json": "metadata files are not implemented",
    "masked_loss": "masks are not implemented",
    "weighted_captions": "not implemented",
    "torch_compile": "not implemented",
    "fp8_base": "not implemented",
    "fp8_base_unet": "not implemented",
    "cpu_offload_checkpointing": "not implemented",
    "wandb_api_key": "only TensorBoard is implemented",
    "log_tracker_config": "only TensorBoard is implemented",
    "log_config": "the run folder keeps the whole configuration",
    "console_log_file": "the built-in trainer prints to its output, which lorakit keeps",
    "config_file": "every argument must be on the command line",
    "output_config": "every argument must be on the command line",
    "huggingface_repo_id": _HUB,
    "huggingface_repo_type": _HUB,
    "huggingface_path_in_repo": _HUB,
    "huggingface_token": _HUB,
    "huggingface_repo_visibility": _HUB,
    "save_state_to_huggingface": _HUB,
    "async_upload": _HUB,
    "deepspeed": _DEEPSPEED,
    "offload_optimizer_device": _DEEPSPEED,
    "offload_optimizer_nvme_path": _DEEPSPEED,
    "offload_param_device": _DEEPSPEED,
    "offload_param_nvme_path": _DEEPSPEED,
    "zero3_init_flag": _DEEPSPEED,
    "zero3_save_16bit_model": _DEEPSPEED,
    "fp16_master_weights_and_gradients": _DEEPSPEED,
}

#: Lists of network_args with one number for each of the UNet's blocks.
BLOCK_LISTS: Final = ("block_dims", "block_alphas", "conv_block_dims", "conv_block_alphas")

#: The modules that are implemented, and the keys of network_args that they read. What else sd-scripts' modules are given
#: they pass over; here it is refused.
NETWORKS: Final = {
    "networks.lora": (
        "rank_dropout", "module_dropout", "conv_dim", "conv_alpha", *BLOCK_LISTS, *RATE_COUNTS, "block_lr_zero_threshold",
        "loraplus_lr_ratio", "loraplus_unet_lr_ratio", "loraplus_text_encoder_lr_ratio",
    ),
    "networks.lora_fa": ("rank_dropout", "module_dropout", "conv_dim", "conv_alpha"),
}  # fmt: skip

SCHEDULERS: Final = (
    "constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial", "inverse_sqrt",
    "cosine_with_min_lr", "warmup_stable_decay", "piecewise_constant",
)  # fmt: skip

#: Optimizers that bitsandbytes has, by the trainer's name in lower case.
BITSANDBYTES: Final = {
    "adamw8bit": "AdamW8bit", "pagedadamw": "PagedAdamW", "pagedadamw8bit": "PagedAdamW8bit",
    "pagedadamw32bit": "PagedAdamW32bit", "lion8bit": "Lion8bit", "pagedlion8bit": "PagedLion8bit",
    "sgdnesterov8bit": "SGD8bit",
}  # fmt: skip

#: Optimizers that find their own rate and take one rate for all parts, by the trainer's name in lower case.
ADAPTIVE: Final = {
    "prodigy": "prodigyopt.Prodigy",
    "dadaptation": "dadaptation.experimental.DAdaptAdamPreprint",
    "dadaptadampreprint": "dadaptation.experimental.DAdaptAdamPreprint",
    "dadaptadagrad": "dadaptation.DAdaptAdaGrad",
    "dadaptadam": "dadaptation.DAdaptAdam",
    "dadaptadan": "dadaptation.DAdaptAdan",
    "dadaptadanip": "dadaptation.experimental.DAdaptAdanIP",
    "dadaptlion": "dadaptation.DAdaptLion",
    "dadaptsgd": "dadaptation.DAdaptSGD",
}


def not_implemented(arguments: Namespace) -> Iterator[Problem]:
    """One problem per argument, or value of one, that is asked for and not implemented. Imports nothing heavy."""
    catalogue = Catalogue.load().by_dest()
    values = vars(arguments)
    for name, why in REFUSED.items():
        if values[name] != catalogue[name].default:
            yield _problem(name, f"{catalogue[name].flag} is not implemented", why)
    yield from _network(values["network_module"], values["network_args"] or ())
    yield from _optimizer(arguments)
    if values["lr_scheduler"] not in SCHEDULERS and not values["lr_scheduler"].startswith("adafactor"):
        known = ", ".join(SCHEDULERS)
        yield _problem(
            "lr_scheduler", f"--lr_scheduler {values['lr_scheduler']!r} is not implemented", f"known: {known}"
        )
    if values["log_with"] not in (None, "tensorboard"):
        yield _problem("log_with", f"--log_with {values['log_with']} is not implemented", "only tensorboard is")
    if values["save_model_as"] not in (None, "safetensors"):
        yield _problem(
            "save_model_as", f"--save_model_as {values['save_model_as']} is not implemented", "only safetensors is"
        )


def _network(module: str | None, items: Sequence[str]) -> Iterator[Problem]:
    if module not in NETWORKS:
        known = " and ".join(NETWORKS)
        yield _problem("network_module", f"--network_module is {module!r}", f"only {known} are implemented")
        return
    for item in items:
        key, separator, value = item.partition("=")
        if not separator:
            yield _problem("network_args", f"--network_args has {item!r} without a value", "it takes key=value pairs")
        elif key not in NETWORKS[module]:
            known = ", ".join(NETWORKS[module])
            yield _problem("network_args", f"--network_args {key} is not implemented with {module}", f"known: {known}")
        elif problem := _wrong_argument(key, value):
            yield _problem("network_args", f"--network_args {key}={value} {problem}")


def _wrong_argument(key: str, value: str) -> str:
    """What is wrong with the text of a network argument, empty where nothing is."""
    count = BLOCKS if key in BLOCK_LISTS else RATE_COUNTS.get(key)
    if count is None:
        return "" if value == "None" or _is_number(value) else "is not a number"
    try:
        asked = BlockList.parse(value)
    except ValueError:
        return f"is no list of {count} numbers of at least 0"
    if asked.curve:
        return "" if count == 9 and is_curve(asked.curve) else f"is no list of {count} numbers"
    return "" if len(asked.numbers) == count else f"has {len(asked.numbers)} numbers, not {count}"


def contradictions(arguments: Namespace) -> Iterator[Problem]:
    """One problem per combination that the trainer rejects, or that would crash it later."""
    values = vars(arguments)
    for name in ("pretrained_model_name_or_path", "output_dir"):
        if not values[name]:
            yield _problem(name, f"--{name} is missing")
    if not values["train_data_dir"] and not values["dataset_config"]:
        yield _problem("train_data_dir", "neither --train_data_dir nor --dataset_config is given")
    if values["train_data_dir"] and not values["resolution"] and not values["dataset_config"]:
        yield _problem("resolution", "--resolution is missing")
    yield from _precision(arguments)
    yield from _rates(arguments)
    yield from _caching(arguments)
    yield from _objective(arguments)
    for name in ("gradient_accumulation_steps", "train_batch_size", "vae_batch_size"):
        if values[name] < 1:
            yield _problem(name, f"--{name} is {values[name]}", "it is a count of at least 1")
    for name in ("max_train_epochs", "max_train_steps"):
        if values[name] is not None and values[name] < 0:
            yield _problem(name, f"--{name} is {values[name]}", "it cannot be negative")
    if values["seed"] is not None and not 0 <= values["seed"] < 2**32:
        yield _problem("seed", f"--seed is {values['seed']}", "a seed lies in 0 … 4294967295")
    if values["persistent_data_loader_workers"] and values["max_data_loader_n_workers"] == 0:
        yield _problem("persistent_data_loader_workers", "--persistent_data_loader_workers without workers")
    if values["log_with"] and not values["logging_dir"]:
        yield _problem("logging_dir", "--log_with without --logging_dir")
    if not values["sample_prompts"] and (values["sample_every_n_steps"] or values["sample_every_n_epochs"]):
        yield _problem("sample_prompts", "samples are asked for, but --sample_prompts is missing")


def _optimizer(arguments: Namespace) -> Iterator[Problem]:
    name = arguments.optimizer_type
    lower = name.lower()
    if lower.endswith("schedulefree"):
        yield _problem(
            "optimizer_type", f"--optimizer_type {name} is not implemented", "schedule-free optimizers are not"
        )
        return
    package = {**dict.fromkeys(BITSANDBYTES, "bitsandbytes"), "lion": "lion_pytorch"}.get(lower)
    if lower in ADAPTIVE:
        package = ADAPTIVE[lower].partition(".")[0]
    elif package is None and "." in name:
        package = name.partition(".")[0]
    # Without torch the trainer as a whole is not installed, and that is said elsewhere.
    if package is not None and _lacks(package) and not _lacks("torch"):
        yield _problem(
            "optimizer_type", f"--optimizer_type {name} needs the package {package}", "it is not installed here"
        )
    for option in ("optimizer_args", "lr_scheduler_args"):
        for item in getattr(arguments, option) or ():
            key, separator, value = item.partition("=")
            if not separator or not key.isidentifier() or not _is_literal(value):
                yield _problem(
                    option, f"--{option} has {item!r}", 'it takes key=value pairs, strings quoted (name="x")'
                )


def _precision(arguments: Namespace) -> Iterator[Problem]:
    for name in ("fp16", "bf16"):
        if getattr(arguments, f"full_{name}") and arguments.mixed_precision != name:
            yield _problem(f"full_{name}", f"--full_{name} without --mixed_precision {name}")


def _rates(arguments: Namespace) -> Iterator[Problem]:
    rates = arguments.text_encoder_lr or ()
    if len(rates) > 2:
        yield _problem("text_encoder_lr", f"--text_encoder_lr has {len(rates)} values", "SDXL has two text encoders")
    if any(rate < 0 for rate in (*rates, arguments.learning_rate, arguments.unet_lr or 0.0)):
        yield _problem("learning_rate", "a learning rate is negative")
    if arguments.network_train_unet_only and arguments.network_train_text_encoder_only:
        yield _problem(
            "network_train_unet_only",
            "--network_train_unet_only and --network_train_text_encoder_only",
            "nothing is left",
        )
    unet = arguments.learning_rate if arguments.unet_lr is None else arguments.unet_lr
    text = tuple(rates) or (arguments.learning_rate,)
    trained = (
        (() if arguments.network_train_text_encoder_only else (unet,))
        + (() if arguments.network_train_unet_only else text)
    )  # fmt: skip
    if trained and not any(trained):
        yield _problem("learning_rate", "every learning rate is 0", "nothing would be trained")
    used = {rate for rate in trained if rate}
    if arguments.optimizer_type.lower() in ADAPTIVE and len(used) > 1:
        yield _problem(
            "optimizer_type", f"--optimizer_type {arguments.optimizer_type} with several learning rates",
            "it adapts one rate for all parts: give unet_lr and text_encoder_lr the same value, usually 1",
        )  # fmt: skip
    constant = arguments.lr_scheduler == "constant" and arguments.optimizer_type.lower() != "adafactor"
    if constant and arguments.lr_warmup_steps:
        yield _problem(
            "lr_warmup_steps", "--lr_warmup_steps with --lr_scheduler constant", "use constant_with_warmup, or warmup 0"
        )
    if arguments.lr_scheduler == "cosine_with_min_lr" and arguments.lr_scheduler_min_lr_ratio is None:
        yield _problem(
            "lr_scheduler_min_lr_ratio", "--lr_scheduler cosine_with_min_lr needs --lr_scheduler_min_lr_ratio"
        )
    if arguments.lr_scheduler.startswith("adafactor") and arguments.optimizer_type.lower() != "adafactor":
        yield _problem("lr_scheduler", "--lr_scheduler adafactor needs --optimizer_type AdaFactor")
    if arguments.use_8bit_adam and arguments.use_lion_optimizer:
        yield _problem("use_8bit_adam", "--use_8bit_adam and --use_lion_optimizer")
    if arguments.optimizer_type and (arguments.use_8bit_adam or arguments.use_lion_optimizer):
        yield _problem("optimizer_type", "--optimizer_type with --use_8bit_adam or --use_lion_optimizer")


def _caching(arguments: Namespace) -> Iterator[Problem]:
    # Subsets of a dataset TOML may set these otherwise; they are looked at when the file is read.
    from_folders = arguments.dataset_config is None
    if arguments.cache_text_encoder_outputs or arguments.cache_text_encoder_outputs_to_disk:
        if not arguments.network_train_unet_only:
            yield _problem(
                "cache_text_encoder_outputs", "--cache_text_encoder_outputs without --network_train_unet_only",
                "cached outputs cannot follow a text encoder that is trained",
            )  # fmt: skip
        for name in ("shuffle_caption", "caption_dropout_rate", "caption_tag_dropout_rate", "token_warmup_step"):
            if from_folders and getattr(arguments, name):
                yield _problem(name, f"--{name} with --cache_text_encoder_outputs", "a cached caption cannot change")
    if arguments.cache_latents or arguments.cache_latents_to_disk:
        for name in ("color_aug", "random_crop"):
            if from_folders and getattr(arguments, name):
                yield _problem(name, f"--{name} with --cache_latents", "cached pixels cannot change")


def _objective(arguments: Namespace) -> Iterator[Problem]:
    if arguments.adaptive_noise_scale is not None and arguments.noise_offset is None:
        yield _problem("adaptive_noise_scale", "--adaptive_noise_scale without --noise_offset")
    if arguments.scale_v_pred_loss_like_noise_pred and not arguments.v_parameterization:
        yield _problem(
            "scale_v_pred_loss_like_noise_pred", "--scale_v_pred_loss_like_noise_pred without --v_parameterization"
        )
    if arguments.v_pred_like_loss and arguments.v_parameterization:
        yield _problem("v_pred_like_loss", "--v_pred_like_loss with --v_parameterization")
    low, high = arguments.min_timestep or 0, 1000 if arguments.max_timestep is None else arguments.max_timestep
    if low < 0 or high > 1000 or min(low, high) >= 1000:
        yield _problem("max_timestep", f"timesteps {low} … {high}", "timesteps are 0 … 999")


def _problem(key: str, what: str, why: str = "") -> Problem:
    return Problem(what, why=why, key=key)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _lacks(package: str) -> bool:
    return importlib.util.find_spec(package) is None


def _is_literal(text: str) -> bool:
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return False
    return True
