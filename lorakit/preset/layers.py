"""The layers of a preset (parents, the file, each --set), merged key by key, every value remembering its layer."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lorakit.preset.fields import is_text
from lorakit.preset.provenance import Kind, Provenance
from lorakit.preset.schema import EXCLUSIVE, field_at, is_open
from lorakit.preset.toml_lines import KeyPath, dotted, parse_key
from lorakit.preset.units import UnitError, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lorakit.preset.source import Source

__all__ = ["Layer", "merge", "nest", "override_layer"]


@dataclass(frozen=True)
class Layer:
    """Values from one place: a file (``source``) or a ``--set`` (``argument``); ``unset`` are keys it takes back."""

    kind: Kind
    data: Mapping[str, Any] = field(default_factory=dict)
    source: Source | None = None
    argument: str = ""
    unset: KeyPath = ()

    def where(self, key: KeyPath) -> str:
        """``file:line``, or the ``--set`` itself."""
        return f"--set {printable(self.argument)}" if self.source is None else self.source.where(key)

    def provenance(self, key: KeyPath) -> Provenance:
        """Where the layer's value of this key comes from."""
        if self.source is None:
            return Provenance(self.kind, text=self.argument)
        line = self.source.line_of(key)
        return Provenance(self.kind, self.source.path, line, self.source.line_text(line) if line else "")

    def leaves(self) -> Iterator[tuple[KeyPath, Any]]:
        """Every value with its key path; free arguments one by one."""
        return _leaves(self.data, ())


def _leaves(data: Mapping[str, Any], prefix: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    for key, value in data.items():
        path = (*prefix, key)
        if isinstance(value, dict) and (len(path) == 1 or is_open(path)):
            yield from _leaves(value, path)
        else:
            yield path, value


def override_layer(argument: str) -> Layer:
    """The layer of one ``--set KEY=VALUE``; an empty VALUE takes the key back to its default.

    VALUE is TOML where it reads as TOML, else the bare text; for a key that holds text, ``42`` is the text "42".
    Raises UnitError when there is no key.
    """
    name, equals, raw = argument.partition("=")
    path = parse_key(name)
    if not equals or path is None:
        raise UnitError(
            "this is not KEY=VALUE", "write --set network.dim=16, or --set dataset.reg_path= to take a value back"
        )
    raw = raw.strip()
    if not raw:
        return Layer("set", argument=argument, unset=path)
    return Layer("set", nest({path: _override_value(path, raw)}), argument=argument)


def _override_value(path: KeyPath, raw: str) -> Any:
    try:
        data = tomllib.loads(f"value = {raw}")
    except (ValueError, RecursionError):
        return raw
    if data.keys() != {"value"}:
        return raw
    key = field_at(path)
    return raw if key is not None and is_text(key) and not isinstance(data["value"], str) else data["value"]


def merge(layers: Sequence[Layer]) -> tuple[dict[str, Any], dict[str, Provenance]]:
    """The values of all layers, later ones winning, and for each key path the place its value comes from."""
    values: dict[KeyPath, Any] = {}
    origins: dict[KeyPath, Layer] = {}
    for layer in layers:
        given = dict(layer.leaves())
        dropped = [rival for path in given for rival in EXCLUSIVE.get(path, ()) if rival not in given]
        if layer.unset:
            dropped.append(layer.unset)
        for path in [path for path in values if any(_touches(path, other) for other in (*dropped, *given))]:
            del values[path]
        values |= given
        origins |= dict.fromkeys(given, layer)
    return nest(values), {dotted(path): origins[path].provenance(path) for path in values}


def _touches(path: KeyPath, other: KeyPath) -> bool:
    # The same key, or one inside the other.
    shared = min(len(path), len(other))
    return path[:shared] == other[:shared]


def nest(values: Mapping[KeyPath, Any]) -> dict[str, Any]:
    """Tables within tables from values by key path."""
    data: dict[str, Any] = {}
    for path, value in values.items():
        table = data
        for part in path[:-1]:
            table = table.setdefault(part, {})
        table[path[-1]] = value
    return data
