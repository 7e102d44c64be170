"""bf16 twins of UNet and VAE: on a CPU with bf16 instructions they train nearly twice as fast as in fp32."""

from __future__ import annotations

import copy
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional

from lorakit.trainers.builtin.text import TextCondition

__all__ = ["Twin", "VaeTwin"]


class _Copy:
    """A bf16 copy of a module, which computes the gradients of the module's fp32 weights."""

    def __init__(self, master: nn.Module) -> None:
        self._master: list[Tensor] = list(master.parameters())
        self._module: Any = copy.deepcopy(master).to(torch.bfloat16)
        for module in self._module.modules():
            if isinstance(module, nn.GroupNorm):
                module.forward = _group_norm.__get__(module)  # type: ignore[method-assign]
        self._copies: list[Tensor] = list(self._module.parameters())

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the master's weights."""
        torch._foreach_copy_(self._copies, self._master)
        for parameter in self._copies:
            parameter.grad = None

    @torch.no_grad()
    def hand_over(self) -> None:
        """Give the gradients to the master."""
        for ours, theirs in zip(self._copies, self._master, strict=True):
            theirs.grad = None if ours.grad is None else ours.grad.float()


class Twin(_Copy):
    """The copy of a UNet."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__(unet)
        self._module.set_attn_processor(_Attention())

    def predict(self, noisy: Tensor, times: Tensor, condition: TextCondition, sizes: Tensor) -> Tensor:
        """The noise in ``noisy`` (B, 4, H, W), float32; gradients reach the twin and the text condition."""
        predicted: Tensor = self._module(
            noisy.contiguous(memory_format=torch.channels_last).bfloat16(),
            times,
            condition.hidden.bfloat16(),
            added_cond_kwargs={"text_embeds": condition.pooled.bfloat16(), "time_ids": sizes},
        ).sample
        return predicted.float()


class VaeTwin(_Copy):
    """The copy of a VAE."""

    def encode(self, pixels: Tensor) -> Tensor:
        """Means of the latents (B, 4, h, w) of pixels (B, 3, 8h, 8w), float32."""
        mean: Tensor = self._module.encode(
            pixels.contiguous(memory_format=torch.channels_last).bfloat16()
        ).latent_dist.mean
        return mean.float()

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels (B, 3, 8h, 8w), float32."""
        pixels: Tensor = self._module.decode(latents.bfloat16()).sample
        return pixels.float()


def _group_norm(self: nn.GroupNorm, x: Tensor) -> Tensor:
    # in channels-last layout, PyTorch's bf16 group norm is ten times slower than that for fp32
    weight, bias = self.weight.float(), self.bias.float()
    return functional.group_norm(x.float(), self.num_groups, weight, bias, self.eps).to(x.dtype)


class _Attention:
    """Attention with its inner products in fp32: for so few tokens the bf16 kernel is several times slower."""

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        batch, heads = hidden_states.shape[0], attn.heads
        query, key, value = (
            part.float().view(batch, -1, heads, part.shape[-1] // heads).transpose(1, 2)
            for part in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        mixed = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        projected: Tensor = attn.to_out[1](attn.to_out[0](mixed.to(hidden_states.dtype)))
        return projected
