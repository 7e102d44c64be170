"""Which trainer wrote a file, and the reading of it; a file of none is told what it looks like."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lorakit.errors import UsageError
from lorakit.interop import (
    command,
    dreambooth,
    easy_training,
    kohya_gui,
    lora_scripts,
    metadata,
    onetrainer,
    scripts,
    sd_toml,
)
from lorakit.interop.convert import convert
from lorakit.interop.document import Document, read_document
from lorakit.interop.imported import Imported, Reading
from lorakit.preset.source import display
from lorakit.preset.units import shown

__all__ = ["FORMATS", "Format", "import_file", "import_text", "recognise"]


@dataclass(frozen=True)
class Format:
    """One trainer's way to write settings: ``looks`` tells it by its content alone, ``read`` reads it."""

    name: str
    looks: Callable[[Document], bool]
    read: Callable[[Document], Reading]


def _is_command(document: Document) -> bool:
    return document.kind == "text" and command.is_command(document.text)


#: The most telling first.
FORMATS: Final[tuple[Format, ...]] = (
    Format("metadata", metadata.is_metadata, metadata.read_metadata),
    Format("dataset-config", sd_toml.is_dataset_config, sd_toml.read_dataset_config),
    Format("easy-training", easy_training.is_easy_toml, easy_training.read_easy_toml),
    Format("easy-training", easy_training.is_easy_json, easy_training.read_easy_json),
    Format("onetrainer", onetrainer.is_onetrainer, onetrainer.read_onetrainer),
    Format("dreambooth", dreambooth.is_dreambooth, dreambooth.read_dreambooth),
    Format("lora-scripts", lora_scripts.is_lora_scripts, lora_scripts.read_lora_scripts),
    Format("kohya-gui", kohya_gui.is_kohya_gui, kohya_gui.read_kohya_gui),
    Format("sd-scripts-toml", sd_toml.is_config, sd_toml.read_config),
    Format("powershell", scripts.is_script, scripts.read_powershell),
    Format("command", _is_command, lambda document: command.read_command(document.text)),
)


def recognise(document: Document) -> Format:
    """The format of a document. Raises UsageError that says what it looks like instead."""
    found = next((one for one in FORMATS if one.looks(document)), None)
    if found is None:
        raise UsageError(
            f"{document.name or 'this text'} is no recipe that lorakit knows",
            why=_looks_like(document),
            todo="what can be imported is listed in docs/import.md",
        )
    return found


def import_file(path: Path, *, era: str | None = None) -> Imported:
    """A file of any known trainer as a preset; ``era`` where that of a kohya_ss file is known. Raises UsageError."""
    return _imported(read_document(path), path.stem, era)


def import_text(text: str, name: str = "", *, era: str | None = None) -> Imported:
    """A text, such as a pasted command, as a preset. Raises UsageError."""
    return _imported(Document.of_text(text, name), Path(name).stem or "imported", era)


def _imported(document: Document, name: str, era: str | None) -> Imported:
    words = re.sub(r"[\x00-\x1f/\\\x7f-\x9f\u2028\u2029]", "_", name).strip() or "imported"
    found = recognise(document)
    if era is None:
        return convert(found.read(document), name=words[:60])
    if found.name != "kohya-gui" or era not in kohya_gui.ERAS:
        raise UsageError(
            f"there is no era {shown(era)} of {found.name}",
            why="only kohya_ss changed its defaults without its files saying so",
            todo=f"for kohya_ss one of {', '.join(kohya_gui.ERAS)}; else leave it out",
        )
    return convert(kohya_gui.read_kohya_gui(document, era), name=words[:60])


def _looks_like(document: Document) -> str:
    data, text = document.data, document.text
    if document.kind == "metadata":
        some = ", ".join(sorted(data)[:4])
        return (
            f"its metadata holds no ss_ keys, only {shown(some)}"
            if data
            else "it is a .safetensors file without metadata"
        )
    if not text.strip():
        return "it is empty"
    if data:
        if "nodes" in data or any(isinstance(value, dict) and "class_type" in value for value in data.values()):
            return "it looks like a workflow of ComfyUI, which draws and does not train"
        if {"base", "optim", "network"} & set(data) and document.kind == "toml":
            return f"it looks like a preset of lorakit already: lorakit check {display(Path(document.name))}"
        some = ", ".join(shown(key) for key in list(data)[:6])
        return f"it is {document.kind.upper()} with the keys {some}, which belong to no trainer known here"
    first = next(line.strip() for line in text.splitlines() if line.strip())
    if first.startswith("#!"):
        return f"it is a script ({shown(first)}) without a training command"
    if first.lower().startswith(("<!doctype", "<html")):
        return "it is a web page: save the file itself"
    return f"it is text that begins {shown(first)}, without a training command or settings"
