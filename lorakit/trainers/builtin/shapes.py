"""From tensor shapes to model configurations: what makes an SDXL, at any width and depth of the family."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lorakit.errors import ModelFileError
from lorakit.trainers.builtin.names import UnetStructure

__all__ = [
    "SCALING_FACTOR",
    "SDXL",
    "Divisions",
    "require_sdxl",
    "te1_config",
    "te2_config",
    "unet_config",
    "vae_config_diffusers",
    "vae_config_ldm",
]

Shapes = Mapping[str, tuple[int, ...]]

LATENT_CHANNELS = 4
SCALING_FACTOR = 0.13025  # of SDXL's latents
_METADATA_KEY = "lorakit.divisions"


@dataclass(frozen=True)
class Divisions:
    """How layers are divided, which shapes of tensors do not tell: width of an attention head, groups of group norms.

    The defaults are SDXL's. A narrow model needs others (with 32 groups, 16 channels cannot be normed at all), and its
    file says so in its metadata.
    """

    head_dim: int = 64
    unet_groups: int = 32
    vae_groups: int = 32

    def heads(self, width: int) -> int:
        """Attention heads of a layer of the given width: at least one."""
        return max(1, width // self.head_dim)

    def to_metadata(self) -> dict[str, str]:
        """The entry for a file's metadata; none for SDXL's own divisions."""
        return {} if self == SDXL else {_METADATA_KEY: json.dumps(asdict(self))}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], path: Path) -> Divisions:
        """Those that a file speaks of, else SDXL's; raises ModelFileError for an entry that makes no sense."""
        try:
            found = cls(**json.loads(metadata.get(_METADATA_KEY, "{}")))
            bad = [name for name, value in asdict(found).items() if type(value) is not int or value < 1]
            reason = f"{', '.join(bad)} must be positive whole numbers" if bad else ""
        except (ValueError, TypeError) as error:
            reason = str(error)
        if reason:
            raise ModelFileError(
                f"{path}: its metadata entry {_METADATA_KEY} is damaged",
                why=reason,
                todo="write or copy the file again",
            )
        return found


SDXL = Divisions()

#: A key (or its beginning) that gives another architecture away, and that architecture's name.
_STRANGERS = (
    ("lora_unet_", "a LoRA, not a base model"),
    ("lora_te", "a LoRA, not a base model"),
    ("model.diffusion_model.double_blocks.", "a Flux model"),
    ("double_blocks.", "a Flux model"),
    ("model.diffusion_model.joint_blocks.", "a Stable Diffusion 3 model"),
    ("joint_blocks.", "a Stable Diffusion 3 model"),
    ("cond_stage_model.transformer.", "a Stable Diffusion 1.x model"),
    ("cond_stage_model.model.", "a Stable Diffusion 2.x model"),
    ("conditioner.embedders.0.model.", "an SDXL refiner"),
    ("down_blocks.", "a lone UNet in the diffusers layout"),
    ("unet.", "a lone UNet or LoRA in the diffusers layout"),
    ("encoder.", "a lone VAE"),
    ("first_stage_model.", "a lone VAE"),
    ("model.diffusion_model.", "a lone UNet, or another architecture"),
)


def require_sdxl(shapes: Shapes, path: Path) -> None:
    """Raise ModelFileError, naming what the file seems to be, unless it has SDXL's UNet and both text encoders."""
    needed = (
        "model.diffusion_model.label_emb.0.0.weight",
        "conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight",
        "conditioner.embedders.1.model.token_embedding.weight",
    )
    missing = [key for key in needed if key not in shapes]
    if not missing:
        return
    guess = next((name for start, name in _STRANGERS if any(key.startswith(start) for key in shapes)), "something else")
    raise ModelFileError(
        f"{path}: not an SDXL base model; by its keys it is {guess}",
        why=f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not in it",
        todo="choose a full SDXL checkpoint (UNet, both text encoders and VAE in one file) or a diffusers folder",
    )


def unet_config(unet: Shapes, te2: Shapes, path: Path, divisions: Divisions = SDXL) -> dict[str, Any]:
    """``UNet2DConditionModel`` arguments from the UNet's LDM shapes; TE2's give the width of the pooled text."""
    structure = UnetStructure.from_ldm(unet)
    levels = range(len(structure.attention))
    try:
        attentions = {
            level: next(
                block.ldm
                for block in structure.blocks()
                if block.kind == "attention" and block.diffusers.startswith(f"down_blocks.{level}.")
            )
            for level in levels
            if structure.attention[level]
        }
        resnets = [block for block in structure.blocks() if block.kind == "resnet"]
        channels = [unet[_first(resnets, f"down_blocks.{level}.") + ".out_layers.3.weight"][0] for level in levels]
        depth = [
            _count(unet, attentions[level] + ".transformer_blocks") if level in attentions else 1 for level in levels
        ]
        attention = next(iter(attentions.values()))
        context = unet[f"{attention}.transformer_blocks.0.attn2.to_k.weight"][1]
        vector = unet["label_emb.0.0.weight"][1]
        pooled = te2["text_projection"][1]
        conv_in, conv_out = unet["input_blocks.0.0.weight"], unet["out.2.weight"]
        linear = len(unet[f"{attention}.proj_in.weight"]) == 2
    except (KeyError, IndexError, StopIteration) as error:
        raise _unknown(path, "UNet", error) from error
    if conv_in[1] != LATENT_CHANNELS:
        raise _unknown(path, "UNet", f"{conv_in[1]} input channels, so it is made for inpainting or editing")
    if (vector - pooled) % 6 or vector <= pooled:
        raise _unknown(path, "UNet", f"a size condition of width {vector} after a pooled text of width {pooled}")
    down = ["CrossAttnDownBlock2D" if structure.attention[level] else "DownBlock2D" for level in levels]
    up = ["CrossAttnUpBlock2D" if structure.attention[level] else "UpBlock2D" for level in reversed(levels)]
    return {
        "sample_size": 128,
        "in_channels": conv_in[1],
        "out_channels": conv_out[0],
        "block_out_channels": tuple(channels),
        "layers_per_block": structure.layers_per_block,
        "down_block_types": tuple(down),
        "up_block_types": tuple(up),
        "transformer_layers_per_block": tuple(depth),
        # diffusers calls the number of heads "attention_head_dim" here
        "attention_head_dim": tuple(divisions.heads(width) for width in channels),
        "norm_num_groups": divisions.unet_groups,
        "cross_attention_dim": context,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": (vector - pooled) // 6,
        "projection_class_embeddings_input_dim": vector,
        "use_linear_projection": linear,
    }


