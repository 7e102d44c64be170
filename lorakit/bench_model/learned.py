"""The trained bench model as a small file that ships, and as the ordinary checkpoint that is made from it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from lorakit import atomic
from lorakit._version import __version__
from lorakit.bench_model.learner import embedding_table
from lorakit.bench_model.shape import LEARNED, vae_name
from lorakit.errors import DiskError
from lorakit.trainers.builtin.checkpoint import PREFIXES
from lorakit.trainers.builtin.names import UnetStructure

__all__ = ["checkpoint_tensors", "make_projection_symmetric", "pack", "shipped_file", "unpack", "write_learned"]

_TABLES = {
    "te1": PREFIXES["te1"] + "text_model.embeddings.token_embedding.weight",
    "te2": PREFIXES["te2"] + "token_embedding.weight",
}


def shipped_file() -> Path:
    """The trained weights that come with the package."""
    return Path(str(resources.files("lorakit.bench_model") / "bench-sdxl.safetensors"))


def write_learned(path: Path, *, dtype: torch.dtype = torch.float16, source: Path | None = None) -> int:
    """Write the trained model as a single-file SDXL checkpoint, whole or not at all; returns the file's size.

    Raises:
        DiskError: the file cannot be written.
    """
    tensors = unpack(safetensors.torch.load_file(source or shipped_file()))
    metadata = {
        "format": "pt",
        "modelspec.title": "lorakit bench model, learned on coloured shapes",
        "modelspec.architecture": "stable-diffusion-xl-v1-base",
        "modelspec.implementation_version": f"lorakit/{__version__}",
        **LEARNED.divisions.to_metadata(),
    }
    content = safetensors.torch.save({name: tensor.to(dtype) for name, tensor in tensors.items()}, metadata)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_bytes(path, content)
    except OSError as error:
        raise DiskError(
            f"{path}: cannot be written", why=str(error), todo="make room or choose another place"
        ) from error
    return len(content)


def checkpoint_tensors(unet: Any, te1: Any, te2: Any, vae: Any) -> dict[str, Tensor]:
    """The tensors of a model under the public single-file names, float32, without the two embedding tables."""
    structure = UnetStructure.from_diffusers(unet.state_dict())
    levels = len(vae.config.block_out_channels)
    tensors = {PREFIXES["unet"] + structure.to_ldm(name): value for name, value in unet.state_dict().items()}
    for name, value in te1.state_dict().items():
        tensors[PREFIXES["te1"] + "text_model." + name.removeprefix("text_model.")] = value
    tensors |= {PREFIXES["te2"] + name: value for name, value in _open_clip(te2.state_dict())}
    for name, value in vae.state_dict().items():
        ldm = vae_name(name, levels)
        # the original attention is made of 1x1 convolutions
        as_convolution = ".attn_1." in ldm and value.ndim == 2
        tensors[PREFIXES["vae"] + ldm] = value[:, :, None, None] if as_convolution else value
    # order of memory is diffusers' business; the file has the plain one
    return {
        name: value.detach().float().contiguous()
        for name, value in tensors.items()
        if name not in _TABLES.values() and not name.endswith("position_ids")
    }


@torch.no_grad()
def make_projection_symmetric(unet: Any, te2: Any) -> None:
    """Move the turning part of TE2's text projection into the UNet; what the model computes stays the same.

    Some trainers read the projection in a single file transposed. A symmetric one means the same to all of them. With
    the polar decomposition W = QP, W becomes P, and Q goes into the layer of the UNet that takes the pooled text.
    """
    weight = te2.text_projection.weight
    left, values, right = torch.linalg.svd(weight.double())
    symmetric = right.T @ torch.diag(values) @ right
    first = unet.add_embedding.linear_1.weight
    width = len(weight)
    first[:, :width] = (first[:, :width].double() @ (left @ right)).float()
    weight.copy_((symmetric + symmetric.T) / 2)


def _open_clip(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """From transformers' names to OpenCLIP's: q, k and v in one matrix, the projection transposed."""
    own = {name.removeprefix("text_model."): value for name, value in state.items()}
    yield "logit_scale", torch.tensor(math.log(100.0))
    yield "text_projection", own["text_projection.weight"].T
    yield "positional_embedding", own["embeddings.position_embedding.weight"]
    for kind in ("weight", "bias"):
        yield f"ln_final.{kind}", own[f"final_layer_norm.{kind}"]
        layer = 0
        while (start := f"encoder.layers.{layer}") + ".mlp.fc1.weight" in own:
            block = f"transformer.resblocks.{layer}"
            yield f"{block}.attn.in_proj_{kind}", torch.cat([own[f"{start}.self_attn.{q}_proj.{kind}"] for q in "qkv"])
            for theirs, ours in _OPEN_CLIP:
                yield f"{block}.{theirs}.{kind}", own[f"{start}.{ours}.{kind}"]
            layer += 1


_OPEN_CLIP = (
    ("attn.out_proj", "self_attn.out_proj"),
    ("ln_1", "layer_norm1"),
    ("ln_2", "layer_norm2"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
)


def pack(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> bytes:
    """The small file: the tensors in fp16, with ``facts`` about their making in its metadata."""
    return safetensors.torch.save(
        {name: value.half() for name, value in tensors.items()}, {"lorakit": json.dumps(dict(facts), sort_keys=True)}
    )


def unpack(packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of :func:`pack` in float32, with the embedding tables that are made from a seed."""
    tensors = {name: value.float() for name, value in packed.items()}
    for part, name in _TABLES.items():
        tensors[name] = embedding_table(part, tensors[_POSITIONS[part]].shape[1])
    return tensors


_POSITIONS = {
    "te1": PREFIXES["te1"] + "text_model.embeddings.position_embedding.weight",
    "te2": PREFIXES["te2"] + "positional_embedding",
}
