"""Values of any format as the trainer's options take them: numbers that came as text, lists, ratios and counts."""

from __future__ import annotations

import math
import shlex
from typing import Any

from lorakit.preset.units import shown
from lorakit.trainers.catalogue import Flag, int_or_float

__all__ = ["coerce"]


def coerce(flag: Flag, value: Any, *, command_line: bool = False) -> Any:
    """``value`` as an option of this type holds it. Raises ValueError, in words, for what it cannot be.

    ``command_line``: as the trainer's parser reads words; else as a file says it, where types are the file's own and
    numbers may still be text.
    """
    if flag.nargs == "*":
        if value in (None, [], "") and flag.dest == "text_encoder_lr":
            raise ValueError("it has no value")
        return [_one(flag, item, command_line=command_line) for item in _items(value)]
    if isinstance(value, (list, tuple, dict)):
        raise ValueError(f"{shown(value)} is more than one value")
    found = _one(flag, value, command_line=command_line)
    # TOML passes the trainer's list of choices by; 75 is what it does without the option.
    if flag.choices and found not in flag.choices and (flag.dest, found) != ("max_token_length", 75):
        raise ValueError(f"{shown(found)} is none of {', '.join(str(one) for one in flag.choices if one is not None)}")
    return found


def _items(value: Any) -> list[Any]:
    if isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(value, str):
        try:
            return shlex.split(value)
        except ValueError as error:
            raise ValueError(f"{shown(value)} has a quote that is not closed") from error
    return [value]


def _one(flag: Flag, value: Any, *, command_line: bool) -> Any:
    if value is None:
        raise ValueError("it has no value")
    if flag.type == "bool":
        return _switch(value)
    if flag.type in {"int", "float", "int_or_float"}:
        return _number(flag, value, command_line=command_line)
    if isinstance(value, (list, dict)):
        raise ValueError(f"{shown(value)} is no text")
    text = str(value)
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError("it holds characters that no program can be given")
    return text


def _switch(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, (int, float)) and value in (0, 1):
        return bool(value)
    word = str(value).strip().lower()
    if word in {"true", "1", "yes", "on"}:
        return True
    if word in {"false", "0", "no", "off", "", "none"}:
        return False
    raise ValueError(f"{shown(value)} is neither true nor false")


def _number(flag: Flag, value: Any, *, command_line: bool) -> int | float:
    if isinstance(value, bool):
        raise ValueError(f"{str(value).lower()} is no number")
    if flag.type == "int_or_float":
        return _length(value, command_line=command_line)
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{shown(value)} is no number") from error
    if not math.isfinite(number):
        raise ValueError(f"{shown(value)} is no finite number")
    if flag.type == "float":
        return number
    if not number.is_integer() or (command_line and not str(value).strip().lstrip("+-").isdigit()):
        raise ValueError(f"{shown(value)} is no whole number")
    try:
        return int(value)
    except ValueError:
        return int(number)


def _length(value: Any, *, command_line: bool) -> int | float:
    if isinstance(value, str):
        try:
            value = int_or_float(value.strip())
        except ValueError as error:
            raise ValueError(f"{shown(value)} is neither steps as a whole number nor a share such as 0.05") from error
    elif isinstance(value, float) and value >= 1 and not command_line:
        raise ValueError(f"{value!r} with a point is a share here: it would be {value:g} times the run")
    if not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{shown(value)} is neither steps nor a share of the run")
    return value
