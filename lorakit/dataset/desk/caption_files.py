"""Caption files as they are on disk: their bytes, what the trainer reads of them, and what is odd about them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lorakit.dataset.files import caption_candidates, is_image_name
from lorakit.errors import DatasetError

__all__ = ["MAX_BYTES", "CaptionFile", "captions_of", "images_below", "read_caption_file", "strays_of"]

#: No caption comes near this: CLIP reads 225 tokens.
MAX_BYTES: Final = 1_000_000
_BOM: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class CaptionFile:
    """One caption file. ``caption`` is its first line, what the trainer reads; ``rest`` all that follows it, with its line end.

    ``fault`` says why it is no text that can be trained on or rewritten (then ``caption`` is empty); ``oddities`` what deserves
    a look. ``lead`` holds what stands before the caption (a byte order mark, blanks), so that nothing is lost in a rewrite.
    """

    path: Path
    data: bytes
    lead: str = ""
    caption: str = ""
    rest: str = ""
    fault: str = ""
    oddities: tuple[str, ...] = ()

    def with_caption(self, caption: str) -> bytes:
        """The whole file with another first line."""
        return f"{self.lead}{caption}{self.rest}".encode()

    @property
    def more_lines(self) -> int:
        """Lines with words in them that the trainer does not read."""
        return sum(bool(line.strip()) for line in self.rest.splitlines()[1:])


def read_caption_file(path: Path) -> CaptionFile:
    """The file, with a ``fault`` where it is empty, binary, too large, not UTF-8 or cannot be read."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        return CaptionFile(path, b"", fault=f"cannot be read: {error.strerror or error}")
    if not data:
        return CaptionFile(path, data, fault="is empty (0 bytes), and the trainer stops at it")
    if len(data) > MAX_BYTES:
        return CaptionFile(path, b"", fault=f"is larger than {MAX_BYTES // 1_000_000} MB: that is no caption")
    if b"\0" in data:
        kind = "UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "binary"
        return CaptionFile(path, data, fault=f"is {kind}, not UTF-8 text, and the trainer stops or reads noise")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        return CaptionFile(path, data, fault=f"is not UTF-8 (byte {error.start}), and the trainer stops at it")
    return _split(path, data, text)


def _split(path: Path, data: bytes, text: str) -> CaptionFile:
    # The trainer reads lines as text files have them: \r alone ends one too, other separators of Unicode do not.
    ends = [at for at in (text.find("\n"), text.find("\r")) if at >= 0]
    end = min(ends, default=len(text))
    line, rest = text[:end], text[end:]
    body = line.removeprefix("\ufeff")
    lead = line[: len(line) - len(body.lstrip())]
    caption = body.strip()
    tail = line[len(lead) + len(caption) :]
    oddities = []
    if data.startswith(_BOM):
        oddities.append("starts with a byte order mark, which the trainer takes as part of the caption")
    if not caption:
        oddities.append("has nothing on its first line: the picture trains with an empty caption")
    if "\ufffd" in caption or any(not char.isprintable() and char != "\t" for char in caption):
        oddities.append("holds characters that nobody sees or that were lost in a conversion")
    return CaptionFile(path, data, lead, caption, tail + rest, oddities=tuple(oddities))


def images_below(folder: Path) -> tuple[Path, ...]:
    """Every picture that the trainer would see by its name, in ``folder`` and its sub-folders, sorted; nothing hidden.

    Raises DatasetError where there is none or the folder cannot be read.
    """
    found: list[Path] = []

    def refuse(error: OSError) -> None:
        raise DatasetError(f"{error.filename} cannot be read as a folder", why=error.strerror or str(error)) from error

    for base, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(base, name) for name in names if is_image_name(name)]
    if not found:
        raise DatasetError(
            f"{folder} holds no pictures",
            why="captions are those of .png, .jpg, .jpeg, .webp or .bmp files in it or its sub-folders",
            todo="give the folder that holds the N_name folders, or one of them",
        )
    return tuple(sorted(found))


def captions_of(images: Iterable[Path], extension: str) -> Iterator[tuple[Path, Path | None]]:
    """Each picture with its caption file as the trainer would find it, None where there is none."""
    for image in images:
        stem = os.path.splitext(os.path.abspath(image))[0]
        there = (Path(path) for path in caption_candidates(stem, extension) if os.path.isfile(path))
        yield image, next(there, None)


def strays_of(images: Iterable[Path], extension: str) -> tuple[Path, ...]:
    """Caption files beside the pictures that belong to none of them."""
    pictures = tuple(images)
    used = {path for _, path in captions_of(pictures, extension) if path}
    suffix = extension if extension.startswith(".") else f".{extension}"
    found: list[Path] = []
    for folder in sorted({Path(os.path.abspath(image)).parent for image in pictures}):
        with os.scandir(folder) as entries:
            found += [Path(entry.path) for entry in entries if entry.name.endswith(suffix) and entry.name[0] != "."]
    return tuple(sorted(path for path in found if path not in used))
