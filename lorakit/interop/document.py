"""A file of another trainer, read once and within limits: text, JSON, TOML, or the header of a .safetensors file."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

from lorakit.errors import UsageError
from lorakit.preset.source import display
from lorakit.preset.toml_lines import KeyPath, key_lines
from lorakit.preset.units import shown

__all__ = ["MAX_BYTES", "Document", "read_document"]

#: No recipe comes near this.
MAX_BYTES: Final = 10_000_000
_MAX_HEADER: Final = 100_000_000
Kind = Literal["json", "toml", "text", "metadata"]


@dataclass(frozen=True)
class Document:
    """``data`` is the JSON object, the TOML, or the metadata of a .safetensors file; empty for ``text``."""

    name: str
    kind: Kind
    text: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    fault: str = ""

    @classmethod
    def of_text(cls, text: str, name: str = "", folder: Path | None = None) -> Document:
        """A text by its content and the suffix of its name. Raises UsageError for JSON or TOML that breaks off."""
        suffix = Path(name).suffix.lower()
        start = text.lstrip()[:1]
        if suffix == ".json" or (not suffix and start == "{"):
            return cls(name, "json", text, _json(text, name), folder)
        if suffix == ".toml":
            return cls(name, "toml", text, _toml(text, name), folder)
        if suffix in {"", ".txt", ".conf"}:
            try:
                data = tomllib.loads(text)
            except (ValueError, RecursionError):
                return cls(name, "text", text, folder=folder)
            return cls(name, "toml", text, data, folder) if data else cls(name, "text", text, folder=folder)
        return cls(name, "text", text, folder=folder)

    @cached_property
    def _toml_lines(self) -> Mapping[KeyPath, int]:
        return key_lines(self.text) if self.kind == "toml" else {}

    def line(self, *keys: str) -> int | None:
        """The line (from 1) that a key stands on."""
        if self.kind == "toml":
            return self._toml_lines.get(keys)
        if self.kind != "json" or not keys:
            return None
        found = re.search(rf"\"{re.escape(keys[-1])}\"\s*:", self.text)
        return None if found is None else self.text.count("\n", 0, found.start()) + 1


def read_document(path: Path) -> Document:
    """The file at ``path``. Raises UsageError for what cannot be a recipe: missing, too large, binary, torn."""
    shown_path = display(path)
    try:
        if path.is_dir():
            raise UsageError(f"{shown_path} is a folder", todo="give the file that holds the settings")
        if path.suffix.lower() == ".safetensors":
            return Document(path.name, "metadata", data=_metadata(path), folder=path.parent)
        with open(path, "rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{shown_path} cannot be read", why=error.strerror or str(error)) from error
    if raw.startswith((b"PK\x03\x04", b"\x28\xb5\x2f\xfd")):
        raise UsageError(
            f"{shown_path} is an archive, not a recipe",
            todo=f"exported runs come in with lorakit import-run {shown_path}",
        )
    if len(raw) > MAX_BYTES:
        raise UsageError(
            f"{shown_path} is larger than {MAX_BYTES // 1_000_000} MB",
            why="no trainer's settings are: it is something else",
            todo="give the settings file, or the LoRA as .safetensors",
        )
    return Document.of_text(_decoded(raw, shown_path), path.name, path.parent)


def _decoded(raw: bytes, shown_path: str) -> str:
    # Windows PowerShell writes UTF-16 with a mark in front.
    encoding = "utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    if encoding == "utf-8-sig" and b"\0" in raw:
        raise UsageError(
            f"{shown_path} is binary",
            why="it holds NUL bytes, as no text does",
            todo="give a settings file, a command line, or a LoRA as .safetensors",
        )
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError:
        # Old scripts have comments in the code page of their author; the settings themselves are ASCII.
        return raw.decode("latin-1")


def _json(text: str, name: str) -> Mapping[str, Any]:
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(
            f"{name or 'the text'} is not whole JSON: line {error.lineno}, column {error.colno}: {error.msg}",
            why="nothing of it is taken, since what is missing cannot be known",
            todo="repair that line, or export the settings again",
        ) from error
    except (RecursionError, ValueError) as error:
        raise UsageError(f"{name or 'the text'} cannot be read as JSON", why=str(error)[:200]) from error
    if not isinstance(data, dict):
        raise UsageError(f"{name or 'the text'} is JSON, but no object with settings: it begins {shown(data, 40)}")
    return data


def _toml(text: str, name: str) -> Mapping[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"{name or 'the text'} is not whole TOML", why=str(error)[:200], todo="repair that line"
        ) from error


def _metadata(path: Path) -> Mapping[str, Any]:
    with open(path, "rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        header = file.read(length) if len(start) == 8 and length <= _MAX_HEADER else b""
    fault = UsageError(
        f"{display(path)} is no whole .safetensors file",
        why="its first bytes do not lead to a header",
        todo="download or copy it again",
    )
    if len(header) < length or not header:
        raise fault
    try:
        found = json.loads(header).get("__metadata__") or {}
    except (ValueError, AttributeError, RecursionError):
        raise fault from None
    if not isinstance(found, dict):
        raise fault
    return found
