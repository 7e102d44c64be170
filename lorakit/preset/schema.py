"""The preset's tables and keys, looked up by key path."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel

from lorakit.preset.models import Preset

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.fields import FieldInfo

    from lorakit.preset.toml_lines import KeyPath

__all__ = ["EXCLUSIVE", "TABLES", "exists", "field_at", "fields", "is_open", "model_at"]

#: The tables with keys of their own, by name; ``[extra]`` is open and not among them.
TABLES: dict[str, type[BaseModel]] = {
    name: field.annotation
    for name, field in Preset.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
}

#: Keys that rule each other out: a later layer's one drops the earlier layer's others.
EXCLUSIVE: dict[KeyPath, tuple[KeyPath, ...]] = {
    ("length", "epochs"): (("length", "steps"),),
    ("length", "steps"): (("length", "epochs"),),
    ("dataset", "path"): (("dataset", "config"),),
    ("dataset", "config"): (("dataset", "path"), ("dataset", "reg_path")),
}


def model_at(table: str) -> type[BaseModel]:
    """The model of a table, or of the preset itself for ``""``."""
    return TABLES[table] if table else Preset


def fields() -> Iterator[tuple[KeyPath, FieldInfo]]:
    """Every key of a preset, in the order of the models."""
    for name, field in Preset.model_fields.items():
        if name in TABLES:
            yield from (((name, key), inner) for key, inner in TABLES[name].model_fields.items())
        else:
            yield (name,), field


_FIELDS = dict(fields())


def field_at(path: KeyPath) -> FieldInfo | None:
    """The field at a key path, or None; a key inside an open table (``optim.args.weight_decay``) has no field."""
    return _FIELDS.get(path)


def exists(path: KeyPath) -> bool:
    """Whether a key, a table, or an argument in an open table can stand at this path."""
    return field_at(path) is not None or (len(path) == 1 and path[0] in TABLES) or is_open(path[:-1])


def is_open(path: KeyPath) -> bool:
    """Whether the key holds a table of free arguments (``optim.args``, ``extra``)."""
    field = _FIELDS.get(path)
    return field is not None and isinstance(field.default, dict)
