"""Names of the UNet's modules: diffusers paths, the original (LDM / SAI) paths, and the key names of LoRA files."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

__all__ = ["Block", "UnetStructure", "lora_name"]

_RESNET = (
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("conv_shortcut", "skip_connection"),
)
_EMBEDDINGS = (
    ("time_embedding.linear_1", "time_embed.0"),
    ("time_embedding.linear_2", "time_embed.2"),
    ("add_embedding.linear_1", "label_emb.0.0"),
    ("add_embedding.linear_2", "label_emb.0.2"),
    ("conv_in", "input_blocks.0.0"),
)
_HEAD = (("conv_norm_out", "out.0"), ("conv_out", "out.2"))


@dataclass(frozen=True)
class Block:
    """One resnet, attention or resampling block of the UNet: its kind and its path in both naming schemes.

    ``inner`` pairs a path below ``diffusers`` with the one below ``ldm``; empty when the two schemes agree there.
    """

    kind: str
    diffusers: str
    ldm: str
    inner: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class UnetStructure:
    """What the names depend on: resnets per level, and which levels have attention (one bool per resolution)."""

    layers_per_block: int
    attention: tuple[bool, ...]

    @classmethod
    def from_diffusers(cls, names: Iterable[str]) -> UnetStructure:
        """Read the structure off module or parameter names of a diffusers ``UNet2DConditionModel``."""
        resnets: set[tuple[int, int]] = set()
        attention: set[int] = set()
        for name in names:
            if found := re.match(r"down_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.", name):
                level, layer = int(found[1]), int(found[3])
                if found[2] == "resnets":
                    resnets.add((level, layer))
                else:
                    attention.add(level)
        levels = 1 + max((level for level, _ in resnets), default=-1)
        layers = 1 + max((layer for _, layer in resnets), default=-1)
        return cls(layers, tuple(level in attention for level in range(levels)))

    @classmethod
    def from_ldm(cls, names: Iterable[str]) -> UnetStructure:
        """Read the structure off parameter names without the prefix ``model.diffusion_model.``."""
        has_attention: dict[int, bool] = {}
        downsamplers: set[int] = set()
        for name in names:
            if found := re.match(r"input_blocks\.(\d+)\.(\d+)\.(op\.)?", name):
                index = int(found[1])
                if found[3]:
                    downsamplers.add(index)
                has_attention[index] = has_attention.get(index, False) or found[2] == "1"
        attention: list[bool] = []
        layers = 0
        start = 1
        for end in [*sorted(downsamplers), max(has_attention, default=0) + 1]:
            level = [has_attention.get(index, False) for index in range(start, end)]
            layers = max(layers, len(level))
            attention.append(any(level))
            start = end + 1
        return cls(layers, tuple(attention))

    def blocks(self) -> Iterator[Block]:
        """All blocks in the order in which the original model defines them."""
        levels = len(self.attention)
        index = 1
        for level, attention in enumerate(self.attention):
            for layer in range(self.layers_per_block):
                path = f"input_blocks.{index}"
                yield Block("resnet", f"down_blocks.{level}.resnets.{layer}", f"{path}.0", _RESNET)
                if attention:
                    yield Block("attention", f"down_blocks.{level}.attentions.{layer}", f"{path}.1")
                index += 1
            if level < levels - 1:
                path = f"input_blocks.{index}.0"
                yield Block("downsample", f"down_blocks.{level}.downsamplers.0", path, (("conv", "op"),))
                index += 1
        yield Block("resnet", "mid_block.resnets.0", "middle_block.0", _RESNET)
        yield Block("attention", "mid_block.attentions.0", "middle_block.1")
        yield Block("resnet", "mid_block.resnets.1", "middle_block.2", _RESNET)
        index = 0
        for level, attention in enumerate(reversed(self.attention)):
            for layer in range(self.layers_per_block + 1):
                path = f"output_blocks.{index}"
                yield Block("resnet", f"up_blocks.{level}.resnets.{layer}", f"{path}.0", _RESNET)
                if attention:
                    yield Block("attention", f"up_blocks.{level}.attentions.{layer}", f"{path}.1")
                if level < levels - 1 and layer == self.layers_per_block:
                    place = 2 if attention else 1
                    yield Block("upsample", f"up_blocks.{level}.upsamplers.0", f"{path}.{place}", (("conv", "conv"),))
                index += 1

    def to_ldm(self, path: str) -> str:
        """The original path of a module or parameter given by its diffusers path. Raises KeyError for a stranger."""
        return _translate(path, self._ldm_of)

    def to_diffusers(self, path: str) -> str:
        """The diffusers path of a module or parameter given by its original path. Raises KeyError for a stranger."""
        return _translate(path, self._diffusers_of)

    @functools.cached_property
    def _ldm_of(self) -> dict[str, str]:
        pairs = [*_EMBEDDINGS, *_HEAD]
        for block in self.blocks():
            if block.inner:
                pairs += [(f"{block.diffusers}.{ours}", f"{block.ldm}.{theirs}") for ours, theirs in block.inner]
            else:
                pairs.append((block.diffusers, block.ldm))
        return dict(pairs)

    @functools.cached_property
    def _diffusers_of(self) -> dict[str, str]:
        return {ldm: diffusers for diffusers, ldm in self._ldm_of.items()}


def lora_name(prefix: str, path: str) -> str:
    """The name of a LoRA module: ``lora_name("lora_te1", "text_model.encoder")`` is ``lora_te1_text_model_encoder``."""
    return f"{prefix}_{path}".replace(".", "_")


def _translate(path: str, names: Mapping[str, str]) -> str:
    """Exchange the longest known beginning of ``path``."""
    end = len(path)
    while end > 0:
        if (known := names.get(path[:end])) is not None:
            return known + path[end:]
        end = path.rfind(".", 0, end)
    raise KeyError(path)
