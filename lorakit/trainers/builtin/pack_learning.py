"""Learning from the batches of several trials at once: one pass through the base model, one backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from lorakit.trainers.builtin.data import Loaded
from lorakit.trainers.builtin.loop import Loop
from lorakit.trainers.builtin.pack_stage import Stage
from lorakit.trainers.builtin.text import TextCondition, encode

__all__ = ["Turn", "can_share", "learn", "shape_of"]


@dataclass(frozen=True)
class Turn:
    """A trial whose next batch waits to be learnt from."""

    trial: int
    loop: Loop
    loaded: Loaded

    @property
    def examples(self) -> int:
        """How many there are in the batch."""
        return len(self.loaded.weights)


def shape_of(loaded: Loaded) -> tuple[int, ...]:
    """What must be the same for batches to go through the model together: the size of their pictures."""
    images = loaded.latents if loaded.latents is not None else loaded.pixels
    assert images is not None
    return tuple(images.shape[1:])


def can_share(loop: Loop) -> bool:
    """Whether a trial's passes can be shared: its dropouts draw from torch's own generator, in an order of their own."""
    network = loop.t.options.network
    return not (network.network_dropout or network.argument("rank_dropout") or network.argument("module_dropout"))


def learn(turns: Sequence[Turn], stage: Stage) -> list[float]:
    """Add to every trial's gradients those of its batch, all of one shape, and return the losses.

    One trial alone learns exactly as it does without others. Several go through the model as one batch: their examples do not
    see each other, so only the order in which numbers are added differs.
    """
    if len(turns) == 1:
        with stage.on([(turns[0].trial, turns[0].examples)]):
            return [turns[0].loop.learn(turns[0].loaded)]
    with stage.on([(turn.trial, turn.examples) for turn in turns]):
        losses = _losses(turns)
        shares = [turn.loop.share(loss) for turn, loss in zip(turns, losses, strict=True)]
        torch.stack(shares).sum().backward()  # type: ignore[no-untyped-call]
    found: list[float] = torch.stack(losses).tolist()
    return found


def _losses(turns: Sequence[Turn]) -> list[Tensor]:
    forwards = [turn.loop.t.forward for turn in turns]
    first = forwards[0]
    draws = [forward.draw(turn.loaded) for forward, turn in zip(forwards, turns, strict=True)]
    noisy = torch.cat([draw.noisy for draw in draws])
    if first.recomputation is not None:
        first.recomputation.begin((noisy.shape, len(turns)))
    with first.accelerator.autocast():
        text = _text(turns)
        timesteps = torch.cat([draw.timesteps for draw in draws])
        sizes = torch.cat([turn.loaded.sizes for turn in turns])
        prediction = first.predict(noisy, timesteps, text, sizes)
    predictions = torch.split(prediction, [turn.examples for turn in turns])
    judged = zip(forwards, predictions, draws, turns, strict=True)
    return [forward.judge(part, draw, turn.loaded) for forward, part, draw, turn in judged]


def _text(turns: Sequence[Turn]) -> TextCondition:
    """The text conditions of all, cached or encoded in one pass, with gradients if any of them trains the text encoders."""
    forwards = [turn.loop.t.forward for turn in turns]
    first = forwards[0]
    if turns[0].loaded.hidden is not None:
        texts = [forward.text(turn.loaded) for forward, turn in zip(forwards, turns, strict=True)]
        return TextCondition(torch.cat([text.hidden for text in texts]), torch.cat([text.pooled for text in texts]))
    assert first.tokenizers is not None
    captions = [caption for turn in turns for caption in turn.loaded.captions]
    trained = any(forward.train_text for forward in forwards)
    grad: AbstractContextManager[object] = nullcontext() if trained else torch.no_grad()
    with grad:
        text = encode(first.base, first.tokenizers, captions, first.max_token_length)
    return TextCondition(text.hidden.to(first.dtype), text.pooled.to(first.dtype))
