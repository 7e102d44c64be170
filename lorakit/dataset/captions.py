"""The caption of one training example: affixes, dropout, wildcards, shuffling, in the trainer's order."""

from __future__ import annotations

import math
import random
import re
from dataclasses import dataclass, fields

__all__ = ["CaptionSettings", "caption_of_example", "expand_wildcards"]

_WILDCARD = re.compile(r"\{([^}]+)\}")
# Doubled braces are literal; private-use characters keep them apart while wildcards are chosen.
_OPEN, _CLOSE = "\ue000", "\ue001"


@dataclass(frozen=True, kw_only=True)
class CaptionSettings:
    """What shapes a caption at training time; field names and defaults are the trainer's."""

    caption_separator: str = ","
    shuffle_caption: bool = False
    keep_tokens: int = 0
    keep_tokens_separator: str = ""
    secondary_separator: str | None = None
    enable_wildcard: bool = False
    caption_prefix: str | None = None
    caption_suffix: str | None = None
    token_warmup_min: int = 1
    token_warmup_step: float = 0
    caption_dropout_rate: float = 0.0
    caption_dropout_every_n_epochs: int = 0
    caption_tag_dropout_rate: float = 0.0

    @classmethod
    def of(cls, subset: CaptionSettings) -> CaptionSettings:
        """The caption settings alone of something that has more, as a subset has."""
        return cls(**{f.name: getattr(subset, f.name) for f in fields(cls)})


def caption_of_example(
    caption: str, settings: CaptionSettings, rng: random.Random, *, epoch: int, step: int, total_steps: int
) -> str:
    """The text that one example is trained with.

    ``caption`` is as read from its file; ``epoch`` counts from 1; ``step`` is the current optimizer step (from 0) of
    ``total_steps``, for token warm-up. An empty result means unconditional: the encoding of "".
    """
    if settings.caption_prefix:
        caption = f"{settings.caption_prefix} {caption}"
    if settings.caption_suffix:
        caption = f"{caption} {settings.caption_suffix}"
    if _dropped(settings, rng, epoch):
        return ""
    caption = _pick_line(caption, settings, rng)
    if settings.shuffle_caption or settings.token_warmup_step > 0 or settings.caption_tag_dropout_rate > 0:
        caption = _rearrange(caption, settings, rng, step=step, total_steps=total_steps)
    if settings.secondary_separator:
        caption = caption.replace(settings.secondary_separator, settings.caption_separator)
    return caption


def expand_wildcards(text: str, rng: random.Random) -> str:
    """Replace each ``{a|b|c}`` by one of its choices; ``{{`` and ``}}`` stand for braces."""
    text = text.replace("{{", _OPEN).replace("}}", _CLOSE)
    text = _WILDCARD.sub(lambda match: rng.choice(match[1].split("|")), text)
    return text.replace(_OPEN, "{").replace(_CLOSE, "}")


def _dropped(settings: CaptionSettings, rng: random.Random, epoch: int) -> bool:
    by_chance = settings.caption_dropout_rate > 0 and rng.random() < settings.caption_dropout_rate
    every = settings.caption_dropout_every_n_epochs
    return by_chance or (every > 0 and epoch % every == 0)


def _pick_line(caption: str, settings: CaptionSettings, rng: random.Random) -> str:
    if not settings.enable_wildcard:
        return caption.split("\n", 1)[0]
    if "\n" in caption:
        caption = rng.choice(caption.split("\n"))
    return expand_wildcards(caption, rng)


def _rearrange(caption: str, settings: CaptionSettings, rng: random.Random, *, step: int, total_steps: int) -> str:
    """Keep the fixed tags, cut (token warm-up), shuffle and drop the others, join all with ", "."""
    before, tags, after = _fixed_and_free(caption, settings)
    tags = tags[: _tags_in_use(len(tags), settings, step=step, total_steps=total_steps)]
    if settings.shuffle_caption:
        rng.shuffle(tags)
    if settings.caption_tag_dropout_rate > 0:
        tags = [tag for tag in tags if rng.random() >= settings.caption_tag_dropout_rate]
    # A comma whatever caption_separator is: the trainer's way.
    return ", ".join([*before, *tags, *after])


def _fixed_and_free(caption: str, settings: CaptionSettings) -> tuple[list[str], list[str], list[str]]:
    """Tags that stay in front, tags that may move, tags that stay at the end."""
    separator, mark = settings.caption_separator, settings.keep_tokens_separator
    if mark and mark in caption:
        front, _, rest = caption.partition(mark)
        middle, _, end = rest.partition(mark)
        return _tags(front, separator), _tags(middle, separator), _tags(end, separator)
    tags = [tag.strip() for tag in caption.strip().split(separator)]
    return tags[: settings.keep_tokens], tags[settings.keep_tokens :], []


def _tags(text: str, separator: str) -> list[str]:
    return [tag.strip() for tag in text.split(separator) if tag.strip()]


def _tags_in_use(count: int, settings: CaptionSettings, *, step: int, total_steps: int) -> int:
    """How many movable tags token warm-up lets through; a ``token_warmup_step`` below 1 is a share of the run."""
    until = settings.token_warmup_step
    if until < 1:
        until = math.floor(until * total_steps)
    if not until or step >= until:
        return count
    least = settings.token_warmup_min
    return max(0, math.floor(step * ((count - least) / until)) + least)
