"""LK160…: the LoRA and its module's arguments."""

from __future__ import annotations

import difflib
from typing import Any, Final

from lorakit.preset.models import Preset
from lorakit.preset.rules.rule import Table, TrainerKind

TABLE: Final = Table[TrainerKind]("Network")

_TYPED: Final = ("rank_dropout", "module_dropout", "conv_dim", "conv_alpha")
_BLOCK_LISTS: Final = ("block_alphas", "conv_block_dims", "conv_block_alphas")
_BLOCK_WEIGHTS: Final = {"down_lr_weight": 9, "mid_lr_weight": 3, "up_lr_weight": 9}
_CURVES: Final = ("cosine", "sine", "linear", "reverse_linear", "zeros")
#: What networks.lora reads; everything else it passes over.
_LORA_ARGS: Final = (
    *_TYPED, "block_dims", *_BLOCK_LISTS, *_BLOCK_WEIGHTS, "block_lr_zero_threshold",
    "loraplus_lr_ratio", "loraplus_unet_lr_ratio", "loraplus_text_encoder_lr_ratio",
)  # fmt: skip
_UNET_BLOCKS: Final = 23


def _args(preset: Preset) -> dict[str, Any]:
    return preset.network.args


def _is_lora(preset: Preset) -> bool:
    return preset.network.module == "networks.lora"


@TABLE.warning(
    "LK160", "network.args", "arguments that the network does not know",
    why="networks.lora passes over what it does not know, without a word",
    todo=f"it knows {', '.join(_LORA_ARGS)}",
)  # fmt: skip
def _arguments_are_known(preset: Preset, _: TrainerKind) -> bool | str:
    if not _is_lora(preset):
        return False
    unknown = [name for name in _args(preset) if name not in _LORA_ARGS]
    return ", ".join(_with_guess(name) for name in unknown)


@TABLE.error(
    "LK161", "network.args", "an equals sign inside an argument's text",
    why="the trainer splits key=value at every equals sign",
    todo="find a spelling without one",
)  # fmt: skip
def _network_arguments_split_once(preset: Preset, _: TrainerKind) -> bool | str:
    return ", ".join(name for name, value in _args(preset).items() if "=" in str(value))


@TABLE.error(
    "LK162", "network.args", "the same argument in network and in network.args",
    why="one of the two would win",
    todo="write it once, as network.<name>",
)  # fmt: skip
def _arguments_are_given_once(preset: Preset, _: TrainerKind) -> bool | str:
    return ", ".join(name for name in _TYPED if name in _args(preset) and getattr(preset.network, name) is not None)


@TABLE.warning(
    "LK163", "network.conv_alpha", "conv_alpha without conv_dim",
    why="only a network with conv_dim has LoRA on the 3×3 convolutions",
    todo="set network.conv_dim, or leave conv_alpha out",
)  # fmt: skip
def _conv_alpha_needs_conv_dim(preset: Preset, _: TrainerKind) -> bool:
    return _given(preset, "conv_alpha") and not _given(preset, "conv_dim")


@TABLE.warning(
    "LK164", "network.conv_alpha", "conv_dim without conv_alpha",
    why="conv_alpha is then 1, so the convolutions learn conv_dim times slower than with conv_alpha = conv_dim",
    todo="set network.conv_alpha, such as half of conv_dim",
)  # fmt: skip
def _conv_dim_wants_conv_alpha(preset: Preset, _: TrainerKind) -> bool:
    return _given(preset, "conv_dim") and not _given(preset, "conv_alpha")


@TABLE.warning(
    "LK165", "network.args", "settings per block without block_dims",
    why="networks.lora reads them only beside block_dims or rates per block",
    todo="give block_dims, or leave them out",
)  # fmt: skip
def _block_settings_need_block_dims(preset: Preset, _: TrainerKind) -> bool | str:
    args = _args(preset)
    weighted = any(name in args for name in _BLOCK_WEIGHTS)
    given = ", ".join(name for name in _BLOCK_LISTS if name in args)
    return _is_lora(preset) and "block_dims" not in args and not weighted and given


@TABLE.error(
    "LK166", "network.args", f"a list per block that has not {_UNET_BLOCKS} numbers",
    why=f"SDXL's UNet counts {_UNET_BLOCKS} blocks; the trainer stops with an assertion after loading the model",
    todo=f"give {_UNET_BLOCKS} numbers between commas",
)  # fmt: skip
def _block_lists_are_complete(preset: Preset, _: TrainerKind) -> bool | str:
    args = _args(preset)
    if not _is_lora(preset) or "block_dims" not in args:
        return False
    lists = ("block_dims", *_BLOCK_LISTS)
    return ", ".join(name for name in lists if name in args and not _numbers(args[name], _UNET_BLOCKS))


@TABLE.error(
    "LK167", "network.args", "rates per block that the trainer cannot read",
    why="down_lr_weight and up_lr_weight are 9 numbers between commas, mid_lr_weight 3, or the name of a curve; a single "
    "number and a list that is too long stop the trainer, a short one is filled up with 1",
    todo="give 9, 3 and 9 numbers, or one of cosine, sine, linear, reverse_linear, zeros (and +base)",
)  # fmt: skip
def _block_weights_are_complete(preset: Preset, _: TrainerKind) -> bool | str:
    args = _args(preset)
    wrong = [name for name, count in _BLOCK_WEIGHTS.items() if name in args and not _weights(args[name], count)]
    return _is_lora(preset) and ", ".join(wrong)


@TABLE.error(
    "LK168", "network.dim_from_weights", "dim_from_weights without weights",
    why="there is no file to take the dim from; the trainer stops after loading the model",
    todo="set network.weights, or dim_from_weights = false",
)  # fmt: skip
def _dim_comes_from_weights(preset: Preset, _: TrainerKind) -> bool:
    return preset.network.dim_from_weights and preset.network.weights is None


@TABLE.warning(
    "LK169", "network.dim_from_weights", "settings that do not count with dim_from_weights",
    why="the network is built as it stands in the file, without these",
    todo="leave them out, or give network.dim and network.alpha of the file instead of dim_from_weights",
)  # fmt: skip
def _weights_decide_the_network(preset: Preset, _: TrainerKind) -> bool | str:
    network = preset.network
    if not network.dim_from_weights:
        return False
    names = ("dropout", *_TYPED)
    return ", ".join([*(name for name in names if getattr(network, name) is not None), *network.args])


@TABLE.warning(
    "LK170", "network.max_norm", "max_norm on a network that may not have it",
    why="only networks.lora is known to; the trainer leaves it off for others, with a warning in its log",
    todo='use network.module = "networks.lora", or leave max_norm out',
)  # fmt: skip
def _max_norm_needs_lora(preset: Preset, _: TrainerKind) -> bool:
    return preset.network.max_norm is not None and not _is_lora(preset)


def _given(preset: Preset, name: str) -> bool:
    return getattr(preset.network, name) is not None or name in _args(preset)


def _with_guess(name: str) -> str:
    near = difflib.get_close_matches(name, _LORA_ARGS, n=1)
    return f"{name} (did you mean {near[0]}?)" if near else name


def _numbers(value: Any, count: int) -> bool:
    parts = str(value).split(",")
    try:
        return len([float(part) for part in parts]) == count
    except ValueError:
        return False


def _weights(value: Any, count: int) -> bool:
    curve = str(value).split("+")[0]
    return curve in _CURVES or _numbers(value, count)
