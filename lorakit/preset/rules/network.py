"""LK160…: the network: which keys its kind reads, lists and rates per block, arguments of its module."""

from __future__ import annotations

import difflib
from typing import Any, Final

from lorakit.preset.blocks import BLOCKS, RATE_COUNTS, factors, is_curve
from lorakit.preset.kinds import LORA_PLUS, LYCORIS, PER_BLOCK, given, kind_of
from lorakit.preset.models import Preset
from lorakit.preset.network import ARGUMENTS
from lorakit.preset.rules.rule import Table, TrainerKind
from lorakit.preset.rules.trained import trains_te, trains_unet

TABLE: Final = Table[TrainerKind]("Network")

#: Arguments of LyCORIS without a key of their own.
_LYCORIS_ARGS: Final = ("bypass_mode", "rank_dropout_scale", "unbalanced_factorization", "wd_on_output")
#: What the widths of SDXL's layers have in common: those of its attention, and of all of its layers.
_ATTENTION_WIDTH: Final = 640
_LEAST_WIDTH: Final = 320


def _args(preset: Preset) -> dict[str, Any]:
    return preset.network.args


def _reads(preset: Preset, key: str) -> bool:
    kind = kind_of(preset.network)
    return kind is not None and key in kind.reads


@TABLE.warning(
    "LK160", "network.args", "arguments that the network does not know",
    why="the trainer's networks pass over what they do not know, without a word",
    todo="correct the name, or leave them out; what a network reads has a key of its own (docs/networks.md)",
)  # fmt: skip
def _arguments_are_known(preset: Preset, _: TrainerKind) -> bool | str:
    kind = kind_of(preset.network)
    if kind is None:
        return False
    more = _LYCORIS_ARGS if kind.module == LYCORIS else ()
    unknown = [name for name in _args(preset) if name not in (*ARGUMENTS.values(), *ARGUMENTS, *more)]
    return ", ".join(_with_guess(name) for name in unknown)


@TABLE.error(
    "LK162", "network.args", "an argument that has a key of its own",
    why="one thing is said in one place, where its value is checked",
    todo="use the key",
)  # fmt: skip
def _arguments_with_keys_use_them(preset: Preset, _: TrainerKind) -> bool | str:
    keys = {told: key for key, told in ARGUMENTS.items()} | {key: key for key in ARGUMENTS}
    return ", ".join(f"{name} is network.{keys[name]}" for name in _args(preset) if name in keys)


@TABLE.warning(
    "LK163", "network.conv_alpha", "conv_alpha without conv_dim",
    why="only a network with conv_dim has LoRA on the 3×3 convolutions",
    todo="set network.conv_dim, or leave conv_alpha out",
)  # fmt: skip
def _conv_alpha_needs_conv_dim(preset: Preset, _: TrainerKind) -> bool:
    network = preset.network
    convolutions = network.conv_dim is not None or network.conv_block_dims is not None
    return network.conv_alpha is not None and not convolutions


@TABLE.warning(
    "LK164", "network.conv_alpha", "conv_dim without conv_alpha",
    why="conv_alpha is then 1, so the convolutions learn conv_dim times slower than with conv_alpha = conv_dim",
    todo="set network.conv_alpha, such as half of conv_dim",
)  # fmt: skip
def _conv_dim_wants_conv_alpha(preset: Preset, _: TrainerKind) -> bool:
    network = preset.network
    # LyCORIS would take network.alpha, and lorakit writes that out.
    return network.conv_dim is not None and network.conv_alpha is None and network.module != LYCORIS


@TABLE.warning(
    "LK165", "network.block_dims", "settings per block without block_dims",
    why="networks.lora reads them only beside block_dims or rates per block",
    todo="give block_dims, or leave them out",
)  # fmt: skip
def _block_settings_need_block_dims(preset: Preset, _: TrainerKind) -> bool | str:
    network = preset.network
    if network.block_dims is not None or any(getattr(network, name) is not None for name in RATE_COUNTS):
        return False
    return ", ".join(name for name in PER_BLOCK if getattr(network, name) is not None)


