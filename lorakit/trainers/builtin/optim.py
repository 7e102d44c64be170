"""The optimizer: the trainer's names and arguments, and one parameter group per part at its own rate."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch.nn import Parameter
from torch.optim import Optimizer

from lorakit.errors import TrainerError
from lorakit.trainers.builtin.options import NetworkOptions, OptimOptions
from lorakit.trainers.builtin_support import ADAPTIVE, BITSANDBYTES

__all__ = [
    "PARTS",
    "Group",
    "Weights",
    "adafactor_finds_its_rate",
    "build_optimizer",
    "effective_rates",
    "group_name",
    "literals",
    "part_rates",
    "plan_groups",
]

#: The parts of a LoRA in the order in which the trainer makes them.
PARTS: Final = ("te1", "te2", "unet")

#: AdaFactor's own numbers for groups that name no rate.
_ADAFACTOR: Final = "adafactor"


@dataclass(frozen=True)
class Group:
    """Parameters of one part that share a rate; ``plus`` marks the up-projections under LoRA+.

    ``block`` is set where each block of the UNet has a rate of its own.
    """

    part: str
    rate: float
    parameters: tuple[Parameter, ...]
    plus: bool = False
    block: int | None = None

    @property
    def name(self) -> str:
        """Such as "unet", "unet plus" or "unet_block5"."""
        return group_name({"part": self.part, "plus": self.plus, "block": self.block})


def group_name(group: Mapping[str, Any]) -> str:
    """The name of one of an optimizer's ``param_groups``; those of an older state know no block."""
    block = group.get("block")
    name = str(group["part"]) if block is None else f"{group['part']}_block{block}"
    return f"{name} plus" if group["plus"] else name


#: Parameters by name, of one module or more, and the block of the UNet they are in (None: it has no rate of its own).
Weights = tuple[int | None, Mapping[str, Parameter]]


def part_rates(options: OptimOptions) -> dict[str, float]:
    """The rate of each part: ``unet_lr``, ``text_encoder_lr`` (one for both or one each), else ``learning_rate``.

    sd-scripts drops the second value of ``text_encoder_lr`` for SDXL; here it is TE2's rate.
    """
    text = options.text_encoder_lr or (options.learning_rate,)
    unet = options.learning_rate if options.unet_lr is None else options.unet_lr
    return {"te1": text[0], "te2": text[-1], "unet": unet}


def plan_groups(
    weights: Mapping[str, Sequence[Weights]], options: OptimOptions, network: NetworkOptions
) -> tuple[Group, ...]:
    """Groups of the given parts, in the order te1, te2, unet; blocks of the UNet with rates of their own in their order.

    A part whose rate is 0 makes no group. With LoRA+ the up-projections (names with ``lora_up``) are a group of their
    own at ratio × rate.
    """
    rates, factors = part_rates(options), network.block_rates
    groups: list[Group] = []
    for part in PARTS:
        named: dict[int | None, dict[str, Parameter]] = {}
        for block, found in weights.get(part, ()):
            named.setdefault(block, {}).update(found)
        for block in sorted(named, key=lambda block: -1 if block is None else block):
            rate = rates[part] if block is None or factors is None else rates[part] * factors[block]
            if rate:
                groups += _split(Group(part, rate, (), block=block), named[block], _plus_ratio(part, network))
    return tuple(groups)


def _split(group: Group, named: Mapping[str, Parameter], ratio: float | None) -> Iterator[Group]:
    """The group with its parameters; two under LoRA+."""
    up = {name: value for name, value in named.items() if ratio and "lora_up" in name}
    down = tuple(value for name, value in named.items() if name not in up)
    if down:
        yield replace(group, parameters=down)
    if up and ratio:
        yield replace(group, parameters=tuple(up.values()), rate=group.rate * ratio, plus=True)


def _plus_ratio(part: str, network: NetworkOptions) -> float | None:
    own = network.argument("loraplus_unet_lr_ratio" if part == "unet" else "loraplus_text_encoder_lr_ratio")
    return own or network.argument("loraplus_lr_ratio")


