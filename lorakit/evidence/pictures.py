"""What a program can tell of a sample picture without understanding it: noise, one flat colour, how far it moved from another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from lorakit.errors import ModelFileError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Picture = NDArray[np.float64]

__all__ = ["change", "grain", "open_picture", "spread"]

#: Larger pictures are refused: a sample of SDXL has four million pixels.
_MOST_PIXELS: Final = 64_000_000
_APART: Final = 8


def open_picture(path: Path) -> Picture:
    """The picture as (height, width, 3) in 0 … 1. Raises ModelFileError for what is no picture."""
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            if image.width * image.height > _MOST_PIXELS:
                raise ModelFileError(f"{path} is no sample", why=f"it has {image.width} × {image.height} pixels")
            return np.asarray(image.convert("RGB"), np.float64) / 255.0
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError) as error:
        raise ModelFileError(f"{path} cannot be read as a picture", why=str(error)) from error


def grain(picture: Picture) -> float:
    """Correlation of pixels eight apart, across and down (mean over channels): high for pictures, low for noise; 1 for one flat colour.

    Eight, because the VAE draws each latent as eight pixels: noise in latents becomes smooth spots of that size. 1 for pictures too small.
    """
    import numpy as np

    if min(picture.shape[:2]) <= _APART:
        return 1.0
    found = []
    for one, other in ((picture[:, :-_APART], picture[:, _APART:]), (picture[:-_APART], picture[_APART:])):
        left, right = (side.reshape(-1, 3) - side.reshape(-1, 3).mean(axis=0) for side in (one, other))
        length = np.sqrt((left**2).sum(axis=0) * (right**2).sum(axis=0))
        found.append(np.where(length > 0, (left * right).sum(axis=0) / np.where(length > 0, length, 1.0), 1.0).mean())
    return float(np.mean(found))


def spread(picture: Picture) -> float:
    """Standard deviation of the pixels, the largest of the three channels: 0 for one flat colour."""
    return float(picture.reshape(-1, 3).std(axis=0).max())


def change(one: Picture, other: Picture) -> float | None:
    """Mean absolute difference of the pixels, 0 … 1; None for pictures of different sizes."""
    import numpy as np

    return None if one.shape != other.shape else float(np.abs(one - other).mean())
