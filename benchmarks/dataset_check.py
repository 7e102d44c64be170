"""How long `lorakit dataset check` takes: generated pictures of a megapixel, 60 % JPEG, 25 % PNG, 15 % WebP; the first look and the second.

python benchmarks/dataset_check.py FOLDER [PICTURES]
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lorakit.cli.main import main

SIZES = ((1024, 1024), (832, 1216), (1216, 832), (1344, 768), (768, 1344))
SUFFIXES = (*[".jpg"] * 12, *[".png"] * 5, *[".webp"] * 3)


def make(folder: Path, count: int) -> None:
    """Smooth colours with a grain, each picture another, captions beside them; what is there stays."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        path = folder / f"{number:05}{SUFFIXES[number % len(SUFFIXES)]}"
        if path.exists():
            continue
        rng = np.random.default_rng(number)
        size = SIZES[number % len(SIZES)]
        smooth = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
        grain = rng.integers(-6, 7, (size[1], size[0], 1))
        pixels = np.clip(np.asarray(smooth, dtype=np.int16) + grain, 0, 255).astype(np.uint8)
        options: dict[str, dict[str, Any]] = {
            ".jpg": {"quality": 90},
            ".png": {"compress_level": 1},
            ".webp": {"quality": 80, "method": 0},
        }
        Image.fromarray(pixels).save(path, **options[path.suffix])
        path.with_suffix(".txt").write_text(f"zorp, tag {number % 50}, standing, smile", encoding="utf-8")


if __name__ == "__main__":
    place, pictures = Path(sys.argv[1]), int((*sys.argv[2:], "10000")[0])
    make(place / "1_made", pictures)
    (place / "lorakit.toml").touch()
    for look in ("first", "second"):
        began, used = time.monotonic(), time.process_time()
        main(["-C", str(place), "dataset", "check", str(place)])
        print(
            f"{look} look at {pictures} pictures: {time.monotonic() - began:.1f} s, {time.process_time() - used:.1f} s of processor time"
        )
