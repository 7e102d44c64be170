"""Attention on the CPU with a quicker backward pass: for few tokens torch's own CPU kernel takes several times as long."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers.models.clip.modeling_clip import CLIPAttention

from lorakit.trainers.builtin.checkpoint import BaseModel

__all__ = ["attend", "quicken_attention"]

#: Up to this many keys matrix products beat torch's kernel backwards (measured; at 256 keys they are equal).
_FEW_KEYS: Final = 128

_flash: Final = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward: Final = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float, *, causal: bool = False) -> Tensor:
    """softmax(query·keyᵀ·scale)·value over CPU tensors (B, heads, tokens, width); ``causal``: no token sees a later one."""
    result: Tensor = _Attention.apply(query, key, value, scale, causal)  # type: ignore[no-untyped-call]
    return result


class _Attention(torch.autograd.Function):
    """Forwards torch's kernel; backwards, for few keys, the formulas of FlashAttention (Dao et al., 2022) on whole matrices."""

    @staticmethod
    def forward(  # noqa: PLR0917 (autograd passes by position)
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float, causal: bool
    ) -> Tensor:
        out, log_sum = _flash(query, key, value, 0.0, causal, scale=scale)
        ctx.save_for_backward(query, key, value, out, log_sum)
        ctx.scale, ctx.causal = scale, causal
        return out  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        if saved[1].shape[2] > _FEW_KEYS:
            grads = _flash_backward(grad, *saved, 0.0, ctx.causal, scale=ctx.scale)
            return *grads, None, None
        flat = tuple(tensor.flatten(0, 1) for tensor in saved)
        grads = _backward(grad.flatten(0, 1), flat, scale=ctx.scale, causal=ctx.causal)
        return *(gradient.view(*grad.shape[:2], *gradient.shape[1:]) for gradient in grads), None, None


def _backward(
    grad: Tensor,
    saved: tuple[Tensor, Tensor, Tensor, Tensor, Tensor],
    *,
    scale: float,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, all (B x heads, tokens, width), from what ``forward`` saved. Scores are float32, as in torch's kernel."""
    query, key, value, out, log_sum = saved
    dtype, grad32 = query.dtype, grad.float()
    scores = torch.baddbmm(log_sum.unsqueeze(-1), query.float() * scale, key.float().transpose(1, 2), beta=-1.0)
    probabilities = scores.exp_()
    if causal:
        probabilities = probabilities.tril_()
    grad_value = probabilities.to(dtype).transpose(1, 2) @ grad
    mean = (grad32 * out).sum(-1, keepdim=True)
    grad_scores = torch.baddbmm(mean, grad32, value.float().transpose(1, 2), beta=-1.0)
    grad_scores = grad_scores.mul_(probabilities).mul_(scale).to(dtype)
    return grad_scores @ key, grad_scores.transpose(1, 2) @ query, grad_value


def quicken_attention(base: BaseModel) -> None:
    """Let the UNet and both text encoders of ``base``, which is on the CPU, use :func:`attend`."""
    base.unet.set_attn_processor(_UnetAttention())
    for encoder in (base.te1, base.te2):
        for module in encoder.modules():
            if isinstance(module, CLIPAttention):
                module.forward = partial(_clip_attention, module)  # type: ignore[method-assign]


class _UnetAttention:
    """What diffusers calls for an attention layer of SDXL's UNet, which has no mask, and no norm or residual inside."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        if attention_mask is not None:
            raise ValueError("SDXL's UNet attends without a mask")
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        out: Tensor = attn.to_out[0](_by_heads(query, key, value, attn.heads, attn.scale))
        return out


def _clip_attention(attn: CLIPAttention, hidden_states: Tensor, *_: object, **__: object) -> tuple[Tensor, None]:
    """A text encoder's attention: always causal; captions are padded with tokens that it sees, so there is no other mask."""
    query, key, value = attn.q_proj(hidden_states), attn.k_proj(hidden_states), attn.v_proj(hidden_states)
    return attn.out_proj(_by_heads(query, key, value, attn.num_heads, attn.scale, causal=True)), None


def _by_heads(query: Tensor, key: Tensor, value: Tensor, heads: int, scale: float, *, causal: bool = False) -> Tensor:
    """:func:`attend` for tensors (B, tokens, heads x width)."""
    query, key, value = (t.view(*t.shape[:2], heads, -1).transpose(1, 2) for t in (query, key, value))
    return attend(query, key, value, scale, causal=causal).transpose(1, 2).flatten(2)
