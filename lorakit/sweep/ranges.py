"""Ranges in the values of an axis: ``1e-5..1e-3 log 5``, ``0..1 lin 5``, and those of X/Y/Z plots, ``1-5 (+2)``, ``0-1 [5]``."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Final

from lorakit.errors import UsageError
from lorakit.preset.units import format_rate

__all__ = ["expand"]

_NUMBER: Final = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_DOTS: Final = re.compile(rf"({_NUMBER})\s*\.\.\s*({_NUMBER})(?:\s+(log|lin)\s+(\d+))?")
_STEP: Final = re.compile(rf"({_NUMBER})\s*-\s*({_NUMBER})\s*\(\s*({_NUMBER})\s*\)")
_COUNT: Final = re.compile(rf"({_NUMBER})\s*-\s*({_NUMBER})\s*\[\s*(\d+)\s*\]")
_WHOLE: Final = re.compile(r"([+-]?\d+)\s*-\s*(\d+)")
#: More values than this on one axis are rather a slip of the pen than a wish.
_MOST: Final = 1000
#: Significant digits of values that a range makes: enough to tell them apart, few enough to read.
_DIGITS: Final = 4


def expand(text: str) -> tuple[str, ...]:
    """The values that ``text`` stands for: those of a range, or the text itself when it is none.

    ``A..B log N`` and ``A..B lin N`` are N values from A to B in equal ratios or equal distances; ``A-B [N]`` is the
    latter, ``A-B (+S)`` goes by steps of S, ``A-B`` of whole numbers by 1. Both ends are part of it; where S does not lead
    to B, the last value lies before it. Values that are computed are rounded to four significant digits.

    Raises UsageError for a range that has no values, cannot be, or has more than a thousand.
    """
    text = text.strip()
    if match := _DOTS.fullmatch(text):
        first, last, kind, count = match.groups()
        if kind is None:
            raise UsageError(
                f"the range {text} does not say how many values it has",
                todo=f"write {first}..{last} log 5 (equal ratios) or {first}..{last} lin 5 (equal distances)",
            )
        return _spaced(text, float(first), float(last), int(count), by_ratio=kind == "log")
    if match := _COUNT.fullmatch(text):
        first, last, count = match.groups()
        return _spaced(text, float(first), float(last), int(count), by_ratio=False)
    if match := _STEP.fullmatch(text):
        first, last, step = (float(part) for part in match.groups())
        return _stepped(text, first, last, step)
    if match := _WHOLE.fullmatch(text):
        first, last = (float(part) for part in match.groups())
        return _stepped(text, first, last, math.copysign(1, last - first))
    return (text,)


def _spaced(text: str, first: float, last: float, count: int, *, by_ratio: bool) -> tuple[str, ...]:
    if count < 1:
        raise UsageError(f"the range {text} has no values", todo="give a count of at least 1")
    _refuse_many(text, count)
    if by_ratio and not (first > 0 and last > 0):
        raise UsageError(
            f"the range {text} cannot be", why="equal ratios neither begin nor end at 0 or below", todo="use lin"
        )
    if count == 1:
        return (_spell(first),)
    shares = [at / (count - 1) for at in range(count)]
    if by_ratio:
        inner = [first * (last / first) ** share for share in shares]
    else:
        inner = [first + (last - first) * share for share in shares]
    return _told([first, *(_rounded(value) for value in inner[1:-1]), last])


def _stepped(text: str, first: float, last: float, step: float) -> tuple[str, ...]:
    if step == 0 or (last - first) * step < 0:
        raise UsageError(
            f"the range {text} has no values", why=f"steps of {_spell(step)} do not lead from one end to the other"
        )
    count = math.floor((last - first) / step + 1e-9) + 1
    _refuse_many(text, count)
    return _told([first, *(_rounded(first + step * at) for at in range(1, count))])


def _refuse_many(text: str, count: int) -> None:
    if count > _MOST:
        raise UsageError(f"the range {text} has {count} values", why=f"an axis has at most {_MOST}")


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _told(values: Sequence[float]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_spell(value) for value in values))


def _spell(value: float) -> str:
    return f"-{format_rate(-value)}" if value < 0 else format_rate(value)
