"""Sizes of the bench models, and the names and shapes of every tensor in their checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from lorakit.trainers.builtin.checkpoint import PREFIXES
from lorakit.trainers.builtin.names import UnetStructure
from lorakit.trainers.builtin.shapes import SCALING_FACTOR, SDXL, Divisions

__all__ = ["LEARNED", "SIZES", "VOCABULARY", "ModelShape", "tensor_shapes", "vae_name"]

VOCABULARY = 49408
POSITIONS = 77
_TIME_WIDTH = 256  # width of each of the six embedded size numbers


@dataclass(frozen=True)
class ModelShape:
    """Widths and depths of one bench model; ``depth`` is transformer blocks per attention, 0 for a level without."""

    name: str
    channels: tuple[int, int, int]
    depth: tuple[int, int, int]
    te1: tuple[int, int]  # width, layers
    te2: tuple[int, int]
    vae_channels: tuple[int, ...]
    vae_layers: int
    divisions: Divisions = SDXL

    def unet_config(self) -> dict[str, object]:
        """Arguments of diffusers' ``UNet2DConditionModel``."""
        levels = ["CrossAttn" if depth else "" for depth in self.depth]
        return {
            "block_out_channels": self.channels,
            "down_block_types": tuple(f"{kind}DownBlock2D" for kind in levels),
            "up_block_types": tuple(f"{kind}UpBlock2D" for kind in reversed(levels)),
            "transformer_layers_per_block": tuple(max(1, depth) for depth in self.depth),
            "attention_head_dim": tuple(self.divisions.heads(width) for width in self.channels),
            "norm_num_groups": self.divisions.unet_groups,
            "cross_attention_dim": self.te1[0] + self.te2[0],
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": _TIME_WIDTH,
            "projection_class_embeddings_input_dim": self.te2[0] + 6 * _TIME_WIDTH,
            "use_linear_projection": True,
        }

    def vae_config(self) -> dict[str, object]:
        """Arguments of diffusers' ``AutoencoderKL``."""
        return {
            "block_out_channels": self.vae_channels,
            "layers_per_block": self.vae_layers,
            "down_block_types": ("DownEncoderBlock2D",) * len(self.vae_channels),
            "up_block_types": ("UpDecoderBlock2D",) * len(self.vae_channels),
            "latent_channels": 4,
            "norm_num_groups": self.divisions.vae_groups,
            "scaling_factor": SCALING_FACTOR,
        }


SIZES = {
    shape.name: shape
    for shape in (
        ModelShape("tiny", (32, 64, 128), (0, 1, 1), (64, 2), (64, 2), (32, 32, 64, 64), 1),
        ModelShape("slim", (32, 64, 128), (0, 2, 10), (64, 12), (64, 32), (32, 64, 128, 128), 2),
        ModelShape("full", (320, 640, 1280), (0, 2, 10), (768, 12), (1280, 32), (128, 256, 512, 512), 2),
    )
}

#: The trained model. It is not among the sizes, whose weights are random.
LEARNED = ModelShape(
    "learned",
    (24, 48, 96),
    (0, 1, 1),
    (80, 3),
    (80, 3),
    (16, 32, 64, 64),
    1,
    Divisions(head_dim=16, unet_groups=6, vae_groups=4),
)


def tensor_shapes(shape: ModelShape) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the single-file checkpoint, in the original names with their prefixes."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**shape.unet_config())
        te1 = CLIPTextModel(_clip_config(*shape.te1))
        vae = AutoencoderKL(**shape.vae_config())
    parts = {
        "unet": _unet_tensors(unet),
        "te1": _te1_tensors(te1),
        "te2": _te2_tensors(*shape.te2),
        "vae": _vae_tensors(vae, levels=len(shape.vae_channels)),
    }
    return {PREFIXES[part] + name: tensor for part, tensors in parts.items() for name, tensor in tensors}


def _unet_tensors(unet: nn.Module) -> Iterator[tuple[str, tuple[int, ...]]]:
    structure = UnetStructure.from_diffusers(unet.state_dict())
    for name, tensor in unet.state_dict().items():
        yield structure.to_ldm(name), tuple(tensor.shape)


def _clip_config(width: int, layers: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=SDXL.heads(width),
        projection_dim=width,
    )


def _te1_tensors(te1: nn.Module) -> Iterator[tuple[str, tuple[int, ...]]]:
    for name, tensor in te1.state_dict().items():
        yield "text_model." + name.removeprefix("text_model."), tuple(tensor.shape)


def _te2_tensors(width: int, layers: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """OpenCLIP's layout: q, k and v in one matrix, the projection as a bare (in, out) matrix."""
    yield "logit_scale", ()
    yield "positional_embedding", (POSITIONS, width)
    yield "text_projection", (width, width)
    yield "token_embedding.weight", (VOCABULARY, width)
    yield from _pair("ln_final", width)
    for layer in range(layers):
        block = f"transformer.resblocks.{layer}"
        yield f"{block}.attn.in_proj_weight", (3 * width, width)
        yield f"{block}.attn.in_proj_bias", (3 * width,)
        yield from _pair(f"{block}.attn.out_proj", width, width)
        yield from _pair(f"{block}.ln_1", width)
        yield from _pair(f"{block}.ln_2", width)
        yield from _pair(f"{block}.mlp.c_fc", 4 * width, width)
        yield from _pair(f"{block}.mlp.c_proj", width, 4 * width)


def _pair(name: str, *shape: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def _vae_tensors(vae: nn.Module, *, levels: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for name, tensor in vae.state_dict().items():
        ldm = vae_name(name, levels)
        sides = tuple(tensor.shape)
        # the original attention is made of 1x1 convolutions
        yield ldm, (*sides, 1, 1) if ".attn_1." in ldm and len(sides) == 2 else sides


def vae_name(name: str, levels: int) -> str:
    """The original name of a VAE's parameter, given by its diffusers name."""
    words = name.split(".")
    if words[1] in ("down_blocks", "up_blocks"):
        side = words[1].removesuffix("_blocks")
        level = int(words[2]) if side == "down" else levels - 1 - int(words[2])
        kind = {"resnets": "block", "downsamplers": "downsample", "upsamplers": "upsample"}[words[3]]
        place = [side, str(level), kind, *([words[4]] if kind == "block" else []), *words[5:]]
        return ".".join([words[0], *place]).replace("conv_shortcut", "nin_shortcut")
    if words[1] == "mid_block" and words[2] == "resnets":
        return ".".join([words[0], "mid", f"block_{int(words[3]) + 1}", *words[4:]])
    if words[1] == "mid_block":
        inner = ".".join(words[4:])
        for ours, theirs in _VAE_ATTENTION:
            inner = inner.replace(ours, theirs)
        return f"{words[0]}.mid.attn_1.{inner}"
    return name.replace("conv_norm_out", "norm_out")


_VAE_ATTENTION = (("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out"))
