"""How many trials fit into one process, computed from memory figures before anything starts (pure, but for reading headers).

The frozen base model is there once; each trial adds its LoRA, the gradients and the optimizer's numbers; each example that goes
through the model at once adds what is kept for the backward pass. That last figure was counted, not measured: all tensors that
autograd keeps of SDXL's UNet with a LoRA on its transformers, on torch's meta device, are 412 KB for each latent pixel in bf16, and
36 KB with gradient checkpointing, where one block at a time adds 9 KB and as much again for its gradients.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from lorakit.plan import Plan
    from lorakit.preset.models import Preset

__all__ = ["MOST", "Elements", "Need", "PackPlan", "fit", "room"]

#: More trials than this in one process gain nothing: the model is as busy as it gets, and more is lost when it dies.
MOST: Final = 16
#: Examples that go through the model together; beyond it nothing gets quicker (measured on the CPU, see docs/packed-sweeps.md).
_ROWS: Final = 64
_KEPT, _CHECKPOINTED, _BLOCK = 412e3, 36e3, 9e3
#: What activations need beside what is kept: gradients on their way, workspaces, pieces that an allocator cannot use.
_SLACK: Final = 1.25
#: Taken by the process itself on a GPU (context, libraries), and in main memory (Python, torch).
_OWN: Final = MappingProxyType({"gpu": 0.8e9, "cpu": 1.0e9})
#: Share of the free main memory that may be used.
_SHARE: Final = 0.8
#: The width of SDXL's UNet, to which the figures belong.
_WIDTH: Final = 320
#: Bytes that an optimizer keeps for each trained number; 8 (two in fp32) if not named.
_OPTIMIZERS: Final = MappingProxyType(
    {"adamw8bit": 2, "pagedadamw8bit": 2, "lion8bit": 1, "lion": 4, "sgdnesterov": 4, "adafactor": 1, "prodigy": 16}
)
_LARGEST_HEADER: Final = 100 << 20


@dataclass(frozen=True)
class Elements:
    """Numbers in a base model by part, and the width of its UNet."""

    unet: int = 2_567_463_684
    text: int = 817_720_320
    vae: int = 83_653_863
    width: int = _WIDTH

    @classmethod
    def of(cls, path: Path) -> Elements:
        """Counted in a checkpoint's header; SDXL's own where there is no header to read."""
        try:
            with open(path, "rb") as file:
                size = int.from_bytes(file.read(8), "little")
                header: Mapping[str, dict[str, list[int]]] = json.loads(file.read(min(size, _LARGEST_HEADER)))
            counts = {"model.": 0, "conditioner.": 0, "first_stage_model.": 0}
            for name, entry in header.items():
                prefix = f"{name.partition('.')[0]}."
                if prefix in counts:
                    counts[prefix] += math.prod(entry["shape"])
            width = header["model.diffusion_model.input_blocks.0.0.weight"]["shape"][0]
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            return cls()
        return cls(counts["model."], counts["conditioner."], counts["first_stage_model."], width)


@dataclass(frozen=True)
class Need:
    """Bytes: the base model once, each trial, each example of a pass (the largest bucket's)."""

    base: int
    trial: int
    example: int

    @classmethod
    def of(cls, preset: Preset, plan: Plan, elements: Elements) -> Need:
        """What a training of this preset needs."""
        size = 4 if preset.precision.mixed == "no" else 2
        base = elements.unet
        base += 0 if preset.memory.cache_text_encoder_outputs else elements.text
        base += 0 if preset.memory.cache_latents else elements.vae
        own = 2 if preset.precision.full else 4
        state = _OPTIMIZERS.get(preset.optim.type.lower(), 8)
        # The weights once more: passes that are shared work on copies side by side.
        trial = plan.network.total_parameters * (own + size) + plan.network.total_trained * (own + state)
        pixels = max((bucket.width * bucket.height for bucket in plan.buckets), default=1024**2) // 64
        kept = _CHECKPOINTED + 2 * _BLOCK if preset.memory.gradient_checkpointing else _KEPT
        example = kept * pixels * (size / 2) * (elements.width / _WIDTH) * _SLACK
        return cls(base * size, trial, int(example))


@dataclass(frozen=True)
class PackPlan:
    """So many trials in one process, and so many examples through the model together (1: they take turns).

    ``available`` bytes are there, ``needed`` of them will be used; both are computed.
    """

    trials: int
    rows: int
    needed: int
    available: int

    def together(self, batch: int) -> int:
        """How many trials go through the model at once, with this batch size."""
        return max(1, min(self.trials, self.rows // batch))


def fit(need: Need, available: int, *, batch: int, most: int = MOST, trials: int | None = None) -> PackPlan:
    """As many trials as fit, at most ``most``, and the examples that there is room for beside them.

    ``trials``: exactly so many, asked for by somebody who knows. One trial needs a pass of its own batch at least.
    """
    room = (available - need.base - batch * need.example) // max(1, need.trial)
    count = trials or max(1, min(most, room))
    left = available - need.base - count * need.trial
    rows = min(_ROWS, count * batch, max(0, left) // max(1, need.example)) // batch * batch
    rows = rows if rows >= 2 * batch else 1
    needed = need.base + count * need.trial + max(batch, rows) * need.example
    return PackPlan(count, rows, needed, available)


def room(free: int, *, gpu: bool) -> int:
    """Bytes that a pack may use of what is free on a card or in main memory."""
    if gpu:
        return max(0, int(free - _OWN["gpu"]))
    return max(0, int(free * _SHARE - _OWN["cpu"]))
