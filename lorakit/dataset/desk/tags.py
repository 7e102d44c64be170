"""Captions as tags: how often each is used, which are everywhere or nowhere else, which look like slips of another."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["Spelling", "TagTable", "count_tags", "is_sentence", "join", "plain_tag", "spellings", "split"]

#: A weight as other tools write it, ``(red hair:1.2)``: the trainer reads its characters, people mean the tag.
_WEIGHT: Final = re.compile(r"^[\(\[\{]+(.*?)(?::\s*[\d.]+)?[\)\]\}]+$")
_APART: Final = re.compile(r"[\s_\-]+")
#: Share of captions from which a tag is everywhere, and words from which a tag is a sentence.
_EVERYWHERE: Final = 0.95
_SENTENCE_WORDS: Final = 7
#: Shorter tags are near too many others to be slips of them.
_SHORTEST: Final = 5
#: The rarer of two spellings that are one letter apart comes at most once in so many uses of the other.
_SLIP: Final = 3


def split(caption: str, separator: str = ",") -> tuple[str, ...]:
    """The tags of a caption, without the blanks around them; empty ones are left out."""
    return tuple(tag for part in caption.split(separator) if (tag := part.strip()))


def join(tags: Iterable[str], separator: str = ",") -> str:
    """Tags as a caption; the trainer itself joins with a blank after a comma."""
    return f"{separator} ".join(tags) if separator == "," else separator.join(tags)


def plain_tag(tag: str) -> str:
    """A tag as it is compared: small letters, blanks for underscores, without the brackets and number of a weight."""
    bare = tag.replace("\\(", "⟨").replace("\\)", "⟩").strip()
    if found := _WEIGHT.match(bare):
        bare = found[1]
    bare = bare.replace("⟨", "(").replace("⟩", ")").replace("_", " ")
    return " ".join(bare.split()).casefold()


def is_sentence(caption: str, separator: str = ",") -> bool:
    """Whether a caption is a sentence and not tags: a full stop at its end, or a part with as many words as a clause has."""
    tags = split(caption, separator)
    words = [len(tag.split()) for tag in tags]
    return bool(tags) and (caption.rstrip().endswith((".", "!", "?")) or sum(words) / len(words) >= _SENTENCE_WORDS)


@dataclass(frozen=True)
class Spelling:
    """One thing written in several ways: each with the number of captions that have it, the most used first."""

    ways: tuple[tuple[str, int], ...]
    why: str


@dataclass(frozen=True)
class TagTable:
    """Tags by the number of captions they are in, most used first."""

    captions: int
    counts: tuple[tuple[str, int], ...]
    repeated: tuple[tuple[str, int], ...]

    @property
    def everywhere(self) -> tuple[tuple[str, int], ...]:
        """Tags that tell no picture from another."""
        least = max(2, _EVERYWHERE * self.captions)
        return tuple((tag, count) for tag, count in self.counts if count >= least)

    @property
    def once(self) -> tuple[str, ...]:
        """Tags that one caption alone has."""
        return tuple(tag for tag, count in self.counts if count == 1)


def count_tags(captions: Sequence[Sequence[str]]) -> TagTable:
    """Tags of many captions, as they are written; ``repeated`` are those that come more than once in one caption."""
    counts: Counter[str] = Counter()
    repeated: Counter[str] = Counter()
    for tags in captions:
        here = Counter(tags)
        counts.update(here.keys())
        repeated.update(tag for tag, count in here.items() if count > 1)
    ordered = tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    return TagTable(len(captions), ordered, tuple(sorted(repeated.items())))


def spellings(counts: Sequence[tuple[str, int]]) -> tuple[Spelling, ...]:
    """Tags that look like one tag: apart from case, blanks, underscores and hyphens alone, or by one letter."""
    by_shape: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
    for tag, count in counts:
        by_shape[_APART.sub(" ", plain_tag(tag))].append((tag, count))
    found = [
        Spelling(_ordered(ways), "differ in case, blanks, hyphens or brackets")
        for ways in by_shape.values()
        if len(ways) > 1
    ]
    totals = {shape: sum(count for _, count in ways) for shape, ways in by_shape.items()}
    for first, second in sorted(_neighbours(totals)):
        much, little = sorted((first, second), key=lambda shape: -totals[shape])
        plural = much.rstrip("s") == little.rstrip("s")
        if plural or totals[little] * _SLIP <= totals[much]:
            ways = [_ordered(by_shape[shape])[0] for shape in (much, little)]
            found.append(Spelling(tuple(ways), "one and many" if plural else "one letter apart"))
    return tuple(sorted(found, key=lambda one: (-one.ways[0][1], one.ways)))


def _ordered(ways: Iterable[tuple[str, int]]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(ways, key=lambda item: (-item[1], item[0])))


def _neighbours(shapes: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Pairs that are one letter apart: a letter more, a letter less, another letter, or two swapped."""
    by_part: defaultdict[str, list[str]] = defaultdict(list)
    pairs: set[tuple[str, str]] = set()
    for shape in shapes:
        if len(shape) < _SHORTEST:
            continue
        for part in {shape, *(shape[:at] + shape[at + 1 :] for at in range(len(shape)))}:
            for other in by_part[part]:
                if _one_letter_apart(shape, other):
                    pairs.add((min(shape, other), max(shape, other)))
            by_part[part].append(shape)
    yield from pairs


def _one_letter_apart(first: str, second: str) -> bool:
    """Digits are never slips (2girls, 3girls), nor is a short word another (bed hair, red hair)."""
    if first == second or abs(len(first) - len(second)) > 1:
        return False
    start = 0
    while start < min(len(first), len(second)) and first[start] == second[start]:
        start += 1
    end = 0
    while end < min(len(first), len(second)) - start and first[-1 - end] == second[-1 - end]:
        end += 1
    middle = first[start : len(first) - end], second[start : len(second) - end]
    swapped = len(middle[0]) == 2 and middle[0] == middle[1][::-1]
    if not swapped and max(map(len, middle)) > 1:
        return False
    if any(letter.isdigit() for part in middle for letter in part):
        return False
    words = (shape[shape.rfind(" ", 0, start) + 1 :].partition(" ")[0] for shape in (first, second))
    return max(map(len, words)) >= _SHORTEST or start == len(first) or start == len(second)
