"""The prompts of a sheet: those of a run's prompt file, with the trainer's options, or bare ones."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lorakit.errors import UsageError
from lorakit.plan.prompts import prompt_entries
from lorakit.sheet.axes import sampler_name

__all__ = ["Prompt", "parse_line", "read_file"]

#: The UNet halves the latents, an eighth of the picture, twice.
_SIDE: Final = 32


@dataclass(frozen=True)
class Prompt:
    """What to draw; what is None is for the sheet to say. Sizes in pixels."""

    text: str
    negative: str | None = None
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    cfg: float | None = None
    seed: int | None = None
    sampler: str | None = None


#: Options of a line and keys of a table, the field that each is, and how its value is read.
_OPTIONS: Final[Mapping[str, tuple[str, Any]]] = {
    "w": ("width", int),
    "h": ("height", int),
    "s": ("steps", int),
    "l": ("cfg", float),
    "d": ("seed", int),
    "n": ("negative", str),
    "ss": ("sampler", str),
}
_KEYS: Final[Mapping[str, str]] = {
    "negative_prompt": "n",
    "width": "w",
    "height": "h",
    "sample_steps": "s",
    "scale": "l",
    "seed": "d",
    "sample_sampler": "ss",
}


def parse_line(line: str) -> Prompt:
    """One line: ``a prompt --n negative --w 832 --h 1216 --d 1 --s 28 --l 5.5``. What cannot be read is left to the sheet."""
    text, *options = line.split(" --")
    values: dict[str, Any] = {}
    for option in options:
        name, _, rest = option.strip().partition(" ")
        if name.lower() in _OPTIONS:
            _take(values, name.lower(), rest.strip())
    return Prompt(text.strip(), **values)


def read_file(path: Path) -> tuple[Prompt, ...]:
    """The prompts of a .txt, .toml or .json file as the trainer takes it; none where it is gone or cannot be read."""
    found = []
    for entry in prompt_entries(path) or ():
        if isinstance(entry, str):
            found.append(parse_line(entry))
        elif isinstance(entry, dict) and isinstance(entry.get("prompt"), str):
            values: dict[str, Any] = {}
            for key, name in _KEYS.items():
                if entry.get(key) is not None:
                    _take(values, name, str(entry[key]))
            found.append(Prompt(entry["prompt"].strip(), **values))
    return tuple(found)


def _take(values: dict[str, Any], name: str, text: str) -> None:
    field, convert = _OPTIONS[name]
    number = text if convert is str else (re.match(r"-?\d+(\.\d*)?" if convert is float else r"\d+", text) or [""])[0]
    if not number:
        return
    value = convert(number)
    if field in ("width", "height"):
        value = max(64, value // _SIDE * _SIDE)
    elif field == "steps":
        value = min(1000, max(1, value))
    elif field == "sampler":
        try:
            value = sampler_name(value)
        except UsageError:  # one that only the trainer has
            return
    values[field] = value
