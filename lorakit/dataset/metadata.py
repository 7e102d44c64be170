"""Images listed by a metadata file (``.json`` or ``.jsonl``) in place of a folder's listing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lorakit.dataset.blueprint import SubsetSpec
from lorakit.dataset.buckets import Size
from lorakit.errors import DatasetError, Problem

__all__ = ["MetadataEntry", "read_metadata"]


@dataclass(frozen=True)
class MetadataEntry:
    """One image; ``size`` is what the file says of it (the trainer believes that), None when it says nothing."""

    path: str
    caption: str
    size: Size | None


def read_metadata(subset: SubsetSpec) -> tuple[MetadataEntry, ...]:
    """The images of a metadata-style subset, in the file's order; a later entry of the same image wins.

    ``.json``: {image: {"caption", "tags", "image_size": [w, h]}}; ``.jsonl``: the same a line, with "image_path". Images are
    absolute, or relative to ``image_dir``, with their suffix. Raises DatasetError naming every bad entry.
    """
    path = subset.metadata_file
    assert path is not None
    try:
        rows = dict(_rows(path.read_text(encoding="utf-8"), lines=path.suffix.lower() == ".jsonl"))
    except OSError as error:
        raise DatasetError(f"{path} cannot be read", why=error.strerror or str(error)) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DatasetError(
            f"{path} is not a metadata file",
            why=str(error),
            todo='write {"image.png": {"caption": "…"}} in .json, or {"image_path": "image.png", "caption": "…"} a line in .jsonl',
        ) from error
    problems = [problem for name, row in rows.items() if (problem := _problem(name, row, subset))]
    if problems:
        raise DatasetError(
            f"{path} has {len(problems)} entries that cannot be used",
            why="; ".join(problem.what for problem in problems[:20]),
            problems=tuple(problems),
        )
    folder = os.path.abspath(subset.image_dir) if subset.image_dir else ""
    return tuple(
        MetadataEntry(os.path.join(folder, name), _caption(row, subset.caption_separator), _size(row))
        for name, row in rows.items()
    )


def _rows(text: str, *, lines: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    if lines:
        for line in filter(str.strip, text.split("\n")):
            row = json.loads(line)
            yield row["image_path"], row
    else:
        yield from json.loads(text).items()


def _problem(name: Any, row: Any, subset: SubsetSpec) -> Problem | None:
    if not isinstance(name, str) or not isinstance(row, dict):
        return Problem(f"{name!r} is not an image with a table")
    if not os.path.isabs(name) and subset.image_dir is None:
        return Problem(f"{name!r} is relative, and the subset has no image_dir")
    for key in ("caption", "tags"):
        if not isinstance(row.get(key) or "", str):
            return Problem(f"{key} of {name!r} is not text")
    size = row.get("image_size")
    if size is not None and not (isinstance(size, list) and len(size) == 2 and all(_is_side(side) for side in size)):
        return Problem(f"image_size of {name!r} is not [width, height]")
    return None


def _is_side(value: Any) -> bool:
    return isinstance(value, int) and value >= 1


def _caption(row: dict[str, Any], separator: str) -> str:
    return separator.join(text for text in (row.get("caption"), row.get("tags")) if text)


def _size(row: dict[str, Any]) -> Size | None:
    size = row.get("image_size")
    return (size[0], size[1]) if size else None