def literals(items: Iterable[str]) -> dict[str, Any]:
    """``key=value`` items with Python literals for values; ``betas=0.9,0.99`` is a tuple, as in the trainer."""
    pairs = (item.split("=", 1) for item in items)
    return {key: ast.literal_eval(value) for key, value in pairs}


def adafactor_finds_its_rate(options: OptimOptions) -> bool:
    """Whether AdaFactor will set its own rate: ``relative_step`` is on unless switched off (warmup_init switches it on)."""
    if options.optimizer_type.lower() != _ADAFACTOR:
        return False
    arguments = literals(options.optimizer_args)
    return bool(arguments.get("relative_step", True) or arguments.get("warmup_init", False))


def build_optimizer(groups: Sequence[Group], options: OptimOptions) -> Optimizer:
    """The optimizer over ``groups``. Each of its ``param_groups`` also carries ``part``, ``plus`` and ``block``.

    Raises TrainerError when the optimizer does not exist or rejects its arguments.
    """
    if not groups:
        raise TrainerError("there is nothing to train", why="no part of the LoRA has a learning rate above 0")
    name = options.optimizer_type or "AdamW"
    arguments = literals(options.optimizer_args)
    own_rate = adafactor_finds_its_rate(options)
    described: list[dict[str, Any]] = []
    for group in groups:
        entry: dict[str, Any] = {"params": list(group.parameters), "part": group.part, "plus": group.plus}
        entry["block"] = group.block
        described.append(entry if own_rate else entry | {"lr": group.rate})
    if own_rate:
        arguments |= {"relative_step": True}
    if name.lower().startswith("sgdnesterov"):
        arguments = {"momentum": 0.9, "nesterov": True} | arguments
    try:
        optimizer: Optimizer = _optimizer_class(name)(
            described, lr=None if own_rate else options.learning_rate, **arguments
        )
    except (TypeError, ValueError) as error:
        raise TrainerError(
            f"the optimizer {name} rejects its arguments: {error}",
            todo="correct optimizer_args or the learning rates",
        ) from error
    return optimizer


def _optimizer_class(name: str) -> Any:
    lower = name.lower()
    if lower in BITSANDBYTES:
        return _attribute("bitsandbytes.optim", BITSANDBYTES[lower])
    if lower in ADAPTIVE:
        return _attribute(*ADAPTIVE[lower].rsplit(".", 1))
    known = {
        "adamw": ("torch.optim", "AdamW"),
        "sgdnesterov": ("torch.optim", "SGD"),
        "lion": ("lion_pytorch", "Lion"),
        _ADAFACTOR: ("transformers.optimization", "Adafactor"),
    }
    if lower in known:
        return _attribute(*known[lower])
    module, _, attribute = name.rpartition(".")
    return _attribute(module or "torch.optim", attribute)


def _attribute(module: str, name: str) -> Any:
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise TrainerError(
            f"there is no optimizer {module}.{name}",
            why=str(error),
            todo="names of torch.optim are case-sensitive, as in RAdam",
        ) from error
    if not (isinstance(found, type) and issubclass(found, torch.optim.Optimizer)):
        raise TrainerError(f"{module}.{name} is not an optimizer")
    return found


def effective_rates(optimizer: Optimizer, last_rates: Sequence[float]) -> dict[str, float]:
    """The rate that each part really uses, by part: the schedule's, times ``d`` where the optimizer adapts one.

    ``last_rates`` are those of the scheduler, one per parameter group. Up-projections under LoRA+ are left out, and all
    blocks of the UNet but the first, where they have rates of their own.
    """
    rates: dict[str, float] = {}
    for group, rate in zip(optimizer.param_groups, last_rates, strict=True):
        if not group["plus"] and group["part"] not in rates:
            rates[group["part"]] = float(rate) * float(group.get("d", 1.0))
    return rates
