"""What a dataset is asked to be: datasets, their subsets, and every setting resolved, before any file is looked at.

Field names are the trainer's: ``DatasetDefaults`` those of its command line, ``DatasetSpec`` and ``SubsetSpec`` those of
its dataset TOML.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from lorakit.dataset.buckets import BucketSettings, Size
from lorakit.dataset.captions import CaptionSettings
from lorakit.dataset.files import is_image_name
from lorakit.errors import DatasetError

__all__ = [
    "Blueprint",
    "DatasetDefaults",
    "DatasetSpec",
    "Skipped",
    "SubsetSpec",
    "from_folders",
    "from_toml",
]


@dataclass(frozen=True)
class Skipped:
    """A file or folder that will not be trained on, and why."""

    path: Path
    reason: str


@dataclass(frozen=True, kw_only=True)
class SubsetSettings(CaptionSettings):
    """How captions and pixels of a folder are used: said on the command line for all, in a dataset TOML for each."""

    caption_extension: str = ".caption"
    color_aug: bool = False
    flip_aug: bool = False
    random_crop: bool = False
    face_crop_aug_range: tuple[float, float] | None = None
    alpha_mask: bool = False
    cache_info: bool = False
    resize_interpolation: str | None = None


@dataclass(frozen=True)
class DatasetDefaults(SubsetSettings):
    """What the command line gives for everything that a dataset TOML may leave out.

    ``resolution`` is (width, height) in pixels. The defaults here are the trainer's own, not lorakit's presets'.
    """

    resolution: Size | None = None
    train_batch_size: int = 1
    dataset_repeats: int = 1
    enable_bucket: bool = False
    min_bucket_reso: int = 256
    max_bucket_reso: int = 1024
    bucket_reso_steps: int = 64
    bucket_no_upscale: bool = False
    masked_loss: bool = False
    validation_split: float = 0.0
    validation_seed: int | None = None

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> DatasetDefaults:
        """From the trainer's parsed command line (``vars(namespace)``); other arguments are left alone.

        Raises DatasetError for a resolution or face_crop_aug_range that the trainer would not read.
        """
        values = {f.name: arguments[f.name] for f in fields(cls) if f.name in arguments}
        values["resolution"] = parse_resolution(values.get("resolution"))
        values["face_crop_aug_range"] = parse_range(values.get("face_crop_aug_range"))
        if arguments.get("caption_extention"):  # the trainer's old spelling wins when given
            values["caption_extension"] = arguments["caption_extention"]
        return cls(**values)


def parse_resolution(value: str | int | Size | None) -> Size | None:
    """``1024`` or ``"832,1216"`` as (width, height); raises DatasetError for anything else."""
    if value is None or isinstance(value, tuple):
        return value
    try:
        numbers = [int(part) for part in str(value).split(",")]
    except ValueError:
        numbers = []
    if len(numbers) == 1:
        numbers *= 2
    if len(numbers) != 2 or min(numbers) < 1:
        raise DatasetError(
            f"resolution {value!r} is neither a size nor width,height", todo='write "1024" or "832,1216"'
        )
    return (numbers[0], numbers[1])


def parse_range(value: str | tuple[float, float] | None) -> tuple[float, float] | None:
    """``"2.0,4.0"`` as (2.0, 4.0); raises DatasetError unless it is two ascending numbers."""
    if value is None or isinstance(value, tuple):
        return value
    try:
        low, high = (float(part) for part in value.split(","))
    except ValueError:
        low, high = 1.0, 0.0
    if low > high:
        raise DatasetError(f"face_crop_aug_range {value!r} is not two ascending numbers", todo='write "2.0,4.0"')
    return (low, high)


@dataclass(frozen=True)
class SubsetSpec(SubsetSettings):
    """One folder of images (or one metadata file) and how its captions and pixels are used."""

    image_dir: Path | None
    num_repeats: int = 1
    class_tokens: str | None = None
    is_reg: bool = False
    metadata_file: Path | None = None
    conditioning_data_dir: Path | None = None
    custom_attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DatasetSpec:
    """Subsets that share buckets, a batch size and a validation split."""

    subsets: tuple[SubsetSpec, ...]
    resolution: Size
    batch_size: int = 1
    enable_bucket: bool = False
    min_bucket_reso: int = 256
    max_bucket_reso: int = 1024
    bucket_reso_steps: int = 64
    bucket_no_upscale: bool = False
    validation_split: float = 0.0
    validation_seed: int | None = None
    resize_interpolation: str | None = None
    network_multiplier: float = 1.0

    @property
    def bucket_settings(self) -> BucketSettings:
        """The part of this that decides buckets."""
        return BucketSettings(**{f.name: getattr(self, f.name) for f in fields(BucketSettings)})


@dataclass(frozen=True)
class Blueprint:
    """Everything asked for; ``skipped`` names folders that the trainer passes over."""

    datasets: tuple[DatasetSpec, ...]
    skipped: tuple[Skipped, ...] = ()


def from_folders(
    train_data_dir: Path | str, reg_data_dir: Path | str | None = None, defaults: DatasetDefaults | None = None
) -> Blueprint:
    """One dataset of the ``N_name`` folders in ``train_data_dir`` (and ``reg_data_dir``, as regularisation).

    Only the folders are looked at, not what is in them. Raises DatasetError when there is nothing to train on: the
    trainer itself would say so in its log and exit with code 0.
    """
    defaults = defaults or DatasetDefaults()
    train, skipped = _named_folders(Path(train_data_dir), defaults, is_reg=False)
    if not train:
        raise _nothing_to_train_on(Path(train_data_dir), skipped)
    reg: list[SubsetSpec] = []
    if reg_data_dir:
        reg, skipped_reg = _named_folders(Path(reg_data_dir), defaults, is_reg=True)
        skipped += skipped_reg
        if not reg:
            raise DatasetError(
                f"{reg_data_dir} has no folder of regularisation images",
                why="only direct sub-folders named N_name (N = repeats) are read",
                todo=f'put the images in a folder such as "{Path(reg_data_dir) / "1_class"}", or give no reg_data_dir',
            )
    return Blueprint((_dataset_of(defaults, (*train, *reg)),), tuple(skipped))


def from_toml(path: Path | str, defaults: DatasetDefaults | None = None, *, root: Path | None = None) -> Blueprint:
    """The datasets of a dataset TOML or JSON file (``--dataset_config``).

    Relative folders count from ``root`` (default: the current folder, as for the trainer). Values are looked up in
    the subset, its dataset, ``[general]``, then ``defaults``. Raises DatasetError naming *all* unknown keys, wrong
    types and missing values with their key path.
    """
    from lorakit.dataset.config_file import read_config

    return read_config(Path(path), defaults or DatasetDefaults(), root or Path.cwd())


def _dataset_of(defaults: DatasetDefaults, subsets: tuple[SubsetSpec, ...]) -> DatasetSpec:
    if defaults.resolution is None:
        raise DatasetError("no resolution is given", todo="set it, for example 1024")
    shared = {f.name for f in fields(DatasetSpec)} & {f.name for f in fields(DatasetDefaults)}
    values: dict[str, Any] = {name: getattr(defaults, name) for name in shared}
    return DatasetSpec(subsets=subsets, batch_size=defaults.train_batch_size, **values)


def _named_folders(parent: Path, defaults: DatasetDefaults, *, is_reg: bool) -> tuple[list[SubsetSpec], list[Skipped]]:
    values: dict[str, Any] = {f.name: getattr(defaults, f.name) for f in fields(SubsetSettings)}
    found: list[SubsetSpec] = []
    folders, loose = _look_into(parent, is_reg=is_reg)
    skipped = [Skipped(path, "beside the N_name folders: the trainer reads only what is in them") for path in loose]
    for folder in folders:
        repeats, class_tokens = parse_folder_name(folder.name)
        if repeats is None:
            skipped.append(Skipped(folder, "folder name does not start with a number of repeats (N_name)"))
        elif repeats < 1:
            skipped.append(Skipped(folder, "folder name asks for fewer than 1 repeats"))
        else:
            found.append(
                SubsetSpec(image_dir=folder, num_repeats=repeats, class_tokens=class_tokens, is_reg=is_reg, **values)
            )
    return found, skipped


def parse_folder_name(name: str) -> tuple[int | None, str]:
    """``"10_name of it"`` as (10, "name of it"); repeats are None when the part before the first ``_`` is no integer."""
    first, _, rest = name.partition("_")
    try:
        return int(first), rest
    except ValueError:
        return None, rest


def _look_into(parent: Path, *, is_reg: bool) -> tuple[list[Path], list[Path]]:
    """Sub-folders and loose images; nothing hidden."""
    folders: list[str] = []
    loose: list[str] = []
    try:
        with os.scandir(parent) as entries:
            for entry in entries:
                if entry.is_dir() and not entry.name.startswith("."):
                    folders.append(entry.name)
                elif is_image_name(entry.name):
                    loose.append(entry.name)
    except OSError as error:
        raise DatasetError(
            f"{parent} cannot be read as a folder of images",
            why=error.strerror or str(error),
            todo="give the folder that holds the N_name folders",
        ) from error
    # The trainer takes folders as the file system lists them. For training images that changes no number, so they are
    # sorted, to be the same on every machine; for regularisation images the order decides which of them are used.
    return [parent / name for name in (folders if is_reg else sorted(folders))], [parent / n for n in sorted(loose)]


def _nothing_to_train_on(parent: Path, skipped: list[Skipped]) -> DatasetError:
    images = [item for item in skipped if is_image_name(item.path.name) and item.path.is_file()]
    folders = [item for item in skipped if item not in images]
    if images:
        why = f"it holds {len(images)} images itself, but only direct sub-folders named N_name (N = repeats) are read"
        todo = f'put the images in a sub-folder, such as "{parent / ("1_" + parent.name)}", and give {parent} as before'
        first, _ = parse_folder_name(parent.name)
        if first is not None and first > 0:
            todo = f"this is an N_name folder: give the folder above it, {parent.parent}"
    elif folders:
        why = "only direct sub-folders named N_name (N = repeats, at least 1) are read, not " + ", ".join(
            repr(item.path.name) for item in folders[:5]
        )
        todo = f'rename, for example to "1_{folders[0].path.name}"'
    else:
        why = "it has no sub-folder, and only direct sub-folders named N_name (N = repeats) are read"
        todo = f'put the images in a folder such as "{parent / "10_name"}"'
    return DatasetError(f"{parent} holds nothing to train on", why=why, todo=todo)
