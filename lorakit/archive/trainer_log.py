"""The trainer's log as a terminal would show it, in bounded memory; it may be huge and may have been cut (stdlib only)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

__all__ = ["LogFollower", "clean", "log_parts", "log_tail"]

_TAIL_BYTES: Final = 65536
_BLOCK: Final = 1 << 16
#: A line without an end is handed on in pieces of this size, in characters.
_LONGEST: Final = 1 << 16

_ESCAPES: Final = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")


def log_parts(log: Path) -> tuple[Path, ...]:
    """The files of a log in order: its beginning and the part before the present one, where it was cut, and the log itself."""
    parts = (log.with_name(f"{log.name}.first"), log.with_name(f"{log.name}.before"), log)
    return tuple(path for path in parts if path.exists())


def clean(line: bytes) -> str:
    """What is left to see of one line: what a carriage return overwrote and escape sequences are left out."""
    text = _ESCAPES.sub("", line.rstrip(b"\r").rpartition(b"\r")[2].decode("utf-8", "replace"))
    return text.rstrip()


class LogFollower:
    """Reads the lines that were added to a file since the last call, as :func:`clean` shows them.

    Never holds more than a block and one line; a bar that redraws itself a million times is one line. A file that has
    become shorter was cut by its keeper, and is read from its beginning again.
    """

    def __init__(self, path: Path, *, offset: int = 0) -> None:
        self.path = path
        self._offset = offset
        self._rest = b""

    def poll(self, *, complete: bool = False) -> Iterator[str]:
        """New whole lines; with ``complete`` an unfinished last one too."""
        try:
            file = open(self.path, "rb")  # noqa: SIM115 (closed below; the with would hide the one line that may fail)
        except FileNotFoundError:
            return
        with file:
            self._begin(file)
            while data := file.read(_BLOCK):
                self._offset += len(data)
                yield from self._lines(data)
        if complete and self._rest:
            yield clean(self._rest)
            self._rest = b""

    def blocks(self) -> Iterator[bytes]:
        """What was added, as it is."""
        try:
            file = open(self.path, "rb")  # noqa: SIM115 (closed below; the with would hide the one line that may fail)
        except FileNotFoundError:
            return
        with file:
            self._begin(file)
            while data := file.read(_BLOCK):
                self._offset += len(data)
                yield data

    def _begin(self, file: BinaryIO) -> None:
        if os.fstat(file.fileno()).st_size < self._offset:
            self._offset = 0
            self._rest = b""
        file.seek(self._offset)

    @property
    def unfinished(self) -> str:
        """What stands on the last line as yet: the bar, mostly."""
        return clean(self._rest)

    def _lines(self, data: bytes) -> Iterator[str]:
        *lines, rest = (self._rest + data).split(b"\n")
        for line in lines:
            yield clean(line)
        body = rest[:-1] if rest.endswith(b"\r") else rest
        rest = rest[body.rfind(b"\r") + 1 :]  # what has been overwritten is gone from the screen too
        while len(rest) > _LONGEST:
            yield clean(rest[:_LONGEST])
            rest = rest[_LONGEST:]
        self._rest = rest


def log_tail(path: Path, lines: int = 40) -> tuple[str, ...]:
    """The last lines of a log as a terminal would show them; reads at most 64 KiB."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            data = file.read()
    except OSError:
        return ()
    shown = [clean(line) for line in data.split(b"\n")]
    if size > _TAIL_BYTES:
        shown = shown[1:]
    while shown and not shown[-1]:
        shown.pop()
    return tuple(shown[-lines:])
