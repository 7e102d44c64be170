"""Edits of captions as tags: add, remove, rename, dedupe, sort; and what they make of a whole folder."""

from __future__ import annotations

import fnmatch
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from lorakit.dataset.desk.caption_files import CaptionFile, captions_of, images_below, read_caption_file
from lorakit.dataset.desk.ontology import Ontology
from lorakit.dataset.desk.rewrite import Change
from lorakit.dataset.desk.tags import is_sentence, join, plain_tag, split
from lorakit.errors import UsageError

__all__ = [
    "Edit",
    "Edited",
    "Rewriting",
    "add",
    "common_first",
    "dedupe",
    "matcher",
    "remove",
    "rename",
    "rewriting",
    "sort",
]

Tags: TypeAlias = tuple[str, ...]
#: Tags in, tags out; pure.
Edit: TypeAlias = Callable[[Tags], Tags]


@dataclass(frozen=True)
class Edited:
    """One caption that would change."""

    path: Path
    before: str
    after: str


@dataclass(frozen=True)
class Rewriting:
    """What an edit makes of a folder: ``edited`` captions and their ``changes``, ``same`` ones, and those left alone with the reason."""

    edited: tuple[Edited, ...]
    changes: tuple[Change, ...]
    same: int
    left: tuple[tuple[Path, str], ...]
    without_caption: int


def rewriting(
    folder: Path,
    edit: Edit,
    *,
    extension: str = ".txt",
    separator: str = ",",
    mark: str = "|||",
    keep_front: bool = False,
    sentences: bool = True,
) -> Rewriting:
    """Edit the first line of every caption below ``folder``; nothing is written.

    ``mark`` divides fixed tags from free ones (keep_tokens_separator): with ``keep_front`` what stands before it, and after a second
    one, is left alone. Without ``sentences``, captions that are sentences are left alone too. So is what would end without any tag:
    the trainer stops at an empty caption file. Raises DatasetError for a folder without pictures.
    """
    edited: list[Edited] = []
    changes: list[Change] = []
    left: list[tuple[Path, str]] = []
    same = without = 0
    seen: set[Path] = set()
    for _, path in captions_of(images_below(folder), extension):
        if path is None or path in seen:
            without += path is None
            continue
        seen.add(path)
        file = read_caption_file(path)
        if file.fault:
            left.append((path, file.fault))
            continue
        if not sentences and is_sentence(file.caption, separator):
            left.append((path, "is a sentence"))
            continue
        after = _edited(file, edit, separator, mark, keep_front=keep_front)
        if after == file.caption:
            same += 1
        elif not after:
            left.append((path, "would have no tag left"))
        else:
            edited.append(Edited(path, file.caption, after))
            changes.append(Change(path, file.data, file.with_caption(after)))
    return Rewriting(tuple(edited), tuple(changes), same, tuple(left), without)


def _edited(file: CaptionFile, edit: Edit, separator: str, mark: str, *, keep_front: bool) -> str:
    """The caption after the edit; as it was, to the letter, where its tags stay the same."""
    parts = file.caption.split(mark, 2) if mark else [file.caption]
    found = []
    for at, part in enumerate(parts):
        tags = split(part, separator)
        free = not (keep_front and len(parts) > 1 and at != 1)
        new = edit(tags) if free else tags
        found.append(part.strip() if new == tags else join(new, separator))
    if all(new == part.strip() for new, part in zip(found, parts, strict=True)):
        return file.caption
    return f" {mark} ".join(part for part in found).strip()


def matcher(pattern: str) -> Callable[[str], re.Match[str] | None]:
    """Whether a tag fits ``*hair``, as shells have it, or ``/regular expression/``; the whole tag, without regard to case.

    Blanks and underscores are one. Raises UsageError for a pattern that cannot be read.
    """
    if len(pattern) > 1 and pattern.startswith("/") and pattern.endswith("/"):
        try:
            regex = re.compile(pattern[1:-1], re.IGNORECASE)
        except re.error as error:
            raise UsageError(
                f"{pattern} is no regular expression: {error}", todo="without slashes, * and ? are the only signs"
            ) from error
    elif not pattern.strip():
        raise UsageError("an empty pattern fits no tag", todo="give a tag, or a pattern such as *hair")
    else:
        # Brackets belong to tags such as "star (symbol)" and "[x]": only * and ? mean something.
        literal = plain_tag(pattern) if not set("*?") & set(pattern) else pattern.replace("_", " ").casefold()
        regex = re.compile(fnmatch.translate(literal.replace("[", "[[]")))
    return lambda tag: regex.fullmatch(plain_tag(tag))


