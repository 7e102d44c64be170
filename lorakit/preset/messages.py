"""Problems of a preset in human words: which key, which line, why, and what to write instead."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Any

from lorakit.errors import Problem
from lorakit.preset.fields import choices, words
from lorakit.preset.schema import TABLES, field_at
from lorakit.preset.suggest import meant
from lorakit.preset.toml_lines import KeyPath, dotted
from lorakit.preset.units import UnitError, format_number, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

    from lorakit.preset.layers import Layer
    from lorakit.preset.source import Source

__all__ = ["BAD_EXTENDS", "BAD_SET", "BAD_VALUE", "EXCLUSIVE_KEYS", "MISSING", "UNKNOWN_KEY", "gaps", "layer_problems"]

# Codes of problems of reading; those of values that do not fit together (LK001 …) stand with the rules.
BAD_VALUE = "LK901"
UNKNOWN_KEY = "LK902"
MISSING = "LK903"
EXCLUSIVE_KEYS = "LK904"
BAD_EXTENDS = "LK905"
BAD_SET = "LK906"

_ABSENT = {"missing", "incomplete"}


def layer_problems(error: ValidationError, layer: Layer) -> Iterator[Problem]:
    """What is wrong with the values of one layer, leaving aside what it does not say."""
    found = {_path(detail): detail for detail in error.errors(include_url=False) if detail["type"] not in _ABSENT}
    line_of = (lambda _: 0) if layer.source is None else layer.source.line_of
    for path in sorted(found, key=lambda path: line_of(path) or 0):
        yield _problem(found[path], path, layer)


def gaps(error: ValidationError, source: Source) -> Iterator[Problem]:
    """What no layer says and must be said."""
    for detail in error.errors(include_url=False):
        if detail["type"] in _ABSENT:
            for key in _required(_path(detail)):
                field = field_at(key)
                doc = (
                    _SAID_BY_ONE_OF_TWO.get(key, "")
                    if field is None
                    else f"{field.description}; it takes {words(field)}"
                )
                yield Problem(f"{dotted(key)} is missing", doc, _example(key), dotted(key), source.where(key), MISSING)


_SAID_BY_ONE_OF_TWO: dict[KeyPath, str] = {
    ("dataset",): "neither dataset.path nor dataset.config says what to train on",
    ("length",): "neither length.epochs nor length.steps says how long to train",
}


def _path(detail: ErrorDetails) -> KeyPath:
    path = tuple(str(part) for part in detail["loc"])
    return path[:-1] if path[-1:] == ("[key]",) else path


def _problem(detail: ErrorDetails, path: KeyPath, layer: Layer) -> Problem:
    key, where = dotted(path), layer.where(path)
    value = _value(layer.data, path)
    if detail["type"] == "extra_forbidden":
        what = f"there is no table [{key}]" if isinstance(value, dict) else f"there is no key {key}"
        return Problem(what, "", meant(path), key, where, UNKNOWN_KEY)
    if detail["type"] == "exclusive":
        pair = [(*path, name) for name in _pair(detail["msg"], path)]
        lines = " and ".join(layer.where(one) for one in pair)
        return Problem(
            detail["msg"], f"they stand at {lines}", "keep one of them", key, layer.where(pair[-1]), EXCLUSIVE_KEYS
        )
    why, todo = _reason(detail, path)
    return Problem(f"{key} = {shown(value)}", why, todo, key, where, BAD_VALUE)


def _pair(message: str, path: KeyPath) -> list[str]:
    prefix = f"{dotted(path)}."
    return [word.removeprefix(prefix) for word in message.split() if word.startswith(prefix)]


def _reason(detail: ErrorDetails, path: KeyPath) -> tuple[str, str]:
    cause = detail.get("ctx", {}).get("error")
    if isinstance(cause, UnitError):
        return cause.why, cause.todo
    if len(path) == 1 and path[0] in TABLES:
        return f"{path[0]} is a table", f"write [{path[0]}] and its keys below"
    field = field_at(path)
    if field is None:
        return "this value cannot be used here", ""
    if detail["type"] == "literal_error" and isinstance(detail["input"], str):
        near = difflib.get_close_matches(detail["input"], [str(choice) for choice in choices(field)], n=1)
        return f"it takes {words(field)}", f'did you mean "{near[0]}"?' if near else ""
    if detail["type"] == "finite_number":
        return f"it takes {words(field)}, and neither infinity nor NaN", ""
    return f"it takes {words(field)}", _hint(detail["input"], words(field))


def _hint(value: Any, wanted: str) -> str:
    """What to write in place of a value that is right but for its spelling."""
    if wanted == "true or false":
        meant_yes, meant_no = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}
        spelled = str(value).lower()
        return "write true" if spelled in meant_yes else "write false" if spelled in meant_no else ""
    if "number" in wanted and isinstance(value, str) and re.fullmatch(r"\s*-?[0-9.]+(e-?[0-9]+)?\s*", value):
        return f"write {value.strip()}, without quotes"
    if "whole number" in wanted and isinstance(value, float) and value.is_integer():
        return f"write {format_number(value)}"
    if wanted.startswith(("a text", "a path")) and isinstance(value, (int, float)):
        return f'write "{shown(value)}"'
    return ""


def _value(data: Mapping[str, Any], path: KeyPath) -> Any:
    value: Any = data
    for part in path:
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _required(path: KeyPath) -> list[KeyPath]:
    if path[0] in TABLES and len(path) == 1:
        required: list[KeyPath] = [
            (path[0], key) for key, field in TABLES[path[0]].model_fields.items() if field.is_required()
        ]
        return required or [path]
    return [path]


_EXAMPLES = {
    "name": 'name = "hifumi"',
    "base.model": '[base] model = "models/sd_xl_base_1.0.safetensors"',
    "dataset": '[dataset] path = "datasets/hifumi"',
    "optim.unet_lr": "[optim] unet_lr = 1e-4",
    "optim.te_lr": "[optim] te_lr = 5e-5, or te_lr = 0 to leave the text encoders alone",
    "length": "[length] epochs = 10, or steps = 2000",
}


def _example(path: KeyPath) -> str:
    return f"write {_EXAMPLES[dotted(path)]}"
