"""An imported recipe as a preset file: what it says, with a comment for the origin of each value, and what it could not say."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence

from lorakit.interop.imported import Note, Reading, Unmapped, Value
from lorakit.preset.dump import spell
from lorakit.preset.models import Preset
from lorakit.preset.schema import TABLES, field_at, fields
from lorakit.preset.toml_lines import KeyPath, dotted, parse_key
from lorakit.preset.units import printable

__all__ = ["is_said", "origin_words", "preset_toml"]

_LONGEST_COMMENT = 100


def preset_toml(
    preset: Preset,
    values: Mapping[KeyPath, Value],
    unmapped: Sequence[Unmapped],
    notes: Sequence[Note],
    reading: Reading,
) -> str:
    """The file's text: loads as ``preset``. Left out is what is neither told nor other than lorakit's own default."""
    era = f", {reading.era}" if reading.era else ""
    lines = [
        f"# Imported from {printable(reading.title)}{printable(era)}. What follows a value is where it comes from."
    ]
    lines += [f"# look: {_sentence(note)}" for note in notes]
    lines += _lines(preset, values, [path for path, _ in fields() if len(path) == 1 and path[0] != "extra"])
    for table in (*TABLES, "extra"):
        inside = [path for path in values if path[0] == table and len(path) > 1]
        known = [path for path, _ in fields() if path[0] == table and len(path) > 1]
        order = {path: at for at, path in enumerate(known)}
        inside.sort(key=lambda path: order.get(path[:2], len(order)))
        body = list(_lines(preset, values, inside))
        if body:
            lines += ["", f"[{table}]", *body]
    if unmapped:
        lines += ["", "# Not imported:"]
        lines += [f"# {printable(one.text)[:_LONGEST_COMMENT]}: {printable(one.reason)}" for one in unmapped]
    if reading.unknown:
        told = f"Not told, so lorakit's own values stand: {', '.join(sorted(reading.unknown))}"
        lines += ["", *textwrap.wrap(told, 110, initial_indent="# ", subsequent_indent="# ")]
    return "\n".join(lines) + "\n"


def _sentence(note: Note) -> str:
    return printable(f"{note.what} ({note.why})" if note.why else note.what)


def _lines(preset: Preset, values: Mapping[KeyPath, Value], paths: Iterable[KeyPath]) -> Iterator[str]:
    for path in paths:
        value = values.get(path)
        if value is None or (value.origin == "default" and _is_ours(preset, path)):
            continue
        yield f"{dotted(path[min(1, len(path) - 1) :])} = {spell(_held(preset, path), path)}  # {origin_words(value)}"


def is_said(preset: Preset, key: str, value: Value) -> bool:
    """Whether the file has a line for a key: not where a default of the trainer is lorakit's own too."""
    return value.origin != "default" or not _is_ours(preset, parse_key(key) or (key,))


def _held(preset: Preset, path: KeyPath) -> object:
    found: object = preset
    for part in path:
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    return found


def _is_ours(preset: Preset, path: KeyPath) -> bool:
    field = field_at(path)
    return field is not None and not field.is_required() and _held(preset, path) == field.default


def origin_words(value: Value) -> str:
    """``line 3: --unet_lr 1e-4``; ``kohya_ss v26's default``; ``derived: …``; ``unknown: …``."""
    text = printable(value.text)
    if len(text) > _LONGEST_COMMENT:
        text = text[: _LONGEST_COMMENT - 1] + "…"
    place = f"line {value.line}: {text}" if value.line and text else text
    why = printable(value.why)
    if value.origin == "explicit":
        return f"{place} ({why})" if place and why else place or why or "explicit"
    if value.origin == "default":
        return why or "default"
    return f"{value.origin}: {'; '.join(part for part in (why, place) if part)}"
