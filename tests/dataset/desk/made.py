"""Pictures with something in them, and captions beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["caption", "scene"]


def scene(
    path: Path, seed: int = 0, size: tuple[int, int] = (160, 160), *, text: str | None = None, mode: str = "RGB"
) -> Path:
    """A smooth picture, another for each seed, the same at every size; its format by the suffix."""
    levels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(levels).resize(size, Image.Resampling.BICUBIC).convert(mode).save(path)
    if text is not None:
        caption(path, text)
    return path


def caption(picture: Path, text: str | bytes, suffix: str = ".txt") -> Path:
    """The caption file of a picture."""
    path = picture.with_suffix(suffix)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path
