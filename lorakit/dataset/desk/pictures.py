"""One look at every picture's pixels: fingerprints, alpha, EXIF rotation, a thumbnail; remembered by size and time of change."""

from __future__ import annotations

import base64
import binascii
import io
import json
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

from lorakit import atomic

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["THUMBNAIL", "Memory", "Picture", "file_sha256", "look", "look_at"]

#: Called with (pictures looked at, pictures to look at).
Progress = Callable[[int, int], None]

#: Longest side of a thumbnail, pixels.
THUMBNAIL: Final = 176
#: Raise it when what is remembered of a picture changes.
_VERSION: Final = 2
_GREY_SIDE: Final = 16
_EXIF_ORIENTATION: Final = 274
_PROGRESS_EVERY: Final = 50
#: Modes of Pillow whose pixels may let something through.
_WITH_ALPHA: Final = frozenset({"RGBA", "LA", "PA", "La", "RGBa"})


@dataclass(frozen=True)
class Picture:
    """What the pixels of one file say; ``whole`` tells whether all of them were decoded.

    ``top``: 128 bits of brighter-than-the-neighbour in the upper third, hex: what pictures that look alike are found by.
    ``grey``: 16 × 16 grey levels of the whole, rows from the top, hex: what is found is checked by.
    ``alpha``: share of pixels that are not opaque (0 where there is no alpha channel); ``orientation``: EXIF's number, 1 is
    upright. ``thumbnail``: JPEG, base64, as the trainer sees the picture: not turned. ``fault``: why nothing could be read.
    """

    top: str = ""
    grey: str = ""
    alpha: float = 0.0
    has_alpha: bool = False
    orientation: int = 1
    mode: str = ""
    thumbnail: str = ""
    whole: bool = False
    fault: str = ""


