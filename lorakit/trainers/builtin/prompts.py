"""Prompt files for sample images, in the trainer's syntax: .txt, .toml or .json."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lorakit.errors import TrainerError

__all__ = ["SamplePrompt", "parse_line", "read_prompts"]

_STEP = 32  # the UNet halves the latents, an eighth of the image, twice
_SMALLEST = 64


@dataclass(frozen=True)
class SamplePrompt:
    """One image to draw. ``seed`` None is a drawn one, ``sampler`` None is that of --sample_sampler; sizes in pixels."""

    prompt: str
    negative: str = ""
    width: int = 512
    height: int = 512
    steps: int = 30
    scale: float = 7.5
    seed: int | None = None
    sampler: str | None = None

    def fitted(self) -> SamplePrompt:
        """The same with its size rounded down to what SDXL can draw: multiples of 32, at least 64."""
        width, height = (max(_SMALLEST, side // _STEP * _STEP) for side in (self.width, self.height))
        return self if (width, height) == (self.width, self.height) else replace(self, width=width, height=height)


def read_prompts(path: Path) -> tuple[SamplePrompt, ...]:
    """Read a prompt file; ``.txt`` holds one prompt a line, with ``#`` comments.

    Raises:
        TrainerError: the file is missing, not UTF-8, not of one of the three kinds, or a value in it is wrong.
    """
    kind = path.suffix.lower()
    if kind not in _READERS:
        raise TrainerError(f"{path}: a prompt file is a .txt, .toml or .json", todo="rename or convert it")
    try:
        return tuple(_READERS[kind](path.read_text(encoding="utf-8-sig")))
    except OSError as error:
        raise TrainerError(f"{path}: the prompt file cannot be read", why=str(error), todo="check the path") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, not TOML, not JSON, or a wrong value
        raise TrainerError(f"{path}: the prompt file is wrong", why=str(error), todo="correct it") from error


def parse_line(line: str) -> SamplePrompt:
    """One line of a .txt file: ``a prompt --n negative --w 832 --h 1216 --d 1 --s 28 --l 5.5 --ss euler_a``.

    Unknown options are left out, as is what follows a number.
    """
    text, *options = line.split(" --")
    values: dict[str, Any] = {"prompt": text.strip()}
    for option in options:
        name, _, rest = option.strip().partition(" ")
        found = _OPTIONS.get(name.lower())
        if found is None:
            continue
        key, pattern, convert = found
        if match := re.match(pattern, rest.strip()):
            values[key] = convert(match[0])
    return _prompt(values)


_INTEGER, _NUMBER = r"\d+", r"-?\d+(\.\d*)?"
_OPTIONS: dict[str, tuple[str, str, Any]] = {
    "w": ("width", _INTEGER, int),
    "h": ("height", _INTEGER, int),
    "d": ("seed", _INTEGER, int),
    "s": ("steps", _INTEGER, int),
    "l": ("scale", _NUMBER, float),
    "n": ("negative", r".+", str),
    "ss": ("sampler", r"\S+", str),
}

_KEYS: dict[str, tuple[str, type]] = {
    "prompt": ("prompt", str),
    "negative_prompt": ("negative", str),
    "width": ("width", int),
    "height": ("height", int),
    "seed": ("seed", int),
    "sample_steps": ("steps", int),
    "scale": ("scale", float),
    "sample_sampler": ("sampler", str),
}


def _lines(text: str) -> list[SamplePrompt]:
    lines = [line.strip() for line in text.splitlines()]
    return [parse_line(line) for line in lines if line and not line.startswith("#")]


def _toml(text: str) -> list[SamplePrompt]:
    table = tomllib.loads(text).get("prompt", {})
    if not isinstance(table, dict):
        raise ValueError("[prompt] is not a table")
    defaults = {key: value for key, value in table.items() if key != "subset"}
    subsets = table.get("subset", [])
    if not isinstance(subsets, list) or not all(isinstance(subset, dict) for subset in subsets):
        raise ValueError("[[prompt.subset]] is not a list of tables")
    return [_from_table({**defaults, **subset}) for subset in subsets]


def _json(text: str) -> list[SamplePrompt]:
    items = json.loads(text)
    if not isinstance(items, list):
        raise ValueError("the file is not a list of prompts")
    return [parse_line(item) if isinstance(item, str) else _from_table(item) for item in items]


def _from_table(table: Any) -> SamplePrompt:
    if not isinstance(table, dict):
        raise ValueError(f"{table!r} is neither a line nor a table")
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key in _KEYS and value is not None:
            name, kind = _KEYS[key]
            try:
                values[name] = kind(value)
            except (TypeError, ValueError, OverflowError) as error:
                raise ValueError(f"{key} = {value!r} is not of type {kind.__name__}") from error
    if "prompt" not in values:
        raise ValueError(f"an entry without a prompt: {table!r}")
    return _prompt(values)


def _prompt(values: dict[str, Any]) -> SamplePrompt:
    if "steps" in values:
        values["steps"] = min(1000, max(1, values["steps"]))
    return SamplePrompt(**values)


_READERS = {".txt": _lines, ".toml": _toml, ".json": _json}
