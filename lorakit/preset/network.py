"""The preset's table [network]: the LoRA, or the kin of it that another module of the trainer builds."""

from __future__ import annotations

from typing import Final, Literal

from lorakit.preset.fields import (
    ArgumentName,
    BlockNumbers,
    BlockRates,
    NetworkAlpha,
    NonNegative,
    PathText,
    Positive,
    ScalarArgument,
    Share,
    Word,
    argument,
    field_argument,
    flag,
)
from lorakit.preset.table import Table
from lorakit.preset.units import Alpha

__all__ = ["ARGUMENTS", "Algo", "LycorisPreset", "Network"]

#: LyCORIS's algorithms; "lora" is its LoCon.
Algo = Literal["lora", "loha", "lokr", "ia3", "dylora", "glora", "full", "diag-oft", "boft"]

#: LyCORIS's own names for the layers that it is put on.
LycorisPreset = Literal[
    "full", "full-lin", "attn-mlp", "attn-only", "unet-only", "unet-transformer-only", "unet-convblock-only", "ia3"
]


class Network(Table):
    """The LoRA, and what stands beside it: LoCon, LoRA+, rates and dims per block, and the kinds of other modules (docs/networks.md)."""

    module: Word = flag("--network_module", "networks.lora", "the trainer's module that builds it: decides the kind")
    dim: Positive = flag("--network_dim", 16, "rank")
    alpha: NetworkAlpha = flag(
        "--network_alpha", Alpha(divisor=1.0), 'scale is alpha / dim: a number, "dim" or "dim/2"'
    )
    dropout: Share | None = flag("--network_dropout", None, "dropout on the low-rank activations")
    rank_dropout: Share | None = argument("rank_dropout", "share of ranks dropped at a step")
    module_dropout: Share | None = argument("module_dropout", "share of modules skipped at a step")
    conv_dim: Positive | None = argument("conv_dim", "rank of a LoRA on the 3×3 convolutions too (LoCon)")
    conv_alpha: NonNegative | None = argument("conv_alpha", "alpha of these")
    block_dims: BlockNumbers | None = argument(
        "block_dims", "a rank for each of the UNet's 23 blocks; 0: no LoRA there"
    )
    block_alphas: BlockNumbers | None = argument("block_alphas", "alpha of each block; unset: network.alpha")
    conv_block_dims: BlockNumbers | None = argument("conv_block_dims", "the same ranks for the 3×3 convolutions")
    conv_block_alphas: BlockNumbers | None = argument("conv_block_alphas", "alpha of these; unset: network.conv_alpha")
    down_lr_weight: BlockRates | None = argument(
        "down_lr_weight", "factor on unet_lr for each of the 9 input blocks; 0: no LoRA there"
    )
    mid_lr_weight: BlockRates | None = argument("mid_lr_weight", "the same for the 3 middle blocks")
    up_lr_weight: BlockRates | None = argument("up_lr_weight", "the same for the 9 output blocks")
    block_lr_zero_threshold: NonNegative | None = argument(
        "block_lr_zero_threshold", "a factor of at most this counts as 0"
    )
    loraplus_lr_ratio: NonNegative | None = argument(
        "loraplus_lr_ratio", "LoRA+: the up-projections learn so many times faster; 16 is usual"
    )
    loraplus_unet_lr_ratio: NonNegative | None = argument("loraplus_unet_lr_ratio", "the same for the UNet alone")
    loraplus_te_lr_ratio: NonNegative | None = argument(
        "loraplus_text_encoder_lr_ratio", "the same for the text encoders alone"
    )
    unit: Positive | None = argument("unit", "DyLoRA: ranks are trained in groups of so many; divides dim")
    enable_conv: bool = argument("enable_conv", "OFT: the convolutions too", default=False)
    enable_all_linear: bool = argument(
        "enable_all_linear", "OFT: every layer of the transformers, not attention alone", default=False
    )
    algo: Algo | None = argument("algo", 'LyCORIS: the algorithm; "lora" is its LoCon')
    lycoris_preset: LycorisPreset | None = argument("preset", "LyCORIS: which layers it is put on; unset: full")
    factor: Positive | None = argument("factor", "LyCORIS, lokr: size of the small factor; unset: as square as can be")
    dora_wd: bool = argument("dora_wd", "LyCORIS: learn magnitude and direction apart (DoRA)", default=False)
    use_tucker: bool = argument("use_tucker", "LyCORIS: Tucker decomposition of convolutions", default=False)
    use_scalar: bool = argument("use_scalar", "LyCORIS: a learned factor on each module", default=False)
    rs_lora: bool = argument("rs_lora", "LyCORIS: scale is alpha / √dim", default=False)
    train_norm: bool = argument("train_norm", "LyCORIS: the normalisation layers too", default=False)
    decompose_both: bool = argument("decompose_both", "LyCORIS, lokr: both factors in low rank", default=False)
    full_matrix: bool = argument("full_matrix", "LyCORIS, lokr: no low rank at all", default=False)
    block_size: Positive | None = argument("block_size", "LyCORIS, dylora: ranks are trained in groups of so many")
    constraint: NonNegative | None = argument("constraint", "LyCORIS, diag-oft and boft: how far a block may turn")
    rescaled: bool = argument("rescaled", "LyCORIS, diag-oft and boft: a learned scale too", default=False)
    args: dict[ArgumentName, ScalarArgument] = flag(
        "--network_args", {}, "further arguments of the module, key = value"
    )
    weights: PathText | None = flag("--network_weights", None, "go on from this LoRA (same dim and alpha)")
    dim_from_weights: bool = flag("--dim_from_weights", False, "take dim and alpha from it")
    max_norm: NonNegative | None = flag("--scale_weight_norms", None, "shrink modules whose weight norm passes this")


#: The fields that become arguments of the module, and the names of these: conv_dim → conv_dim.
ARGUMENTS: Final[dict[str, str]] = {
    name: told for name in Network.model_fields if (told := field_argument(Network, name)) is not None
}
