"""LK401…: the preset's ``[extra]`` table, checked by name, type and choices against the trainer's catalogue."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any, Final

from lorakit.preset.fields import field_flag
from lorakit.preset.models import Preset
from lorakit.preset.rules import Finding, Table, TrainerKind, ordered
from lorakit.preset.schema import fields, model_at
from lorakit.preset.units import Warmup, shown
from lorakit.trainers.catalogue import Catalogue, Flag

__all__ = ["TABLE", "check_extra", "refusal", "typed_key"]

TABLE: Final = Table[TrainerKind]("Other options of the trainer")

#: Options that a key of another name or meaning stands for.
_SPOKEN_FOR: Final = {
    "learning_rate": "optim.unet_lr and optim.te_lr",
    "network_train_unet_only": "optim.te_lr = 0",
    "network_train_text_encoder_only": "optim.unet_lr = 0",
    "use_8bit_adam": 'optim.type = "AdamW8bit"',
    "use_lion_optimizer": 'optim.type = "Lion"',
    "sdpa": 'memory.attention = "sdpa"',
    "xformers": 'memory.attention = "xformers"',
    "mem_eff_attn": 'memory.attention = "mem_eff"',
    "full_fp16": 'precision.full with precision.mixed = "fp16"',
    "full_bf16": 'precision.full with precision.mixed = "bf16"',
    "caption_extention": "dataset.caption_extension",
    "save_n_epoch_ratio": "save.every_n_epochs",
    "output_name": "name",
    "log_with": "log.tensorboard",
    "no_metadata": "log.metadata = false",
}

_CONTINUES: Final = "going on with a run is lorakit's own work: it must know at which step"
#: Options that a preset cannot set, and why.
_REFUSED: Final = {
    "output_dir": "every run writes into its own folder",
    "logging_dir": "curves belong into the run's folder",
    "config_file": "what is in that file would not be in the preset, and the trainer does not check it",
    "output_config": "the trainer would write its settings and not train",
    "resume": _CONTINUES,
    "resume_from_huggingface": _CONTINUES,
    "initial_epoch": _CONTINUES,
    "initial_step": _CONTINUES,
    "skip_until_initial_step": _CONTINUES,
    "debug_dataset": "the trainer would show pictures for ever and not train; lorakit plan shows the dataset",
    "in_json": "lorakit cannot plan such a dataset; use folders or a dataset TOML",
    "dataset_class": "lorakit cannot plan such a dataset; use folders or a dataset TOML",
    "conditioning_data_dir": "the trainer reads it from a dataset TOML only",
    "fused_backward_pass": "it does nothing for a LoRA",
    "v2": "SDXL is not Stable Diffusion 2; the trainer stops with an assertion",
    "console_log_file": "lorakit keeps the trainer's output in the run's folder",
    "console_log_simple": "lorakit always sets it",
    "wandb_api_key": "a secret must not be kept in a run's folder; set the environment variable WANDB_API_KEY",
    "huggingface_token": "a secret must not be kept in a run's folder; set the environment variable HF_TOKEN",
}


def check_extra(preset: Preset, kind: TrainerKind) -> tuple[Finding, ...]:
    """What is wrong with ``[extra]``, errors first."""
    return ordered(TABLE.look(preset, kind))


def refusal(dest: str) -> str:
    """Why a preset cannot set an option, by the option's name without dashes; empty when it can."""
    return _REFUSED.get(dest, "")


def typed_key(dest: str) -> str:
    """The key of a preset that stands for an option, by the option's name without dashes; empty when there is none."""
    if dest in _SPOKEN_FOR:
        return _SPOKEN_FOR[dest]
    for path, _ in fields():
        if field_flag(model_at(path[0] if len(path) > 1 else ""), path[-1]) == f"--{dest}":
            return ".".join(path)
    return ""


def _entries(preset: Preset) -> Iterator[tuple[str, Any]]:
    return ((name.lstrip("-"), value) for name, value in preset.extra.items())


def _known(preset: Preset) -> Iterator[tuple[Flag, Any]]:
    """Entries that are an option of the trainer and may be set."""
    flags = Catalogue.load().by_dest()
    for name, value in _entries(preset):
        if name in flags and name not in _REFUSED and not typed_key(name):
            yield flags[name], value


def _value(preset: Preset, name: str) -> Any:
    return dict(_entries(preset)).get(name)


@TABLE.error(
    "LK401", "extra", "the trainer has no option of this name",
    why="it would stop before it starts",
    todo="correct the name; the keys of the other tables do not go here",
)  # fmt: skip
def _names_exist(preset: Preset, _: TrainerKind) -> bool | str:
    flags = Catalogue.load().by_dest()
    return ", ".join(_with_guess(name, list(flags)) for name, _value in _entries(preset) if name not in flags)


@TABLE.error(
    "LK402", "extra", "an option that has a key of its own",
    why="one thing is said in one place",
    todo="use the key",
)  # fmt: skip
def _keys_come_first(preset: Preset, _: TrainerKind) -> bool | str:
    taken = [(name, typed_key(name)) for name, _value in _entries(preset)]
    return ", ".join(f"{name} is {key}" for name, key in taken if key)


@TABLE.error(
    "LK403", "extra", "an option that a preset cannot set",
    why="lorakit sets it itself, or it would make the run something else than its folder says",
    todo="leave it out",
)  # fmt: skip
def _some_are_refused(preset: Preset, _: TrainerKind) -> bool | str:
    return "; ".join(f"{name}: {_REFUSED[name]}" for name, _value in _entries(preset) if name in _REFUSED)


