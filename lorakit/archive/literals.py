"""How values are written in a filter: numbers, moments, lengths of time, amounts of memory, words (stdlib only)."""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from lorakit.archive.facts import Kind

__all__ = ["Range", "flag", "meaning"]

_SECONDS: Final = MappingProxyType({"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400})
_BYTES: Final = MappingProxyType(
    {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30}
)
_LENGTH: Final = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:min|[smhdw]))+")
_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(min|[smhdw])")
_CLOCK: Final = re.compile(r"(?:([0-9]{1,4}):)?([0-9]{1,4}):([0-9]{2})")
_DATE: Final = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})(?:[T_ ]([0-9]{2}):?([0-9]{2}))?")
_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


@dataclass(frozen=True)
class Range:
    """What a literal stands for among numbers: from ``low`` up to, not including, ``high``; a plain number has both alike."""

    low: float
    high: float

    def holds(self, operator: str, value: float) -> bool:
        """Whether ``value operator literal``: a day contains its moments, and what is later than a day comes after its end."""
        match operator:
            case "==":
                return value == self.low or self.low <= value < self.high
            case "<":
                return value < self.low
            case ">":
                return value > self.low if self.low == self.high else value >= self.high
            case "<=":
                return value <= self.low or value < self.high
            case ">=":
                return value >= self.low
        raise AssertionError(operator)


def meaning(word: str, kind: Kind, *, now: float | None = None) -> Range | None:
    """What a word means where a value of this kind is expected; None when it cannot be one. Times in unix seconds, sizes in bytes."""
    if kind is Kind.TIME:
        return _moment(word, time.time() if now is None else now)
    number = _duration(word) if kind is Kind.DURATION else _size(word) if kind is Kind.SIZE else _number(word)
    return None if number is None else Range(number, number)


def flag(word: str) -> bool | None:
    """What a word means where yes or no is expected."""
    return {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}.get(word.lower())


def _number(word: str) -> float | None:
    if _NUMBER.fullmatch(word):
        number = float(word)
        return number if math.isfinite(number) else None
    if word.endswith("%") and _NUMBER.fullmatch(word[:-1]):
        return float(word[:-1]) / 100
    return None


def _duration(word: str) -> float | None:
    if _LENGTH.fullmatch(word):
        return sum(float(count) * _SECONDS[unit] for count, unit in _PART.findall(word))
    if clock := _CLOCK.fullmatch(word):
        hours, minutes, seconds = (int(part or 0) for part in clock.groups())
        return float(hours * 3600 + minutes * 60 + seconds)
    return _number(word)


def _size(word: str) -> float | None:
    found = re.fullmatch(r"([0-9.]+) ?([a-zA-Z]*)", word)
    if found is None or found[2].lower() not in _BYTES:
        return None
    number = _number(found[1])
    return None if number is None else number * _BYTES[found[2].lower()]


def _moment(word: str, now: float) -> Range | None:
    if word in {"today", "yesterday"}:
        day = time.localtime(now)
        return _day(day.tm_year, day.tm_mon, day.tm_mday - (word == "yesterday"))
    if _LENGTH.fullmatch(word):  # so long ago
        ago = now - (_duration(word) or 0.0)
        return Range(ago, ago)
    if date := _DATE.fullmatch(word):
        year, month, day_of_month = int(date[1]), int(date[2]), int(date[3])
        if not (1970 <= year <= 9998 and 1 <= month <= 12 and 1 <= day_of_month <= 31):
            return None
        if date[4] is None:
            return _day(year, month, day_of_month)
        minute = time.mktime((year, month, day_of_month, int(date[4]), int(date[5]), 0, 0, 0, -1))
        return Range(minute, minute + 60)
    return None


def _day(year: int, month: int, day: int) -> Range:
    # mktime knows how long a day is when clocks are changed.
    begin, end = (time.mktime((year, month, day + more, 0, 0, 0, 0, 0, -1)) for more in (0, 1))
    return Range(begin, end)
