"""The text condition equals a plain computation with transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lorakit.trainers.builtin.checkpoint import BaseModel
from lorakit.trainers.builtin.text import encode, encode_ids, size_condition
from lorakit.trainers.builtin.tokenizers import EOS, Tokenizers

LONG = ", ".join(f"word number {n}" for n in range(40))


def run_layers(encoder: Any, ids: torch.Tensor) -> list[torch.Tensor]:
    """The input of every layer and the output of the last, layer by layer, with an explicit causal mask."""
    model = encoder.text_model if hasattr(encoder, "text_model") else encoder
    x = model.embeddings(input_ids=ids)
    mask = torch.full((ids.shape[1], ids.shape[1]), float("-inf")).triu(1)[None, None]
    states = [x]
    for layer in model.encoder.layers:
        result = layer(states[-1], mask)
        states.append(result[0] if isinstance(result, tuple) else result)
    return states


def test_75_tokens_against_layers_run_one_by_one(loaded: BaseModel, tokenizers: Tokenizers) -> None:
    captions = ["a photo of a zorp", ""]
    with torch.no_grad():
        condition = encode(loaded, tokenizers, captions)
        first, second = (ids[:, 0] for ids in tokenizers.encode(captions))
        one, two = run_layers(loaded.te1, first), run_layers(loaded.te2, second)
        assert condition.hidden.shape == (2, 77, 128)
        assert torch.allclose(condition.hidden, torch.cat([one[-2], two[-2]], dim=-1), atol=1e-5)
        ends = (second == EOS).int().argmax(dim=1)
        normed = loaded.te2.text_model.final_layer_norm(two[-1][torch.arange(2), ends])
        assert condition.pooled.shape == (2, 64)
        assert torch.allclose(condition.pooled, normed @ loaded.te2.text_projection.weight.T, atol=1e-5)


@pytest.mark.parametrize(("length", "positions"), [(150, 152), (225, 227)])
def test_long_captions_are_joined_from_chunks(
    loaded: BaseModel, tokenizers: Tokenizers, length: int, positions: int
) -> None:
    captions = [LONG, "short"]
    with torch.no_grad():
        joined = encode(loaded, tokenizers, captions, length)
        first, second = tokenizers.encode(captions, length)
        chunks = [encode_ids(loaded, first[:, n : n + 1], second[:, n : n + 1]) for n in range(length // 75)]
    assert joined.hidden.shape == (2, positions, 128)
    assert torch.allclose(joined.pooled, chunks[0].pooled, atol=1e-5)
    assert torch.allclose(joined.hidden[:, 0], chunks[0].hidden[:, 0], atol=1e-5)
    assert torch.allclose(joined.hidden[:, -1], chunks[-1].hidden[:, -1], atol=1e-5)
    for index, chunk in enumerate(chunks):
        middle = joined.hidden[:, 1 + 75 * index : 76 + 75 * index]
        assert torch.allclose(middle, chunk.hidden[:, 1:-1], atol=1e-5)


def test_a_batch_is_its_captions_one_by_one(loaded: BaseModel, tokenizers: Tokenizers) -> None:
    captions = ["a", LONG, ""]
    with torch.no_grad():
        together = encode(loaded, tokenizers, captions, 225)
        for index, caption in enumerate(captions):
            alone = encode(loaded, tokenizers, [caption], 225)
            assert torch.allclose(together.hidden[index], alone.hidden[0], atol=1e-5)
            assert torch.allclose(together.pooled[index], alone.pooled[0], atol=1e-5)


def test_sizes_come_height_first() -> None:
    ids = size_condition([(200, 100)], [(1, 2)], [(128, 64)])
    assert ids.tolist() == [[200.0, 100.0, 1.0, 2.0, 128.0, 64.0]]
    with pytest.raises(ValueError, match="zip"):
        size_condition([(1, 1)], [], [(1, 1)])
