"""What a check of a dataset found, as plain values: pictures, folders, tags, token counts, and findings to act on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lorakit.dataset.buckets import Size
from lorakit.dataset.desk.pictures import Picture
from lorakit.dataset.desk.tags import Spelling, TagTable
from lorakit.dataset.desk.tokens import LENGTHS, Cut
from lorakit.dataset.records import ScannedData

__all__ = ["Finding", "Folder", "Item", "Level", "Report", "Tokens"]

#: ``fail`` stops the trainer, ``look`` deserves a look, ``note`` is good to know.
Level = Literal["fail", "look", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing about some files. ``details`` say more about each, in the order of ``files`` where both are given."""

    code: str
    level: Level
    what: str
    todo: str = ""
    files: tuple[Path, ...] = ()
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class Item:
    """One picture: sizes are (width, height) in pixels.

    ``text`` is what the trainer reads of its caption (prefix and suffix included), ``tokens`` its length, None where nobody can count.
    """

    path: Path
    folder: Path
    size: Size
    bucket: Size
    resized: Size
    repeats: int
    is_reg: bool
    validation: bool
    caption: str
    caption_path: Path | None
    text: str
    tokens: int | None
    picture: Picture

    @property
    def cut(self) -> float:
        """The share of the picture that its bucket crops away."""
        area = self.resized[0] * self.resized[1]
        return max(0.0, 1 - self.bucket[0] * self.bucket[1] / area) if area else 0.0

    @property
    def scale(self) -> float:
        """How many times larger the picture is made for its bucket; below 1 it is made smaller."""
        return max(self.resized[0] / self.size[0], self.resized[1] / self.size[1])

    @property
    def ratio(self) -> float:
        """The longer side by the shorter."""
        return max(self.size) / min(self.size)


@dataclass(frozen=True)
class Folder:
    """A folder of pictures: what it gives to an epoch, and how often it would have to be repeated to give as much as the others."""

    path: Path
    images: int
    repeats: int
    is_reg: bool
    balanced: int

    @property
    def items(self) -> int:
        """Examples of one epoch."""
        return self.images * self.repeats


@dataclass(frozen=True)
class Tokens:
    """Lengths of captions in CLIP's tokens, the same for both text encoders; ``source`` is where the vocabulary came from.

    ``why_not`` says why nothing was counted. ``cuts`` are the captions that are longer than ``length``, the setting, reads.
    """

    length: int
    source: str = ""
    why_not: str = ""
    mended: bool = True
    longest: int = 0
    by_length: Mapping[str, int] = field(default_factory=dict)
    cuts: tuple[tuple[Path, Cut], ...] = ()

    @classmethod
    def classes(cls, counts: list[int]) -> dict[str, int]:
        """How many captions fit in 75, 150, 225 tokens or in none of them, each counted once."""
        found: Counter[str] = Counter()
        for count in counts:
            found[next((str(length) for length in LENGTHS if count <= length), "more")] += 1
        return {name: found[name] for name in (*map(str, LENGTHS), "more")}


@dataclass(frozen=True)
class Report:
    """Everything that a check found; ``asked`` is the folder or file that was checked."""

    asked: Path
    data: ScannedData
    items: tuple[Item, ...]
    folders: tuple[Folder, ...]
    tags: TagTable
    sentences: int
    spellings: tuple[Spelling, ...]
    tokens: Tokens
    findings: tuple[Finding, ...]
    resolution: Size
    batch_size: int

    def of_level(self, level: Level) -> tuple[Finding, ...]:
        """The findings of one level."""
        return tuple(one for one in self.findings if one.level == level)

    def to_json(self) -> dict[str, Any]:
        """Plain values; paths as text, shares from 0 to 1."""
        return {
            "schema": 1,
            "asked": str(self.asked),
            "images": [_item_json(item) for item in self.items],
            "folders": [
                {"path": str(one.path), "images": one.images, "repeats": one.repeats, "items": one.items, "reg": one.is_reg, "balanced_repeats": one.balanced}
                for one in self.folders
            ],
            "buckets": [
                {f"{bucket[0]}x{bucket[1]}": count for bucket, count in dataset.bucket_counts().items()}
                for dataset in self.data.datasets
            ],
            "batches_per_epoch": self.data.batches_per_epoch,
            "batch_size": self.batch_size,
            "resolution": list(self.resolution),
            "tags": {
                "captions": self.tags.captions,
                "sentences": self.sentences,
                "counts": dict(self.tags.counts),
                "everywhere": [tag for tag, _ in self.tags.everywhere],
                "once": list(self.tags.once),
                "repeated": dict(self.tags.repeated),
                "spellings": [{"ways": dict(one.ways), "why": one.why} for one in self.spellings],
            },
            "tokens": {
                "max_token_length": self.tokens.length,
                "source": self.tokens.source or None,
                "why_not": self.tokens.why_not or None,
                "longest": self.tokens.longest,
                "captions": dict(self.tokens.by_length),
                "cuts": [
                    {"path": str(path), "tokens": cut.tokens, "kept": cut.kept, "lost": cut.lost}
                    for path, cut in self.tokens.cuts
                ],
            },
            "findings": [
                {"code": one.code, "level": one.level, "what": one.what, "todo": one.todo, "files": list(map(str, one.files)), "details": list(one.details)}
                for one in self.findings
            ],
            "skipped": [{"path": str(one.path), "reason": one.reason} for one in self.data.skipped],
        }  # fmt: skip


def _item_json(item: Item) -> dict[str, Any]:
    return {
        "path": str(item.path),
        "size": list(item.size),
        "bucket": list(item.bucket),
        "resized": list(item.resized),
        "cut": round(item.cut, 4),
        "scale": round(item.scale, 4),
        "repeats": item.repeats,
        "reg": item.is_reg,
        "validation": item.validation,
        "caption": item.caption,
        "caption_path": None if item.caption_path is None else str(item.caption_path),
        "tokens": {"te1": item.tokens, "te2": item.tokens},
        "alpha": item.picture.alpha if item.picture.has_alpha else None,
        "exif_orientation": item.picture.orientation,
    }
