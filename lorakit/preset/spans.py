"""Spans of time as people write them: ``90s``, ``30m``, ``2h``, ``1h30m``; one parser and one printer."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator

from lorakit.preset.fields import Words
from lorakit.preset.units import UnitError, shown

__all__ = ["Span", "seconds", "span_text"]

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_SPAN = re.compile(r"(?:(\d{1,5})d)?(?:(\d{1,7})h)?(?:(\d{1,8})m)?(?:(\d{1,9})s)?", re.IGNORECASE)


def seconds(value: Any) -> int:
    """The seconds that a span such as ``30m`` means. Raises ValueError; a bare number is refused, for its unit is not known."""
    match = _SPAN.fullmatch(value.replace(" ", "")) if isinstance(value, str) else None
    found = (
        sum(int(part) * size for part, size in zip(match.groups(), _UNITS.values(), strict=True) if part)
        if match
        else 0
    )
    if found < 1:
        raise UnitError(f'a time is written with its unit, such as "30m", "90s" or "1h30m", not {shown(value)}')
    return found


def span_text(value: int) -> str:
    """Seconds in the shortest words that :func:`seconds` reads back: ``30m``, ``1h30m``."""
    words = ""
    for unit, size in _UNITS.items():
        if value >= size:
            words += f"{value // size}{unit}"
            value %= size
    return words


def _span(value: Any) -> str:
    return span_text(seconds(value))


#: A span of time, kept as the text that :func:`span_text` gives.
Span = Annotated[str, BeforeValidator(_span), Words('a time with its unit: "30m", "90s", "1h30m"')]
