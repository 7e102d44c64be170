"""Changing values in a preset file that someone wrote: comments, order and spelling of everything else stay."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

from lorakit.atomic import write_bytes
from lorakit.errors import DiskError, PresetError, Problem
from lorakit.preset.dump import spell
from lorakit.preset.files import load_text
from lorakit.preset.messages import UNKNOWN_KEY
from lorakit.preset.schema import EXCLUSIVE, TABLES, exists
from lorakit.preset.source import display, read_source
from lorakit.preset.suggest import meant
from lorakit.preset.toml_lines import KeyPath, parse_key

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

__all__ = ["edit_toml", "save_preset"]


def save_preset(path: Path, changes: Mapping[str, Any]) -> None:
    """Write values by key path (``{"network.dim": 16}``) into an existing preset; None takes a key out.

    A key that rules others out takes them out too: ``length.steps`` removes ``length.epochs``. The file is replaced
    whole, and only when the result loads.
    Raises PresetError for an unknown key or a result that is not a valid preset, DiskError when it cannot be written.
    """
    source = read_source(path)
    text = edit_toml(source.text, changes, path)
    load_text(text, path)
    try:
        write_bytes(path.resolve(), text.encode("utf-8"))  # resolved: a link stays a link
    except OSError as error:
        raise DiskError(f"{display(path)} cannot be written", why=error.strerror or str(error)) from error


def edit_toml(text: str, changes: Mapping[str, Any], path: Path) -> str:
    """The text with the changes made; ``path`` is for messages. Raises PresetError."""
    edits = _edits(changes, path)
    mark = "\ufeff" if text.startswith("\ufeff") else ""
    plain = text.removeprefix(mark)
    expected = tomllib.loads(plain)
    try:
        document = tomlkit.parse(plain)
        for key, value in edits.items():
            spelled = None if value is None else spell(value, key)
            _edit(
                expected, key, spelled, read=lambda text: tomllib.loads(f"value = {text}")["value"], tables=(dict, dict)
            )
            _edit(document, key, spelled, read=tomlkit.value, tables=(tomlkit.table, tomlkit.inline_table))
        edited = tomlkit.dumps(document)
        faithful = tomllib.loads(edited) == expected
    except (TOMLKitError, ValueError, TypeError, AttributeError, LookupError) as error:
        raise _uneditable(path, str(error)) from error
    if not faithful:
        raise _uneditable(path, "the changed text would say something else than was asked")
    return mark + edited


def _uneditable(path: Path, why: str) -> PresetError:
    what = f"{display(path)} cannot be changed with its comments kept"
    return PresetError(what, why=why, todo="change it in an editor")


def _edits(changes: Mapping[str, Any], path: Path) -> dict[KeyPath, Any]:
    edits: dict[KeyPath, Any] = {}
    problems = []
    for name, value in changes.items():
        key = parse_key(name)
        if key is None or (key[0] != "extends" and (not exists(key) or (key[0] in TABLES and len(key) == 1))):
            todo = meant(key) if key else ""
            problems.append(Problem(f"there is no key {name}", "", todo, name, display(path), UNKNOWN_KEY))
        else:
            edits[key] = value
    if problems:
        raise PresetError(f"{display(path)} cannot be changed so", problems=tuple(problems))
    given = {key for key, value in edits.items() if value is not None}
    rivals = {rival: None for key in given for rival in EXCLUSIVE.get(key, ()) if rival not in given}
    return {**rivals, **edits}


def _edit(
    table: Any, key: KeyPath, spelled: str | None, *, read: Callable[[str], Any], tables: tuple[Callable[[], Any], ...]
) -> None:
    for depth, part in enumerate(key[:-1]):
        if part not in table:
            if spelled is None:
                return
            table[part] = tables[depth]()
        table = table[part]
    if spelled is not None:
        table[key[-1]] = read(spelled)
    elif key[-1] in table:
        del table[key[-1]]
