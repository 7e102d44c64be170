"""Several LoRA networks on one base model: whoever is on stage acts, each on its own examples of a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lorakit.trainers.builtin.lora import LoraModule, LoraNetwork
from lorakit.trainers.builtin.pack_low_rank import Pair, linear_with_pairs

__all__ = ["Part", "Stage"]


@dataclass(frozen=True)
class Part:
    """The examples start … stop of a batch, and the number of the trial that they belong to."""

    trial: int
    start: int
    stop: int


class Stage:
    """Keeps each trial's network, and lets those act that are on. While nobody is, the base model is itself.

    Alone on stage a network does exactly what it would do attached to the base model by itself.
    """

    def __init__(self) -> None:
        self.cast: tuple[Part, ...] = ()
        self._spots: dict[nn.Module, _Spot] = {}

    def admit(self, trial: int, network: LoraNetwork) -> None:
        """Take over a network that is attached to the base model."""
        pairs = network.attached
        network.detach()
        for target, module in pairs:
            if target not in self._spots:
                self._spots[target] = _Spot(self, target)
            self._spots[target].modules[trial] = module

    def dismiss(self, trial: int) -> None:
        """Forget a trial's network."""
        for spot in self._spots.values():
            spot.modules.pop(trial, None)

    @contextmanager
    def on(self, sizes: Sequence[tuple[int, int]]) -> Iterator[None]:
        """Put trials on: number and examples of each, in the order in which a batch has them. One alone has all rows."""
        before = self.cast
        parts: list[Part] = []
        for trial, examples in sizes:
            start = parts[-1].stop if parts else 0
            parts.append(Part(trial, start, start + examples))
        self.cast = tuple(parts)
        try:
            yield
        finally:
            self.cast = before


class _Spot:
    """A module of the base model, and the LoRA that each trial has there; some may have none."""

    def __init__(self, stage: Stage, target: nn.Module) -> None:
        assert isinstance(target, (nn.Linear, nn.Conv2d))
        self.stage = stage
        self.target = target
        self.alone: Callable[[Tensor], Tensor] = target.forward
        self.modules: dict[int, LoraModule] = {}
        target.forward = self.forward  # type: ignore[method-assign, assignment]

    def forward(self, x: Tensor) -> Tensor:
        cast = self.stage.cast
        if len(cast) > 1:
            return self._together(x, cast)
        module = self.modules.get(cast[0].trial) if cast else None
        return self.alone(x) if module is None else module.beside(self.target, self.alone, x)

    def _together(self, x: Tensor, cast: tuple[Part, ...]) -> Tensor:
        """X (n x examples, …): the examples of all, n rows of each (the text encoders have one row for each chunk)."""
        here = [(part, self.modules[part.trial]) for part in cast if part.trial in self.modules]
        if not here:
            return self.alone(x)
        target = self.target
        if isinstance(target, nn.Linear) and all(module.is_plain(target, x) for _, module in here):
            rows = x.shape[:-1].numel() // cast[-1].stop
            pairs = [
                Pair(
                    part.start * rows,
                    part.stop * rows,
                    module.scale * module.multiplier,
                    module.lora_down.weight,
                    module.lora_up.weight,
                )
                for part, module in here
            ]
            return linear_with_pairs(x, target.weight, target.bias, pairs)
        return self._one_by_one(x, cast)

    def _one_by_one(self, x: Tensor, cast: tuple[Part, ...]) -> Tensor:
        """The base module at once, then each LoRA on its examples: for convolutions and mixed formats."""
        output = self.alone(x)
        rows = len(x) // cast[-1].stop
        pieces: list[Tensor] = []
        for part in cast:
            ours = slice(part.start * rows, part.stop * rows)
            module = self.modules.get(part.trial)
            delta = None if module is None else module(x[ours])
            pieces.append(output[ours] if delta is None else output[ours] + delta.to(output.dtype))
        return torch.cat(pieces)
