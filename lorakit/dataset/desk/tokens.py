"""How many tokens CLIP makes of a caption, and which words of it are cut: from the table of merges alone, without torch.

Both text encoders of SDXL read the same tokens: their tokenizers share one vocabulary and differ in what fills a short caption up.
"""

from __future__ import annotations

import importlib.util
import itertools
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["LENGTHS", "ClipCounter", "Cut", "cut_at"]

#: What max_token_length can be: chunks of 75.
LENGTHS: Final = (75, 150, 225)
_CONTRACTIONS: Final = ("'re", "'ve", "'ll", "'s", "'t", "'m", "'d")
_SPECIAL: Final = ("<|startoftext|>", "<|endoftext|>")
_END: Final = "</w>"


class ClipCounter:
    """Counts CLIP's tokens: ``merges`` are the 48,894 lines of its merges.txt, best first."""

    def __init__(self, merges: Sequence[str]) -> None:
        self._rank = {tuple(line.split()): rank for rank, line in enumerate(merges)}
        self._letters = _byte_letters()
        self._known: dict[str, int] = {}
        self._mend = _mender()

    @property
    def mends(self) -> bool:
        """Whether text is mended first (curly quotes, mojibake), as the trainers do: it takes the package ftfy."""
        return self._mend is not None

    def count(self, caption: str) -> int:
        """Tokens of a caption, without those of its start and end, before any cut."""
        text = self._mend(caption) if self._mend else caption
        text = unicodedata.normalize("NFC", text).lower()
        return sum(self._tokens_of(word) for word in _words(text))

    def _tokens_of(self, word: str) -> int:
        known = self._known.get(word)
        if known is None:
            known = self._known[word] = 1 if word in _SPECIAL else len(self._pieces(word))
        return known

    def _pieces(self, word: str) -> list[str]:
        """Letters put together, the best known pair first, until no pair is known."""
        pieces = [self._letters[byte] for byte in word.encode("utf-8", "surrogateescape")]
        pieces[-1] += _END
        last = len(self._rank)
        while len(pieces) > 1:
            ranks = [self._rank.get(pair, last) for pair in itertools.pairwise(pieces)]
            best = min(ranks)
            if best == last:
                break
            first, second = pieces[ranks.index(best)], pieces[ranks.index(best) + 1]
            merged: list[str] = []
            for piece in pieces:
                if merged and merged[-1] == first and piece == second:
                    merged[-1] = first + second
                else:
                    merged.append(piece)
            pieces = merged
        return pieces


@dataclass(frozen=True)
class Cut:
    """A caption that is longer than is read: ``kept`` is what is read of it, ``lost`` the words that are not (or not whole)."""

    tokens: int
    length: int
    kept: str
    lost: str


def cut_at(caption: str, length: int, count: Callable[[str], int]) -> Cut | None:
    """What a limit of ``length`` tokens cuts off a caption; None where all of it is read."""
    tokens = count(caption)
    if tokens <= length:
        return None
    ends = [at for at, char in enumerate(caption) if char.isspace()] or [0]
    low, high = 0, len(ends)  # the beginning up to ends[low - 1] fits
    while low < high:
        middle = (low + high + 1) // 2
        if count(caption[: ends[middle - 1]]) <= length:
            low = middle
        else:
            high = middle - 1
    end = ends[low - 1] if low else 0
    return Cut(tokens, length, caption[:end].rstrip(), caption[end:].strip())


def _byte_letters() -> tuple[str, ...]:
    """The letter that stands for each byte: itself where it is one, else the next free one above 255."""
    shown = {*range(33, 127), *range(161, 173), *range(174, 256)}
    free = iter(range(256, 512))
    return tuple(chr(byte) if byte in shown else chr(next(free)) for byte in range(256))


def _words(text: str) -> Iterator[str]:
    """Runs of letters, single digits, runs of other signs; a contraction's ending is a word of its own."""
    at = 0
    while at < len(text):
        special = next((one for one in (*_SPECIAL, *_CONTRACTIONS) if text.startswith(one, at)), None)
        if special:
            yield special
            at += len(special)
            continue
        kind = _kind(text[at])
        end = at + 1
        if kind in "LO":
            while end < len(text) and _kind(text[end]) == kind and not text.startswith(_SPECIAL, end):
                end += 1
        if kind != " ":
            yield text[at:end]
        at = end


def _kind(char: str) -> str:
    """L for a letter, N for a number, a blank for a blank, O for all else."""
    first = unicodedata.category(char)[0]
    return " " if char.isspace() else first if first in "LN" else "O"


def _mender() -> Callable[[str], str] | None:
    if importlib.util.find_spec("ftfy") is None:
        return None
    from ftfy import fix_text

    return fix_text
