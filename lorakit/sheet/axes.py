"""The grammar of a sheet's axes: ``epoch=1-5 (+2),last``, ``weight=0-1.5 [4]``, ``seed=-1--1 [4]``, ``prompt=zorp, "a red, round ball"``."""

from __future__ import annotations

import csv
import difflib
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from lorakit.errors import UsageError
from lorakit.sweep.axes import split_values
from lorakit.sweep.ranges import expand

__all__ = ["KINDS", "SAMPLERS", "Axis", "draw_seed", "parse_axis", "sampler_name"]

#: What an axis can be, with the words that mean the same, and what it does.
KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "run": ("runs", "lora"),
    "epoch": ("epochs", "checkpoint", "checkpoints"),
    "prompt": ("prompts", "sr", "prompt s/r", "prompt_sr"),
    "weight": ("weights", "network", "multiplier"),
    "unet": ("unet_weight", "unet weight"),
    "te": ("te_weight", "te weight"),
    "part": ("parts",),
    "seed": ("seeds",),
    "sampler": ("samplers",),
    "steps": ("step",),
    "cfg": ("cfg scale", "cfg_scale", "scale"),
}
#: The samplers, as the webui calls them, and the trainer's names for the same.
SAMPLERS: Final[Mapping[str, tuple[str, ...]]] = {
    "DDIM": ("ddim",),
    "Euler": ("euler", "k_euler"),
    "Euler a": ("euler_a", "k_euler_a", "euler ancestral"),
    "Heun": ("heun",),
    "DPM++ 2M": ("dpmsolver++", "dpm++2m"),
    "DPM++ 2M Karras": ("dpm++2mkarras",),
    "DPM++ 2M SDE Karras": ("dpm++2msdekarras",),
    "UniPC": ("unipc",),
}
PARTS: Final = ("none", "te", "unet", "both")
#: Without values of its own, an axis has these.
_DEFAULTS: Final[Mapping[str, tuple[str, ...]]] = {
    "weight": ("0", "0.25", "0.5", "0.75", "1", "1.25", "1.5"),
    "unet": ("0", "0.5", "1", "1.5"),
    "te": ("0", "0.5", "1", "1.5"),
    "part": PARTS,
    "seed": ("1", "2", "3", "4"),
    "sampler": tuple(SAMPLERS),
}
#: Lowest and highest value, and whether it is a whole number.
_BOUNDS: Final[Mapping[str, tuple[float, float, bool]]] = {
    "weight": (-5, 5, False),
    "unet": (-5, 5, False),
    "te": (-5, 5, False),
    "seed": (-1, 2**32 - 1, True),
    "steps": (1, 1000, True),
    "cfg": (0, 50, False),
}
#: One number so many times: `-1--1 [4]` is four seeds to be drawn.
_SAME: Final = re.compile(r"(-?\d+)\s*-\s*(-?\d+)\s*\[\s*(\d+)\s*\]")
_EPOCH: Final = re.compile(r"\d+|last|first|final|all|step\s*\d+", re.IGNORECASE)
#: Ranges of whole numbers, which are seeds too: no digit may be rounded off.
_WHOLE: Final = re.compile(r"(-?\d{1,12})\s*-\s*(\d{1,12})(?:\s*\(\s*([+-]?\d{1,12})\s*\))?")
#: More values than this on one axis are rather a slip of the pen than a wish.
_MOST: Final = 100


@dataclass(frozen=True)
class Axis:
    """A kind and its values as words, each once; ``values`` None means all that there are (runs, epochs, prompts)."""

    kind: str
    values: tuple[str, ...] | None = None


def parse_axis(text: str, *, rng: random.Random | None = None) -> Axis:
    """The axis that ``text`` means: a kind, ``=``, and its values by commas; ranges as in X/Y/Z plots.

    A seed of -1 is drawn, here and now, from ``rng`` or the system. Raises UsageError for what no axis can mean.
    """
    name, equals, rest = text.partition("=")
    kind = _kind(name, text)
    if not equals:
        return Axis(kind, _DEFAULTS.get(kind))
    if not rest.strip():
        raise UsageError(f"the axis {kind} has no values", todo=f"write {_example(kind)}")
    values = _words(kind, rest)
    if kind == "seed":
        values = tuple(str(draw_seed(rng)) if value == "-1" else value for value in values)
    if len(values) > _MOST:
        raise UsageError(f"the axis {kind} has {len(values)} values", why=f"an axis has at most {_MOST}")
    return Axis(kind, values)


def draw_seed(rng: random.Random | None = None) -> int:
    """A seed between 0 and 2³² − 1."""
    return (rng or random.SystemRandom()).randrange(2**32)


