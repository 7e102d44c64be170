"""A run's pictures against another's: added, removed, changed, recaptioned, told by their contents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

__all__ = ["DatasetChanges", "DatasetDifference", "Recaptioned", "dataset_changes", "dataset_difference"]

_Image = Mapping[str, Any]


@dataclass(frozen=True)
class DatasetDifference:
    """A run's pictures against another's, in numbers of pictures.

    ``changed``: another picture under the same name; ``rearranged``: other repeats, bucket or side of the validation split.
    """

    images: int
    added: int = 0
    removed: int = 0
    changed: int = 0
    recaptioned: int = 0
    rearranged: int = 0

    def __str__(self) -> str:
        images = f"{self.images} image{'' if self.images == 1 else 's'}"
        signed = ((f"+{self.added}", self.added), (f"−{self.removed}", self.removed))
        worded = (("changed", self.changed), ("recaptioned", self.recaptioned), ("rearranged", self.rearranged))
        parts = [text for text, count in signed if count] + [f"{count} {word}" for word, count in worded if count]
        return f"{images} ({', '.join(parts)})" if parts else images


@dataclass(frozen=True)
class Recaptioned:
    """A picture that has another caption: its name, the caption of the first run's and that of the other's."""

    name: str
    before: str
    after: str


@dataclass(frozen=True)
class DatasetChanges:
    """The same difference by name: folder and file of each picture, in the order of their names."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    recaptioned: tuple[Recaptioned, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed or self.recaptioned)


def dataset_changes(first: Mapping[str, Any], other: Mapping[str, Any]) -> DatasetChanges:
    """Which pictures of ``other`` differ from those of ``first``, both as dataset.json records."""
    ours, theirs = (record.get("images") or [] for record in (first, other))
    gone, come = _without(ours, theirs, _content), _without(theirs, ours, _content)
    changed = Counter(_paired(gone, come, _name))
    there = Counter(map(_content, ours)) & Counter(map(_content, theirs))
    stayed_ours, stayed_theirs = (_keep(images, there) for images in (ours, theirs))
    captions: dict[Any, list[str]] = {}
    for image in _without(stayed_ours, stayed_theirs, _captioned):
        captions.setdefault(_content(image), []).append(str(image.get("caption") or ""))
    recaptioned = [
        Recaptioned(_said(image), captions.get(_content(image), [""]).pop(0), str(image.get("caption") or ""))
        for image in _without(stayed_theirs, stayed_ours, _captioned)
    ]
    return DatasetChanges(
        added=_names(come, changed),
        removed=_names(gone, changed),
        changed=tuple(sorted("/".join(name) for name in changed.elements())),
        recaptioned=tuple(sorted(recaptioned, key=lambda one: one.name)),
    )


def _names(images: Sequence[_Image], paired: Counter[Any]) -> tuple[str, ...]:
    left = Counter(paired)
    found = []
    for image in images:
        if left[_name(image)] > 0:
            left[_name(image)] -= 1
        else:
            found.append(_said(image))
    return tuple(sorted(found))


def _said(image: _Image) -> str:
    return "/".join(_name(image))


def dataset_difference(first: Mapping[str, Any], other: Mapping[str, Any]) -> DatasetDifference:
    """How the pictures of ``other`` differ from those of ``first``, both as dataset.json records.

    Pictures are known by their contents; one that has gone and one that has come under the same name is a changed one.
    """
    ours, theirs = (record.get("images") or [] for record in (first, other))
    gone = _without(ours, theirs, _content)
    come = _without(theirs, ours, _content)
    changed = len(_paired(gone, come, _name))
    there = Counter(map(_content, ours)) & Counter(map(_content, theirs))
    stayed_ours, stayed_theirs = (_keep(images, there) for images in (ours, theirs))
    recaptioned = len(_without(stayed_theirs, stayed_ours, _captioned))
    rearranged = len(_without(stayed_theirs, stayed_ours, _arranged))
    return DatasetDifference(
        images=len(theirs),
        added=len(come) - changed,
        removed=len(gone) - changed,
        changed=changed,
        recaptioned=recaptioned,
        rearranged=rearranged,
    )


def _content(image: _Image) -> Any:
    return image.get("sha256")


def _captioned(image: _Image) -> Any:
    return image.get("sha256"), image.get("caption"), image.get("caption_sha256")


def _arranged(image: _Image) -> Any:
    return image.get("sha256"), image.get("repeats"), str(image.get("bucket")), image.get("validation")


def _name(image: _Image) -> Any:
    return PurePath(str(image.get("path"))).parts[-2:]


def _without(images: Sequence[_Image], others: Sequence[_Image], key: Callable[[_Image], Any]) -> list[_Image]:
    """The images that have no partner among the others; each partner is used once."""
    left = Counter(map(key, others))
    alone = []
    for image in images:
        if left[key(image)] > 0:
            left[key(image)] -= 1
        else:
            alone.append(image)
    return alone


def _paired(images: Sequence[_Image], others: Sequence[_Image], key: Callable[[_Image], Any]) -> list[Any]:
    return list((Counter(map(key, images)) & Counter(map(key, others))).elements())


def _keep(images: Sequence[_Image], there: Counter[Any]) -> list[_Image]:
    left = Counter(there)
    kept = []
    for image in images:
        if left[_content(image)] > 0:
            left[_content(image)] -= 1
            kept.append(image)
    return kept
