"""How large a network becomes: parameters and tensors by part, from the base model's shapes or those of the real SDXL."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from lorakit.errors import ModelFileError
from lorakit.preset.blocks import Blocks, block_of

__all__ = [
    "REAL_SDXL",
    "BaseShapes",
    "Layer",
    "NetworkSize",
    "PartShapes",
    "network_size",
    "read_base_shapes",
    "sdxl_shapes",
]

Shapes = Mapping[str, tuple[int, ...]]

_MAX_HEADER: Final = 100 * 2**20
_TEXT_LINEAR: Final = r"(?:self_attn\.(?:q|k|v|out)_proj|mlp\.fc[12])\.weight$"

#: attention: query, key, value and output of an attention; linear: the transformers' other layers; conv: 3×3 convolutions of
#: residual and resize blocks; extra: the layers beside them.
Sort = Literal["attention", "linear", "conv", "extra"]


@dataclass(frozen=True)
class Layer:
    """A layer that can get a module: ``out`` rows, ``into`` inputs of each (times the area of a kernel), its UNet block."""

    sort: Sort
    out: int
    into: int
    block: int = 0


@dataclass(frozen=True)
class PartShapes:
    """The layers of one part, in any order."""

    layers: tuple[Layer, ...]

    def of(self, *sorts: Sort) -> tuple[Layer, ...]:
        """The layers of these sorts."""
        return tuple(layer for layer in self.layers if layer.sort in sorts)

    @property
    def per_rank(self) -> int:
        """What one unit of rank costs in parameters, convolutions and what goes with them left out."""
        return sum(layer.out + layer.into for layer in self.of("attention", "linear"))

    @property
    def modules(self) -> int:
        """How many modules that is."""
        return len(self.of("attention", "linear"))


#: Part name ("unet", "te1", "te2") → shapes.
BaseShapes = Mapping[str, PartShapes]


def sdxl_shapes(width: int, te1: tuple[int, int], te2: tuple[int, int]) -> BaseShapes:
    """The shapes of a model with SDXL's layout: the UNet's first width, width and layers of the text encoders."""
    return {
        "unet": PartShapes(tuple(_unet_layers(width, te1[0] + te2[0]))),
        "te1": _text_layers(*te1),
        "te2": _text_layers(*te2),
    }


#: Down and up through the UNet: block, inputs and outputs of its residual block in units of the first width, transformer depth.
_RESIDUALS: Final = (
    (2, 1, 1, 0), (3, 1, 1, 0), (5, 1, 2, 2), (6, 2, 2, 2), (8, 2, 4, 10), (9, 4, 4, 10), (10, 4, 4, 0), (12, 4, 4, 0),
    (13, 8, 4, 10), (14, 8, 4, 10), (15, 6, 4, 10), (16, 6, 2, 2), (17, 4, 2, 2), (18, 3, 2, 2), (19, 3, 1, 0), (20, 2, 1, 0),
    (21, 2, 1, 0),
)  # fmt: skip
#: Blocks that change the size, and their widths in the same units.
_RESIZES: Final = ((4, 1), (7, 2), (15, 4), (18, 2))


def _unet_layers(width: int, context: int) -> Iterator[Layer]:
    for block, into, out, depth in _RESIDUALS:
        yield from (
            Layer("conv", out * width, 9 * into * width, block),
            Layer("conv", out * width, 9 * out * width, block),
        )
        yield Layer("extra", out * width, 4 * width, block)
        if into != out:
            yield Layer("extra", out * width, into * width, block)
        yield from _transformer_layers(block, out * width, depth, context)
    yield from _transformer_layers(11, 4 * width, 10, context)
    for block, wide in _RESIZES:
        yield Layer("conv", wide * width, 9 * wide * width, block)


def _transformer_layers(block: int, width: int, depth: int, context: int) -> Iterator[Layer]:
    if depth:
        yield from (Layer("linear", width, width, block),) * 2
    for _ in range(depth):
        for source in (width, context):
            yield from (Layer("attention", width, width, block),) * 2
            yield from (Layer("attention", width, source, block),) * 2
        yield from (Layer("linear", 8 * width, width, block), Layer("linear", width, 4 * width, block))


def _text_layers(width: int, layers: int) -> PartShapes:
    mlp = (Layer("linear", 4 * width, width), Layer("linear", width, 4 * width))
    return PartShapes(((Layer("attention", width, width),) * 4 + mlp) * layers)


#: Full-size SDXL.
REAL_SDXL: Final[BaseShapes] = sdxl_shapes(320, (768, 12), (1280, 32))


@dataclass(frozen=True)
class NetworkSize:
    """A network's parameters, modules, trained parameters and tensors in its file, by part.

    ``blocks`` are the UNet's blocks that have a module. ``exact``: it is no estimate.
    """

    parameters: Mapping[str, int]
    modules: Mapping[str, int]
    trained: Mapping[str, int]
    tensors: Mapping[str, int]
    blocks: frozenset[int] = frozenset()
    exact: bool = True

    @property
    def total_parameters(self) -> int:
        """Over all parts."""
        return sum(self.parameters.values())

    @property
    def total_modules(self) -> int:
        """Over all parts."""
        return sum(self.modules.values())

    @property
    def total_trained(self) -> int:
        """Parameters that are trained, over all parts."""
        return sum(self.trained.values())

    @property
    def total_tensors(self) -> int:
        """Tensors of the file, over all parts."""
        return sum(self.tensors.values())


@dataclass(frozen=True)
class Module:
    """What stands beside one layer: parameters, how many of them are trained, tensors in the file (its alpha among them)."""

    parameters: int
    trained: int
    tensors: int = 3


#: Makes the module of a layer in a part, None where it gets none.
Recipe = Callable[[str, Layer], Module | None]


def network_size(
    shapes: BaseShapes, parts: Iterable[str], recipe: int | Recipe, conv_dim: int | None = None, *, exact: bool = True
) -> NetworkSize:
    """The network on ``parts``; a number in place of the recipe is a LoRA of this rank (``conv_dim`` on 3×3 convolutions)."""
    if isinstance(recipe, int):
        recipe = lora(Blocks.of(dim=recipe, alpha=1, conv_dim=conv_dim), recipe)
    made = {
        part: [(layer.block, module) for layer in shapes[part].layers if (module := recipe(part, layer)) is not None]
        for part in parts
    }
    return NetworkSize(
        parameters={part: sum(module.parameters for _, module in found) for part, found in made.items()},
        modules={part: len(found) for part, found in made.items()},
        trained={part: sum(module.trained for _, module in found) for part, found in made.items()},
        tensors={part: sum(module.tensors for _, module in found) for part, found in made.items()},
        blocks=frozenset(block for block, _ in made.get("unet", ())),
        exact=exact,
    )


def lora(blocks: Blocks, dim: int, *, up_only: bool = False) -> Recipe:
    """LoRA and LoCon; ``up_only``: the down-projections are in the file without being trained (LoRA-FA)."""

    def module(part: str, layer: Layer) -> Module | None:
        sizes = (dim, 0.0) if part != "unet" else blocks.layer(layer.block, wide=layer.sort == "conv")
        if sizes is None or (layer.sort == "extra" and blocks.conv_dims is None):
            return None
        rank = sizes[0]
        return Module(rank * (layer.out + layer.into), rank * (layer.out if up_only else layer.out + layer.into))

    return module


def oft(blocks: int, *, conv: bool, linear: bool) -> Recipe:
    """OFT: each layer's rows are turned in so many blocks, of (rows / blocks)² numbers."""
    sorts = {"attention", *(("linear",) if linear else ()), *(("conv", "extra") if conv else ())}

    def module(part: str, layer: Layer) -> Module | None:
        if part != "unet" or layer.sort not in sorts:
            return None
        numbers = blocks * (layer.out // blocks) ** 2
        return Module(numbers, numbers, tensors=2)

    return module


def read_base_shapes(path: Path) -> BaseShapes | None:
    """The shapes of a checkpoint or diffusers folder, from safetensors headers only; None when there is nothing to read.

    Raises ModelFileError for a header that is damaged, a file that is cut off, and a file without SDXL's parts.
    """
    if path.is_dir():
        unet = _folder_header(path / "unet", "diffusion_pytorch_model")
        encoders = [_folder_header(path / name, "model") for name in ("text_encoder", "text_encoder_2")]
        if unet is None or None in encoders:
            return None
        shapes = {"unet": _unet(unet), **{f"te{i}": _text(e, "") for i, e in enumerate(encoders, 1) if e is not None}}
    elif path.suffix.lower() == ".safetensors" and path.is_file():
        found = path.stat()
        shapes = dict(_checkpoint(path, found.st_mtime_ns, found.st_size))
    else:
        return None
    if missing := [name for name, part in shapes.items() if not part.modules]:
        raise ModelFileError(
            f"{path} is not an SDXL checkpoint",
            why=f"it lacks {' and '.join(missing)}",
            todo="give the full checkpoint, not a LoRA, VAE or UNet alone",
        )
    return shapes


def _folder_header(folder: Path, stem: str) -> Shapes | None:
    for name in (f"{stem}.fp16.safetensors", f"{stem}.safetensors"):
        if (folder / name).is_file():
            return _header(folder / name)
    return None


@functools.lru_cache(maxsize=8)  # a sweep asks for the same file a thousand times
def _checkpoint(path: Path, _changed: int, _size: int) -> BaseShapes:
    header = _header(path)
    return {
        "unet": _unet(_under(header, "model.diffusion_model.")),
        "te1": _text(header, r"^conditioner\.embedders\.0\."),
        "te2": _open_clip(_under(header, "conditioner.embedders.1.model.")),
    }


def _header(path: Path) -> Shapes:
    """Tensor shapes by name; see the safetensors format: 8 bytes of length, a JSON table, the data."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= _MAX_HEADER:
                raise ModelFileError(f"{path} is not a safetensors file", why="its first 8 bytes give no header length")
            size = file.seek(0, 2)
            file.seek(8)
            table = json.loads(file.read(min(length, size)))
        tensors = {name: entry for name, entry in table.items() if name != "__metadata__"}
        needed = 8 + length + max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
        shapes = {name: tuple(entry["shape"]) for name, entry in tensors.items()}
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read", why=error.strerror or str(error)) from error
    except (ValueError, AttributeError, KeyError, TypeError, IndexError) as error:
        raise ModelFileError(
            f"{path} is damaged", why=f"its safetensors header cannot be read ({error})", todo="fetch the file again"
        ) from error
    if size < needed:
        raise ModelFileError(
            f"{path} is cut off", why=f"it has {size:,} bytes of {needed:,}", todo="fetch the file again"
        )
    return shapes


def _under(shapes: Shapes, prefix: str) -> Shapes:
    return {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}


def _unet(shapes: Shapes) -> PartShapes:
    """In either naming: layers of the transformers; convolutions of residual and resize blocks, and layers beside them."""
    transformer = re.compile(r"(?:^|\.)(?:transformer_blocks\..*|proj_in|proj_out)\.weight$")
    attention = re.compile(r"\.attn[12]\.to_(?:q|k|v|out\.0)\.weight$")
    conv = re.compile(
        r"(?:in_layers\.2|out_layers\.3|conv1|conv2|op|samplers\.0\.conv|output_blocks\.\d+\.\d\.conv)\.weight$"
    )
    extra = re.compile(r"(?:emb_layers\.1|skip_connection|time_emb_proj|conv_shortcut)\.weight$")
    per_level = 1 + max(
        (int(m[1]) for name in shapes if (m := re.match(r"down_blocks\.\d+\.resnets\.(\d+)\.", name))), default=0
    )
    layers: list[Layer] = []
    for name, shape in shapes.items():
        if len(shape) < 2:
            continue
        sort: Sort
        if max(shape[2:], default=1) == 1 and transformer.search(name):
            sort = "attention" if attention.search(name) else "linear"
        elif shape[2:] == (3, 3) and conv.search(name):
            sort = "conv"
        elif extra.search(name):
            sort = "extra"
        else:
            continue
        layers.append(Layer(sort, shape[0], math.prod(shape[1:]), _block(name, per_level)))
    return PartShapes(tuple(layers))


def _block(name: str, per_level: int) -> int:
    """The UNet's block of a layer, in either naming; a level of diffusers' has so many residual blocks on the way down."""
    match = re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.", name)
    if match is not None:
        level, number = int(match[2]), int(match[4])
        if match[1] == "down":
            return 2 + level * (per_level + 1) + (per_level if match[3] == "downsamplers" else number)
        return 13 + level * (per_level + 1) + (per_level if match[3] == "upsamplers" else number)
    if match := re.match(r"mid_block\.(resnets|attentions)\.(\d+)\.", name):
        return 11 if match[1] == "attentions" else 10 + 2 * int(match[2])
    return block_of(name)


def _text(shapes: Shapes, prefix: str) -> PartShapes:
    wanted = re.compile(prefix + r".*encoder\.layers\.\d+\." + _TEXT_LINEAR)
    return PartShapes(
        tuple(
            Layer("attention" if "self_attn" in name else "linear", shape[0], shape[1])
            for name, shape in shapes.items()
            if wanted.search(name)
        )
    )


def _open_clip(shapes: Shapes) -> PartShapes:
    """OpenCLIP keeps query, key and value in one tensor; the LoRA has a module for each."""
    layers: list[Layer] = []
    for name, shape in shapes.items():
        if re.search(r"resblocks\.\d+\.attn\.in_proj_weight$", name):
            layers += [Layer("attention", shape[0] // 3, shape[1])] * 3
        elif re.search(r"resblocks\.\d+\.attn\.out_proj\.weight$", name):
            layers.append(Layer("attention", shape[0], shape[1]))
        elif re.search(r"resblocks\.\d+\.mlp\.(?:c_fc|c_proj)\.weight$", name):
            layers.append(Layer("linear", shape[0], shape[1]))
    return PartShapes(tuple(layers))
