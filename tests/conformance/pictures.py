"""A dataset of 16 pictures in two folders, three shapes and 56 turns an epoch, made from code alone."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.conformance.trainer_cases import picture

__all__ = ["write_dataset"]

_SIZES: Final = ((128, 128), (128, 192), (96, 160))
#: By folder: how many pictures, and what each shows.
_FOLDERS: Final = {"4_zorp": (12, "zorp, a photo of a zorp"), "2_shape": (4, "a photo of a shape")}
_BACKGROUNDS: Final = ("grey", "blue", "green", "red")


def write_dataset(folder: Path, count: int | None = None) -> list[Path]:
    """Write the dataset, or its first ``count`` pictures, into ``folder``; returns the pictures."""
    names = [(name, number) for name, (many, _) in _FOLDERS.items() for number in range(many)][:count]
    return [_write(folder / name, number, _FOLDERS[name][1]) for name, number in names]


def _write(folder: Path, number: int, shown: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{number:02}.png"
    picture(f"{folder.name} {number}", _SIZES[number % len(_SIZES)]).save(path)
    background = _BACKGROUNDS[number % len(_BACKGROUNDS)]
    path.with_suffix(".txt").write_text(f"{shown}, {background} background, number {number}", encoding="utf-8")
    return path