def add(tags: Sequence[str], *, where: str | None = None, last: bool = False) -> Edit:
    """Put tags first (or last) in captions that do not have them; with ``where`` in those alone that have a fitting tag."""
    fits = matcher(where) if where is not None else None
    for tag in tags:
        if not tag.strip():
            raise UsageError("an empty tag cannot be added")

    def edit(before: Tags) -> Tags:
        if fits is not None and not any(map(fits, before)):
            return before
        there = {plain_tag(tag) for tag in before}
        new = tuple(tag.strip() for tag in tags if plain_tag(tag) not in there)
        return (*before, *new) if last else (*new, *before)

    return edit


def remove(patterns: Sequence[str]) -> Edit:
    """Leave out the tags that fit one of the patterns."""
    fits = [matcher(pattern) for pattern in patterns]
    return lambda before: tuple(tag for tag in before if not any(fit(tag) for fit in fits))


def rename(pattern: str, new: str) -> Edit:
    r"""Write ``new`` for tags that fit; of a regular expression, ``\1`` and ``\g<name>`` stand for its groups.

    Where a caption has ``new`` already, the renamed one is left out. Raises UsageError for a group that there is not.
    """
    fits = matcher(pattern)
    regex = pattern.startswith("/") and pattern.endswith("/") and len(pattern) > 1
    if not new.strip():
        raise UsageError("a tag cannot be renamed to nothing", todo="lorakit dataset remove leaves tags out")

    def renamed(tag: str) -> str:
        found = fits(tag)
        if found is None:
            return tag
        if not regex:
            return new.strip()
        try:
            return found.expand(new).strip()
        except (re.error, IndexError) as error:
            raise UsageError(f"{new!r} names a group that {pattern} does not have", why=str(error)) from error

    def edit(before: Tags) -> Tags:
        if not any(map(fits, before)):
            return before
        kept: list[str] = []
        there = {plain_tag(tag) for tag in before if not fits(tag)}
        for tag in before:
            after = renamed(tag)
            if after != tag or fits(tag):
                if not after or plain_tag(after) in there:
                    continue
                there.add(plain_tag(after))
            kept.append(after)
        return tuple(kept)

    return edit


def dedupe(before: Tags) -> Tags:
    """Each tag once, where it came first; case, underscores and weights make no other tag."""
    first: dict[str, str] = {}
    for tag in before:
        first.setdefault(plain_tag(tag), tag)
    return tuple(first.values())


def sort(ontology: Ontology, *, triggers: Iterable[str] = (), keep: int = 0) -> Edit:
    """Tags in the order of an ontology's categories, none more and none less; triggers and the first ``keep`` tags stay in front.

    Within a category tags keep the order they had.
    """
    first = {plain_tag(trigger): at for at, trigger in enumerate(triggers)}

    def edit(before: Tags) -> Tags:
        leading = sorted((tag for tag in before if plain_tag(tag) in first), key=lambda tag: first[plain_tag(tag)])
        others = [tag for tag in before if plain_tag(tag) not in first]
        return (*leading, *others[:keep], *sorted(others[keep:], key=ontology.rank))

    return edit


def common_first(captions: Iterable[str], separator: str = ",", share: float = 0.9) -> str | None:
    """The tag that almost all captions begin with: a trigger, most likely. None where there is none, or one caption alone."""
    written: dict[str, str] = {}
    firsts: Counter[str] = Counter()
    for tags in (split(caption, separator) for caption in captions):
        for tag in tags[:1]:
            written.setdefault(plain_tag(tag), tag)
            firsts[plain_tag(tag)] += 1
    if firsts.total() < 3:
        return None
    plain, count = firsts.most_common(1)[0]
    return written[plain] if count >= share * firsts.total() else None