@TABLE.error(
    "LK404", "extra", "a value of the wrong type",
    why="the trainer's parser would stop",
    todo="write numbers without quotes, texts in quotes, true for a switch",
)  # fmt: skip
def _types_fit(preset: Preset, _: TrainerKind) -> bool | str:
    wrong = [(flag, value) for flag, value in _known(preset) if not _fits(flag, value)]
    return ", ".join(f"{flag.dest} is {_type_in_words(flag)}, not {shown(value)}" for flag, value in wrong)


@TABLE.error(
    "LK405", "extra", "a value that the option does not know",
    why="the trainer's parser would stop",
    todo="use one of those that are named",
)  # fmt: skip
def _choices_fit(preset: Preset, _: TrainerKind) -> bool | str:
    wrong = [
        (flag, value)
        for flag, value in _known(preset)
        if flag.choices is not None and _fits(flag, value) and value not in flag.choices
    ]
    return ", ".join(
        f"{flag.dest} is one of {', '.join(str(choice) for choice in flag.choices or () if choice is not None)}, "
        f"not {shown(value)}"
        for flag, value in wrong
    )


@TABLE.error(
    "LK406", "extra", "the same option twice, with and without dashes",
    why="one of the two would win",
    todo="leave one out",
)  # fmt: skip
def _each_is_given_once(preset: Preset, _: TrainerKind) -> bool | str:
    names = [name for name, _value in _entries(preset)]
    return ", ".join(sorted({name for name in names if names.count(name) > 1}))


@TABLE.warning(
    "LK411", "extra.base_weights", "base_weights change what is trained",
    why="they make sd-scripts train 750 modules of the UNet in place of 722, and forget none of them in the file",
    todo="merge the weights into the base model first, or know that the LoRA has more modules than others",
)  # fmt: skip
def _base_weights_add_modules(preset: Preset, kind: TrainerKind) -> bool:
    return kind == "sd-scripts" and bool(_value(preset, "base_weights"))


@TABLE.error(
    "LK412", "extra.lr_scheduler_type", "a scheduler of torch's own with a warmup",
    why="the trainer refuses the two together",
    todo="set optim.warmup = 0, or use optim.schedule",
)  # fmt: skip
def _own_schedulers_do_not_warm_up(preset: Preset, _: TrainerKind) -> bool:
    return bool(_value(preset, "lr_scheduler_type")) and preset.optim.warmup != Warmup(steps=0)


@TABLE.warning(
    "LK413", "extra.lr_scheduler_type", "lr_scheduler_type stands above optim.schedule",
    why="the trainer takes the first and ignores the second",
    todo="leave one of them out; lorakit cannot draw the curve of the first",
)  # fmt: skip
def _own_schedulers_win(preset: Preset, _: TrainerKind) -> bool:
    return bool(_value(preset, "lr_scheduler_type"))


@TABLE.warning(
    "LK414", "extra.deepspeed", "DeepSpeed reads pictures with one worker",
    why="the trainer sets the number of workers to 1 with it",
    todo="set dataset.workers = 1, so that the preset says what happens",
)  # fmt: skip
def _deepspeed_has_one_worker(preset: Preset, _: TrainerKind) -> bool:
    return _value(preset, "deepspeed") is True and preset.dataset.workers != 1


@TABLE.warning(
    "LK415", "extra.dynamo_backend", "dynamo_backend without torch_compile",
    why="nothing is compiled",
    todo="set extra.torch_compile = true, or leave it out",
)  # fmt: skip
def _backends_need_compiling(preset: Preset, _: TrainerKind) -> bool:
    return _value(preset, "dynamo_backend") is not None and _value(preset, "torch_compile") is not True


@TABLE.warning(
    "LK416", "extra.skip_cache_check", "caches on disk are not looked at",
    why="a file of the right name is taken for the right cache",
    todo="leave it out unless nothing has changed since the cache was made",
)  # fmt: skip
def _caches_are_checked(preset: Preset, kind: TrainerKind) -> bool:
    return kind == "sd-scripts" and _value(preset, "skip_cache_check") is True


@TABLE.error(
    "LK417", "extra.cache_info", "cache_info with a validation split",
    why="the trainer shuffles the pictures for the split and not the captions, so that they no longer belong together",
    todo="leave one of the two out",
)  # fmt: skip
def _cached_captions_stay_with_their_pictures(preset: Preset, _: TrainerKind) -> bool:
    return _value(preset, "cache_info") is True and preset.validation.split > 0


@TABLE.warning(
    "LK418", "extra.base_weights_multiplier", "base_weights_multiplier without base_weights",
    why="there is nothing to multiply",
    todo="set extra.base_weights, or leave it out",
)  # fmt: skip
def _multipliers_need_weights(preset: Preset, _: TrainerKind) -> bool:
    return _value(preset, "base_weights_multiplier") is not None and not _value(preset, "base_weights")


def _with_guess(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f"{shown(name)}, did you mean {near[0]}?" if near else shown(name)


def _fits(flag: Flag, value: Any) -> bool:
    if flag.nargs == "*":
        items = value if isinstance(value, list) else [value]
        return all(_is(flag.type, item) for item in items)
    return _is(flag.type, value)


def _is(type_name: str, value: Any) -> bool:
    if type_name == "bool" or isinstance(value, bool):
        return type_name == "bool" and isinstance(value, bool)
    if type_name == "int":
        return isinstance(value, int)
    return isinstance(value, (int, float) if type_name == "float" else str)


_IN_WORDS: Final = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "Path": "a path",
}


def _type_in_words(flag: Flag) -> str:
    word = _IN_WORDS[flag.type]
    return f"a list, each {word}" if flag.nargs == "*" else word
