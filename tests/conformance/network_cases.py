"""Presets of every kind of network that the trainer builds, to be trained by the real sd-scripts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from lorakit.preset.kinds import LYCORIS
from lorakit.preset.models import Preset

__all__ = ["BASE", "CASES", "DATA_FOLDER", "Case"]

#: The checkpoint's and the dataset's name in the workspace.
BASE: Final = "slim.safetensors"
DATA_FOLDER: Final = "data"


@dataclass(frozen=True)
class Case:
    """A network, and the rates it is trained at. ``refused``: the code of the rule that keeps a user out of it."""

    name: str
    network: Mapping[str, Any]
    te: bool = True
    unet: bool = True
    refused: str = ""

    def preset(self) -> Preset:
        """Two steps of it."""
        return Preset.model_validate(self._asked())

    def _asked(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "seed": 7,
            "base": {"model": BASE},
            "dataset": {"path": DATA_FOLDER, "resolution": 128, "bucket_min": 64, "workers": 0},
            "network": {"dim": 4, "alpha": 2, **self.network},
            "optim": {
                "type": "AdamW",
                "unet_lr": 1e-4 if self.unet else 0,
                "te_lr": 5e-5 if self.te else 0,
                "schedule": "constant",
            },
            "length": {"steps": 2, "batch_size": 1},
            "precision": {"mixed": "no", "save": "float"},
            "memory": {"cache_latents": False},
            "log": {"tensorboard": False},
            "trainer": {"kind": "sd-scripts", "probe": False},
            "launch": {"cpu": True, "threads": 1},
        }

    def digest(self) -> str:
        """Changes when what is asked does."""
        return hashlib.sha256(json.dumps(self._asked(), sort_keys=True).encode()).hexdigest()[:16]


def _lora(name: str, **values: Any) -> Case:
    return Case(name, values)


def _unet(name: str, module: str, *, refused: str = "", **values: Any) -> Case:
    return Case(name, {"module": module, **values}, te=False, refused=refused)


def _lycoris(name: str, **values: Any) -> Case:
    return Case(f"lycoris-{name}", {"module": LYCORIS, **values})


_FA, _DYLORA, _OFT = "networks.lora_fa", "networks.dylora", "networks.oft"
_CONV = {"conv_dim": 2, "conv_alpha": 1}
_DIMS = [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 5, 5, 4, 4, 0, 3, 2, 2, 1, 0]
_ONES = [1] * 23
_DOWN, _UP = [0, 0, 0, 0, 0.5, 0.5, 1, 1, 1], [1, 1, 1, 0.25, 0.25, 0, 0, 0, 0]

CASES: Final = {
    case.name: case
    for case in (
        _lora("lora"),
        Case("lora-unet", {}, te=False),
        Case("lora-te", {}, unet=False),
        _lora("locon", **_CONV),
        _lora("lora-plus", loraplus_lr_ratio=16, loraplus_unet_lr_ratio=4),
        _lora("locon-plus-te", **_CONV, loraplus_te_lr_ratio=8),
        _lora("dropouts", dropout=0.1, rank_dropout=0.2, module_dropout=0.3),
        _lora("block-dims", block_dims=_DIMS),
        _lora("block-dims-conv", block_dims=_DIMS, block_alphas=_ONES, **_CONV),
        _lora("conv-block-dims", block_dims=_DIMS, conv_block_dims=_DIMS[::-1], conv_block_alphas=_ONES),
        _lora("block-rates", down_lr_weight=_DOWN, mid_lr_weight=[1, 0.5, 1], up_lr_weight=_UP),
        _lora("block-curves", down_lr_weight="cosine+0.5", up_lr_weight="sine", loraplus_unet_lr_ratio=4),
        _lora("block-lines", down_lr_weight="linear+0.25", up_lr_weight="reverse_linear", **_CONV),
        _lora("block-zeros", down_lr_weight="zeros", up_lr_weight="cosine", block_lr_zero_threshold=0.2),
        _lora("block-rates-alphas", down_lr_weight=[1] * 9, block_alphas=_ONES, conv_block_dims=_ONES),
        Case("lora-fa", {"module": _FA}),
        Case("lora-fa-conv", {"module": _FA, **_CONV, "dropout": 0.1, "rank_dropout": 0.1, "module_dropout": 0.1}),
        _unet("dylora", _DYLORA, unit=2),
        _unet("dylora-conv", _DYLORA, conv_dim=4, conv_alpha=1, unit=2, loraplus_lr_ratio=4),
        _unet("oft", _OFT),
        _unet("oft-conv", _OFT, enable_conv=True),
        _unet("oft-linear", _OFT, enable_all_linear=True),
        _unet("oft-all", _OFT, enable_all_linear=True, enable_conv=True),
        _lycoris("locon"),
        _lycoris("locon-conv", algo="lora", **_CONV),
        _lycoris("attn-mlp", algo="lora", lycoris_preset="attn-mlp", loraplus_lr_ratio=4),
        _lycoris("attn-only", algo="lora", lycoris_preset="attn-only"),
        _lycoris("loha", algo="loha", **_CONV),
        _lycoris("loha-tucker", algo="loha", **_CONV, use_tucker=True),
        _lycoris("lokr", algo="lokr", **_CONV, factor=8),
        _lycoris("ia3", algo="ia3"),
        _lycoris("dora", algo="lora", **_CONV, dora_wd=True),
        _lycoris("dylora", algo="dylora", block_size=2),
        _lycoris("glora", algo="glora"),
        _lycoris("full", algo="full"),
        _lycoris("diag-oft", algo="diag-oft"),
        _lycoris("boft", algo="boft"),
        _lycoris("norm", algo="lora", lycoris_preset="attn-mlp", train_norm=True, use_scalar=True, rs_lora=True),
        # What a rule keeps a user out of, and what comes of it.
        Case("lora-fa-plus", {"module": _FA, "loraplus_lr_ratio": 16}, te=False, refused="LK171"),
        Case("lora-fa-blocks", {"module": _FA, "block_dims": _DIMS}, te=False, refused="LK171"),
        Case("dylora-te", {"module": _DYLORA}, refused="LK173"),
        _unet("dylora-unit", _DYLORA, unit=3, refused="LK172"),
        _unet("dylora-conv-dim", _DYLORA, conv_dim=2, conv_alpha=1, refused="LK177"),
        Case("oft-te", {"module": _OFT}, refused="LK173"),
        _unet("oft-dim", _OFT, dim=3, refused="LK174"),
        Case("lycoris-max-norm", {"module": LYCORIS, "max_norm": 1e-9}),
    )
}
