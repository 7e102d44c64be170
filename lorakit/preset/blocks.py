"""The UNet's 23 blocks as the trainer counts them, and the dims, alphas and rates that a preset gives each of them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from lorakit.preset.units import BlockList

__all__ = ["BLOCKS", "CURVES", "RATE_COUNTS", "Blocks", "block_of", "factors", "is_curve"]

#: 0: time and label embedding, 1–9: input blocks, 10–12: middle, 13–21: output blocks, 22: the head.
BLOCKS: Final = 23

#: How many numbers each list of rates has.
RATE_COUNTS: Final = {"down_lr_weight": 9, "mid_lr_weight": 3, "up_lr_weight": 9}
CURVES: Final = ("cosine", "sine", "linear", "reverse_linear", "zeros")

_FIRST: Final = {"input_blocks": 1, "middle_block": 10, "output_blocks": 13}


def block_of(path: str) -> int:
    """The block of a module, by its path or LoRA name: ``input_blocks.4.1.proj_in``, ``lora_unet_input_blocks_4_1_proj_in`` → 5."""
    match = re.search(r"(input_blocks|middle_block|output_blocks)[._](\d+)", path)
    if match is not None:
        return _FIRST[match[1]] + int(match[2])
    return BLOCKS - 1 if re.match(r"(?:lora_unet_)?out[._]", path) else 0


def is_curve(name: str) -> bool:
    """Whether the trainer has a curve of this name, lifted by a number or not."""
    return name.partition("+")[0] in CURVES


def _curve(name: str, count: int) -> tuple[float, ...]:
    base, _, lift = name.partition("+")
    last = count - 1
    sine = [math.sin(math.pi / 2 * i / last) for i in range(count)]
    line = [i / last for i in range(count)]
    shapes = {"sine": sine, "cosine": sine[::-1], "linear": line, "reverse_linear": line[::-1], "zeros": [0.0] * count}
    return tuple(value + float(lift or 0) for value in shapes[base])


@dataclass(frozen=True)
class _Part:
    count: int
    asked: BlockList | None

    def values(self) -> tuple[float, ...]:
        if self.asked is None:
            return (1.0,) * self.count
        return _curve(self.asked.curve, self.count) if self.asked.curve else self.asked.numbers


def factors(
    down: BlockList | None, mid: BlockList | None, up: BlockList | None, threshold: float | None = None
) -> tuple[float, ...] | None:
    """The factor on the UNet's rate for each block, 0 where it is not above ``threshold``; None where no list is given.

    Curves rise or fall over their 9 blocks from 0 to 1 (a quarter of a sine, or a line) and are lifted by what follows
    the plus. The lists must be whole, see RATE_COUNTS.
    """
    if down is None and mid is None and up is None:
        return None
    low = threshold or 0.0
    asked = (*_Part(9, down).values(), *_Part(3, mid).values(), *_Part(9, up).values())
    return (1.0, *(value if value > low else 0.0 for value in asked), 1.0)


@dataclass(frozen=True)
class Blocks:
    """What each of the UNet's blocks gets: dim and alpha of its layers and of its 3×3 convolutions, and a factor on its rate.

    ``conv_dims`` None: convolutions get nothing, and neither do the layers beside them in the residual blocks. ``rated``:
    each block has a rate of its own, even where the factors are all 1.
    """

    dims: tuple[int, ...]
    alphas: tuple[float, ...]
    conv_dims: tuple[int, ...] | None = None
    conv_alphas: tuple[float, ...] = (1.0,) * BLOCKS
    rates: tuple[float, ...] = (1.0,) * BLOCKS
    rated: bool = False

    @classmethod
    def of(
        cls,
        *,
        dim: int,
        alpha: float,
        conv_dim: int | None = None,
        conv_alpha: float | None = None,
        block_dims: BlockList | None = None,
        block_alphas: BlockList | None = None,
        conv_block_dims: BlockList | None = None,
        conv_block_alphas: BlockList | None = None,
        rates: tuple[float, ...] | None = None,
    ) -> Blocks:
        """As the trainer completes them: the other lists count beside ``block_dims`` or ``rates`` alone.

        What the lists leave out is dim, alpha, conv_dim and conv_alpha (1 where it is not given).
        """
        if block_dims is None and rates is None:
            block_alphas = conv_block_dims = conv_block_alphas = None
        convolutions = _whole(conv_block_dims) or ((conv_dim,) * BLOCKS if conv_dim is not None else None)
        return cls(
            dims=_whole(block_dims) or (dim,) * BLOCKS,
            alphas=_numbers(block_alphas) or (alpha,) * BLOCKS,
            conv_dims=convolutions,
            conv_alphas=_numbers(conv_block_alphas) or (1.0 if conv_alpha is None else conv_alpha,) * BLOCKS,
            rates=rates or (1.0,) * BLOCKS,
            rated=rates is not None,
        )

    def layer(self, block: int, *, wide: bool) -> tuple[int, float] | None:
        """Dim and alpha of a layer of a block (``wide``: a 3×3 convolution), None where it gets no LoRA. Alpha 0 means dim."""
        if wide:
            dim, alpha = (self.conv_dims[block], self.conv_alphas[block]) if self.conv_dims is not None else (0, 0.0)
        else:
            dim, alpha = self.dims[block], self.alphas[block]
        return (dim, alpha or float(dim)) if dim and self.rates[block] else None


def _numbers(asked: BlockList | None) -> tuple[float, ...] | None:
    return None if asked is None else asked.numbers


def _whole(asked: BlockList | None) -> tuple[int, ...] | None:
    return None if asked is None else tuple(int(number) for number in asked.numbers)
