"""One cell of a sheet: all that its picture depends on, its name in the cache, and its parameters as the webui writes them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from lorakit._version import __version__

__all__ = ["Cell", "Lora", "Model", "cell_key", "parameters", "versions"]

#: Of how pictures are drawn: a new number makes those of before count no more.
_DRAWING: Final = 1
#: The packages whose version may change a picture.
_PACKAGES: Final = ("torch", "diffusers", "transformers")


@dataclass(frozen=True)
class Lora:
    """A LoRA file: ``name`` as the webui would call it, ``network_hash`` as it would write it (of the tensors alone)."""

    path: Path
    sha256: str
    name: str
    network_hash: str = ""


@dataclass(frozen=True)
class Model:
    """The base model and how it is loaded; ``sha256`` and ``vae_sha256`` are of the files' contents."""

    path: Path
    sha256: str
    vae: Path | None = None
    vae_sha256: str | None = None
    v_prediction: bool = False
    zero_terminal_snr: bool = False
    tokenizer_cache: Path | None = None
    allow_pickle: bool = False
    precision: str = "auto"


@dataclass(frozen=True)
class Cell:
    """A picture: without a LoRA, or with one whose weights are ``unet`` and ``te``. Sizes in pixels."""

    prompt: str
    negative: str
    seed: int
    sampler: str
    steps: int
    cfg: float
    width: int
    height: int
    lora: Lora | None = None
    unet: float = 0.0
    te: float = 0.0

    def settled(self) -> Cell:
        """The same picture said in one way: a LoRA at weight 0 is none."""
        if self.lora is not None and self.unet == 0 and self.te == 0:
            return Cell(**{**vars(self), "lora": None})
        return self if self.lora is not None else Cell(**{**vars(self), "unet": 0.0, "te": 0.0})

    def to_json(self) -> dict[str, Any]:
        """Plain values, the LoRA by its name."""
        return {**asdict(self), "lora": None if self.lora is None else self.lora.name}


def versions() -> dict[str, str]:
    """The versions of what draws; read from the packages' records, nothing is imported."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def cell_key(model: Model, cell: Cell, packages: Mapping[str, str]) -> str:
    """The name of a cell's picture: equal for equal content, wherever the files are and whatever they are called."""
    one = cell.settled()
    told = {
        "drawing": _DRAWING,
        "packages": dict(packages),
        "base": [model.sha256, model.vae_sha256, model.v_prediction, model.zero_terminal_snr],
        "loaded": [model.precision, None if model.tokenizer_cache is None else str(model.tokenizer_cache)],
        "lora": None if one.lora is None else [one.lora.sha256, float(one.unet), float(one.te)],
        "prompt": [one.prompt, one.negative],
        "noise": [one.seed, one.sampler, one.steps, float(one.cfg), one.width, one.height],
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode("ascii")).hexdigest()


def parameters(model: Model, cell: Cell, *, more: Mapping[str, str] | None = None) -> str:
    """The text that the webui keeps in a PNG: prompt, negative prompt, and a line of values.

    Weights of text encoders and UNet stand in the LoRA's tag, ``<lora:name:te:unet>``, one number where they are equal.
    """
    one = cell.settled()
    lines = [f"{one.prompt} {_tag(one)}".strip() if one.lora is not None else one.prompt]
    if one.negative:
        lines.append(f"Negative prompt: {one.negative}")
    values = {
        "Steps": str(one.steps),
        "Sampler": one.sampler,
        "CFG scale": f"{one.cfg:g}",
        "Seed": str(one.seed),
        "Size": f"{one.width}x{one.height}",
        "Model hash": model.sha256[:10],
        "Model": model.path.stem,
    }
    if one.lora is not None:
        values["Lora hashes"] = f"{_lora_name(one.lora)}: {one.lora.network_hash[:12]}"
    values |= {**(more or {}), "Version": f"lorakit {__version__}"}
    lines.append(", ".join(f"{key}: {_quoted(value)}" for key, value in values.items()))
    return "\n".join(lines)


def _tag(cell: Cell) -> str:
    assert cell.lora is not None
    weights = f"{cell.te:g}" if cell.te == cell.unet else f"{cell.te:g}:{cell.unet:g}"
    return f"<lora:{_lora_name(cell.lora)}:{weights}>"


def _lora_name(lora: Lora) -> str:
    # What would end the tag, or the name in it, cannot stand there.
    return "".join("_" if char in ":<>" else char for char in lora.name)


def _quoted(value: str) -> str:
    """As the webui: what could be taken for the next value stands in quotes."""
    return json.dumps(value, ensure_ascii=False) if any(mark in value for mark in ",:\n") else value
