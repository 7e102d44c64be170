"""The kinds of network that the trainer's modules build, and which keys of [network] each of them reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from lorakit.preset.network import ARGUMENTS

if TYPE_CHECKING:
    from lorakit.preset.network import Network

__all__ = ["KINDS", "LORA_PLUS", "LYCORIS", "PER_BLOCK", "Kind", "given", "kind_of", "title"]

LYCORIS: Final = "lycoris.kohya"

LORA_PLUS: Final = ("loraplus_lr_ratio", "loraplus_unet_lr_ratio", "loraplus_te_lr_ratio")
PER_BLOCK: Final = ("block_dims", "block_alphas", "conv_block_dims", "conv_block_alphas")
_RATES: Final = ("down_lr_weight", "mid_lr_weight", "up_lr_weight", "block_lr_zero_threshold")
_CONV: Final = ("conv_dim", "conv_alpha")
_DROPOUTS: Final = ("dropout", "rank_dropout", "module_dropout")


@dataclass(frozen=True)
class Kind:
    """What one module of the trainer builds: ``reads`` are the keys beside module, dim, alpha, args and weights.

    ``package`` must be in the trainer's environment, where it is no part of sd-scripts.
    """

    module: str
    title: str
    reads: frozenset[str]
    trains_te: bool = True
    package: str = ""


KINDS: Final = {
    kind.module: kind
    for kind in (
        Kind(
            "networks.lora",
            "LoRA",
            frozenset((*_DROPOUTS, *_CONV, *PER_BLOCK, *_RATES, *LORA_PLUS, "max_norm", "dim_from_weights")),
        ),
        Kind("networks.lora_fa", "LoRA-FA", frozenset((*_DROPOUTS, *_CONV, "max_norm"))),
        # DyLoRA's modules of the two text encoders share their names on SDXL, so that those of TE1 are lost.
        Kind("networks.dylora", "DyLoRA", frozenset((*_CONV, *LORA_PLUS, "unit")), trains_te=False),
        Kind("networks.oft", "OFT", frozenset(("enable_conv", "enable_all_linear")), trains_te=False),
        Kind(
            LYCORIS,
            "LyCORIS",
            frozenset(
                (
                    *_DROPOUTS, *_CONV, *LORA_PLUS, "algo", "lycoris_preset", "factor", "dora_wd", "use_tucker", "use_scalar", "rs_lora",
                    "train_norm", "decompose_both", "full_matrix", "block_size", "constraint", "rescaled", "max_norm",
                )
            ),
            package="lycoris-lora",
        ),
    )
}  # fmt: skip

#: Keys that only some kinds read.
_PARTICULAR: Final = (*ARGUMENTS, "dropout", "max_norm", "dim_from_weights")

_ALGOS: Final = {
    "lora": "LoCon", "loha": "LoHa", "lokr": "LoKr", "ia3": "(IA)³", "dylora": "DyLoRA", "glora": "GLoRA",
    "full": "full weights", "diag-oft": "Diag-OFT", "boft": "BOFT",
}  # fmt: skip


def kind_of(network: Network) -> Kind | None:
    """The kind, None for a module that lorakit does not know."""
    return KINDS.get(network.module)


def given(network: Network) -> tuple[str, ...]:
    """The keys that only some kinds read and that the preset sets."""
    values = ((name, getattr(network, name)) for name in _PARTICULAR)
    return tuple(name for name, value in values if value is not None and value is not False)


def title(network: Network) -> str:
    """What it is called, such as LoRA, LoCon or "LyCORIS LoHa"."""
    kind = kind_of(network)
    if kind is None:
        return network.module
    if kind.module == LYCORIS:
        name = f"LyCORIS {_ALGOS[network.algo or 'lora']}"
        return f"{name} (DoRA)" if network.dora_wd else name
    name = kind.title
    if kind.module == "networks.lora" and (network.conv_dim is not None or network.conv_block_dims is not None):
        name = "LoCon"
    return f"{name}+" if any(getattr(network, key) for key in LORA_PLUS) else name
