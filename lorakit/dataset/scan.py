"""Looks at a blueprint's folders and says exactly what will be trained on: images, captions, sizes, buckets.

Sizes come from file headers; pixels are not decoded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from lorakit.dataset import files
from lorakit.dataset.blueprint import Blueprint, DatasetSpec, Skipped, SubsetSpec
from lorakit.dataset.buckets import Bucketer, Size
from lorakit.dataset.caches import INFO, is_cache_name
from lorakit.dataset.masks import mask_problems
from lorakit.dataset.metadata import MetadataEntry, read_metadata
from lorakit.dataset.records import ImageRecord, ScannedData, ScannedDataset
from lorakit.dataset.selection import balance_regularisation, split_for_validation
from lorakit.errors import DatasetError, Problem

__all__ = ["ImageRecord", "ScannedData", "ScannedDataset", "scan", "survey"]

#: Called with (files looked at, files to look at).
Progress = Callable[[int, int], None]

_PROGRESS_EVERY = 200


def scan(blueprint: Blueprint, *, skip_unreadable: bool = False, progress: Progress | None = None) -> ScannedData:
    """Find, measure and assign every image of ``blueprint``.

    Raises DatasetError listing *every* image and caption that would stop the trainer (unreadable image, empty or
    non-UTF-8 caption, two images with one stem) and when there is nothing to train on. With ``skip_unreadable``,
    unreadable images are passed over by name instead.
    """
    scanner = _Scanner(skip_unreadable=skip_unreadable)
    data = scanner.look(blueprint, progress)
    scanner.raise_problems()
    if not any(dataset.train for dataset in data.datasets):
        raise DatasetError(
            "there is no image to train on",
            why=_what_was_skipped(scanner.skipped) or "the folders hold no .png, .jpg, .jpeg, .webp or .bmp file",
            todo="put images with captions beside them into the N_name folders",
        )
    return data


def survey(blueprint: Blueprint, *, progress: Progress | None = None) -> tuple[ScannedData, tuple[Problem, ...]]:
    """What can be read of ``blueprint``, and everything that :func:`scan` would raise; ``code`` "unreadable" marks images.

    Raises DatasetError only for a folder or metadata file that cannot be read at all.
    """
    scanner = _Scanner(skip_unreadable=False)
    return scanner.look(blueprint, progress), tuple(scanner.problems)


@dataclass(frozen=True)
class _Listing:
    """What one look at a subset gave: image names in the trainer's order and all names, or the entries of its metadata."""

    source: str
    images: tuple[str, ...] = ()
    names: frozenset[str] = frozenset()
    entries: tuple[MetadataEntry, ...] = ()

    def __len__(self) -> int:
        return len(self.images) + len(self.entries)


