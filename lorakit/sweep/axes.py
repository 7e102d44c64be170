"""The grammar of a sweep: keys with lists and ranges of values, and the grid they span."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from lorakit.errors import UsageError
from lorakit.sweep.ranges import expand

__all__ = ["SEED", "SHORTHANDS", "Axis", "Point", "grid", "label", "merged", "parse_axes", "split_values", "trial_name"]

#: Options of `lorakit sweep` that stand for a key, and how that key is called in names and tables.
SHORTHANDS: Final[Mapping[str, tuple[str, str]]] = {
    "--unet-lr": ("optim.unet_lr", "unet"),
    "--te-lr": ("optim.te_lr", "te"),
    "--dim": ("network.dim", "dim"),
    "--alpha": ("network.alpha", "alpha"),
    "--seed": ("seed", "seed"),
}
#: The axis of replicates: trials that differ in it alone are the same bake with another draw.
SEED: Final = "seed"
#: More trials than this are rather a slip of the pen than a wish.
_MOST: Final = 10_000
_OPENING: Final = {"[": "]", "{": "}", "(": ")"}

#: One trial's values: (key, value) in the order of the axes.
Point = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Axis:
    """One key and the values it takes, each once, as they would stand on the command line."""

    key: str
    values: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.key}={','.join(self.values)}"


def parse_axes(shorthands: Mapping[str, str | None], sets: Iterable[str]) -> tuple[Axis, ...]:
    """The axes of a command line: ``--unet-lr 1e-4,2e-4`` and ``--set any.key=v1,v2``; one value is an axis of length one.

    Values are lists of values and ranges (:func:`lorakit.sweep.ranges.expand`); a value given twice counts once. Raises
    UsageError for a key given twice, an empty axis or value, a range that cannot be, and what is no KEY=VALUES.
    """
    axes = [axis_of(SHORTHANDS[name][0], text, name) for name, text in shorthands.items() if text is not None]
    for argument in sets:
        key, equals, text = argument.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--set {argument} cannot be read", todo="write --set network.dim=16,32")
        axes.append(axis_of(key.strip(), text, f"--set {key.strip()}"))
    return merged(axes)


def merged(axes: Iterable[Axis]) -> tuple[Axis, ...]:
    """The axes, after a look that no key is there twice. Raises UsageError."""
    known = tuple(axes)
    for at, axis in enumerate(known):
        if any(axis.key == other.key for other in known[:at]):
            raise UsageError(f"{axis.key} is given twice", todo="put all its values into one list")
    return known


def axis_of(key: str, text: str, given_as: str) -> Axis:
    """The axis of a key whose values are written as ``text``; ``given_as`` names it in errors. Raises UsageError."""
    values = split_values(text, given_as)
    # One empty value takes a key back to its default, for all trials; an axis cannot have one.
    if "" in values and (len(values) > 1 or not given_as.startswith("--set ")):
        what = f"{given_as} {text} has an empty value" if text.strip() else f"{given_as} has no values"
        raise UsageError(what, todo=f"write the values with single commas between: {given_as} 1e-4,2.5e-4")
    return Axis(key, tuple(dict.fromkeys(one for value in values for one in expand(value))))


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


def grid(axes: Sequence[Axis], zips: Sequence[Sequence[str]] = ()) -> tuple[Point, ...]:
    """Every combination; the last axis varies fastest. The keys of each of ``zips`` go hand in hand instead.

    Raises UsageError where zipped axes are not there or not of one length, and for more than ten thousand trials.
    """
    by_key = {axis.key: axis for axis in axes}
    together = {key: tuple(keys) for keys in zips for key in keys}
    for keys in zips:
        _refuse_bad_zip(keys, by_key)
    if len(together) != sum(len(keys) for keys in zips):
        raise UsageError("an axis is zipped twice", todo="name it in one --zip only")
    columns: list[list[Point]] = []
    for axis in axes:
        keys = together.get(axis.key, (axis.key,))
        if axis.key != min(keys, key=list(by_key).index):
            continue  # it stands in the column of the first of them
        ordered = [key for key in by_key if key in keys]
        columns.append([tuple((key, by_key[key].values[at]) for key in ordered) for at in range(len(axis.values))])
    trials = 1
    for column in columns:
        trials *= len(column)
    if trials > _MOST:
        raise UsageError(f"that is {trials} trials", why=f"a sweep has at most {_MOST}", todo="leave out some values")
    order = {key: at for at, key in enumerate(by_key)}
    points = (itertools.chain.from_iterable(cell) for cell in itertools.product(*columns))
    return tuple(tuple(sorted(point, key=lambda pair: order[pair[0]])) for point in points)


def _refuse_bad_zip(keys: Sequence[str], by_key: Mapping[str, Axis]) -> None:
    told = ",".join(keys)
    if len(keys) < 2:
        raise UsageError(f"--zip {told} names one axis", todo="name two or more: --zip dim,alpha")
    if missing := [key for key in keys if key not in by_key]:
        raise UsageError(
            f"--zip {told}: {missing[0]} is no axis of this sweep", why=f"it has {', '.join(by_key) or 'none'}"
        )
    lengths = [len(by_key[key].values) for key in keys]
    if len(set(lengths)) > 1:
        counts = " and ".join(f"{label(key)} has {count}" for key, count in zip(keys, lengths, strict=True))
        raise UsageError(f"--zip {told} pairs axes of different lengths", why=f"{counts} values")


def key_of(name: str) -> str:
    """The key that a word on the command line stands for: ``dim`` and ``unet_lr`` have one, others are keys themselves."""
    for option, (key, short) in SHORTHANDS.items():
        if name in (option.removeprefix("--").replace("-", "_"), short, key, key.rpartition(".")[2]):
            return key
    return name


def label(key: str) -> str:
    """How a key is called in tables: short where it has an option of its own."""
    return dict(SHORTHANDS.values()).get(key, key)


def trial_name(base: str, axes: Sequence[Axis], point: Point) -> str:
    """The preset's name with what varies: ``hifumi-unet2.5e-4_te5e-5``; files in one folder must not look alike."""
    varying = {axis.key for axis in axes if len(axis.values) > 1}
    parts = [
        f"{label(key).rpartition('.')[2]}{re.sub(r'[^A-Za-z0-9.+-]+', '+', value).strip('+')}"
        for key, value in point
        if key in varying
    ]
    return "-".join([base, "_".join(parts)] if parts else [base])
