"""The grammar of a sweep: keys with lists of values, and the grid they span."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from lorakit.errors import UsageError

__all__ = ["SHORTHANDS", "Axis", "grid", "label", "parse_axes", "split_values", "trial_name"]

#: Options of `lorakit sweep` that stand for a key, and how that key is called in names and tables.
SHORTHANDS: Final[Mapping[str, tuple[str, str]]] = {
    "--unet-lr": ("optim.unet_lr", "unet"),
    "--te-lr": ("optim.te_lr", "te"),
    "--dim": ("network.dim", "dim"),
    "--alpha": ("network.alpha", "alpha"),
}
#: More trials than this are rather a slip of the pen than a wish.
_MOST: Final = 1000
_OPENING: Final = {"[": "]", "{": "}", "(": ")"}


@dataclass(frozen=True)
class Axis:
    """One key and the values it takes, as they stand on the command line."""

    key: str
    values: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.key}={','.join(self.values)}"


def parse_axes(shorthands: Mapping[str, str | None], sets: Iterable[str]) -> tuple[Axis, ...]:
    """The axes of a command line: ``--unet-lr 1e-4,2e-4`` and ``--set any.key=v1,v2``; one value is an axis of length one.

    Raises UsageError for a key given twice, a value given twice, an empty value, and what is no KEY=VALUES.
    """
    axes = [_axis(SHORTHANDS[name][0], text, name) for name, text in shorthands.items() if text is not None]
    for argument in sets:
        key, equals, text = argument.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--set {argument} cannot be read", todo="write --set network.dim=16,32")
        axes.append(_axis(key.strip(), text, f"--set {key.strip()}"))
    for at, axis in enumerate(axes):
        if any(axis.key == other.key for other in axes[:at]):
            raise UsageError(f"{axis.key} is given twice", todo="put all its values into one list")
    trials = 1
    for axis in axes:
        trials *= len(axis.values)
    if trials > _MOST:
        raise UsageError(f"that is {trials} trials", why=f"a sweep has at most {_MOST}", todo="leave out some values")
    return tuple(axes)


def _axis(key: str, text: str, given_as: str) -> Axis:
    values = split_values(text, given_as)
    for at, value in enumerate(values):
        if not value and len(values) > 1:
            raise UsageError(
                f"{given_as} {text} has an empty value", todo="write the values with single commas between"
            )
        if value in values[:at]:
            raise UsageError(f"{given_as} has {value} twice", todo="leave one of them out")
    return Axis(key, values)


def split_values(text: str, given_as: str = "") -> tuple[str, ...]:
    """Split at the commas that stand outside quotes and brackets: ``1e-4,[5e-5, 2e-5]`` has two values.

    Raises UsageError for a bracket or quote that is not closed.
    """
    values: list[str] = []
    current = ""
    open_marks: list[str] = []
    for char in text:
        if open_marks and open_marks[-1] in "\"'":
            if char == open_marks[-1]:
                open_marks.pop()
        elif char in "\"'" and (open_marks or not current.strip()):  # elsewhere it is an apostrophe
            open_marks.append(char)
        elif char in _OPENING:
            open_marks.append(_OPENING[char])
        elif open_marks and char == open_marks[-1]:
            open_marks.pop()
        elif char == "," and not open_marks:
            values.append(current.strip())
            current = ""
            continue
        current += char
    if open_marks:
        raise UsageError(f"{given_as} {text} cannot be read".strip(), why=f"a closing {open_marks[-1]} is missing")
    return (*values, current.strip())


def grid(axes: Sequence[Axis]) -> tuple[tuple[tuple[str, str], ...], ...]:
    """Every combination as (key, value) pairs; the last axis varies fastest."""
    keys = [axis.key for axis in axes]
    return tuple(tuple(zip(keys, values, strict=True)) for values in itertools.product(*(axis.values for axis in axes)))


def label(key: str) -> str:
    """How a key is called in tables: short where it has an option of its own."""
    return dict(SHORTHANDS.values()).get(key, key)


def trial_name(base: str, axes: Sequence[Axis], point: Sequence[tuple[str, str]]) -> str:
    """The preset's name with what varies: ``hifumi-unet2.5e-4-te5e-5``; files in one folder must not look alike."""
    varying = {axis.key for axis in axes if len(axis.values) > 1}
    parts = [
        f"{label(key).rpartition('.')[2]}{re.sub(r'[^A-Za-z0-9.+-]+', '_', value).strip('_')}"
        for key, value in point
        if key in varying
    ]
    return "-".join([base, *parts])
