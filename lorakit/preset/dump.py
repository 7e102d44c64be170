"""Writing a whole preset as TOML: every value present, the same text for the same preset, and it loads back as that preset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorakit.preset.schema import TABLES, is_open
from lorakit.preset.toml_lines import KeyPath, dotted
from lorakit.preset.units import Alpha, BlockList, Resolution, TextEncoderRates, Warmup, format_rate, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic import BaseModel

    from lorakit.preset.models import Preset
    from lorakit.preset.provenance import Provenance

__all__ = ["dump_toml", "spell"]

_RATES = {("optim", "unet_lr"), ("optim", "te_lr")}


def dump_toml(preset: Preset, *, provenance: Mapping[str, Provenance] | None = None) -> str:
    """The resolved preset as TOML; keys without a value stand as comments (``# vae =``).

    With ``provenance``, values that are not lorakit's defaults say in a comment where they come from.
    """
    # Keys of the top level come first: TOML counts a key below a [table] as that table's.
    top = [name for name in type(preset).model_fields if name not in TABLES and not is_open((name,))]
    lines = list(_lines(preset, (), top, provenance))
    for name in TABLES:
        table = getattr(preset, name)
        lines += ["", f"[{name}]", *_lines(table, (name,), list(type(table).model_fields), provenance)]
    lines += ["", "[extra]"]
    lines += [_line(("extra", key), value, provenance) for key, value in preset.extra.items()]
    return "\n".join(lines) + "\n"


def spell(value: Any, path: KeyPath = ()) -> str:
    """One value as TOML spells it; ``path`` tells rates, which are written as people write them (1e-4)."""
    if isinstance(value, (Alpha, BlockList, Resolution, TextEncoderRates, Warmup)):
        value = value.plain()
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and path in _RATES:
        return format_rate(value)
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(spell(item, path) for item in value) + "]"
    if isinstance(value, dict):
        return (
            "{}"
            if not value
            else "{ " + ", ".join(f"{dotted((key,))} = {spell(item)}" for key, item in value.items()) + " }"
        )
    if isinstance(value, Path):
        value = str(value)
    # JSON's escapes are TOML's too. What cannot be seen is escaped as well: some editors break lines there.
    return "".join(
        letter if letter.isprintable() else _escaped(letter) for letter in json.dumps(value, ensure_ascii=False)
    )


def _escaped(letter: str) -> str:
    return f"\\u{ord(letter):04x}" if ord(letter) < 0x10000 else f"\\U{ord(letter):08x}"


def _lines(
    table: BaseModel, prefix: KeyPath, names: list[str], provenance: Mapping[str, Provenance] | None
) -> Iterator[str]:
    for name in names:
        path, value = (*prefix, name), getattr(table, name)
        if is_open(path):
            # Dotted keys rather than one inline table: every argument has a line, and a comment, of its own.
            yield from (_line((*path, key), item, provenance, len(prefix)) for key, item in value.items())
        if not is_open(path) or not value:
            yield _line(path, value, provenance, len(prefix))


def _line(path: KeyPath, value: Any, provenance: Mapping[str, Provenance] | None, depth: int = 1) -> str:
    key = dotted(path[depth:])
    if value is None:
        return f"# {key} ="
    origin = (provenance or {}).get(dotted(path))
    comment = "" if origin is None or origin.kind == "default" else f"  # {printable(str(origin))}"
    return f"{key} = {spell(value, path)}{comment}"