class Memory:
    """What was seen before, in one file; a picture is looked at again when its size or time of change is another."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fault = ""
        self._known: dict[str, dict[str, Any]] = self._read()
        self._new = False

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            stored = json.loads(self.path.read_bytes())
            return dict(stored["pictures"]) if stored["version"] == _VERSION else {}
        except (OSError, ValueError, KeyError, TypeError):  # not there, torn, or of another version: look again
            return {}

    def recall(self, path: Path, *, whole: bool) -> Picture | None:
        """The picture as it was seen, where the file is the same and everything that is asked for is remembered."""
        entry = self._known.get(str(path))
        if not isinstance(entry, dict) or entry.get("file") != _stamp(path):
            return None
        names = {field.name for field in fields(Picture)}
        try:
            found = Picture(**{name: value for name, value in entry["seen"].items() if name in names})
        except (KeyError, TypeError, AttributeError):
            return None
        return found if found.whole or found.fault or not whole else None

    def keep(self, path: Path, picture: Picture) -> None:
        """Remember a look at a picture."""
        self._known[str(path)] = {"file": _stamp(path), "seen": asdict(picture)}
        self._new = True

    def write(self, paths: Iterable[Path]) -> None:
        """Keep what is known of ``paths`` for the next time; where that cannot be written, ``fault`` says why."""
        asked = set(map(str, paths))
        kept = {path: entry for path, entry in self._known.items() if path in asked}
        if not self._new and len(kept) == len(self._known):
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps({"version": _VERSION, "pictures": kept}, separators=(",", ":"))
            atomic.write_bytes(self.path, text.encode("utf-8", "surrogateescape"))
        except OSError as error:
            self.fault = error.strerror or str(error)


def _stamp(path: Path) -> list[int]:
    try:
        found = path.stat()
    except OSError:
        return []
    return [found.st_size, found.st_mtime_ns]


def look_at(
    paths: Iterable[Path],
    memory: Memory,
    *,
    whole: bool = False,
    progress: Progress | None = None,
    workers: int | None = None,
) -> Mapping[Path, Picture]:
    """Every picture by its path, from memory or by decoding it.

    Decoding lets go of Python's lock, so threads use all processors. What was seen is kept even when this is interrupted.
    """
    asked = tuple(dict.fromkeys(paths))
    found = {path: seen for path in asked if (seen := memory.recall(path, whole=whole))}
    missing = [path for path in asked if path not in found]
    if progress:
        progress(len(found), len(asked))
    if not missing:
        return found
    pool = ThreadPoolExecutor(workers or len(os.sched_getaffinity(0)))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a large or oddly tagged picture; here, for threads share this setting
            looks = pool.map(lambda path: look(path, whole=whole), missing)
            for path, seen in zip(missing, looks, strict=True):
                found[path] = seen
                memory.keep(path, seen)
                if progress and (len(found) % _PROGRESS_EVERY == 0 or len(found) == len(asked)):
                    progress(len(found), len(asked))
    finally:
        pool.shutdown(cancel_futures=True)
    return {path: found[path] for path in asked}


def look(path: Path, *, whole: bool = True) -> Picture:
    """Decode one picture, as little of it as is needed; what cannot be decoded has a ``fault``."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            mode = image.mode
            has_alpha = mode in _WITH_ALPHA or "transparency" in image.info
            orientation = _orientation(image)
            if not whole and image.format == "PNG" and not has_alpha and not image.info.get("interlace"):
                top = _upper_third_of_png(path, image.size)
                return Picture(top=_difference_hash(top), orientation=orientation, mode=mode)
            # A JPEG is decoded at an eighth to a half of its size, and all else whole: nothing below needs more.
            image.draft("L" if mode == "L" else "RGB", (THUMBNAIL, THUMBNAIL))
            alpha = _transparent_share(image) if has_alpha else 0.0
            small = _reduced(image if image.mode in {"RGB", "L"} else image.convert("RGB"))
            height = max(1, small.height // 3)
            return Picture(
                top=_difference_hash(small.crop((0, 0, small.width, height))),
                grey=small.convert("L").resize((_GREY_SIDE, _GREY_SIDE), Image.Resampling.BOX).tobytes().hex(),
                alpha=alpha,
                has_alpha=has_alpha,
                orientation=orientation,
                mode=mode,
                thumbnail=_thumbnail(small) if whole else "",
                whole=whole,
            )
    except (OSError, SyntaxError, ValueError, MemoryError, Image.DecompressionBombError) as error:
        return Picture(fault=str(error).removesuffix(f" {str(path)!r}") or type(error).__name__, whole=whole)


def _upper_third_of_png(path: Path, size: tuple[int, int]) -> Image.Image:
    """The top of a PNG in a third of the time: told in its header that there are fewer rows, the decoder stops after those."""
    from PIL import Image

    data = bytearray(path.read_bytes())
    data[20:24] = max(1, size[1] // 3).to_bytes(4, "big")
    data[29:33] = crc32(data[12:29]).to_bytes(4, "big")
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return _reduced(image if image.mode in {"RGB", "L"} else image.convert("RGB"))


def _orientation(image: Image.Image) -> int:
    # Asked for its EXIF a PNG is decoded whole, for it may stand at the end; where it is known before, that is not needed.
    known = image.format != "PNG" or "exif" in image.info
    value = image.getexif().get(_EXIF_ORIENTATION, 1) if known else 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _transparent_share(image: Image.Image) -> float:
    """The share of pixels that are not wholly opaque."""
    histogram = image.convert("RGBA").getchannel("A").histogram()
    total = sum(histogram)
    return round(1 - histogram[255] / total, 4) if total else 0.0


def _reduced(image: Image.Image) -> Image.Image:
    """The picture made smaller by a whole number: quicker than resizing, and enough for a thumbnail of good quality."""
    factor = max(image.size) // (2 * THUMBNAIL)
    return image.reduce(factor) if factor > 1 else image


def _difference_hash(image: Image.Image) -> str:
    """64 bits of brighter-than-to-the-right and 64 of brighter-than-below, of 9 × 9 mean grey levels, hex."""
    import numpy as np
    from PIL import Image

    levels = np.asarray(image.convert("L").resize((9, 9), Image.Resampling.BOX), dtype=np.int16)
    across = levels[:8, :8] > levels[:8, 1:]
    down = levels[:8, :8] > levels[1:, :8]
    return np.packbits(np.concatenate([across.ravel(), down.ravel()])).tobytes().hex()


def _thumbnail(image: Image.Image) -> str:
    small = image.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=72, optimize=True)
    return binascii.b2a_base64(buffer.getvalue(), newline=False).decode("ascii")


def thumbnail_bytes(picture: Picture) -> bytes:
    """The JPEG of a picture's thumbnail; empty where there is none."""
    return base64.b64decode(picture.thumbnail)


def file_sha256(path: Path) -> str:
    """The sha256 of a file's content. Raises OSError."""
    digest = sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
