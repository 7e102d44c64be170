"""Small images and captions for tests."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

__all__ = ["picture"]


def picture(path: Path, size: tuple[int, int] = (64, 64), caption: str | None = "a, b") -> Path:
    """Write an image (format by suffix) and, unless None, its ``.txt`` caption."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (size[0] % 256, size[1] % 256, 7)).save(path)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return path
