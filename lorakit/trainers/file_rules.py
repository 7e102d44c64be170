"""LK303…: rules about what is in the files that a preset names: tokenizers, weights, prompts, a dataset TOML.

Whether files are there and whole is looked at where a bake is prepared; a file that is not says nothing here.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from lorakit.dataset.blueprint import SubsetSpec, from_toml
from lorakit.errors import DatasetError
from lorakit.plan.from_preset import dataset_defaults
from lorakit.plan.prompts import prompt_sizes
from lorakit.preset.models import Preset
from lorakit.preset.rules import Finding, Table, ordered
from lorakit.preset.rules.trained import caches_latents, caches_te, trains_te, trains_unet
from lorakit.preset.units import format_number
from lorakit.workspace import Workspace

__all__ = ["TABLE", "LoraFile", "check_files", "read_lora"]

TABLE: Final = Table[Workspace]("Files")
_TOKENIZERS: Final = ("openai_clip-vit-large-patch14", "laion_CLIP-ViT-bigG-14-laion2B-39B-b160k")


def check_files(preset: Preset, workspace: Workspace) -> tuple[Finding, ...]:
    """What is wrong with the files that the preset names, errors first. Reads headers and small texts, no pictures."""
    return ordered(TABLE.look(preset, workspace))


@dataclass(frozen=True)
class LoraFile:
    """What the header of a LoRA file says: dim and alpha by module, empty where it is no LoRA of kohya's naming."""

    dims: Mapping[str, int]
    alphas: Mapping[str, float]

    @property
    def parts(self) -> frozenset[str]:
        """Which of unet, te1 and te2 it has."""
        return frozenset(name.split("_")[1] for name in self.dims)


def read_lora(path: Path) -> LoraFile | None:
    """Dims and alphas of a .safetensors LoRA; None when the file cannot be read as safetensors."""
    try:
        stat = path.stat()
    except OSError:
        return None
    # Several rules ask for the same file.
    return _read_lora(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=8)
def _read_lora(path: Path, _changed: int, _size: int) -> LoraFile | None:
    from safetensors import SafetensorError, safe_open

    dims: dict[str, int] = {}
    alphas: dict[str, float] = {}
    try:
        with safe_open(path, framework="numpy") as file:
            for key in file.keys():  # noqa: SIM118  (it is not a mapping)
                module, _, tensor = key.partition(".")
                if not module.startswith(("lora_unet_", "lora_te1_", "lora_te2_")):
                    continue
                if tensor == "lora_down.weight":
                    dims[module] = int(file.get_slice(key).get_shape()[0])
                elif tensor == "alpha" and file.get_slice(key).get_dtype() != "BF16":
                    # numpy has no bfloat16; alphas in it are left unknown.
                    alphas[module] = float(file.get_tensor(key))
    except (OSError, SafetensorError):
        return None
    return LoraFile(MappingProxyType(dims), MappingProxyType(alphas))


def _weights(preset: Preset, workspace: Workspace) -> LoraFile | None:
    text = preset.network.weights
    return read_lora(workspace.resolve(text)) if text and text.endswith(".safetensors") else None


@TABLE.error(
    "LK303", "base.tokenizer_cache", "the folder does not hold both tokenizers",
    why="without them the trainer asks a hub, and without a hub it fails with an obscure error",
    todo=f"it holds the folders {' and '.join(_TOKENIZERS)}, as the trainer writes them on its first run with a hub",
)  # fmt: skip
def _tokenizers_are_there(preset: Preset, workspace: Workspace) -> bool | str:
    if preset.base.tokenizer_cache is None:
        return False
    folder = workspace.resolve(preset.base.tokenizer_cache)
    return ", ".join(name for name in _TOKENIZERS if not (folder / name).is_dir())


@TABLE.error(
    "LK312", "network.weights", "the weights are no LoRA that can be gone on with",
    why="its tensors are not named as the trainer's LoRAs are, and the trainer passes over names that it does not know",
    todo="give a .safetensors LoRA that was made by sd-scripts or lorakit",
)  # fmt: skip
def _weights_are_a_lora(preset: Preset, workspace: Workspace) -> bool | str:
    found = _weights(preset, workspace)
    return str(preset.network.weights) if found is not None and not found.dims else False


@TABLE.error(
    "LK313", "network.dim", "network.dim is not that of the weights",
    why="tensors of another size cannot be loaded; the trainer stops after loading the model",
    todo="set network.dim to that of the file",
)  # fmt: skip
def _dim_is_that_of_the_weights(preset: Preset, workspace: Workspace) -> bool | str:
    found = _weights(preset, workspace)
    if found is None or not found.dims or preset.network.dim_from_weights:
        return False
    # Convolutions may have a rank of their own.
    allowed = {preset.network.dim, preset.network.conv_dim}
    other = sorted(set(found.dims.values()) - allowed)
    return f"{preset.network.dim} here, {_several(other)} in the file" if other else False


