"""Files on disk: which names are images, how large an image is by its header, where its caption is and what it says."""

from __future__ import annotations

import os
from typing import BinaryIO, Final

__all__ = [
    "IMAGE_SUFFIXES",
    "UnreadableImage",
    "caption_candidates",
    "image_size",
    "is_image_name",
    "read_caption",
    "why_not_an_image",
]

#: Suffixes that the trainer reads, in lower case or in all-upper-case, and nothing between.
IMAGE_SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
_ACCEPTED: Final = IMAGE_SUFFIXES | {suffix.upper() for suffix in IMAGE_SUFFIXES}

#: Pictures that the trainer passes over (avif and jxl: unless a plug-in for them is installed in its environment).
_OTHER_PICTURES: Final = frozenset(
    {
        ".gif",
        ".tif",
        ".tiff",
        ".avif",
        ".jxl",
        ".heic",
        ".heif",
        ".jfif",
        ".jpe",
        ".jp2",
        ".psd",
        ".svg",
        ".tga",
        ".ico",
    }
)

_PNG_START: Final = b"\x89PNG\r\n\x1a\n"
_PNG_END: Final = b"IEND\xaeB`\x82"
_HEADER_BYTES: Final = 32
_JPEG_SIZE_MARKERS: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_WITHOUT_LENGTH: Final = frozenset({0x01, *range(0xD0, 0xD9)})


class UnreadableImage(Exception):
    """An image that cannot be opened or is cut off; the text says why."""


def is_image_name(name: str) -> bool:
    """Whether the trainer takes a file of this name as an image (dot-files are hidden from it)."""
    return not name.startswith(".") and os.path.splitext(name)[1] in _ACCEPTED


def why_not_an_image(name: str) -> str | None:
    """Why a file that looks like a picture is passed over; None when it does not look like one."""
    suffix = os.path.splitext(name)[1]
    if suffix.lower() in IMAGE_SUFFIXES:
        if name.startswith("."):
            return "hidden file (name starts with a dot)"
        return f"suffix {suffix}: the trainer reads it only in lower case or all upper case"
    if suffix.lower() in _OTHER_PICTURES:
        return f"suffix {suffix}: the trainer does not read this format"
    return None


def image_size(path: str) -> tuple[int, int]:
    """(width, height) in pixels as stored (EXIF orientation is not applied), read from the header only.

    A file whose end looks cut off is decoded to be sure. Raises UnreadableImage.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            size, whole = _size_from_header(file)
    except OSError as error:
        raise UnreadableImage(error.strerror or str(error)) from error
    return size if size and whole else _size_by_pillow(path)


def _size_from_header(file: BinaryIO) -> tuple[tuple[int, int] | None, bool]:
    """The size, None when the format needs Pillow, and whether the file ends as a whole one does."""
    start = file.read(_HEADER_BYTES)
    if start.startswith(_PNG_START) and start[12:16] == b"IHDR":
        size = (int.from_bytes(start[16:20], "big"), int.from_bytes(start[20:24], "big"))
        return (size if min(size) else None), _ends_with(file, _PNG_END)
    if start.startswith(b"\xff\xd8\xff"):
        return _jpeg_size(file), _ends_with(file, b"\xff\xd9")
    if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
        return _webp_size(start), file.seek(0, os.SEEK_END) == int.from_bytes(start[4:8], "little") + 8
    if start.startswith(b"BM"):
        return _bmp_size(start), file.seek(0, os.SEEK_END) == int.from_bytes(start[2:6], "little")
    return None, False


def _ends_with(file: BinaryIO, end: bytes) -> bool:
    file.seek(-len(end), os.SEEK_END)
    return file.read(len(end)) == end


def _jpeg_size(file: BinaryIO) -> tuple[int, int] | None:
    """Walk the JPEG segments up to the frame header; None when they are not as expected."""
    position = 2
    while True:
        file.seek(position)
        head = file.read(9)
        if len(head) < 9 or head[0] != 0xFF:
            return None
        marker = head[1]
        if marker == 0xFF:  # a fill byte
            position += 1
        elif marker in _JPEG_WITHOUT_LENGTH:
            position += 2
        elif marker in _JPEG_SIZE_MARKERS:
            size = (int.from_bytes(head[7:9], "big"), int.from_bytes(head[5:7], "big"))
            return size if min(size) else None
        else:
            position += 2 + int.from_bytes(head[2:4], "big")


def _webp_size(start: bytes) -> tuple[int, int] | None:
    """From the first chunk: extended (canvas size), lossless or lossy; None for anything else."""
    kind = start[12:16]
    if kind == b"VP8X":
        return (int.from_bytes(start[24:27], "little") + 1, int.from_bytes(start[27:30], "little") + 1)
    if kind == b"VP8L" and start[20] == 0x2F:
        bits = int.from_bytes(start[21:25], "little")
        return ((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if kind == b"VP8 " and start[23:26] == b"\x9d\x01\x2a":
        size = (int.from_bytes(start[26:28], "little") & 0x3FFF, int.from_bytes(start[28:30], "little") & 0x3FFF)
        return size if min(size) else None
    return None


def _bmp_size(start: bytes) -> tuple[int, int] | None:
    """A negative height means rows from the top; None for the old 12-byte header, which Pillow reads."""
    if int.from_bytes(start[14:18], "little") < 40:
        return None
    width = int.from_bytes(start[18:22], "little", signed=True)
    height = abs(int.from_bytes(start[22:26], "little", signed=True))
    return (width, height) if width > 0 and height > 0 else None


def _size_by_pillow(path: str) -> tuple[int, int]:
    """For headers that are not as expected, and to tell a cut-off file from one with something behind its end."""
    import warnings

    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a large image is no reason to stop planning
            with Image.open(path) as image:
                size = image.size
                image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableImage(str(error).removesuffix(f" {path!r}") or type(error).__name__) from error
    return size


def caption_candidates(stem: str, extension: str) -> tuple[str, ...]:
    """Paths where the caption of the image ``stem`` (its whole path without suffix) may be, best first.

    The second candidate is for images cut by face detection (``name_cx_cy_w_h``); the trainer counts underscores in
    the whole path, so a folder name can make it apply too.
    """
    extension = extension if extension.startswith(".") else f".{extension}"
    parts = stem.split("_")
    if len(parts) < 5:
        return (stem + extension,)
    return (stem + extension, "_".join(parts[:-4]) + extension)


def read_caption(path: str, *, all_lines: bool) -> str | None:
    """The first line of a caption file, stripped, or with ``all_lines`` every non-empty line; None for an empty file.

    Raises UnicodeDecodeError for text that is not UTF-8, OSError when it cannot be read. A byte order mark stays in
    the text, as it does for the trainer.
    """
    with open(path, "rb", buffering=0) as file:
        data = file.read()
    if not data:
        return None
    lines = data.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if not all_lines:
        return lines[0].strip()
    return "\n".join(line.strip() for line in lines if line.strip())
