"""The name of a run's files, made from the preset's."""

from __future__ import annotations

import unicodedata
from typing import Final

__all__ = ["output_name"]

#: Long enough for every name people give, short enough for ``-step00000001-state`` behind it.
_NAME_BYTES: Final = 120


def output_name(name: str) -> str:
    """A file name: letters and digits of any script, ``-``, ``_`` and ``.``; never empty."""
    kept = "".join(
        letter if letter.isalnum() or letter in "-_." or unicodedata.category(letter).startswith("M") else "_"
        for letter in unicodedata.normalize("NFC", name)
    )
    while "__" in kept:
        kept = kept.replace("__", "_")
    short = kept.strip("-_.").encode()[:_NAME_BYTES].decode(errors="ignore").rstrip("-_.")
    return short or "lora"