@TABLE.error(
    "LK166", "network.block_dims", f"a list per block that has not {BLOCKS} numbers",
    why=f"SDXL's UNet counts {BLOCKS} blocks; the trainer stops with an assertion after loading the model",
    todo=f"give {BLOCKS} numbers; dims are whole ones",
)  # fmt: skip
def _block_lists_are_complete(preset: Preset, _: TrainerKind) -> bool | str:
    lists = {name: getattr(preset.network, name) for name in PER_BLOCK}
    wrong = [name for name, found in lists.items() if found is not None and len(found.numbers) != BLOCKS]
    broken = [
        name
        for name, found in lists.items()
        if name.endswith("dims") and found is not None and any(number % 1 for number in found.numbers)
    ]
    return ", ".join(dict.fromkeys([*wrong, *broken]))


@TABLE.error(
    "LK167", "network.down_lr_weight", "rates per block that the trainer cannot read",
    why="down_lr_weight and up_lr_weight are 9 numbers, mid_lr_weight 3, or the name of a curve (not for the middle); a list "
    "that is too long stops the trainer, a short one is filled up with 1",
    todo="give 9, 3 and 9 numbers, or one of cosine, sine, linear, reverse_linear, zeros (and +0.25, …)",
)  # fmt: skip
def _block_rates_are_complete(preset: Preset, _: TrainerKind) -> bool | str:
    return ", ".join(_wrong_rates(preset))


def _wrong_rates(preset: Preset) -> list[str]:
    lists = {name: getattr(preset.network, name) for name in RATE_COUNTS}
    return [
        name
        for name, found in lists.items()
        if found is not None
        and not (
            is_curve(found.curve) and name != "mid_lr_weight"
            if found.curve
            else len(found.numbers) == RATE_COUNTS[name]
        )
    ]


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
    return ", ".join(
        [*(name for name in given(network) if name not in {"max_norm", "dim_from_weights"}), *network.args]
    )


@TABLE.warning(
    "LK170", "network.max_norm", "max_norm on a network that may not have it",
    why="the trainer leaves it off for a network that cannot do it, with a warning in its log",
    todo="leave max_norm out, or know that the network has it",
)  # fmt: skip
def _max_norm_needs_a_known_network(preset: Preset, _: TrainerKind) -> bool:
    return preset.network.max_norm is not None and kind_of(preset.network) is None


@TABLE.error(
    "LK171", "network.module", "keys that this kind of network does not read",
    why="the trainer would pass over them without a word, or stop at them",
    todo="leave them out, or choose the kind that they belong to (docs/networks.md)",
)  # fmt: skip
def _keys_belong_to_the_kind(preset: Preset, _: TrainerKind) -> bool | str:
    kind = kind_of(preset.network)
    if kind is None:
        return False
    wrong = [f"network.{name}" for name in given(preset.network) if name not in kind.reads]
    return f"{', '.join(wrong)} with {kind.title}" if wrong else False


@TABLE.error(
    "LK172", "network.unit", "a unit that does not divide the dim",
    why="DyLoRA trains ranks in groups of unit; the trainer stops with an assertion after loading the model",
    todo="choose a unit that divides network.dim",
)  # fmt: skip
def _units_divide_the_dim(preset: Preset, _: TrainerKind) -> bool | str:
    network = preset.network
    return f"{network.unit} of {network.dim}" if network.unit is not None and network.dim % network.unit else False


@TABLE.error(
    "LK173", "optim.te_lr", "text encoders with a kind of network that cannot train them",
    why="OFT has no module in them, and would not say so; DyLoRA gives both the same names, so that one is lost and no program "
    "finds the other in the file",
    todo="set optim.te_lr = 0, or use networks.lora",
)  # fmt: skip
def _the_kind_can_train_text_encoders(preset: Preset, _: TrainerKind) -> bool | str:
    kind = kind_of(preset.network)
    return kind.title if kind is not None and not kind.trains_te and trains_te(preset) else False