def sampler_name(text: str) -> str:
    """The webui's name of the sampler that ``text`` means. Raises UsageError."""
    asked = _plain(text)
    for name, others in SAMPLERS.items():
        if asked in {_plain(name), *map(_plain, others)}:
            return name
    raise UsageError(f"there is no sampler {text!r}", why=f"there are {', '.join(SAMPLERS)}")


def _plain(text: str) -> str:
    return re.sub(r"[\s_-]+", "", text.lower())


def _kind(name: str, text: str) -> str:
    asked = name.strip().lower()
    for kind, others in KINDS.items():
        if asked == kind or asked in others:
            return kind
    near = difflib.get_close_matches(asked, KINDS, n=1)
    raise UsageError(
        f"{text!r} names no axis",
        why=f"did you mean {near[0]}?" if near else "",
        todo=f"the axes are {', '.join(KINDS)}: such as {_example(near[0] if near else 'epoch')}",
    )


def _example(kind: str) -> str:
    return {
        "run": "run=k3f9,m8aa",
        "epoch": "epoch=1-9 (+2),last",
        "prompt": 'prompt=zorp, "a red, round ball"',
        "part": "part=none,te,unet,both",
        "seed": "seed=1,2,-1",
        "sampler": "sampler=Euler a,DDIM",
        "steps": "steps=10-30 (+10)",
        "cfg": "cfg=3-9 [3]",
    }.get(kind, f"{kind}=0-1.5 (+0.5)")


def _words(kind: str, rest: str) -> tuple[str, ...]:
    if kind in ("prompt", "run"):
        words = _quoted(rest)
        if not all(words) and kind == "run":
            raise UsageError(f"the axis run has an empty value: {rest}", todo=f"write {_example(kind)}")
        return words
    found: list[str] = []
    for word in split_values(rest, kind):
        if not word:
            raise UsageError(f"the axis {kind} has an empty value: {rest}", todo=f"write {_example(kind)}")
        found += _of_word(kind, word)
    # A drawn seed is another one each time; of everything else once is enough.
    return tuple(found) if kind == "seed" else tuple(dict.fromkeys(found))


def _quoted(rest: str) -> tuple[str, ...]:
    """As the webui reads Prompt S/R: commas outside double quotes; ``""`` within them is a quote."""
    try:
        (row,) = csv.reader([rest], skipinitialspace=True, strict=True)
    except (csv.Error, ValueError) as error:
        raise UsageError(f"the values {rest} cannot be read", why=str(error), todo="close every quote") from error
    return tuple(dict.fromkeys(word.strip() for word in row))


def _of_word(kind: str, word: str) -> list[str]:
    if kind == "sampler":
        return [sampler_name(word)]
    if kind == "part":
        if word.lower() not in PARTS:
            raise UsageError(f"there is no part {word!r}", why=f"there are {', '.join(PARTS)}")
        return [word.lower()]
    same = _SAME.fullmatch(word)
    if same and same[1] == same[2]:
        if int(same[3]) > _MOST:
            raise UsageError(f"the axis {kind} has {same[3]} values", why=f"an axis has at most {_MOST}")
        return [_number(kind, same[1])] * int(same[3])
    if kind == "epoch" and _EPOCH.fullmatch(word):
        return [re.sub(r"\s+", "", word.lower())]
    values = _counted(word) or expand(word)
    if kind == "epoch":
        if not all(value.isdecimal() for value in values):
            raise UsageError(f"{word!r} is no epoch", todo=f"write {_example(kind)}, or step200 for a file of a step")
        return list(values)
    return [_number(kind, value) for value in values]


def _counted(word: str) -> tuple[str, ...]:
    """The numbers of a range of whole ones, exactly; none for what is no such range or has too many."""
    match = _WHOLE.fullmatch(word)
    if match is None:
        return ()
    first, last = int(match[1]), int(match[2])
    step = int(match[3]) if match[3] else (1 if last >= first else -1)
    if step == 0 or (last - first) * step < 0 or (last - first) // step >= _MOST:
        return ()
    return tuple(str(value) for value in range(first, last + (1 if step > 0 else -1), step))


def _number(kind: str, word: str) -> str:
    low, high, whole = _BOUNDS[kind]
    try:
        value = float(word)
    except ValueError:
        raise UsageError(f"{word!r} is no value of the axis {kind}", todo=f"write {_example(kind)}") from None
    if not low <= value <= high or (whole and not value.is_integer()):
        kinds = "whole numbers" if whole else "numbers"
        raise UsageError(f"{word} is no value of the axis {kind}", why=f"it takes {kinds} from {low:g} to {high:.0f}")
    return str(int(value)) if whole else f"{value:g}"
