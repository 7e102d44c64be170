"""A preset in another trainer's format, and what is lost on the way: found by reading the result back."""

from __future__ import annotations

import json
import shlex
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lorakit.dataset.blueprint import from_folders
from lorakit.errors import DatasetError, UsageError
from lorakit.interop import onetrainer
from lorakit.interop.recognise import import_text
from lorakit.plan.from_preset import dataset_defaults
from lorakit.preset.dump import spell
from lorakit.preset.models import Preset
from lorakit.preset.units import format_number, shown
from lorakit.trainers.catalogue import Catalogue
from lorakit.trainers.render import RenderPaths, output_name, render

__all__ = ["FORMATS", "Exported", "Lost", "export"]

#: What lorakit does around a training: no other trainer's file has a place for it.
_OURS: Final = frozenset(
    {"description", "trainer.kind", "trainer.probe", "launch.no_progress_timeout", "base.allow_pickle", "launch.cpu"}
    | {"length.stop_at_loss_spike", "length.stop_at_gradient_spike"}
)


@dataclass(frozen=True)
class Lost:
    """A key whose value does not survive: ``asked`` in the preset, ``becomes`` when the file is read back."""

    key: str
    asked: str
    becomes: str


@dataclass(frozen=True)
class Exported:
    """The file's text, and what is lost with it."""

    format: str
    suffix: str
    text: str
    lost: tuple[Lost, ...]


def export(preset: Preset, root: Path, to: str) -> Exported:
    """The preset as a file of another trainer; relative paths count from ``root``. Raises UsageError, RuleError."""
    if to not in FORMATS:
        raise UsageError(f"there is no format {shown(to)}", todo=f"one of {', '.join(FORMATS)}")
    suffix, write = FORMATS[to]
    speakable = preset if preset.seed is not None else preset.model_copy(update={"seed": 0})
    output = root / "output" / output_name(preset)
    paths = RenderPaths(root, output, output / "events")
    arguments = Catalogue.load().parser().parse_args(render(speakable, paths, kind="builtin"))
    if preset.seed is None:
        arguments.seed = None
    text = write(arguments, preset)
    back = import_text(text, f"{output_name(preset)}{suffix}").preset
    return Exported(to, suffix, text, _lost(preset, back, paths))


def _lost(preset: Preset, back: Preset, paths: RenderPaths) -> tuple[Lost, ...]:
    asked, found = _flat(preset.model_dump(mode="json")), _flat(back.model_dump(mode="json"))
    lost = []
    for key, value in asked.items():
        other = found.get(key)
        if key in _OURS:
            default = _flat(Preset.model_fields["trainer"].default.model_dump()) if key.startswith("trainer.") else {}
            if value in (None, "", False, default.get(key.removeprefix("trainer."))):
                continue
            lost.append(Lost(key, shown(value), "nothing of the kind"))
        elif not _same(key, value, other, preset, paths):
            lost.append(Lost(key, shown(value), "–" if other is None else shown(other)))
    return tuple(lost)


def _same(key: str, value: Any, other: Any, preset: Preset, paths: RenderPaths) -> bool:
    if value == other or (value in (None, "", {}, False) and other in (None, "", {}, False)):
        return True
    if key == "name":
        return str(other) == output_name(preset)
    if key == "network.alpha":
        return bool(other == preset.network.alpha.of(preset.network.dim))
    if key == "validation.seed" and value is None:
        return bool(other in (None, preset.seed, 0))
    if key in _PATHS and isinstance(value, str) and isinstance(other, str):
        return paths.resolve(value) == other
    return str(value) == str(other) and not isinstance(value, bool)


_PATHS: Final = frozenset(
    {"base.model", "base.vae", "base.tokenizer_cache", "dataset.path", "dataset.reg_path", "dataset.config", "network.weights", "sample.prompts"}
)  # fmt: skip


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict) and value:
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _given(arguments: Namespace) -> dict[str, Any]:
    """The options that are other than the trainer's defaults, in the catalogue's order."""
    return {
        flag.dest: str(value) if isinstance(value, Path) else value
        for flag in Catalogue.load()
        if (value := getattr(arguments, flag.dest)) != flag.default and value is not None
    }


def _sd_scripts_toml(arguments: Namespace, preset: Preset) -> str:
    head = f"# {preset.name!r} as lorakit exported it, for sdxl_train_network.py --config_file"
    return "\n".join([head, *(f"{name} = {_spelled(value)}" for name, value in _given(arguments).items())]) + "\n"


def _spelled(value: Any) -> str:
    return spell(value)


