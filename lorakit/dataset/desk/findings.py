"""The findings of a check: what stops the trainer, what deserves a look, what is good to know. One function each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lorakit.dataset.desk.caption_files import CaptionFile
from lorakit.dataset.desk.report import Finding, Item, Tokens
from lorakit.dataset.desk.tags import Spelling, TagTable
from lorakit.dataset.records import ScannedData
from lorakit.errors import Problem

__all__ = ["Evidence", "findings"]

#: A picture is far too small from this enlargement on, oddly shaped from this ratio of sides on, badly cropped from this share on.
_ENLARGED: Final = 1.25
_RATIO: Final = 2.5
_CUT: Final = 0.12
#: How EXIF's numbers turn a picture.
_TURNS: Final = {
    2: "mirrored", 3: "upside down", 4: "upside down and mirrored", 5: "on its side and mirrored", 6: "on its side",
    7: "on its side and mirrored", 8: "on its side",
}  # fmt: skip


@dataclass(frozen=True)
class Evidence:
    """What findings are made of."""

    data: ScannedData
    problems: Sequence[Problem]
    items: Sequence[Item]
    files: Mapping[Path, CaptionFile]
    same: Sequence[Sequence[Path]]
    alike: Sequence[Sequence[Path]]
    table: TagTable
    spellings: Sequence[Spelling]
    tokens: Tokens
    strays: Sequence[Path]

    @property
    def training(self) -> list[Item]:
        """All but the regularisation pictures."""
        return [item for item in self.items if not item.is_reg]


def findings(evidence: Evidence) -> Iterator[Finding]:
    """Every finding, the worst first."""
    found = [one for rule in _RULES for one in rule(evidence)]
    order = {"fail": 0, "look": 1, "note": 2}
    yield from sorted(found, key=lambda one: order[one.level])


def _stops(evidence: Evidence) -> Iterator[Finding]:
    if evidence.problems:
        yield Finding(
            "stops", "fail", f"{_count(len(evidence.problems), 'file')} would stop the trainer",
            "mend or remove them; unreadable pictures can be passed over with dataset.skip_unreadable = true",
            details=tuple(problem.what for problem in evidence.problems),
        )  # fmt: skip
    broken = [item for item in evidence.items if item.picture.fault]
    if broken:
        yield Finding(
            "undecodable", "fail", f"{_count(len(broken), 'picture')} cannot be decoded although the header is well",
            "save them anew", *_told(broken, lambda item: item.picture.fault),
        )  # fmt: skip


def _same(evidence: Evidence) -> Iterator[Finding]:
    if evidence.same:
        extra = sum(len(group) - 1 for group in evidence.same)
        yield Finding(
            "same-file", "look", f"{_count(extra, 'picture')} the same as another, byte for byte".replace(" the", " is the" if extra == 1 else " are the", 1),
            "remove all but one; to weigh a picture more, use repeats", *_groups(evidence.same),
        )  # fmt: skip
    if evidence.alike:
        yield Finding(
            "look-alike", "look", f"{_count(len(evidence.alike), 'group')} of pictures that look alike",
            "keep the best of each: the others teach the same picture again", *_groups(evidence.alike),
        )  # fmt: skip


def _shape(evidence: Evidence) -> Iterator[Finding]:
    small = sorted((item for item in evidence.training if item.scale >= _ENLARGED), key=lambda item: -item.scale)
    if small:
        yield Finding(
            "too-small", "look", f"{_count(len(small), 'picture')} too small: enlarged {_span(small[-1].scale, small[0].scale)} times for the bucket",
            "find larger ones, train at a lower resolution, or set dataset.bucket_no_upscale = true",
            *_told(small, lambda item: f"{_size(item.size)} → {_size(item.resized)} (× {item.scale:.2f})"),
        )  # fmt: skip
    bit = [item for item in evidence.training if 1.001 < item.scale < _ENLARGED]
    if bit:
        yield Finding(
            "enlarged", "note", f"{_count(len(bit), 'picture')} enlarged a little for the bucket (less than {_ENLARGED:g} times)",
            "", *_told(bit, lambda item: f"{_size(item.size)} → {_size(item.resized)} (× {item.scale:.2f})"),
        )  # fmt: skip
    odd = sorted((item for item in evidence.training if item.ratio > _RATIO), key=lambda item: -item.ratio)
    if odd:
        yield Finding(
            "extreme-ratio", "look", f"{_count(len(odd), 'picture')} very long or very tall: more than {_RATIO:g} to 1",
            "crop them yourself, so that what matters is in the middle",
            *_told(odd, lambda item: f"{_size(item.size)}, {item.ratio:.1f} to 1, bucket {_size(item.bucket)}"),
        )  # fmt: skip
    cut = sorted((item for item in evidence.training if item.cut > _CUT), key=lambda item: -item.cut)
    if cut:
        yield Finding(
            "cropped", "look", f"{_count(len(cut), 'picture')} lose more than {_CUT * 100:.0f} % to the crop".replace("picture lose", "picture loses"),
            "crop them yourself, or allow longer buckets (dataset.bucket_max) or finer ones (dataset.bucket_step = 32)",
            *_told(cut, lambda item: f"{item.cut * 100:.0f} % of {_size(item.size)} in bucket {_size(item.bucket)}"),
        )  # fmt: skip


def _pixels(evidence: Evidence) -> Iterator[Finding]:
    clear = [item for item in evidence.items if item.picture.alpha > 0]
    if clear:
        yield Finding(
            "alpha", "look", f"{_count(len(clear), 'picture')} partly transparent: the trainer drops the alpha channel, and whatever colour lies beneath shows",
            "flatten them onto a background, or use them as masks with dataset.alpha_mask",
            *_told(clear, lambda item: f"{max(item.picture.alpha * 100, 0.01):.2g} % of the pixels"),
        )  # fmt: skip
    opaque = [item for item in evidence.items if item.picture.has_alpha and not item.picture.alpha]
    if opaque:
        yield Finding(
            "alpha-opaque", "note", f"{_count(len(opaque), 'picture')} with an alpha channel that is opaque everywhere", "",
            tuple(item.path for item in opaque),
        )  # fmt: skip
    turned = [item for item in evidence.items if item.picture.orientation != 1]
    if turned:
        yield Finding(
            "exif-rotation", "look", f"{_count(len(turned), 'picture')} that viewers turn and the trainer does not (EXIF orientation)",
            "save them turned, without the EXIF mark",
            *_told(turned, lambda item: f"trained {_TURNS[item.picture.orientation]}"),
        )  # fmt: skip


def _captions(evidence: Evidence) -> Iterator[Finding]:
    missing = [item for item in evidence.training if item.caption_path is None and not _from_metadata(evidence, item)]
    if missing:
        instead = sorted({item.caption for item in missing})
        told = ", ".join(repr(text) if text else "an empty caption" for text in instead[:3])
        yield Finding(
            "no-caption", "look", f"{_count(len(missing), 'picture')} without a caption file: trained with {told}",
            "write captions, or leave them out on purpose", tuple(item.path for item in missing),
        )  # fmt: skip
    empty = [item for item in evidence.training if item.caption_path is not None and not item.caption]
    empty = [item for item in empty if not evidence.files[_path(item)].fault]
    if empty:
        yield Finding("empty-caption", "look", f"{_count(len(empty), 'caption')} with nothing on the first line: trained with an empty caption",
                      "write them, or delete the files", tuple(item.path for item in empty))  # fmt: skip
    by_text: defaultdict[str, list[Item]] = defaultdict(list)
    for item in evidence.training:
        if item.caption and item.caption_path is not None:
            by_text[item.caption].append(item)
    shared = sorted((items for items in by_text.values() if len(items) > 1), key=lambda items: -len(items))
    if shared:
        count = sum(map(len, shared))
        yield Finding(
            "same-caption", "look", f"{_count(count, 'picture')} share a caption with another ({_count(len(shared), 'caption')})",
            "say what differs between them: what captions do not tell apart is learned as one",
            tuple(item.path for items in shared for item in items),
            tuple(f"{len(items)} ×  {_short(items[0].caption)}" for items in shared),
        )  # fmt: skip
    odd = [
        (path, what)
        for path, file in evidence.files.items()
        for what in file.oddities
        if not what.startswith("has nothing")
    ]
    if odd:
        yield Finding("caption-text", "look", f"{_count(len({path for path, _ in odd}), 'caption file')} with odd text",
                      "save them as plain UTF-8", tuple(path for path, _ in odd), tuple(what for _, what in odd))  # fmt: skip
    wild = any(subset.enable_wildcard for dataset in evidence.data.datasets for subset in dataset.spec.subsets)
    long = [path for path, file in evidence.files.items() if file.more_lines]
    if long and not wild:
        yield Finding(
            "more-lines", "look", f"{_count(len(long), 'caption file')} with further lines: the trainer reads the first alone",
            "put all on one line, or set dataset.enable_wildcard = true to draw a line each time", tuple(long),
        )  # fmt: skip
    if evidence.strays:
        yield Finding("stray-caption", "note", f"{_count(len(evidence.strays), 'caption file')} without a picture of that name",
                      "rename or remove them", tuple(evidence.strays))  # fmt: skip


def _tokens(evidence: Evidence) -> Iterator[Finding]:
    cuts = evidence.tokens.cuts
    if cuts:
        longest = cuts[0][1].tokens
        needed = next((length for length in (75, 150, 225) if longest <= length), None)
        todo = (
            f"set dataset.max_token_length = {needed}"
            if needed
            else f"shorten them: the longest has {longest} tokens, and 225 is the most"
        )
        yield Finding(
            "too-long", "look", f"{_count(len(cuts), 'caption')} longer than {evidence.tokens.length} tokens: the end is cut off", todo,
            tuple(path for path, _ in cuts), tuple(f"{cut.tokens} tokens, lost: {_short(cut.lost)}" for _, cut in cuts),
        )  # fmt: skip


def _tags(evidence: Evidence) -> Iterator[Finding]:
    if evidence.table.repeated:
        tags = evidence.table.repeated
        yield Finding("repeated-tag", "look", f"{_count(len(tags), 'tag')} more than once in a caption".replace(" more", " comes more" if len(tags) == 1 else " come more", 1),
                      "lorakit dataset dedupe DIR", details=tuple(f"{tag} (in {_count(count, 'caption')})" for tag, count in tags))  # fmt: skip
    if evidence.spellings:
        yield Finding(
            "spellings", "look", f"{_count(len(evidence.spellings), 'tag')} spelled in several ways".replace("tags spelled", "tags are spelled").replace("tag spelled", "tag is spelled"),
            "lorakit dataset rename DIR OLD NEW",
            details=tuple(f"{' / '.join(f'{tag} ({count})' for tag, count in one.ways)}: {one.why}" for one in evidence.spellings),
        )  # fmt: skip


def _folders(evidence: Evidence) -> Iterator[Finding]:
    if evidence.data.skipped:
        yield Finding("skipped", "note", f"{_count(len(evidence.data.skipped), 'file')} or folders that the trainer passes over".replace("1 file or folders", "1 file or folder"),
                      "", tuple(one.path for one in evidence.data.skipped), tuple(one.reason for one in evidence.data.skipped))  # fmt: skip
    if evidence.data.stray_caches:
        yield Finding("stray-cache", "look", f"{_count(evidence.data.stray_caches, 'cache file')} beside the pictures (.npz): the trainer may believe them instead of the pictures",
                      "remove them, unless you know what made them")  # fmt: skip
    for warning in evidence.data.warnings:
        if not _told_elsewhere(warning):
            yield Finding("plan", "look", warning)


_RULES: Final[tuple[Callable[[Evidence], Iterator[Finding]], ...]] = (
    _stops, _same, _captions, _tokens, _shape, _pixels, _tags, _folders,
)  # fmt: skip


def _told_elsewhere(warning: str) -> bool:
    """Whether a warning of the scan is what a finding of ours says with the names of the files."""
    return warning.startswith("caption '") or (" of " in warning and " file and train with " in warning)


def _from_metadata(evidence: Evidence, item: Item) -> bool:
    """Whether the caption comes from a metadata file, which has no caption files."""
    return bool(item.caption) and any(
        subset.metadata_file is not None for dataset in evidence.data.datasets for subset in dataset.spec.subsets
    )


def _path(item: Item) -> Path:
    assert item.caption_path is not None
    return item.caption_path


def _told(items: Sequence[Item], words: Callable[[Item], str]) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    return tuple(item.path for item in items), tuple(map(words, items))


def _groups(groups: Sequence[Sequence[Path]]) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """All files, and a line for each group."""
    return tuple(path for group in groups for path in group), tuple(
        " = ".join(_name(path) for path in group) for group in groups
    )


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"


def _span(low: float, high: float) -> str:
    ends = f"{low:.2g}", f"{high:.2g}"
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def _short(text: str, length: int = 90) -> str:
    return text if len(text) <= length else f"{text[: length - 1].rstrip()}…"
