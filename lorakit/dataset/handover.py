"""Hands a scanned dataset to a trainer that runs elsewhere: a configuration with nothing left open, a view without bad files.

A dataset TOML may name folders relative to the workspace, but the trainer runs in its run folder; no trainer has a switch
for skipping unreadable images; and sd-scripts believes whatever cache files it finds beside the images.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from lorakit.dataset.blueprint import Blueprint, DatasetSpec, SubsetSpec
from lorakit.dataset.caches import is_cache_name
from lorakit.dataset.records import ScannedData

__all__ = ["explicit_config", "write_view"]

_PATHS = ("image_dir", "metadata_file", "conditioning_data_dir")
#: Keys that the trainer refuses in subsets of the metadata style.
_NOT_WITH_METADATA = ("class_tokens", "caption_extension", "is_reg")


def explicit_config(
    blueprint: Blueprint, moved: Mapping[Path, Path] | Sequence[Mapping[Path, Path]] | None = None
) -> dict[str, Any]:
    """A dataset configuration (for ``--dataset_config`` as ``.json``) with every value present and absolute folders.

    ``moved`` maps folders to those that stand in their place, as ``write_view`` returns them: for all datasets, or one by one.
    """
    each = moved if isinstance(moved, Sequence) else [moved or {}] * len(blueprint.datasets)
    return {"datasets": [_dataset(spec, its) for spec, its in zip(blueprint.datasets, each, strict=True)]}


def write_view(data: ScannedData, folder: Path, caches: Mapping[Path, Path] | None = None) -> dict[Path, Path]:
    """Write folders of symbolic links to the files of the image folders, but not to unreadable images and cache files.

    ``caches`` maps the cache files that a trainer would write beside the images to where they are to be: they become links,
    which lead nowhere until the files are made. Folders keep their names, so that repeats, class tokens, order and validation
    split stay what they are. Returns where each image folder, and each folder that holds image folders, now is. Raises OSError
    when ``folder`` cannot be written.
    """
    left_out = frozenset(data.unreadable)
    sources = {
        _absolute(subset.image_dir): None
        for dataset in data.datasets
        for subset in dataset.spec.subsets
        if subset.image_dir is not None
    }
    parents = {parent: folder / str(number) for number, parent in enumerate(dict.fromkeys(s.parent for s in sources))}
    moved = {source: parents[source.parent] / source.name for source in sources}
    for source, target in moved.items():
        target.mkdir(parents=True)
        for file in source.iterdir():
            if file.is_file() and file not in left_out and not is_cache_name(file.name):
                (target / file.name).symlink_to(file)
    for beside, place in (caches or {}).items():
        (moved[beside.parent] / beside.name).symlink_to(place)
    return moved | parents


def _dataset(spec: DatasetSpec, moved: Mapping[Path, Path]) -> dict[str, Any]:
    values = {f.name: getattr(spec, f.name) for f in fields(DatasetSpec) if f.name != "subsets"}
    values["resolution"] = list(spec.resolution)
    for name in ("validation_split", "network_multiplier"):  # the trainer takes no int here
        values[name] = float(values[name])
    return _present(values) | {"subsets": [_subset(subset, moved) for subset in spec.subsets]}


def _subset(subset: SubsetSpec, moved: Mapping[Path, Path]) -> dict[str, Any]:
    values: dict[str, Any] = {f.name: getattr(subset, f.name) for f in fields(SubsetSpec)}
    for name in _PATHS:
        if values[name] is not None:
            path = _absolute(values[name])
            values[name] = str(moved.get(path, path))
    if subset.face_crop_aug_range is not None:
        values["face_crop_aug_range"] = [float(side) for side in subset.face_crop_aug_range]
    values["custom_attributes"] = dict(subset.custom_attributes)
    if subset.metadata_file is not None:
        values = {name: value for name, value in values.items() if name not in _NOT_WITH_METADATA}
    return _present(values)


def _present(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))