_GUI_NAMES: Final = {
    "resolution": "max_resolution", "optimizer_type": "optimizer", "no_half_vae": "sdxl_no_half_vae",
    "cache_text_encoder_outputs": "sdxl_cache_text_encoder_outputs", "network_weights": "lora_network_weights",
}  # fmt: skip
#: Boxes of the same name as the option.
_GUI_SAME: Final = frozenset(
    {"pretrained_model_name_or_path", "vae", "train_data_dir", "reg_data_dir", "output_dir", "output_name", "logging_dir",
     "train_batch_size", "learning_rate", "unet_lr", "lr_scheduler", "network_dim", "seed", "mixed_precision",
     "save_precision", "save_model_as", "max_train_epochs", "max_train_steps", "gradient_accumulation_steps", "enable_bucket",
     "min_bucket_reso", "max_bucket_reso", "bucket_reso_steps", "bucket_no_upscale", "caption_extension", "shuffle_caption",
     "flip_aug", "color_aug", "cache_latents", "cache_latents_to_disk", "gradient_checkpointing", "save_every_n_epochs",
     "lr_scheduler_num_cycles", "max_token_length"}
)  # fmt: skip
_GUI_SILENT: Final = frozenset(
    {
        "network_train_unet_only",
        "text_encoder_lr",
        "xformers",
        "sdpa",
        "network_module",
        "lr_warmup_steps",
        "console_log_simple",
    }
)


def _kohya_gui(arguments: Namespace, preset: Preset) -> str:
    """Boxes for what has a box; everything else, and what a box would round, in the additional parameters."""
    given = _given(arguments)
    boxes: dict[str, Any] = {
        "LoRA_type": "Standard", "sdxl": True, "max_train_steps": 0, "max_train_epochs": 0, "epoch": 1, "lr_warmup": 0,
        "lr_warmup_steps": 0, "stop_text_encoder_training": 0, "loraplus_lr_ratio": 0, "t5xxl_lr": 0, "seed": 0,
        "optimizer": "AdamW", "cache_latents": False, "enable_bucket": False, "bucket_no_upscale": False, "network_dim": 4,
        "network_alpha": 1, "learning_rate": 2e-6, "lr_scheduler": "constant", "max_bucket_reso": 1024, "train_batch_size": 1,
        "caption_extension": ".caption", "mixed_precision": "no", "save_precision": "", "max_data_loader_n_workers": 8,
        "xformers": "xformers" if given.get("xformers") else "sdpa" if given.get("sdpa") else "none",
        "text_encoder_lr": 0, "unet_lr": 0, "max_resolution": "1024,1024",
    }  # fmt: skip
    extra: list[str] = []
    for name, value in given.items():
        if name in _GUI_SAME or name in _GUI_NAMES:
            boxes[_GUI_NAMES.get(name, name)] = value
        elif name == "network_alpha" and value:
            boxes["network_alpha"] = value
        elif name not in _GUI_SILENT:
            extra += _words(name, value)
    te = arguments.text_encoder_lr or [0 if arguments.network_train_unet_only else arguments.learning_rate]
    boxes["text_encoder_lr"] = te[0]
    extra += _words("text_encoder_lr", te) if len(te) > 1 else []
    warmup = arguments.lr_warmup_steps
    percent = float(format_number(round(warmup * 100, 9))) if isinstance(warmup, float) else 0.0
    if isinstance(warmup, int):
        boxes["lr_warmup_steps"] = warmup
    elif percent.is_integer() and percent / 100 == warmup:
        boxes["lr_warmup"] = int(percent)
    else:
        extra += _words("lr_warmup_steps", warmup)
    if arguments.network_module != "networks.lora":
        extra += _words("network_module", arguments.network_module)
    if arguments.seed == 0:
        extra += ["--seed=0"]  # in its box 0 means a random one
    boxes["epoch"] = preset.length.epochs or 1
    boxes |= {"num_processes": preset.launch.processes, "gpu_ids": preset.launch.gpu_ids or ""}
    if preset.launch.threads:
        boxes["num_cpu_threads_per_process"] = preset.launch.threads
    boxes["additional_parameters"] = " ".join(extra)
    return json.dumps(boxes, indent=2, ensure_ascii=False) + "\n"


def _words(name: str, value: Any) -> list[str]:
    if value is True:
        return [f"--{name}"]
    if isinstance(value, list):
        return [f"--{name}", *map(str, value)]
    return [f"--{name}={value if not isinstance(value, float) else repr(value)}"]


