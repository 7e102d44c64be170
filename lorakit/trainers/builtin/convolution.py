"""Wide convolutions over few pixels on the CPU as matrix products: reordering 30 MB of weights for 64 pixels costs more."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

__all__ = ["convolve", "quicken_convolutions"]

#: Pixels of a whole batch up to which, and channels from which, the product beats torch's kernel (measured).
_FEW_PIXELS: Final = 256
_MANY_CHANNELS: Final = 1024


def quicken_convolutions(unet: nn.Module) -> None:
    """Let the 3x3 convolutions of ``unet``, which is on the CPU, use :func:`convolve` where it is quicker."""
    for module in unet.modules():
        if isinstance(module, nn.Conv2d) and _fits(module):
            module.forward = partial(_forward, module, module.forward)  # type: ignore[method-assign]


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The 3x3 convolution of x (B, in, H, W) with a frozen weight (out, in, 3, 3), padded by one, stride one."""
    result: Tensor = _Convolution.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return result


class _Convolution(torch.autograd.Function):
    """Rows of 9 x in neighbours times the weight; backwards, rows of their gradients summed where neighbours overlap."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        batch, _, height, width = x.shape
        padded = functional.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
        rows = padded.unfold(1, 3, 1).unfold(2, 3, 1).reshape(batch * height * width, -1)
        ctx.save_for_backward(weight)
        ctx.size = (height, width)
        return functional.linear(rows, weight.flatten(1), bias).view(batch, height, width, -1).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        rows = grad.permute(0, 2, 3, 1).flatten(0, 2) @ weight.flatten(1)
        columns = (
            rows.view(len(grad), -1, rows.shape[1]).transpose(1, 2).float()
        )  # nine terms: rounded once, at the end
        return functional.fold(columns, ctx.size, 3, padding=1).to(grad.dtype), None, None


def _fits(module: nn.Conv2d) -> bool:
    plain = (module.kernel_size, module.stride, module.padding, module.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))
    return (
        plain and module.in_channels >= _MANY_CHANNELS and module.groups == 1 and module.weight.dtype == torch.bfloat16
    )


def _forward(module: nn.Conv2d, usual: Any, x: Tensor) -> Tensor:
    few = x.shape[0] * x.shape[2] * x.shape[3] <= _FEW_PIXELS
    if few and x.dtype == module.weight.dtype and not module.weight.requires_grad:
        return convolve(x, module.weight, module.bias)
    result: Tensor = usual(x)
    return result
