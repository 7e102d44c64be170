"""The text and size condition of SDXL: captions through both text encoders, image sizes as six numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lorakit.trainers.builtin.checkpoint import BaseModel
from lorakit.trainers.builtin.tokenizers import Tokenizers

__all__ = ["TextCondition", "encode", "encode_ids", "join_chunks", "size_condition"]


@dataclass(frozen=True)
class TextCondition:
    """``hidden`` (batch, tokens, d1 + d2) goes to cross attention, ``pooled`` (batch, dp) to the UNet's vector."""

    hidden: torch.Tensor
    pooled: torch.Tensor


def encode(
    base: BaseModel, tokenizers: Tokenizers, captions: Sequence[str], max_token_length: int | None = None
) -> TextCondition:
    """Encode captions with both text encoders; gradients flow to whatever LoRA is attached to them.

    ``hidden`` joins the outputs of the last layer but one of TE1 and TE2, without their final norm; ``pooled`` is
    TE2's projection of its normed last layer at the first EOS. There are 77 positions, or 152 / 227 for 150 / 225 tokens.
    """
    first, second = tokenizers.encode(captions, max_token_length)
    return encode_ids(base, first, second)


def encode_ids(base: BaseModel, first: torch.Tensor, second: torch.Tensor) -> TextCondition:
    """As :func:`encode`, from the token ids of TE1 and TE2, each of shape (batch, chunks, 77)."""
    batch, chunks, _ = first.shape
    one = base.te1(first.flatten(0, 1).to(base.te1.device), output_hidden_states=True)
    two = base.te2(second.flatten(0, 1).to(base.te2.device), output_hidden_states=True)
    hidden = torch.cat([join_chunks(one.hidden_states[-2], chunks), join_chunks(two.hidden_states[-2], chunks)], dim=-1)
    pooled = two.text_embeds.reshape(batch, chunks, -1)[:, 0]
    return TextCondition(hidden, pooled)


def size_condition(
    original_hw: Sequence[tuple[int, int]],
    crop_tl: Sequence[tuple[int, int]],
    target_hw: Sequence[tuple[int, int]],
) -> torch.Tensor:
    """SDXL's time ids, shape (batch, 6): original size, top-left corner of the crop, target size; height before width."""
    rows = [[*original, *crop, *target] for original, crop, target in zip(original_hw, crop_tl, target_hw, strict=True)]
    return torch.tensor(rows, dtype=torch.float32)


def join_chunks(hidden: torch.Tensor, chunks: int) -> torch.Tensor:
    """(batch × chunks, 77, d) to (batch, 75 × chunks + 2, d): the first BOS, all middles, the last EOS."""
    if chunks == 1:
        return hidden
    parts = hidden.reshape(-1, chunks, *hidden.shape[1:])
    middles = parts[:, :, 1:-1].flatten(1, 2)
    return torch.cat([parts[:, 0, :1], middles, parts[:, -1, -1:]], dim=1)
