"""Runs sd-scripts' ``sdxl_train_network.py`` on a checkpoint that is narrower than SDXL: in its environment, stdlib and torch.

    fit_widths.py ARGUMENTS…

LORAKIT_SD_SCRIPTS names the checkout. The trainer has SDXL's widths as constants; here they are set, before it builds a model, to
those of the checkpoint that the arguments name. Changes no file of the trainer.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import runpy
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["fit", "shapes"]

_TE1 = "conditioner.embedders.0.transformer.text_model"
_TE2 = "conditioner.embedders.1.model"
#: What the trainer asks the two text encoders' configuration by.
_TE1_WIDTH, _TE2_WIDTH = 768, 1280
#: Channels of an attention head in every SDXL text encoder.
_HEAD = 64

Shapes = Mapping[str, list[int]]


def main() -> None:
    """Set the widths, if the checkpoint is there, then be the script; what is missing or torn is the script's to say."""
    checkout = os.environ["LORAKIT_SD_SCRIPTS"]
    sys.path.insert(0, checkout)
    known = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    known.add_argument("--pretrained_model_name_or_path", default="")
    path = known.parse_known_args()[0].pretrained_model_name_or_path
    if os.path.isfile(path):
        fit(shapes(path))
    os.chdir(checkout)
    sys.argv[0] = os.path.join(checkout, "sdxl_train_network.py")
    runpy.run_path(sys.argv[0], run_name="__main__")


def shapes(path: Path | str) -> Shapes:
    """The shape of every tensor in a safetensors file."""
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return {name: tensor["shape"] for name, tensor in header.items() if name != "__metadata__"}


def fit(found: Shapes) -> None:
    """Give the trainer's modules the widths and depths of a checkpoint."""
    unet: Any = importlib.import_module("library.sdxl_original_unet")
    models: Any = importlib.import_module("library.sdxl_model_util")
    vae: Any = importlib.import_module("library.model_util")
    te1 = _text_encoder(found, f"{_TE1}.embeddings.token_embedding", f"{_TE1}.encoder.layers", "mlp.fc1")
    te2 = _text_encoder(found, f"{_TE2}.token_embedding", f"{_TE2}.transformer.resblocks", "mlp.c_fc")
    context = te1["hidden_size"] + te2["hidden_size"]
    width = found["model.diffusion_model.input_blocks.0.0.weight"][0]
    unet.MODEL_CHANNELS, unet.TIME_EMBED_DIM, unet.CONTEXT_DIM = width, 4 * width, context
    unet.ADM_IN_CHANNELS = found["model.diffusion_model.label_emb.0.0.weight"][1]
    vae.VAE_PARAMS_CH = found["first_stage_model.encoder.conv_in.weight"][0]
    build, config = unet.Transformer2DModel.__init__, models.CLIPTextConfig

    def narrow_transformer(self: Any, *args: Any, **keywords: Any) -> None:
        build(self, *args, **{**keywords, "cross_attention_dim": context})

    def narrow_config(*args: Any, **keywords: Any) -> Any:
        fitted = {_TE1_WIDTH: te1, _TE2_WIDTH: te2}.get(keywords.get("hidden_size", 0), {})
        return config(*args, **{**keywords, **fitted})

    unet.Transformer2DModel.__init__ = narrow_transformer
    models.CLIPTextConfig = narrow_config


def _text_encoder(found: Shapes, embedding: str, layers: str, inner: str) -> dict[str, int]:
    """The arguments of a text encoder's configuration that tell its size."""
    width = found[f"{embedding}.weight"][1]
    numbered = re.compile(re.escape(layers) + r"\.(\d+)\.")
    return {
        "hidden_size": width,
        "projection_dim": width,
        "intermediate_size": found[f"{layers}.0.{inner}.weight"][0],
        "num_hidden_layers": 1 + max(int(match[1]) for name in found if (match := numbered.match(name))),
        "num_attention_heads": max(1, width // _HEAD),
    }


if __name__ == "__main__":
    main()
