"""A frozen linear layer and its low-rank pair as one operation: few kernels, few roundings, nothing kept but its input."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

__all__ = ["linear_with_pair"]


def linear_with_pair(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, down: Tensor, up: Tensor, scale: float
) -> Tensor:
    """``x·weightᵀ + bias + scale·(x·downᵀ)·upᵀ`` for x (…, in), weight (out, in), down (rank, in), up (out, rank).

    Computed in autocast's format where autocast is on, else in that of ``x``. Gradients flow to x, down and up; the
    weight and the bias are frozen.
    """
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    result: Tensor = _LinearWithPair.apply(x, weight, bias, down, up, scale, dtype)  # type: ignore[no-untyped-call]
    return result


class _LinearWithPair(torch.autograd.Function):
    """Autograd alone would run and keep every small step of the pair by itself: twice the kernels at a dim of 8."""

    @staticmethod
    def forward(  # noqa: PLR0917 (autograd passes by position)
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        down: Tensor,
        up: Tensor,
        scale: float,
        dtype: torch.dtype,
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).to(dtype)
        weight, down, up = weight.to(dtype), down.to(dtype), up.to(dtype)
        hidden = rows @ down.t()
        if scale != 1.0:
            hidden *= scale
        out = functional.linear(rows, weight, None if bias is None else bias.to(dtype))
        out.addmm_(hidden, up.t())
        ctx.save_for_backward(rows, hidden, weight, down, up)
        ctx.scale, ctx.shape, ctx.dtype = scale, x.shape, x.dtype
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, hidden, weight, down, up = ctx.saved_tensors
        want_x, _, _, want_down, want_up, *_ = ctx.needs_input_grad
        grad = grad.reshape(-1, grad.shape[-1])
        grad_x = grad_down = grad_up = None
        if want_up:
            grad_up = grad.t() @ hidden
        if want_x or want_down:
            grad_hidden = grad @ up
            if ctx.scale != 1.0:
                grad_hidden *= ctx.scale
            if want_down:
                grad_down = grad_hidden.t() @ rows
            if want_x:
                grad_x = (grad @ weight).addmm_(grad_hidden, down).view(ctx.shape).to(ctx.dtype)
        return grad_x, None, None, grad_down, grad_up, None, None
