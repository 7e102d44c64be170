"""Secrets in files that somebody is still writing to: each is covered by as many bytes, in place (stdlib only).

A trainer prints what it likes, and its log must not pass through a pipe: a pipe dies with its reader, and takes the trainer with it.
So the keeper reads behind the writers and writes over what nobody else may read. As nothing changes its length, the offsets of those
who append, and of those who read, stay true.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from lorakit.launch.secrets import HIDDEN, LOOK, SHORTEST, secret_values

__all__ = ["FileMask", "Masks", "mask_file"]

_CHUNK: Final = 1 << 20
#: A line without an end is followed no further back than this; no token comes near it.
_LONGEST_LINE: Final = 1 << 16
#: Bytes that one look at a flooded file reads at most: the keeper has other work.
_AT_ONCE: Final = 8 << 20
_LOOK: Final = re.compile(LOOK.encode())
#: The same in binary data, where a password inside a URL is of ASCII letters only: pictures are full of other bytes.
_LOOK_BINARY: Final = re.compile(LOOK.replace(r"[^/\s", r"[^/\s\x00-\x1f\x7f-\xff").encode("latin-1"))


@dataclass(frozen=True)
class Masks:
    """What counts as a secret: what looks like one, and these values, and of a value also a part of it from its beginning on.

    A writer may be killed in the middle of a word, and then its first half is all there is. Less than a third of a value, or
    fewer than eight bytes, is not taken for a part of it.
    """

    values: tuple[bytes, ...] = ()
    binary: bool = False

    @classmethod
    def of(cls, environ: Mapping[str, str], *, binary: bool = False) -> Masks:
        """Those of an environment, as they are and as JSON spells them."""
        spelled = (way for value in secret_values(environ) for way in (value, json.dumps(value)[1:-1]))
        found = {word.encode("utf-8", "surrogateescape") for word in spelled}
        return cls(tuple(sorted(found, key=lambda value: (-len(value), value))), binary)

    @cached_property
    def longest(self) -> int:
        """Bytes of the longest value."""
        return max(map(len, self.values), default=0)

    def spans(self, data: bytes) -> list[tuple[int, int]]:
        """Where secrets stand in some bytes: first byte and the one after the last, in order, none overlapping."""
        found = []
        for match in (_LOOK_BINARY if self.binary else _LOOK).finditer(data):
            url = match[0].startswith(b"://")
            found.append((match.start() + 3, match.end() - 1) if url else match.span())
        for value in self.values:
            head = value[: max(SHORTEST, len(value) // 3)]
            at = data.find(head)
            while at >= 0:
                end = at + _common(value, data[at : at + len(value)])
                found.append((at, end))
                at = data.find(head, end)
        return _joined(found)

    def mask(self, data: bytes) -> bytes:
        """The same number of bytes without secrets."""
        clean = bytearray(data)
        for start, end in self.spans(data):
            clean[start:end] = cover(end - start)
        return bytes(clean)


def _common(one: bytes, other: bytes) -> int:
    """How many bytes two texts begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (left, right) in pairs if left != right), min(len(one), len(other)))


def _joined(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    whole: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if whole and start < whole[-1][1]:
            whole[-1] = (whole[-1][0], max(end, whole[-1][1]))
        else:
            whole.append((start, end))
    return whole


def cover(length: int) -> bytes:
    """What stands in place of a secret of so many bytes."""
    return HIDDEN.encode()[:length].ljust(length, b"*")


class FileMask:
    """Follows one growing text file and covers the secrets in what was added.

    The last line is kept in mind as it was written, so that a secret that comes in two writes is covered whole, its first half as
    soon as it can be told. A file that became shorter was begun anew, and is read from its beginning.
    """

    def __init__(self, path: Path, masks: Masks) -> None:
        self._path = path
        self._masks = masks
        self.begin()

    def begin(self) -> None:
        """Go back to the beginning of the file."""
        self._end = 0
        self._held = b""

    def poll(self, *, most: int = _AT_ONCE) -> bool:
        """Cover what came since the last call, of at most so many bytes; whether there was a secret. Raises OSError but for a missing file."""
        found = False
        try:
            if os.stat(self._path).st_size == self._end:
                return False
            file = os.open(self._path, os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            if os.fstat(file).st_size < self._end:
                self.begin()
            stop = self._end + most
            while self._end < stop and (new := os.pread(file, _CHUNK, self._end)):
                found = self._take(file, new) or found
        finally:
            os.close(file)
        return found

    def _take(self, file: int, new: bytes) -> bool:
        begin, data = self._end - len(self._held), self._held + new
        spans = self._masks.spans(data)
        for start, end in spans:
            os.pwrite(file, cover(end - start), begin + start)
        self._end += len(new)
        line = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
        self._held = data[max(0, len(data) - _LONGEST_LINE, min(line, len(data) - self._masks.longest)) :]
        return any(end > len(data) - len(new) for _, end in spans)


def mask_file(path: Path, masks: Masks) -> bool:
    """Cover every secret in a file, in bounded memory; whether there was one. A file without is not written to. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        return FileMask(path, masks).poll(most=max(1, path.stat().st_size + _CHUNK))
    return False