@TABLE.error(
    "LK174", "network.dim", "a dim that OFT cannot cut the layers into",
    why="OFT's dim is a number of blocks, and each layer's width must be a multiple of it; the trainer stops at its first step",
    todo=f"use a divisor of {_ATTENTION_WIDTH}, and of {_LEAST_WIDTH} with enable_conv or enable_all_linear, such as 4 or 8",
)  # fmt: skip
def _oft_divides_the_layers(preset: Preset, _: TrainerKind) -> bool | str:
    network = preset.network
    if network.module != "networks.oft":
        return False
    width = _LEAST_WIDTH if network.enable_conv or network.enable_all_linear else _ATTENTION_WIDTH
    return f"{network.dim} and {width}" if width % network.dim else False


@TABLE.error(
    "LK175", "network.block_dims", "no block of the UNet has a LoRA",
    why="every block has dim 0 or rate 0, so there is nothing to train in it; the trainer stops",
    todo="give some block a dim and a rate, or set optim.unet_lr = 0",
)  # fmt: skip
def _some_block_is_trained(preset: Preset, _: TrainerKind) -> bool:
    network = preset.network
    if not trains_unet(preset) or _wrong_rates(preset) or not _reads(preset, "block_dims"):
        return False
    rates = block_rates(preset) or (1.0,) * BLOCKS
    dims = network.block_dims.numbers if network.block_dims is not None else (float(network.dim),) * BLOCKS
    if len(dims) != BLOCKS:
        return False
    convolutions = network.conv_dim is not None or network.conv_block_dims is not None
    return not any(rates[1:-1]) or not (any(dims[1:-1]) or convolutions)


@TABLE.warning(
    "LK176", "optim.unet_lr", "rates of a part that is not trained",
    why="there is nothing for them to act upon",
    todo="leave them out, or give the part a rate",
)  # fmt: skip
def _rates_have_their_part(preset: Preset, _: TrainerKind) -> bool | str:
    network = preset.network
    unet = ("loraplus_unet_lr_ratio", *RATE_COUNTS) if not trains_unet(preset) else ()
    text = ("loraplus_te_lr_ratio",) if not trains_te(preset) else ()
    return ", ".join(f"network.{name}" for name in (*unet, *text) if getattr(network, name) is not None)


@TABLE.error(
    "LK177", "network.conv_dim", "DyLoRA's convolutions at another dim",
    why="its ranks are trained in groups over all of it; the trainer stops with an assertion after loading the model",
    todo="set network.conv_dim to network.dim, or leave it out",
)  # fmt: skip
def _dylora_has_one_dim(preset: Preset, _: TrainerKind) -> bool | str:
    network = preset.network
    apart = network.module == "networks.dylora" and network.conv_dim not in (None, network.dim)
    return f"{network.conv_dim} and {network.dim}" if apart else False


def block_rates(preset: Preset) -> tuple[float, ...] | None:
    """The factor on the UNet's rate for each of its blocks, None where they all have the same."""
    network = preset.network
    if not _reads(preset, "down_lr_weight") or _wrong_rates(preset):
        return None
    return factors(network.down_lr_weight, network.mid_lr_weight, network.up_lr_weight, network.block_lr_zero_threshold)


def uneven_rates(preset: Preset) -> list[str]:
    """The keys that give parts of the network a rate of their own."""
    network = preset.network
    rates = block_rates(preset) or ()
    uneven = [name for name in LORA_PLUS if getattr(network, name)]
    if len({rate for rate in rates[1:-1] if rate}) > 1:
        uneven += [name for name in RATE_COUNTS if getattr(network, name) is not None]
    return uneven


def _with_guess(name: str) -> str:
    near = difflib.get_close_matches(name, ARGUMENTS, n=1)
    return f"{name} (did you mean network.{near[0]}?)" if near else name
