"""Two datasets picture by picture: what came, went, was replaced, got another caption, repeats or bucket."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePath
from typing import Any

from lorakit.archive.hashing import hash_file
from lorakit.dataset.desk.tags import plain_tag, split
from lorakit.dataset.records import ScannedData

__all__ = ["Diff", "Recaptioned", "diff", "record_of"]

_Image = Mapping[str, Any]


@dataclass(frozen=True)
class Recaptioned:
    """A picture whose caption changed; ``added`` and ``removed`` are its tags that did, empty where only their order did."""

    path: str
    before: str
    after: str
    added: tuple[str, ...]
    removed: tuple[str, ...]


@dataclass(frozen=True)
class Diff:
    """What the second dataset has that the first has not, and the other way round; paths are folder/name.

    ``moved``: (before, after) of a picture under another name; ``replaced``: another picture under the same name; ``rearranged``:
    (path, what changed) for repeats, bucket or side of the validation split. ``tags``: (tag, captions before, captions after) for
    tags that are used more or less.
    """

    images: tuple[int, int]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    replaced: tuple[str, ...]
    moved: tuple[tuple[str, str], ...]
    recaptioned: tuple[Recaptioned, ...]
    rearranged: tuple[tuple[str, str], ...]
    tags: tuple[tuple[str, int, int], ...]

    @property
    def same(self) -> bool:
        """Whether a training would see no difference."""
        return not (self.added or self.removed or self.replaced or self.recaptioned or self.rearranged)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "same": self.same}


def diff(first: Mapping[str, Any], second: Mapping[str, Any]) -> Diff:
    """Compare two dataset.json records. Pictures are known by their contents, then by their names."""
    ours, theirs = (list(record.get("images") or []) for record in (first, second))
    pairs, gone, come = _paired(ours, theirs)
    names = {_name(image) for image in gone} & {_name(image) for image in come}
    recaptioned = [
        _recaptioned(before, after) for before, after in pairs if before.get("caption") != after.get("caption")
    ]
    arranged = ((_name(after), _rearranged(before, after)) for before, after in pairs)
    return Diff(
        images=(len(ours), len(theirs)),
        added=tuple(sorted(_name(image) for image in come if _name(image) not in names)),
        removed=tuple(sorted(_name(image) for image in gone if _name(image) not in names)),
        replaced=tuple(sorted(names)),
        moved=tuple(sorted((_name(a), _name(b)) for a, b in pairs if _name(a) != _name(b))),
        recaptioned=tuple(sorted(recaptioned, key=lambda one: one.path)),
        rearranged=tuple(sorted((path, what) for path, what in arranged if what)),
        tags=_tags(ours, theirs),
    )


def record_of(data: ScannedData) -> dict[str, Any]:
    """The pictures of a folder as dataset.json has them, their contents hashed. Raises OSError for one that cannot be read."""
    images = []
    for index, dataset in enumerate(data.datasets):
        for held_out, records in ((False, dataset.train), (True, dataset.validation)):
            images += [
                {
                    "path": str(image.path),
                    "sha256": hash_file(image.path).sha256,
                    "bucket": list(image.bucket),
                    "repeats": image.repeats,
                    "dataset": index,
                    "reg": image.is_reg,
                    "validation": held_out,
                    "caption": image.caption,
                }
                for image in records
            ]
    return {"images": images}


def _paired(
    ours: Sequence[_Image], theirs: Sequence[_Image]
) -> tuple[list[tuple[_Image, _Image]], list[_Image], list[_Image]]:
    """Pictures of equal content two by two, those of the same name first; and those without a partner on each side."""
    waiting: defaultdict[Any, list[_Image]] = defaultdict(list)
    for image in ours:
        waiting[image.get("sha256")].append(image)
    pairs: list[tuple[_Image, _Image]] = []
    later: list[_Image] = []
    for image in theirs:
        partner = next((one for one in waiting[image.get("sha256")] if _name(one) == _name(image)), None)
        if partner is None:
            later.append(image)
        else:
            waiting[image.get("sha256")].remove(partner)
            pairs.append((partner, image))
    come = []
    for image in later:
        if waiting[image.get("sha256")]:
            pairs.append((waiting[image.get("sha256")].pop(0), image))
        else:
            come.append(image)
    return pairs, [image for images in waiting.values() for image in images], come


def _name(image: _Image) -> str:
    """Folder and name: what stays the same when a dataset is moved, and most when its repeats change."""
    path = PurePath(str(image.get("path")))
    repeats, mark, rest = path.parent.name.partition("_")
    folder = rest if mark and repeats.isdecimal() else path.parent.name
    return os.path.join(folder, path.name)


def _recaptioned(before: _Image, after: _Image) -> Recaptioned:
    old, new = str(before.get("caption") or ""), str(after.get("caption") or "")
    mine, others = Counter(split(old)), Counter(split(new))
    return Recaptioned(_name(after), old, new, tuple((others - mine).elements()), tuple((mine - others).elements()))


def _rearranged(before: _Image, after: _Image) -> str:
    words = []
    for key, told in (
        ("repeats", "repeats"),
        ("bucket", "bucket"),
        ("validation", "held out"),
        ("reg", "regularisation"),
    ):
        old, new = before.get(key), after.get(key)
        if old != new:
            words.append(f"{told} {_plain(old)} → {_plain(new)}")
    return ", ".join(words)


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return "×".join(map(str, value))
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def _tags(ours: Sequence[_Image], theirs: Sequence[_Image]) -> tuple[tuple[str, int, int], ...]:
    before, after = (
        Counter(tag for image in side for tag in {plain_tag(tag) for tag in split(str(image.get("caption") or ""))})
        for side in (ours, theirs)
    )
    changed = [(tag, before[tag], after[tag]) for tag in {*before, *after} if before[tag] != after[tag]]
    return tuple(sorted(changed, key=lambda row: (-abs(row[2] - row[1]), row[0])))
