"""LoRA files beside a base model that stays loaded: taken from one to the next without touching the base's weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torch import Tensor, nn
from torch.nn import functional

from lorakit.errors import ModelFileError
from lorakit.trainers.builtin.lora import Target, text_targets, unet_targets
from lorakit.trainers.builtin.tensorfile import open_tensors

__all__ = ["AttachedLora", "Factors", "read_lora"]

#: Endings of tensors in kohya's files and those of diffusers and peft → what they are.
_ROLES: Final = {
    "lora_down.weight": "down",
    "lora.down.weight": "down",
    "lora_A.weight": "down",
    "lora_A.default.weight": "down",
    "lora_up.weight": "up",
    "lora.up.weight": "up",
    "lora_B.weight": "up",
    "lora_B.default.weight": "up",
    "lora_mid.weight": "mid",
    "alpha": "alpha",
}
_WRAPPERS: Final = ("base_model.model.", "lora_")
#: What only tensors of networks that are no pairs of matrices are called, and the kind.
_OTHER_KINDS: Final = (
    (re.compile(r"\.hada_"), "LoHa"),
    (re.compile(r"\.lokr_"), "LoKr"),
    (re.compile(r"\.oft_"), "OFT"),
    (re.compile(r"\.(dora_scale|lora_magnitude_vector)(\.weight)?$"), "DoRA"),
    (re.compile(r"\.diff(_b)?$"), "full difference"),
    (re.compile(r"\.on_input$"), "IA3"),
)


@dataclass(frozen=True)
class Factors:
    """One module's pair: ``down`` (rank, in, …), ``up`` (out, rank, …), of a Tucker form ``mid`` too; ``scale`` = alpha / rank."""

    down: Tensor
    up: Tensor
    mid: Tensor | None
    scale: float

    def like(self, weight: Tensor) -> Factors:
        """The same where ``weight`` is, in its format."""
        mid = None if self.mid is None else self.mid.to(weight.device, weight.dtype)
        down, up = (side.to(weight.device, weight.dtype) for side in (self.down, self.up))
        return Factors(down, up, mid, self.scale)


def read_lora(path: Path) -> dict[str, Factors]:
    """The pairs of a LoRA file by flat module name without wrappers: ``te1_text_model_…``, ``unet_down_blocks_…``.

    Raises ModelFileError for a file that is none, or of a kind that has no pairs.
    """
    with open_tensors(path) as file:
        tensors = file.tensors("")
    for pattern, kind in _OTHER_KINDS:
        if any(pattern.search(key) for key in tensors):
            raise ModelFileError(
                f"{path.name} is of the kind {kind}",
                why="lorakit draws with LoRA and LoCon, whose modules are pairs of matrices",
                todo="take it into the program that it was made for",
            )
    roles: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        ending = next((ending for ending in _ROLES if key.endswith("." + ending)), None)
        if ending is not None:
            roles.setdefault(_flat(key[: -len(ending) - 1]), {})[_ROLES[ending]] = value
    pairs = {name: found for name, found in roles.items() if {"down", "up"} <= found.keys()}
    if not pairs:
        raise ModelFileError(
            f"{path.name} is no LoRA",
            why="none of its tensors is one of a LoRA",
            todo="give a LoRA's .safetensors file",
        )
    return {name: _factors(found) for name, found in pairs.items()}


def _flat(module: str) -> str:
    for wrapper in _WRAPPERS:
        module = module.removeprefix(wrapper)
    return module.replace(".", "_")


def _factors(found: Mapping[str, Tensor]) -> Factors:
    rank = found["mid"].shape[0] if "mid" in found else found["down"].shape[0]
    alpha = float(found["alpha"].reshape(-1)[0]) if "alpha" in found else float(rank)
    return Factors(found["down"], found["up"], found.get("mid"), alpha / rank)


@dataclass
class _Place:
    """One module of the base and the pair that is beside it now, in the module's own format."""

    target: Target
    pair: Factors | None = None
    weight: float = 0.0