def te1_config(shapes: Shapes, path: Path, divisions: Divisions = SDXL) -> dict[str, Any]:
    """``CLIPTextConfig`` arguments of TE1 from its shapes (transformers' names)."""
    try:
        width = shapes["text_model.embeddings.token_embedding.weight"]
        return _clip_config(
            width,
            positions=shapes["text_model.embeddings.position_embedding.weight"][0],
            intermediate=shapes["text_model.encoder.layers.0.mlp.fc1.weight"][0],
            layers=_count(shapes, "text_model.encoder.layers"),
            projection=width[1],
            activation="quick_gelu",
            divisions=divisions,
        )
    except KeyError as error:
        raise _unknown(path, "first text encoder", error) from error


def te2_config(shapes: Shapes, path: Path, divisions: Divisions = SDXL) -> dict[str, Any]:
    """``CLIPTextConfig`` arguments of TE2 from its shapes (OpenCLIP's names)."""
    try:
        return _clip_config(
            shapes["token_embedding.weight"],
            positions=shapes["positional_embedding"][0],
            intermediate=shapes["transformer.resblocks.0.mlp.c_fc.weight"][0],
            layers=_count(shapes, "transformer.resblocks"),
            projection=shapes["text_projection"][1],
            activation="gelu",
            divisions=divisions,
        )
    except KeyError as error:
        raise _unknown(path, "second text encoder", error) from error


def vae_config_ldm(shapes: Shapes, path: Path, divisions: Divisions = SDXL) -> dict[str, Any]:
    """``AutoencoderKL`` arguments from the shapes of a VAE in the LDM layout."""
    try:
        levels = range(_count(shapes, "encoder.down"))
        channels = [shapes[f"encoder.down.{level}.block.0.conv1.weight"][0] for level in levels]
        layers = _count(shapes, "encoder.down.0.block")
        return _vae_config(channels, layers, shapes, divisions.vae_groups)
    except KeyError as error:
        raise _unknown(path, "VAE", error) from error


def vae_config_diffusers(shapes: Shapes, path: Path, divisions: Divisions = SDXL) -> dict[str, Any]:
    """``AutoencoderKL`` arguments from the shapes of a VAE in the diffusers layout."""
    try:
        levels = range(_count(shapes, "encoder.down_blocks"))
        channels = [shapes[f"encoder.down_blocks.{level}.resnets.0.conv1.weight"][0] for level in levels]
        layers = _count(shapes, "encoder.down_blocks.0.resnets")
        return _vae_config(channels, layers, shapes, divisions.vae_groups)
    except KeyError as error:
        raise _unknown(path, "VAE", error) from error


def _clip_config(
    embedding: tuple[int, ...],
    *,
    positions: int,
    intermediate: int,
    layers: int,
    projection: int,
    activation: str,
    divisions: Divisions,
) -> dict[str, Any]:
    vocabulary, width = embedding
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": divisions.heads(width),
        "max_position_embeddings": positions,
        "hidden_act": activation,
        "projection_dim": projection,
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "pad_token_id": 1,
    }


def _vae_config(channels: list[int], layers: int, shapes: Shapes, groups: int) -> dict[str, Any]:
    return {
        "block_out_channels": tuple(channels),
        "layers_per_block": layers,
        "down_block_types": ("DownEncoderBlock2D",) * len(channels),
        "up_block_types": ("UpDecoderBlock2D",) * len(channels),
        "latent_channels": shapes["post_quant_conv.weight"][0],
        "sample_size": 1024,
        "norm_num_groups": groups,
        "scaling_factor": SCALING_FACTOR,
    }


def _first(blocks: list[Any], start: str) -> str:
    return next(str(block.ldm) for block in blocks if block.diffusers.startswith(start))


def _count(shapes: Shapes, prefix: str) -> int:
    pattern = re.compile(re.escape(prefix) + r"\.(\d+)\.")
    found = {int(match[1]) for key in shapes if (match := pattern.match(key))}
    if not found:
        raise KeyError(f"{prefix}.0")
    return max(found) + 1


def _unknown(path: Path, part: str, reason: object) -> ModelFileError:
    detail = f"{reason.args[0] if isinstance(reason, KeyError) and reason.args else reason}"
    return ModelFileError(
        f"{path}: the {part} is not of the SDXL family",
        why=f"its tensors do not add up: {detail}",
        todo="choose an SDXL checkpoint",
    )
