"""A frozen linear layer and the low-rank pairs of several trainings, each on its own rows of one batch, as one operation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

__all__ = ["Pair", "linear_with_pairs"]


@dataclass(frozen=True)
class Pair:
    """One training's pair: ``down`` (rank, in) and ``up`` (out, rank) act on the rows start … stop, times ``scale``."""

    start: int
    stop: int
    scale: float
    down: Tensor
    up: Tensor


@dataclass(frozen=True)
class _Block:
    """Neighbouring pairs of equally many rows: one batched product each way. ``scale`` is one number, or one of each (n, 1, 1)."""

    start: int
    stop: int
    count: int
    scale: float | Tensor

    def of(self, rows: Tensor) -> Tensor:
        """Its rows of a matrix, as (pairs, rows of each, columns); a view."""
        return rows[self.start : self.stop].view(self.count, -1, rows.shape[-1])


def linear_with_pairs(x: Tensor, weight: Tensor, bias: Tensor | None, pairs: Sequence[Pair]) -> Tensor:
    """``linear_with_pair`` for several pairs: x (…, in) has the rows of all of them, in order; rows of no pair get none.

    One product with the frozen weight (out, in) serves all rows. Ranks may differ. Gradients flow to x and to every down and up.
    """
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    blocks = _blocks(pairs, x.device)
    tensors = [tensor for pair in pairs for tensor in (pair.down, pair.up)]
    result: Tensor = _LinearWithPairs.apply(x, weight, bias, blocks, dtype, *tensors)  # type: ignore[no-untyped-call]
    return result


def _blocks(pairs: Sequence[Pair], device: torch.device) -> tuple[_Block, ...]:
    runs: list[list[Pair]] = []
    for pair in pairs:
        last = runs[-1][-1] if runs else None
        if last is not None and last.stop == pair.start and last.stop - last.start == pair.stop - pair.start:
            runs[-1].append(pair)
        else:
            runs.append([pair])
    return tuple(_Block(run[0].start, run[-1].stop, len(run), _scale(run, device)) for run in runs)


def _scale(run: Sequence[Pair], device: torch.device) -> float | Tensor:
    scales = [pair.scale for pair in run]
    if len(set(scales)) == 1:
        return scales[0]
    return torch.tensor(scales, device=device).view(-1, 1, 1)


def _stacked(matrices: Sequence[Tensor], dtype: torch.dtype, dim: int) -> Tensor:
    """Matrices of one shape but for ``dim`` as (n, …), those of lower rank filled up with zeros along it."""
    ranks = [matrix.shape[dim] for matrix in matrices]
    if len(set(ranks)) == 1:
        return torch.stack([matrix.to(dtype) for matrix in matrices])
    shape = list(matrices[0].shape)
    shape[dim] = max(ranks)
    stacked = matrices[0].new_zeros((len(matrices), *shape), dtype=dtype)
    for place, matrix, rank in zip(stacked, matrices, ranks, strict=True):
        place.narrow(dim, 0, rank).copy_(matrix)
    return stacked


class _LinearWithPairs(torch.autograd.Function):
    """As in low_rank: autograd alone would run and keep every small step by itself, here once for each training."""

    @staticmethod
    def forward(  # noqa: PLR0917 (autograd passes by position)
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        blocks: tuple[_Block, ...],
        dtype: torch.dtype,
        *pairs: Tensor,
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).to(dtype)
        weight = weight.to(dtype)
        out = functional.linear(rows, weight, None if bias is None else bias.to(dtype))
        kept: list[Tensor] = []
        first = 0
        for block in blocks:
            own = pairs[first : first + 2 * block.count]
            first += 2 * block.count
            down, up = _stacked(own[0::2], dtype, 0), _stacked(own[1::2], dtype, 1)
            hidden = block.of(rows) @ down.transpose(1, 2)
            if not isinstance(block.scale, float) or block.scale != 1.0:
                hidden *= block.scale
            block.of(out).baddbmm_(hidden, up.transpose(1, 2))
            kept += [hidden, down, up]
        ctx.save_for_backward(rows, weight, *kept)
        ctx.blocks, ctx.shape, ctx.dtype = blocks, x.shape, x.dtype
        ctx.ranks = [tensor.shape[0] for tensor in pairs[0::2]]
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, *kept = ctx.saved_tensors
        want_x, _, _, _, _, *want_pairs = ctx.needs_input_grad
        grad = grad.reshape(-1, grad.shape[-1])
        grad_x = grad @ weight if want_x else None
        found: list[Tensor | None] = []
        for at, block in enumerate(ctx.blocks):
            hidden, down, up = kept[3 * at : 3 * at + 3]
            ours = block.of(grad)
            grad_up = ours.transpose(1, 2) @ hidden
            grad_hidden = ours @ up
            if not isinstance(block.scale, float) or block.scale != 1.0:
                grad_hidden *= block.scale
            grad_down = grad_hidden.transpose(1, 2) @ block.of(rows)
            if grad_x is not None:
                block.of(grad_x).baddbmm_(grad_hidden, down)
            for number in range(block.count):
                rank = ctx.ranks[len(found) // 2]
                found += [grad_down[number, :rank], grad_up[number, :, :rank]]
        wanted = (gradient if want else None for gradient, want in zip(found, want_pairs, strict=True))
        shaped = None if grad_x is None else grad_x.view(ctx.shape).to(ctx.dtype)
        return shaped, None, None, None, None, *wanted
