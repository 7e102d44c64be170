"""Checks a dataset: what plan knows of it, what its pixels and captions say, and what should be done about it."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from lorakit.dataset.blueprint import Blueprint, DatasetDefaults, DatasetSpec, SubsetSpec, from_folders, from_toml
from lorakit.dataset.captions import CaptionSettings, caption_of_example
from lorakit.dataset.desk.caption_files import CaptionFile, read_caption_file, strays_of
from lorakit.dataset.desk.duplicates import groups_of, look_alikes, same_files
from lorakit.dataset.desk.findings import Evidence, findings
from lorakit.dataset.desk.pictures import Memory, Picture, look_at
from lorakit.dataset.desk.report import Finding, Folder, Item, Report, Tokens
from lorakit.dataset.desk.tags import count_tags, is_sentence, spellings, split
from lorakit.dataset.desk.tokens import cut_at
from lorakit.dataset.files import is_image_name
from lorakit.dataset.records import ImageRecord, ScannedData
from lorakit.dataset.scan import survey
from lorakit.errors import DatasetError

__all__ = ["Counter", "blueprint_of", "check", "with_thumbnails"]

#: Called with (what is being read, done, all).
Progress = Callable[[str, int, int], None]
#: Longest list of cut captions and of files in a finding that is worth keeping.
_UNKNOWN: Final = Picture()


@dataclass(frozen=True)
class Counter:
    """Who counts tokens: ``count`` is None where nobody can, and ``why_not`` says why."""

    count: Callable[[str], int] | None
    source: str = ""
    why_not: str = ""
    mends: bool = True


def blueprint_of(asked: Path, defaults: DatasetDefaults) -> Blueprint:
    """The dataset that a path means: N_name folders, one folder of pictures, or a dataset TOML.

    Pictures that lie in the folder itself are one subset, repeated as its name says or once. Raises DatasetError.
    """
    if asked.is_file():
        return from_toml(asked, defaults, root=Path.cwd())
    try:
        names = os.listdir(asked)
    except OSError as error:
        raise DatasetError(
            f"{asked} cannot be read as a folder of pictures",
            why=error.strerror or str(error),
            todo="give the folder that holds the N_name folders, one of them, or a dataset TOML",
        ) from error
    if not any(is_image_name(name) and (asked / name).is_file() for name in names):
        return from_folders(asked, None, defaults)
    # The folder above it is read as the trainer would, and all but this one is left out.
    first = asked.absolute().name.partition("_")[0]
    repeats = int(first) if first.isdecimal() and int(first) > 0 else 1
    known = set(SubsetSpec.__dataclass_fields__) & set(DatasetDefaults.__dataclass_fields__)
    subset = SubsetSpec(image_dir=asked, num_repeats=repeats, **{name: getattr(defaults, name) for name in known})
    shared = set(DatasetSpec.__dataclass_fields__) & set(DatasetDefaults.__dataclass_fields__) - {"resolution"}
    values = {name: getattr(defaults, name) for name in shared}
    resolution = defaults.resolution or (1024, 1024)
    spec = DatasetSpec((subset,), resolution, batch_size=defaults.train_batch_size, **values)
    return Blueprint((spec,))


def check(
    asked: Path,
    blueprint: Blueprint,
    memory: Memory,
    counter: Counter,
    *,
    max_token_length: int = 75,
    progress: Progress | None = None,
) -> Report:
    """Look at everything. Raises DatasetError for a folder that cannot be read at all, never for what is in it."""
    tell: Progress = progress or (lambda _what, _done, _all: None)
    data, problems = survey(blueprint, progress=lambda done, total: tell("reading headers and captions", done, total))
    # People know where they asked: what is told of a file begins below that.
    below = f"{os.path.abspath(asked if asked.is_dir() else asked.parent)}{os.sep}"
    problems = tuple(replace(problem, what=problem.what.replace(below, "")) for problem in problems)
    records = list(_records(data))
    paths = [record.path for record, _, _ in records]
    try:
        pictures = look_at(paths, memory, progress=lambda done, total: tell("looking at pictures", done, total))
        alike = look_alikes(pictures, lambda some: look_at(some, memory, whole=True))
    finally:
        memory.write(paths)
    files = _caption_files(record for record, _, _ in records)
    settings = {id(subset): _steady(subset) for dataset in data.datasets for subset in dataset.spec.subsets}
    items = tuple(
        _item(record, subset, settings[id(subset)], counter, pictures.get(record.path, _UNKNOWN), validation=validation)
        for record, subset, validation in records
    )
    same = same_files(paths)
    tokens = _tokens(items, counter, max_token_length)
    subset = blueprint.datasets[0].subsets[0] if blueprint.datasets[0].subsets else None
    separator = subset.caption_separator if subset else ","
    captions = [item.caption.removeprefix("\ufeff") for item in items if item.caption and not item.is_reg]
    tagged = [caption for caption in captions if not is_sentence(caption, separator)]
    table = count_tags([split(caption, separator) for caption in tagged])
    alike_spelled = spellings(table.counts)
    evidence = Evidence(
        data=data, problems=problems, items=items, files=files, same=same, alike=_not_same(alike, same), table=table,
        spellings=alike_spelled, tokens=tokens, strays=_strays(data, paths),
    )  # fmt: skip
    return Report(
        asked=asked,
        data=data,
        items=items,
        folders=_folders(data),
        tags=table,
        sentences=len(captions) - len(tagged),
        spellings=alike_spelled,
        tokens=tokens,
        findings=tuple(findings(evidence)),
        resolution=blueprint.datasets[0].resolution,
        batch_size=blueprint.datasets[0].batch_size,
    )


def with_thumbnails(report: Report, memory: Memory, most: int, progress: Progress | None = None) -> Report:
    """The report with thumbnails of at most ``most`` pictures, those with findings first."""
    named = [path for finding in report.findings for path in finding.files]
    known = {item.path for item in report.items}
    chosen = [path for path in dict.fromkeys((*named, *(item.path for item in report.items))) if path in known][:most]
    tell: Progress = progress or (lambda _what, _done, _all: None)
    try:
        seen = look_at(chosen, memory, whole=True, progress=lambda done, total: tell("drawing thumbnails", done, total))
    finally:
        memory.write([item.path for item in report.items])
    items = tuple(replace(item, picture=seen.get(item.path, item.picture)) for item in report.items)
    return replace(report, items=items)


def _records(data: ScannedData) -> Iterator[tuple[ImageRecord, SubsetSpec, bool]]:
    """Every picture once, with its subset and whether it is held out."""
    seen: set[tuple[int, Path]] = set()
    for index, dataset in enumerate(data.datasets):
        for validation, records in ((False, dataset.train), (True, dataset.validation)):
            for record in records:
                if (index, record.path) not in seen:
                    seen.add((index, record.path))
                    yield record, dataset.spec.subsets[record.subset_index], validation


def _steady(subset: SubsetSpec) -> CaptionSettings:
    """The settings that are the same for every example: affixes and separators, no chance."""
    return replace(
        CaptionSettings.of(subset), shuffle_caption=False, caption_dropout_rate=0.0, caption_dropout_every_n_epochs=0,
        caption_tag_dropout_rate=0.0, token_warmup_step=0,
    )  # fmt: skip


def _item(
    record: ImageRecord, subset: SubsetSpec, settings: CaptionSettings, counter: Counter, picture: Picture, *, validation: bool
) -> Item:  # fmt: skip
    text = caption_of_example(record.caption, settings, random.Random(0), epoch=1, step=0, total_steps=1)
    return Item(
        path=record.path,
        folder=subset.image_dir or record.path.parent,
        size=(record.width, record.height),
        bucket=record.bucket,
        resized=record.resized,
        repeats=record.repeats,
        is_reg=record.is_reg,
        validation=validation,
        caption=record.caption,
        caption_path=record.caption_path,
        text=text,
        tokens=counter.count(text) if counter.count else None,
        picture=picture,
    )


def _caption_files(records: Iterable[ImageRecord]) -> Mapping[Path, CaptionFile]:
    return {record.caption_path: read_caption_file(record.caption_path) for record in records if record.caption_path}


def _tokens(items: Iterable[Item], counter: Counter, length: int) -> Tokens:
    if counter.count is None:
        return Tokens(length, why_not=counter.why_not)
    counts: list[int] = []
    cuts = []
    for item in items:
        if item.tokens is None:
            continue
        counts.append(item.tokens)
        if item.tokens > length and (cut := cut_at(item.text, length, counter.count)):
            cuts.append((item.path, cut))
    return Tokens(
        length,
        counter.source,
        mended=counter.mends,
        longest=max(counts, default=0),
        by_length=Tokens.classes(counts),
        cuts=tuple(sorted(cuts, key=lambda pair: -pair[1].tokens)),
    )


def _folders(data: ScannedData) -> tuple[Folder, ...]:
    """What each folder gives, and the repeats that would make all give as much as the largest does once."""
    counted: dict[Path, tuple[int, int, bool]] = {}
    for record, subset, _ in _records(data):
        path = subset.image_dir or record.path.parent
        before = counted.get(path, (0, 0, False))[0]
        counted[path] = (before + 1, subset.num_repeats, subset.is_reg)
    largest = max((images for images, _, is_reg in counted.values() if not is_reg), default=0)
    return tuple(
        Folder(path, images, repeats, is_reg, repeats if is_reg else max(1, round(largest / images)))
        for path, (images, repeats, is_reg) in counted.items()
    )


def _strays(data: ScannedData, paths: Iterable[Path]) -> tuple[Path, ...]:
    extensions = {subset.caption_extension for dataset in data.datasets for subset in dataset.spec.subsets}
    unreadable = {item.path for item in data.skipped}
    everything = [*paths, *unreadable]
    return tuple(stray for extension in sorted(extensions) for stray in strays_of(everything, extension))


def _not_same(pairs: Iterable[tuple[Path, Path]], same: Iterable[tuple[Path, ...]]) -> tuple[tuple[Path, ...], ...]:
    """Groups of look-alikes; of files with equal content one stands for all, for they are told of already."""
    stands = {path: group[0] for group in same for path in group}
    kept = {(stands.get(first, first), stands.get(second, second)) for first, second in pairs}
    return groups_of((first, second) for first, second in sorted(kept) if first != second)


def finding_of(report: Report, code: str) -> Finding | None:
    """The finding with a code, None where it was not found."""
    return next((one for one in report.findings if one.code == code), None)