_EASY: Final[Mapping[str, tuple[str, str]]] = {
    **dict.fromkeys(
        ("network_dim", "network_alpha", "network_weights", "dim_from_weights", "network_dropout", "ip_noise_gamma", "min_timestep",
         "max_timestep", "network_train_unet_only", "network_train_text_encoder_only", "cache_text_encoder_outputs",
         "cache_text_encoder_outputs_to_disk"), ("network_args", "args"),
    ),
    **dict.fromkeys(
        ("optimizer_type", "lr_scheduler", "learning_rate", "unet_lr", "text_encoder_lr", "max_grad_norm", "lr_scheduler_num_cycles",
         "lr_scheduler_power", "min_snr_gamma", "scale_weight_norms", "zero_terminal_snr", "masked_loss", "loss_type", "huber_c",
         "huber_schedule"), ("optimizer_args", "args"),
    ),
    **dict.fromkeys(
        ("output_dir", "output_name", "save_precision", "save_model_as", "save_every_n_epochs", "save_every_n_steps",
         "save_last_n_epochs", "save_last_n_steps", "save_state", "save_last_n_epochs_state", "save_last_n_steps_state"),
        ("saving_args", "args"),
    ),
    **dict.fromkeys(
        ("enable_bucket", "min_bucket_reso", "max_bucket_reso", "bucket_reso_steps", "bucket_no_upscale"), ("bucket_args", "dataset_args")
    ),
    **dict.fromkeys(
        ("noise_offset", "multires_noise_iterations", "multires_noise_discount", "adaptive_noise_scale"), ("noise_args", "args")
    ),
    **dict.fromkeys(("logging_dir", "log_prefix", "log_with", "log_tracker_name"), ("logging_args", "args")),
    **dict.fromkeys(("sample_prompts", "sample_sampler", "sample_every_n_epochs", "sample_every_n_steps"), ("sample_args", "args")),
    **dict.fromkeys(("resolution", "train_batch_size"), ("general_args", "dataset_args")),
    **dict.fromkeys(
        ("pretrained_model_name_or_path", "vae", "v_parameterization", "scale_v_pred_loss_like_noise_pred", "no_half_vae", "fp8_base",
         "full_fp16", "full_bf16", "lowram", "highvram", "sdpa", "xformers", "gradient_checkpointing", "gradient_accumulation_steps",
         "cache_latents", "cache_latents_to_disk", "training_comment", "mixed_precision", "seed", "clip_skip", "max_train_epochs",
         "max_train_steps", "max_data_loader_n_workers", "persistent_data_loader_workers", "max_token_length", "prior_loss_weight",
         "keep_tokens_separator"), ("general_args", "args"),
    ),
}  # fmt: skip
_EASY_SUBSET: Final = (
    "keep_tokens", "caption_extension", "shuffle_caption", "flip_aug", "color_aug", "random_crop", "caption_dropout_rate",
    "caption_dropout_every_n_epochs", "caption_tag_dropout_rate", "token_warmup_min", "token_warmup_step", "face_crop_aug_range",
)  # fmt: skip
_EASY_SILENT: Final = frozenset(
    {"network_module", "lr_warmup_steps", "train_data_dir", "reg_data_dir", "console_log_simple", *_EASY_SUBSET}
)


def _easy_training(arguments: Namespace, preset: Preset) -> str:
    """The window's tables; options without a box go into extra_args, whose values are texts."""
    tables: dict[tuple[str, ...], dict[str, Any]] = {("general_args", "args"): {"sdxl": True}}
    given = _given(arguments) | {
        name: getattr(arguments, name)
        for name in ("mixed_precision", "seed", "max_data_loader_n_workers", "learning_rate", "save_precision", "resolution",
                     "optimizer_type", "lr_scheduler", "network_dim", "network_alpha", "train_batch_size")
        if getattr(arguments, name) is not None
    }  # fmt: skip
    given.setdefault("persistent_data_loader_workers", False)
    warmup = arguments.lr_warmup_steps
    if isinstance(warmup, float) and warmup:
        tables.setdefault(("optimizer_args", "args"), {})["warmup_ratio"] = warmup
    elif warmup:
        tables.setdefault(("extra_args", "args"), {})["lr_warmup_steps"] = str(warmup)
    for name, value in given.items():
        if name in {"network_args", "optimizer_args"}:
            pairs = dict(item.split("=", 1) for item in value)
            tables[(name, "args", name)] = pairs
        elif name in _EASY:
            plain = value[0] if name == "text_encoder_lr" and len(value) == 1 else value
            if name == "resolution":
                plain = [int(side) for side in value.split(",")]
            tables.setdefault(_EASY[name], {})["batch_size" if name == "train_batch_size" else name] = plain
        elif name not in _EASY_SILENT:
            text = "true" if value is True else shlex.join(map(str, value)) if isinstance(value, list) else str(value)
            tables.setdefault(("extra_args", "args"), {})[name] = text
    lines = [
        f"# {preset.name!r} as lorakit exported it",
        *_subset_lines(arguments, preset),
        "[train_mode]",
        'train_mode = "lora"',
    ]
    for place, values in tables.items():
        lines += ["", f"[{'.'.join(place)}]", *(f"{name} = {_spelled(value)}" for name, value in values.items())]
    return "\n".join(lines) + "\n"


