"""How many pictures a prompt file asks for, and how large; what else is in it belongs to the trainer."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any, Final

__all__ = ["prompt_entries", "prompt_sizes"]

_DEFAULT_SIDE: Final = 512
_OPTION: Final = re.compile(r" --([wh]) (\d+)", re.IGNORECASE)


def prompt_sizes(path: Path) -> tuple[tuple[int, int], ...] | None:
    """(width, height) of each prompt's picture in pixels; None when the file cannot be read as prompts.

    ``.txt``: a prompt a line with options such as ``--w 1024``; ``.toml``: ``[prompt]`` with ``[[prompt.subset]]``;
    ``.json``: a list of such lines or tables. Sides are rounded down to 8, and at least 64.
    """
    prompts = prompt_entries(path)
    try:
        return None if prompts is None else tuple(_size(prompt) for prompt in prompts)
    except (ValueError, TypeError):
        return None


def prompt_entries(path: Path) -> list[Any] | None:
    """The prompts as they stand there: lines with options, or tables; None when the file cannot be read as prompts."""
    try:
        return _prompts(path.read_text(encoding="utf-8"), path.suffix.lower())
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        return None


def _prompts(text: str, suffix: str) -> list[Any] | None:
    if suffix == ".txt":
        return [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")]
    if suffix == ".toml":
        table = dict(tomllib.loads(text)["prompt"])
        return [table | subset for subset in table.pop("subset")]
    if suffix == ".json":
        entries = json.loads(text)
        return entries if isinstance(entries, list) else None
    return None


def _size(prompt: Any) -> tuple[int, int]:
    if isinstance(prompt, dict):
        width, height = prompt.get("width", _DEFAULT_SIDE), prompt.get("height", _DEFAULT_SIDE)
    else:
        options = {name.lower(): int(value) for name, value in _OPTION.findall(str(prompt))}
        width, height = options.get("w", _DEFAULT_SIDE), options.get("h", _DEFAULT_SIDE)
    return (max(64, int(width) // 8 * 8), max(64, int(height) // 8 * 8))
