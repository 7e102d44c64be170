"""How large a LoRA becomes: parameters and tensors by part, from the base model's shapes or those of the real SDXL."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lorakit.errors import ModelFileError

__all__ = ["REAL_SDXL", "BaseShapes", "NetworkSize", "PartShapes", "network_size", "read_base_shapes"]

Shapes = Mapping[str, tuple[int, ...]]

_MAX_HEADER: Final = 100 * 2**20
_TEXT_LINEAR: Final = r"(?:self_attn\.(?:q|k|v|out)_proj|mlp\.fc[12])\.weight$"


@dataclass(frozen=True)
class PartShapes:
    """What one unit of rank costs in one part: ``per_rank`` parameters in ``modules`` modules (Linear layers).

    The ``conv_`` fields are for LoRA on 3×3 convolutions, which also brings ``extra`` modules at the network's own rank.
    """

    per_rank: int
    modules: int
    conv_per_rank: int = 0
    conv_modules: int = 0
    extra_per_rank: int = 0
    extra_modules: int = 0


#: Part name ("unet", "te1", "te2") → shapes.
BaseShapes = Mapping[str, PartShapes]

#: Full-size SDXL, counted on the architecture.
REAL_SDXL: Final[BaseShapes] = {
    "unet": PartShapes(2_659_840, 722, conv_per_rank=355_840, conv_modules=38, extra_per_rank=58_560, extra_modules=28),
    "te1": PartShapes(165_888, 72),
    "te2": PartShapes(737_280, 192),
}


@dataclass(frozen=True)
class NetworkSize:
    """A LoRA's trained parameters and modules, by part."""

    parameters: Mapping[str, int]
    modules: Mapping[str, int]

    @property
    def total_parameters(self) -> int:
        """Over all parts."""
        return sum(self.parameters.values())

    @property
    def total_modules(self) -> int:
        """Over all parts; a file has three tensors for each."""
        return sum(self.modules.values())


def network_size(shapes: BaseShapes, parts: Iterable[str], dim: int, conv_dim: int | None = None) -> NetworkSize:
    """The LoRA of rank ``dim`` on ``parts`` (and of rank ``conv_dim`` on 3×3 convolutions, when given)."""
    parameters, modules = {}, {}
    for name in parts:
        part = shapes[name]
        parameters[name], modules[name] = part.per_rank * dim, part.modules
        if conv_dim:
            parameters[name] += part.conv_per_rank * conv_dim + part.extra_per_rank * dim
            modules[name] += part.conv_modules + part.extra_modules
    return NetworkSize(parameters, modules)


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
            table = json.loads(file.read(length))
            size = file.seek(0, 2)
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


def _part(linear: Iterable[tuple[int, ...]]) -> PartShapes:
    sides = [shape[0] + shape[1] for shape in linear]
    return PartShapes(sum(sides), len(sides))


def _unet(shapes: Shapes) -> PartShapes:
    """In either naming: Linear and 1×1 layers of the transformers; 3×3 convolutions of residual and resize blocks."""
    attention = re.compile(r"(?:^|\.)(?:transformer_blocks\..*|proj_in|proj_out)\.weight$")
    conv = re.compile(
        r"(?:in_layers\.2|out_layers\.3|conv1|conv2|op|samplers\.0\.conv|output_blocks\.\d+\.\d\.conv)\.weight$"
    )
    extra = re.compile(r"(?:emb_layers\.1|skip_connection|time_emb_proj|conv_shortcut)\.weight$")
    linear = [s for n, s in shapes.items() if len(s) >= 2 and max(s[2:], default=1) == 1 and attention.search(n)]
    main = _part(linear)
    convs = [s for n, s in shapes.items() if len(s) == 4 and s[2:] == (3, 3) and conv.search(n)]
    more = _part(s for n, s in shapes.items() if len(s) >= 2 and extra.search(n))
    return PartShapes(
        main.per_rank,
        main.modules,
        conv_per_rank=sum(9 * s[1] + s[0] for s in convs),
        conv_modules=len(convs),
        extra_per_rank=more.per_rank,
        extra_modules=more.modules,
    )


def _text(shapes: Shapes, prefix: str) -> PartShapes:
    wanted = re.compile(prefix + r".*encoder\.layers\.\d+\." + _TEXT_LINEAR)
    return _part(shape for name, shape in shapes.items() if wanted.search(name))


def _open_clip(shapes: Shapes) -> PartShapes:
    """OpenCLIP keeps query, key and value in one tensor; the LoRA has a module for each."""
    linear: list[tuple[int, ...]] = []
    for name, shape in shapes.items():
        if re.search(r"resblocks\.\d+\.attn\.in_proj_weight$", name):
            linear += [(shape[0] // 3, shape[1])] * 3
        elif re.search(r"resblocks\.\d+\.(?:attn\.out_proj|mlp\.c_fc|mlp\.c_proj)\.weight$", name):
            linear.append(shape)
    return _part(linear)
