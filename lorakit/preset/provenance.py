"""Where a value of a preset comes from: a line of a file, a --set, lorakit's default, or something it was derived from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lorakit.preset.source import display

__all__ = ["Kind", "Provenance"]

#: preset: the file that was asked for; parent: one that it extends; set: ``--set``; default: lorakit's;
#: derived: worked out or drawn by lorakit.
Kind = Literal["preset", "parent", "set", "default", "derived"]


@dataclass(frozen=True)
class Provenance:
    """``file`` and ``line`` (from 1) where it stands; ``text`` that line, the ``--set`` argument, or how it was derived."""

    kind: Kind
    file: Path | None = None
    line: int | None = None
    text: str = ""

    def __str__(self) -> str:
        if self.kind == "set":
            return f"--set {self.text}"
        if self.file is not None:
            return display(self.file) if self.line is None else f"{display(self.file)}:{self.line}"
        return f"{self.kind}: {self.text}" if self.text else self.kind

    def to_json(self) -> dict[str, str | int | None]:
        """As provenance.json of a run folder keeps it."""
        file = None if self.file is None else str(self.file)
        return {"kind": self.kind, "file": file, "line": self.line, "text": self.text}