def _subset_lines(arguments: Namespace, preset: Preset) -> list[str]:
    """A table for each N_name folder that is there; where none is, one that has to be pointed at the pictures."""
    settings = {
        name: value for name in _EASY_SUBSET if (value := getattr(arguments, name)) not in (None, False, 0, 0.0)
    }
    found: list[tuple[str, int, bool]] = []
    if arguments.train_data_dir:
        try:
            blueprint = from_folders(arguments.train_data_dir, arguments.reg_data_dir, dataset_defaults(preset))
            found = [
                (str(one.image_dir), one.num_repeats, one.is_reg)
                for dataset in blueprint.datasets
                for one in dataset.subsets
            ]
        except DatasetError:  # the folders are on another machine
            found = [(str(Path(arguments.train_data_dir) / "1_name"), 1, False)]
            if arguments.reg_data_dir:
                found.append((str(Path(arguments.reg_data_dir) / "1_name"), 1, True))
    lines = []
    for folder, repeats, is_reg in found:
        values = {"image_dir": folder, "num_repeats": repeats, **({"is_reg": True} if is_reg else {}), **settings}
        lines += ["[[subsets]]", *(f"{name} = {_spelled(value)}" for name, value in values.items()), ""]
    return lines


def _one_trainer(arguments: Namespace, preset: Preset) -> str:
    """What OneTrainer has an equal for. Its dataset is in a file of its own."""
    schedules = {ours: theirs for theirs, ours in onetrainer.SCHEDULES.items()} | {"constant_with_warmup": "CONSTANT"}
    optimizers = {ours: theirs for theirs, ours in onetrainer.OPTIMIZERS.items()}
    rates, warmup = preset.optim.te_lr, preset.optim.warmup
    values: dict[str, Any] = {
        "__version": 11, "training_method": "LORA", "model_type": "STABLE_DIFFUSION_XL_10_BASE",
        "base_model_name": arguments.pretrained_model_name_or_path, "learning_rate": preset.optim.unet_lr or rates.te1,
        "lora_rank": arguments.network_dim, "lora_alpha": arguments.network_alpha, "batch_size": arguments.train_batch_size,
        "gradient_accumulation_steps": arguments.gradient_accumulation_steps, "aspect_ratio_bucketing": arguments.enable_bucket,
        "learning_rate_scheduler": schedules.get(arguments.lr_scheduler, "CONSTANT"),
        "learning_rate_cycles": arguments.lr_scheduler_num_cycles, "clip_grad_norm": arguments.max_grad_norm,
        "learning_rate_warmup_steps": warmup.ratio if warmup.ratio is not None else (warmup.steps or 0) * arguments.gradient_accumulation_steps,
        "resolution": _onetrainer_side(preset), "offset_noise_weight": arguments.noise_offset or 0,
        "unet": {"train": preset.optim.unet_lr > 0, "learning_rate": preset.optim.unet_lr or None},
        "text_encoder": {"train": rates.te1 > 0, "learning_rate": rates.te1 or None},
        "text_encoder_2": {"train": rates.te2 > 0, "learning_rate": rates.te2 or None},
        "optimizer": {"optimizer": optimizers.get(arguments.optimizer_type, "ADAMW")},
        "train_dtype": {"fp16": "FLOAT_16", "bf16": "BFLOAT_16", "no": "FLOAT_32"}[arguments.mixed_precision],
    }  # fmt: skip
    if (decay := preset.optim.args.get("weight_decay")) is not None:
        values["optimizer"]["weight_decay"] = decay
    if preset.memory.gradient_checkpointing:
        values["gradient_checkpointing"] = "ON"
    if preset.length.epochs:
        values["epochs"] = preset.length.epochs
    if arguments.seed is not None:
        values["seed"] = arguments.seed
    if preset.loss.min_snr_gamma:
        values |= {"loss_weight_fn": "MIN_SNR_GAMMA", "loss_weight_strength": preset.loss.min_snr_gamma}
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def _onetrainer_side(preset: Preset) -> str:
    size = preset.dataset.resolution
    return str(size.width) if size.width == size.height else f"{size.width}x{size.height}"


Writer = Callable[[Namespace, Preset], str]
FORMATS: Final[Mapping[str, tuple[str, Writer]]] = {
    "sd-scripts-toml": (".toml", _sd_scripts_toml),
    "kohya-gui": (".json", _kohya_gui),
    "easy-training": (".toml", _easy_training),
    "onetrainer": (".json", _one_trainer),
}