class _Scanner:
    """Collects what is found, passed over and wrong, so that all of it can be said at once."""

    def __init__(self, *, skip_unreadable: bool) -> None:
        self.skip_unreadable = skip_unreadable
        self.skipped: list[Skipped] = []
        self.warnings: list[str] = []
        self.problems: list[Problem] = []
        self.unreadable: list[Path] = []
        self.stray_caches = 0
        self._progress: Progress | None = None
        self._done = self._total = 0

    def look(self, blueprint: Blueprint, progress: Progress | None) -> ScannedData:
        """Everything that is found; what would stop the trainer is kept in ``problems``."""
        listings = [[self.list_subset(subset) for subset in spec.subsets] for spec in blueprint.datasets]
        self._progress = progress
        self._total = sum(len(listing) for per_dataset in listings for listing in per_dataset)
        datasets = [
            self.read_dataset(spec, per_dataset) for spec, per_dataset in zip(blueprint.datasets, listings, strict=True)
        ]
        return ScannedData(
            tuple(datasets),
            skipped=(*blueprint.skipped, *self.skipped),
            warnings=tuple(self.warnings),
            unreadable=tuple(self.unreadable),
            stray_caches=self.stray_caches,
        )

    def raise_problems(self) -> None:
        """Raise one DatasetError for everything that would stop the trainer."""
        if not self.problems:
            return
        count = len(self.problems)
        unreadable = any(problem.code == "unreadable" for problem in self.problems)
        raise DatasetError(
            f"{count} file{'s' if count > 1 else ''} of the dataset cannot be trained on",
            why="; ".join(problem.what for problem in self.problems[:20])
            + (f"; and {count - 20} more" if count > 20 else ""),
            todo="mend or remove them"
            + (", or skip the unreadable images with --set dataset.skip_unreadable=true" if unreadable else ""),
            problems=tuple(replace(problem, code="") for problem in self.problems),
        )

    def list_subset(self, subset: SubsetSpec) -> _Listing:
        """Look into the folder, not into its files (or into the metadata file)."""
        if subset.metadata_file is not None:
            return _Listing(str(subset.metadata_file), entries=read_metadata(subset))
        if subset.image_dir is None:
            raise DatasetError("a subset has neither image_dir nor metadata_file")
        # The trainer is given absolute paths, and counts underscores in them (caption_candidates).
        folder = os.path.abspath(subset.image_dir)
        images: list[str] = []
        others: list[str] = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if files.is_image_name(entry.name):  # even a folder: the trainer would try to open it
                        images.append(entry.name)
                    elif not entry.is_dir():
                        others.append(entry.name)
                    elif not entry.name.startswith("."):
                        self._skip(folder, entry.name, "sub-folder: the trainer does not look into it")
        except OSError as error:
            raise DatasetError(
                f"{folder} cannot be read as a folder of images",
                why=error.strerror or str(error),
                todo="correct image_dir; relative paths count from the workspace",
            ) from error
        for name in sorted(others):
            if reason := files.why_not_an_image(name):
                self._skip(folder, name, reason)
        return _Listing(folder, tuple(sorted(images)), frozenset(images) | frozenset(others))

    def read_dataset(self, spec: DatasetSpec, listings: Iterable[_Listing]) -> ScannedDataset:
        """Measure, caption, split, balance and bucket one dataset."""
        bucketer = Bucketer(spec.bucket_settings)
        train: list[ImageRecord] = []
        validation: list[ImageRecord] = []
        reg: list[ImageRecord] = []
        overlap = 0
        seen: set[str] = set()
        for index, (subset, listing) in enumerate(zip(spec.subsets, listings, strict=True)):
            if listing.source in seen:
                self.warnings.append(f"{listing.source} is listed twice in one dataset; the later one is ignored")
                continue
            seen.add(listing.source)
            if not len(listing):
                self._note_empty(spec, listing)
                continue
            if listing.entries:
                train += self._read_entries(index, subset, listing, bucketer)
                self._refuse_split(spec, listing)
                continue
            records = self._read_folder(index, subset, listing, bucketer)
            if subset.is_reg:
                reg += records
            elif spec.validation_split:
                kept, held_out, shared = split_for_validation(records, spec.validation_split, spec.validation_seed)
                train += kept
                validation += [replace(record, repeats=1) for record in held_out]
                overlap += shared
                if shared:
                    self.warnings.append(
                        f"{listing.source}: sd-scripts' rounding would also validate on {shared} of the training images"
                    )
            else:
                train += records
        wanted = sum(record.repeats for record in train)
        balanced = balance_regularisation(reg, wanted)
        if len(balanced) < len(reg):
            self.warnings.append(
                f"{len(reg) - len(balanced)} of {len(reg)} regularisation images are not used: "
                f"{wanted} training examples need no more"
            )
        return ScannedDataset(
            spec,
            (*train, *balanced),
            tuple(validation),
            reg_found=sum(record.repeats for record in reg),
            overlap=overlap,
        )

    def _note_empty(self, spec: DatasetSpec, listing: _Listing) -> None:
        if spec.validation_split:
            self.problems.append(
                Problem(
                    f"{listing.source} holds no images, and the trainer cannot split an empty folder for validation"
                )
            )
        else:
            self.warnings.append(f"{listing.source} holds no images")

    def _refuse_split(self, spec: DatasetSpec, listing: _Listing) -> None:
        if spec.validation_split:
            self.problems.append(
                Problem(
                    f"{listing.source}: the trainer would validate on all images of a metadata file, held out or not"
                )
            )

    def _read_entries(self, index: int, subset: SubsetSpec, listing: _Listing, bucketer: Bucketer) -> list[ImageRecord]:
        records = []
        for entry in listing.entries:
            self._step()
            if size := self._size(entry.path, bucketer, entry.size):
                records.append(
                    _record(entry.path, size, bucketer, caption=(entry.caption, None), index=index, subset=subset)
                )
        return records

    def _read_folder(self, index: int, subset: SubsetSpec, listing: _Listing, bucketer: Bucketer) -> list[ImageRecord]:
        records: list[ImageRecord] = []
        by_stem: dict[str, str] = {}
        without_caption = 0
        for name in listing.images:
            path = f"{listing.source}{os.sep}{name}"
            stem = os.path.splitext(path)[0]
            if stem in by_stem:
                self.problems.append(
                    Problem(f"{path!r} and {by_stem[stem]!r} share one stem, hence one caption and one cache file")
                )
            by_stem[stem] = name
            self._step()
            size = self._size(path, bucketer)
            caption, caption_path = self._caption(stem, subset, listing)
            if size is None:
                continue
            if caption_path is None:
                without_caption += 1
            records.append(_record(path, size, bucketer, caption=(caption, caption_path), index=index, subset=subset))
        if without_caption:
            self._note_missing_captions(without_caption, subset, listing)
        self.stray_caches += sum(is_cache_name(name) and (name != INFO or subset.cache_info) for name in listing.names)
        if subset.conditioning_data_dir is not None:
            self.problems += mask_problems(records, subset.conditioning_data_dir)
        return records

    def _note_missing_captions(self, count: int, subset: SubsetSpec, listing: _Listing) -> None:
        extension = subset.caption_extension
        instead = f"its class tokens {subset.class_tokens!r}" if subset.class_tokens else "an empty caption"
        self.warnings.append(
            f"{listing.source}: {count} of {len(listing.images)} images have no {extension} file and train with {instead}"
        )

    def _size(self, path: str, bucketer: Bucketer, said: Size | None = None) -> Size | None:
        """The size by the file's header; the trainer believes what a metadata file ``said`` of it."""
        try:
            real = files.image_size(path)
            size = said or real
            bucketer.assign(*size)
        except files.UnreadableImage as error:
            if self.skip_unreadable:
                self.skipped.append(Skipped(Path(path), f"unreadable image: {error}"))
                self.unreadable.append(Path(path))
            else:
                self.problems.append(Problem(f"{path!r} cannot be read as an image ({error})", code="unreadable"))
            return None
        except DatasetError as error:
            self.problems.append(Problem(f"{path!r}: {error.what}, {error.why}", todo=error.todo))
            return None
        if size != real:
            self.warnings.append(
                f"{path!r} is {real[0]}×{real[1]}, but its metadata says {size[0]}×{size[1]}, and the trainer believes that"
            )
        return size

    def _caption(self, stem: str, subset: SubsetSpec, listing: _Listing) -> tuple[str, str | None]:
        """The caption and the file it is from; class tokens (or nothing) when there is none."""
        for path in files.caption_candidates(stem, subset.caption_extension):
            folder, name = os.path.split(path)
            # The listing answers for its own folder; a face-crop candidate may lie in another.
            there = name in listing.names if folder == listing.source else os.path.isfile(path)
            if there:
                return self._read_caption(path, subset), path
        return subset.class_tokens or "", None

    def _read_caption(self, path: str, subset: SubsetSpec) -> str:
        try:
            caption = files.read_caption(path, all_lines=subset.enable_wildcard)
        except UnicodeDecodeError as error:
            self.problems.append(
                Problem(f"caption {path!r} is not UTF-8 (byte {error.start})", todo="save it as UTF-8")
            )
            return ""
        except OSError as error:
            self.problems.append(Problem(f"caption {path!r} cannot be read: {error.strerror}"))
            return ""
        if caption is None:
            self.problems.append(Problem(f"caption {path!r} is empty (0 bytes)", todo="write it, or delete the file"))
            return ""
        if caption.startswith("\ufeff"):
            self.warnings.append(
                f"caption {path!r} starts with a byte order mark, which becomes part of the caption: save it as plain UTF-8"
            )
        elif not caption:
            self.warnings.append(f"caption {path!r} has an empty first line: the image trains with an empty caption")
        return caption

    def _skip(self, folder: str, name: str, reason: str) -> None:
        self.skipped.append(Skipped(Path(folder, name), reason))

    def _step(self) -> None:
        self._done += 1
        if self._progress and (self._done % _PROGRESS_EVERY == 0 or self._done == self._total):
            self._progress(self._done, self._total)


def _record(
    path: str, size: Size, bucketer: Bucketer, *, caption: tuple[str, str | None], index: int, subset: SubsetSpec
) -> ImageRecord:
    assigned = bucketer.assign(*size)
    text, source = caption
    return ImageRecord(
        path=Path(path),
        caption=text,
        caption_path=Path(source) if source else None,
        width=size[0],
        height=size[1],
        repeats=subset.num_repeats,
        is_reg=subset.is_reg,
        subset_index=index,
        bucket=assigned.bucket,
        resized=assigned.resized,
        crop_ltrb=assigned.crop_ltrb,
    )


def _what_was_skipped(skipped: list[Skipped]) -> str:
    return "; ".join(f"{item.path.name!r}: {item.reason}" for item in skipped[:5])
