"""The way back from a trainer's command line: parsed arguments as the values of a preset."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lorakit.preset.fields import field_flag
from lorakit.preset.network import ARGUMENTS, Network
from lorakit.preset.schema import fields, model_at
from lorakit.trainers.catalogue import Catalogue
from lorakit.trainers.extra import typed_key

if TYPE_CHECKING:
    from argparse import Namespace

__all__ = ["preset_values"]

_SWITCHES: Final = frozenset(key for key in ARGUMENTS if Network.model_fields[key].default is False)
_ANY_WORD: Final = frozenset({"enable_conv", "enable_all_linear"})
_TEXTS: Final = frozenset({"algo", "lycoris_preset"})
#: Lists of numbers, which one number may be.
_LISTS: Final = frozenset(key for key in ARGUMENTS if key.endswith(("_dims", "_alphas", "_lr_weight")))


def preset_values(arguments: Namespace) -> dict[str, Any]:
    """Nested values as a preset file would hold them, of a command that trains a LoRA on folders or a dataset TOML.

    Options at rest (switches that are off, None) are left out, and so is what a command does not say: how it is launched,
    which trainer runs it. Options without a key of their own come back under ``extra``. ``name`` is the output's name.
    Network arguments without a key of their own come back as text, since the command has no types for them.
    """
    values: dict[str, Any] = {"name": arguments.output_name, "seed": arguments.seed}
    for path, _ in fields():
        flag = field_flag(model_at(path[0] if len(path) > 1 else ""), path[-1])
        if flag is None or len(path) < 2:
            continue
        value = getattr(arguments, flag.lstrip("-"))
        if value is not None and value is not False and value != "":
            values.setdefault(path[0], {})[path[1]] = str(value) if isinstance(value, Path) else value
    if arguments.sample_prompts is None:
        # Left out of the command, since it changes nothing: what the parser puts there was never asked for.
        values.get("sample", {}).pop("sampler", None)
    values.setdefault("dataset", {})["resolution"] = [int(side) for side in arguments.resolution.split(",")]
    values["dataset"]["bucket"] = arguments.enable_bucket
    values.setdefault("memory", {}).update(attention=_attention(arguments), cache_latents=arguments.cache_latents)
    values.setdefault("network", {}).update(_network(arguments))
    values["optim"] |= _optim(arguments)
    if arguments.max_train_epochs is not None:
        values["length"].pop("steps", None)
    if arguments.full_fp16 or arguments.full_bf16:
        values["precision"]["full"] = True
    values.setdefault("log", {}).update(
        tensorboard=arguments.logging_dir is not None, metadata=not arguments.no_metadata
    )
    if extra := _extra(arguments):
        values["extra"] = extra
    return values


def _attention(arguments: Namespace) -> str:
    # In the trainer's order, where several are given.
    for name, key in (("mem_eff_attn", "mem_eff"), ("xformers", "xformers"), ("sdpa", "sdpa")):
        if getattr(arguments, name):
            return key
    return "none"


def _network(arguments: Namespace) -> dict[str, Any]:
    pairs = dict(item.split("=", 1) for item in arguments.network_args or ())
    own = {key: _typed(key, pairs.pop(told)) for key, told in ARGUMENTS.items() if told in pairs}
    return {key: value for key, value in own.items() if value is not None} | {"args": pairs}


def _typed(key: str, text: str) -> Any:
    """The value of a network argument; None where the command says that there is none."""
    if text == "None" or (key, text) == ("factor", "-1"):
        return None
    if key in _SWITCHES:
        # LyCORIS reads the word, OFT takes whatever stands there for on.
        return key in _ANY_WORD or text.strip().lower() in {"true", "1", "yes", "on"}
    if key in _TEXTS | _LISTS:
        return text
    try:
        number = float(text)
    except ValueError:
        return text
    return int(number) if re.fullmatch(r"[+-]?[0-9]+", text.strip()) else number


def _optim(arguments: Namespace) -> dict[str, Any]:
    unet = arguments.learning_rate if arguments.unet_lr is None else arguments.unet_lr
    te = list(arguments.text_encoder_lr or [arguments.learning_rate])[:2]
    return {
        "unet_lr": 0 if arguments.network_train_text_encoder_only else unet,
        "te_lr": 0 if arguments.network_train_unet_only else te[0] if len(te) == 1 else te,
        "warmup": _length(arguments.lr_warmup_steps),
        **({"decay": _length(arguments.lr_decay_steps)} if arguments.lr_decay_steps else {"decay": None}),
        "args": {name: _plain(text) for name, text in (item.split("=", 1) for item in arguments.optimizer_args or ())},
    }


def _length(value: float) -> str | float:
    return f"{value} steps" if isinstance(value, int) else value


def _plain(text: str) -> Any:
    value = ast.literal_eval(text)
    return list(value) if isinstance(value, tuple) else value


def _extra(arguments: Namespace) -> dict[str, Any]:
    silent = {"output_dir", "logging_dir", "console_log_simple"}
    return {
        flag.dest: str(value) if isinstance(value, Path) else value
        for flag in Catalogue.load()
        if (value := getattr(arguments, flag.dest)) != flag.default
        and flag.dest not in silent
        and not typed_key(flag.dest)
    }
