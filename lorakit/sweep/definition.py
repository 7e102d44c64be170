"""What a sweep is asked to be, typed on the command line or written in a file beside a preset."""

from __future__ import annotations

import difflib
import json
import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from lorakit.errors import UsageError
from lorakit.preset.units import format_rate, shown
from lorakit.sweep.axes import SEED, Axis, axis_of, key_of, merged
from lorakit.sweep.where import Condition

__all__ = ["Definition", "is_sweep_file", "read_definition"]

_KEYS: Final = ("preset", "axes", "set", "where", "zip", "seeds", "trainer")


@dataclass(frozen=True)
class Definition:
    """Axes, what pairs them and what leaves trials out; ``fixed`` are ``KEY=VALUE`` for all trials.

    ``seeds`` asks for so many replicates of each point: seeds that follow the preset's own.
    """

    axes: tuple[Axis, ...] = ()
    fixed: tuple[str, ...] = ()
    zips: tuple[tuple[str, ...], ...] = ()
    where: tuple[Condition, ...] = ()
    seeds: int | None = None
    preset: str | None = None

    @classmethod
    def of(
        cls,
        axes: Iterable[Axis],
        *,
        fixed: Iterable[str] = (),
        zips: Iterable[str | Sequence[str]] = (),
        where: Iterable[str] = (),
        seeds: int | None = None,
        preset: str | None = None,
    ) -> Definition:
        """Checked: zips name their axes by key or short name (``dim,alpha``), conditions are read. Raises UsageError."""
        named = [[part.strip() for part in names.split(",")] if isinstance(names, str) else names for names in zips]
        if seeds is not None and not 1 <= seeds <= 1000:
            raise UsageError(f"--seeds {seeds} cannot be", why="it is a number of replicates, from 1 to 1000")
        known = merged(axes)
        if seeds is not None and any(axis.key == SEED for axis in known):
            raise UsageError(
                "--seeds and --seed say two things", todo="--seeds counts replicates, --seed lists the seeds"
            )
        return cls(
            known,
            tuple(fixed),
            tuple(tuple(key_of(name) for name in names if name) for names in named),
            tuple(map(Condition, where)),
            seeds,
            preset,
        )

    def __or__(self, other: Definition) -> Definition:
        """This one, with what ``other`` says besides; its axes take the place of those of the same key."""
        keys = {axis.key for axis in other.axes}
        return replace(
            self,
            axes=(*(axis for axis in self.axes if axis.key not in keys), *other.axes),
            fixed=(*self.fixed, *other.fixed),
            zips=(*self.zips, *other.zips),
            where=(*self.where, *other.where),
            seeds=other.seeds or self.seeds,
            preset=other.preset or self.preset,
        )

    def to_json(self) -> dict[str, Any]:
        """As texts, the way they were asked for."""
        return {
            "axes": {axis.key: list(axis.values) for axis in self.axes},
            "fixed": list(self.fixed),
            "zip": [list(keys) for keys in self.zips],
            "where": [condition.text for condition in self.where],
            "seeds": self.seeds,
        }


def is_sweep_file(path: Path) -> bool:
    """Whether a TOML file describes a sweep: it has a table of axes, which no preset has."""
    try:
        return "axes" in tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return False


def read_definition(path: Path) -> Definition:
    """The sweep in a TOML file. Its ``preset`` is a name or a path from the file's folder; unknown keys are refused.

    ``[axes]`` has keys of a preset (or unet_lr, te_lr, dim, alpha, seed) with a list of values or a text of values and
    ranges; ``[set]`` has values for all trials; ``where`` and ``zip`` are lists as on the command line, ``seeds`` a number.
    Raises UsageError.
    """
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read", why=error.strerror or str(error)) from error
    except ValueError as error:
        raise UsageError(f"{path} is not valid TOML", why=str(error)) from error
    for key in data:
        if key not in _KEYS:
            raise UsageError(
                f"{path} has an unknown key {shown(key)}",
                why=f"a sweep has {', '.join(_KEYS)}",
                todo=" or ".join(f"did you mean {near}?" for near in difflib.get_close_matches(key, _KEYS, n=1)),
            )
    axes = [_axis(path, key, value) for key, value in _flat(_table(path, data, "axes"))]
    fixed = [f"{key_of(key)}={_told(value)}" for key, value in _flat(_table(path, data, "set"))]
    if trainer := _typed(path, data, "trainer", str):
        fixed.append(f"trainer.kind={trainer}")
    zips = _typed(path, data, "zip", list) or []
    where = _typed(path, data, "where", (str, list)) or []
    preset = _typed(path, data, "preset", str)
    beside = None if preset is None else path.parent / preset
    return Definition.of(
        axes,
        fixed=fixed,
        zips=[zips] if zips and all(isinstance(name, str) and "," not in name for name in zips) else zips,
        where=[where] if isinstance(where, str) else where,
        seeds=_typed(path, data, "seeds", int),
        preset=preset if beside is None or not beside.is_file() else str(beside),
    )


def _typed(path: Path, data: Mapping[str, Any], key: str, kind: type | tuple[type, ...]) -> Any:
    value = data.get(key)
    plain = isinstance(value, kind) and not (kind is int and isinstance(value, bool))
    items = value if isinstance(value, list) else []
    if value is not None and not (plain and all(isinstance(item, (str, list)) for item in items)):
        raise UsageError(f"{path}: {key} = {shown(value)} is not what it takes", todo=_EXAMPLES[key])
    return value


_EXAMPLES: Final = {
    "preset": 'preset = "hifumi"',
    "trainer": 'trainer = "builtin"',
    "seeds": "seeds = 3",
    "where": 'where = ["te_lr <= unet_lr/2"]',
    "zip": 'zip = ["dim,alpha"]',
    "axes": 'unet_lr = [1e-4, 2.5e-4], or "1e-5..1e-3 log 5"',
    "set": "length.epochs = 4",
}


def _table(path: Path, data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = data.get(key, {})
    if not isinstance(value, dict):
        raise UsageError(f"{path}: {key} is a table", todo=f"[{key}] with {_EXAMPLES[key]}")
    return value


def _flat(table: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in table.items():
        if isinstance(value, dict):
            found += _flat(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", value))
    return found


def _axis(path: Path, key: str, value: Any) -> Axis:
    if isinstance(value, str):
        return axis_of(key_of(key), value, f"{path.name}: {key}")
    values = value if isinstance(value, list) else [value]
    if not values:
        raise UsageError(f"{path}: the axis {key} has no values", todo=_EXAMPLES["axes"])
    return Axis(key_of(key), tuple(dict.fromkeys(_told(one) for one in values)))


def _told(value: Any) -> str:
    """A TOML value as --set takes it."""
    if isinstance(value, list):
        return f"[{', '.join(_quoted(item) for item in value)}]"
    return value if isinstance(value, str) else _quoted(value)


def _quoted(value: Any) -> str:
    if isinstance(value, float):
        return format_rate(value) if value >= 0 and math.isfinite(value) else repr(value)
    return json.dumps(value, ensure_ascii=False)