class AttachedLora:
    """What takes the output of a base model's modules and adds that of a LoRA; none at first.

    ``unet`` may be None where only the text encoders are of interest. The names by which files call a module are kohya's, in the
    original or diffusers' numbering of blocks, and those of diffusers and peft.
    """

    def __init__(self, te1: nn.Module, te2: nn.Module, unet: nn.Module | None = None) -> None:
        self._places: list[_Place] = []
        self._by_name: dict[str, _Place] = {}
        sides: list[tuple[nn.Module, Iterable[Target], Sequence[str]]] = [
            (te1, text_targets(te1, "lora_te1"), ("te1", "text_encoder")),
            (te2, text_targets(te2, "lora_te2"), ("te2", "text_encoder_2")),
        ]
        if unet is not None:
            sides.append((unet, unet_targets(unet, with_convolutions=True), ("unet",)))
        for model, found, prefixes in sides:
            paths = {id(module): name for name, module in model.named_modules()}
            for target in found:
                place = _Place(target)
                self._places.append(place)
                own = paths[id(target.module)].replace(".", "_")
                inner = target.name.removeprefix(f"lora_{prefixes[0]}_")
                for prefix in prefixes:
                    self._by_name |= {f"{prefix}_{own}": place, f"{prefix}_{inner}": place}
                target.module.forward = _beside(place)  # type: ignore[method-assign]

    def use(self, path: Path | None, pairs: Mapping[str, Factors] | None) -> int:
        """Put a LoRA beside the base, or none; gives how many of its modules the base has no place for.

        Raises ModelFileError for a LoRA of another base: no module or no shape fits.
        """
        for place in self._places:
            place.pair = None
        if pairs is None:
            return 0
        unknown = [name for name in pairs if name not in self._by_name]
        fitting = {name: pair for name, pair in pairs.items() if name in self._by_name}
        for name, pair in fitting.items():
            place = self._by_name[name]
            _require_fit(path, name, pair, place.target.module)
            place.pair = pair.like(place.target.module.weight)
        if not fitting:
            raise ModelFileError(
                f"{path}: no module of it is one of the base model's",
                why=f"its modules are like {', '.join(sorted(unknown)[:2])}",
                todo="it was made for another architecture: give a LoRA of SDXL",
            )
        return len(unknown)

    def weigh(self, *, unet: float, te: float) -> None:
        """The network weight of UNet and text encoders; 0 leaves a part as the base has it."""
        for place in self._places:
            place.weight = unet if place.target.name.startswith("lora_unet") else te


def _require_fit(path: Path | None, name: str, pair: Factors, module: nn.Linear | nn.Conv2d) -> None:
    into = pair.down.shape[1] * (pair.down[0, 0].numel() if pair.mid is None and pair.down.ndim == 4 else 1)
    own_into = module.weight[0].numel() if pair.mid is None else module.weight.shape[1]
    if into != own_into or pair.up.shape[0] != module.weight.shape[0]:
        raise ModelFileError(
            f"{path}: it was made for another base model",
            why=f"{name} goes from {into} to {pair.up.shape[0]} numbers, the base's from {own_into} to {module.weight.shape[0]}",
            todo="give the base model that it was trained on",
        )


def _beside(place: _Place) -> Any:
    module = place.target.module
    alone = module.forward

    def forward(x: Tensor) -> Tensor:
        output: Tensor = alone(x)
        pair = place.pair
        if pair is None or place.weight == 0.0:
            return output
        hidden = _narrowed(x.to(pair.down.dtype), pair, module)
        scale = pair.scale * place.weight
        up = (
            functional.conv2d(hidden, _four(pair.up))
            if hidden.ndim == 4
            else functional.linear(hidden, pair.up.flatten(1))
        )
        return output + (up * scale).to(output.dtype)

    return forward


def _narrowed(x: Tensor, pair: Factors, module: nn.Linear | nn.Conv2d) -> Tensor:
    if isinstance(module, nn.Linear):
        return functional.linear(x, pair.down.flatten(1))
    stride: Any = module.stride
    padding: Any = module.padding
    if pair.mid is not None:
        return functional.conv2d(functional.conv2d(x, _four(pair.down)), pair.mid, stride=stride, padding=padding)
    return functional.conv2d(x, _four(pair.down), stride=stride, padding=padding)


def _four(weight: Tensor) -> Tensor:
    return weight if weight.ndim == 4 else weight[:, :, None, None]
