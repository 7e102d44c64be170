"""Drawn cells and what they cost: kept in the workspace's private folder, by what they show, and never drawn again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lorakit import atomic
from lorakit.archive.hashing import HashCache, hash_files
from lorakit.archive.run import read_record
from lorakit.errors import ModelFileError
from lorakit.evidence.weights import open_lora
from lorakit.sheet.cells import Cell, Lora, Model, cell_key, versions
from lorakit.workspace import Workspace

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Hashes", "Store"]

_SPEEDS: Final = "speeds.json"
#: How much the newest measurement counts against those before.
_NEWEST: Final = 0.5


class Hashes:
    """SHA-256 of files, remembered in the workspace."""

    def __init__(self, workspace: Workspace) -> None:
        self._cache = HashCache(workspace.private / "hashes.sqlite")
        self._loras: dict[Path, Lora] = {}

    def content(self, path: Path) -> str:
        """Of a file, or of a diffusers folder: its configurations and weights with their names. Raises ModelFileError."""
        try:
            if not path.is_dir():
                return hash_files([path], cache=self._cache)[path].sha256
            files = sorted(one for one in path.rglob("*") if one.suffix in (".json", ".safetensors") and one.is_file())
            found = hash_files(files, cache=self._cache)
        except OSError as error:
            raise ModelFileError(f"{path} cannot be read", why=error.strerror or str(error)) from error
        told = [[str(one.relative_to(path)), found[one].sha256] for one in files]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

    def lora(self, path: Path) -> Lora:
        """A LoRA file with both its hashes; each file is read once. Raises ModelFileError."""
        if path not in self._loras:
            told = open_lora(path).file.metadata.get("sshs_model_hash")
            self._loras[path] = Lora(path, self.content(path), path.stem, told or _tensor_hash(path))
        return self._loras[path]


def _tensor_hash(path: Path) -> str:
    """SHA-256 of what follows the header: the same whatever the metadata say, as the webui counts it."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        file.seek(int.from_bytes(file.read(8), "little"), os.SEEK_CUR)
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@dataclass(frozen=True)
class Store:
    """The cells of one base model as it is loaded."""

    folder: Path
    model: Model
    packages: Mapping[str, str]

    @classmethod
    def of(cls, workspace: Workspace, model: Model) -> Store:
        """That of a workspace, with the packages that are installed."""
        return cls(workspace.private / "sheets", model, versions())

    def path(self, cell: Cell) -> Path:
        """Where the picture of a cell is, or will be."""
        key = cell_key(self.model, cell, self.packages)
        return self.folder / "cells" / key[:2] / f"{key[2:34]}.png"

    def missing(self, cells: Iterable[Cell]) -> tuple[Cell, ...]:
        """The cells that are not drawn yet, each once."""
        found = {self.path(cell): cell.settled() for cell in cells}
        return tuple(cell for path, cell in found.items() if not path.is_file())

    def open(self, cell: Cell) -> Image.Image:
        """The picture, without its text. Raises ModelFileError for a file that is damaged, which it takes away."""
        from PIL import Image

        path = self.path(cell)
        try:
            with Image.open(path) as picture:
                return picture.convert("RGB")
        except (OSError, SyntaxError) as error:
            path.unlink(missing_ok=True)
            raise ModelFileError(
                f"a drawn cell is damaged: {path}", why=str(error), todo="the same command draws it again"
            ) from error

    def seconds(self, cells: Sequence[Cell]) -> float | None:
        """How long the cells will take, loading the model included; None when nothing was drawn with this model here."""
        speed = (read_record(self.folder / _SPEEDS) or {}).get(self.model.sha256)
        if not cells:
            return 0.0
        if not isinstance(speed, dict):
            return None
        return float(speed["load"]) + float(speed["seconds_per_pixel"]) * sum(map(_cost, cells))

    def learn(self, record: Mapping[str, Any]) -> None:
        """Remember what drawing cost: ``seconds`` for ``pixels`` (× steps), ``load`` seconds before."""
        if not record["pixels"]:
            return
        known = read_record(self.folder / _SPEEDS) or {}
        new = {"load": record["load"], "seconds_per_pixel": record["seconds"] / record["pixels"]}
        before = known.get(self.model.sha256)
        if isinstance(before, dict):
            new = {key: _NEWEST * value + (1 - _NEWEST) * float(before.get(key, value)) for key, value in new.items()}
        self.folder.mkdir(parents=True, exist_ok=True)
        atomic.write_json(self.folder / _SPEEDS, {**known, self.model.sha256: new})


def _cost(cell: Cell) -> int:
    return cell.width * cell.height * cell.steps
