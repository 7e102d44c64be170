"""What each kind of network puts beside a layer: exact where it was proven on the real trainer, else an estimate."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from lorakit.plan.network import Layer, Module, Recipe, Sort, lora, oft
from lorakit.preset.blocks import Blocks
from lorakit.preset.kinds import LYCORIS
from lorakit.preset.rules.network import block_rates

if TYPE_CHECKING:
    from lorakit.preset.models import Preset
    from lorakit.preset.network import Network

__all__ = ["blocks_of", "recipe_of"]

_ALL: Final[frozenset[Sort]] = frozenset({"attention", "linear", "conv", "extra"})
#: Which layers LyCORIS takes by its presets; others are taken for "full".
_LYCORIS_LAYERS: Final[dict[str, frozenset[Sort]]] = {
    "full": _ALL,
    "attn-mlp": frozenset({"attention", "linear"}),
    "attn-only": frozenset({"attention"}),
}
_EXACT_ALGOS: Final = ("lora", "loha", "dylora", "ia3")


def blocks_of(preset: Preset) -> Blocks:
    """Dims, alphas and factors on the rate of the UNet's blocks."""
    network = preset.network
    return Blocks.of(
        dim=network.dim,
        alpha=network.alpha.of(network.dim),
        conv_dim=network.conv_dim,
        conv_alpha=network.conv_alpha,
        block_dims=network.block_dims,
        block_alphas=network.block_alphas,
        conv_block_dims=network.conv_block_dims,
        conv_block_alphas=network.conv_block_alphas,
        rates=block_rates(preset),
    )


def recipe_of(preset: Preset) -> tuple[Recipe, bool]:
    """What a preset's kind makes of a layer, and whether that is exact. An unknown module is taken for a LoRA."""
    network = preset.network
    if network.module == "networks.oft":
        return oft(network.dim, conv=network.enable_conv, linear=network.enable_all_linear), True
    if network.module == LYCORIS:
        return _lycoris(network)
    known = network.module in {"networks.lora", "networks.lora_fa", "networks.dylora"}
    return lora(blocks_of(preset), network.dim, up_only=network.module == "networks.lora_fa"), known


def _lycoris(network: Network) -> tuple[Recipe, bool]:
    algo, chosen = network.algo or "lora", network.lycoris_preset or "full"
    sorts = _LYCORIS_LAYERS.get(chosen, _ALL)
    exact = algo in _EXACT_ALGOS and chosen in _LYCORIS_LAYERS and not (network.train_norm or network.use_tucker)
    conv_dim = network.conv_dim or network.dim

    def module(_: str, layer: Layer) -> Module | None:
        if layer.sort not in sorts:
            return None
        made = _lycoris_module(algo, layer, conv_dim if layer.sort == "conv" else network.dim, network.factor)
        more = layer.out if network.dora_wd else 0
        return Module(
            made.parameters + more,
            made.trained + more + (1 if network.use_scalar else 0),
            made.tensors + (1 if network.dora_wd else 0),
        )

    return module, exact


def _lycoris_module(algo: str, layer: Layer, rank: int, factor: int | None) -> Module:
    low_rank = rank * (layer.out + layer.into)
    if algo == "loha":
        return Module(2 * low_rank, 2 * low_rank, tensors=5)
    if algo == "glora":
        return Module(2 * low_rank, 2 * low_rank, tensors=5)
    if algo == "ia3":
        return Module(layer.out + 1, layer.out, tensors=2)
    if algo == "full":
        return Module(layer.out * layer.into + layer.out, layer.out * layer.into + layer.out, tensors=2)
    if algo == "lokr":
        small = factor or max(1, math.isqrt(min(layer.out, layer.into)))
        numbers = small * small + rank * (layer.out + layer.into) // small
        return Module(numbers, numbers, tensors=4)
    if algo in {"diag-oft", "boft"}:
        turns = max(1, int(math.log2(max(2, layer.out // rank)))) + 1 if algo == "boft" else 1
        return Module(turns * layer.out * rank, turns * layer.out * rank, tensors=2)
    return Module(low_rank, low_rank)