@TABLE.error(
    "LK314", "network.alpha", "network.alpha is not that of the weights",
    why="the trainer would train at the preset's scale and save the file's alpha, so the result would be of another "
    "strength than what was trained",
    todo="set network.alpha to that of the file",
)  # fmt: skip
def _alpha_is_that_of_the_weights(preset: Preset, workspace: Workspace) -> bool | str:
    found = _weights(preset, workspace)
    network = preset.network
    if found is None or network.dim_from_weights:
        return False
    here = network.alpha.of(network.dim)
    allowed = (here,) if network.conv_dim is None else (here, network.conv_alpha or 1.0)
    # fp16 keeps three digits of an alpha.
    other = sorted({alpha for alpha in found.alphas.values() if all(abs(alpha - a) > 1e-3 * a for a in allowed)})
    return f"{format_number(here)} here, {_several(other)} in the file" if other else False


@TABLE.warning(
    "LK315", "network.weights", "the weights hold parts that are not trained here",
    why="the trainer leaves them out: they neither act while it trains nor stand in the new file",
    todo="use the new file beside the old one's other parts, or train all parts at small rates (see the preset anneal)",
)  # fmt: skip
def _untrained_parts_are_lost(preset: Preset, workspace: Workspace) -> bool | str:
    found = _weights(preset, workspace)
    if found is None:
        return False
    lost = [] if trains_unet(preset) else ["unet"]
    lost += [] if trains_te(preset) else ["te1", "te2"]
    return ", ".join(part for part in lost if part in found.parts)


@TABLE.error(
    "LK322", "sample.prompts", "no prompt can be read from the file",
    why="sampling would fail and take the training with it, or draw nothing",
    todo="write one prompt a line in UTF-8 (.txt), or see the trainer's .toml and .json forms",
)  # fmt: skip
def _prompts_can_be_read(preset: Preset, workspace: Workspace) -> bool | str:
    text = preset.sample.prompts
    if not text or not workspace.resolve(text).is_file():
        return False
    return False if prompt_sizes(workspace.resolve(text)) else text


@TABLE.error(
    "LK323", "sample.prompts", "samples whose sides are no multiples of 32",
    why="SDXL cannot draw them, and an error while sampling kills the training",
    todo="correct --w and --h in the prompt file",
)  # fmt: skip
def _samples_fit_the_model(preset: Preset, workspace: Workspace) -> bool | str:
    text = preset.sample.prompts
    sizes = prompt_sizes(workspace.resolve(text)) if text else None
    return ", ".join(f"{width}x{height}" for width, height in sorted(set(sizes or ())) if width % 32 or height % 32)


@TABLE.error(
    "LK341", "dataset.config", "a subset that changes its captions, but their encodings are cached",
    why="a cached encoding is that of the caption as it stands in the file; the trainer stops or passes over the setting",
    todo="turn the cache of the text encoders off, or take these settings out of the dataset TOML",
)  # fmt: skip
def _subsets_leave_cached_captions_alone(preset: Preset, workspace: Workspace) -> bool | str:
    names = (
        "shuffle_caption", "caption_dropout_rate", "caption_tag_dropout_rate", "token_warmup_step",
        "caption_dropout_every_n_epochs", "caption_prefix", "caption_suffix", "enable_wildcard", "secondary_separator",
    )  # fmt: skip
    return _set_in_subsets(preset, workspace, names) if caches_te(preset) else False


@TABLE.error(
    "LK342", "dataset.config", "a subset that changes its pictures, but their latents are cached",
    why="a cached latent is that of the picture as it is; the trainer stops with an assertion",
    todo="set memory.cache_latents = false, or take these settings out of the dataset TOML",
)  # fmt: skip
def _subsets_leave_cached_pictures_alone(preset: Preset, workspace: Workspace) -> bool | str:
    return _set_in_subsets(preset, workspace, ("color_aug", "random_crop")) if caches_latents(preset) else False


def _set_in_subsets(preset: Preset, workspace: Workspace, names: tuple[str, ...]) -> str:
    found = {
        f"{name} ({subset.image_dir})"
        for subset in _subsets(preset, workspace)
        for name in names
        if getattr(subset, name)
    }
    return ", ".join(sorted(found))


def _subsets(preset: Preset, workspace: Workspace) -> Iterator[SubsetSpec]:
    if preset.dataset.config is None:
        return
    try:
        blueprint = from_toml(workspace.resolve(preset.dataset.config), dataset_defaults(preset), root=workspace.root)
    except DatasetError:
        # Planning reads the same file and says what is wrong with it.
        return
    for dataset in blueprint.datasets:
        yield from dataset.subsets


def _several(numbers: list[int] | list[float]) -> str:
    shown = [format_number(number) for number in numbers[:4]]
    return ", ".join(shown) + ("…" if len(numbers) > 4 else "")
