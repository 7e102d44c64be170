"""Pixels of one example: read, resized to cover its bucket, cropped, mirrored, coloured."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from lorakit.dataset.blueprint import DatasetSpec, SubsetSpec
from lorakit.dataset.buckets import Size
from lorakit.dataset.scan import ImageRecord
from lorakit.errors import DatasetError

__all__ = ["PixelSettings", "crop_top_left", "read_pixels"]

_FILTERS: Final = {
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "linear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "cubic": Image.Resampling.BICUBIC,
    "area": Image.Resampling.BOX,
    "box": Image.Resampling.BOX,
}


@dataclass(frozen=True)
class PixelSettings:
    """How an example's pixels are made. ``resize_interpolation`` None is area when shrinking, lanczos when enlarging."""

    resize_interpolation: str | None = None
    random_crop: bool = False
    color_aug: bool = False

    @classmethod
    def of(cls, dataset: DatasetSpec, subset: SubsetSpec) -> PixelSettings:
        """The settings of a subset."""
        how = subset.resize_interpolation or dataset.resize_interpolation
        return cls(how, random_crop=subset.random_crop, color_aug=subset.color_aug)


def read_pixels(
    record: ImageRecord, settings: PixelSettings, rng: random.Random | None = None, *, flipped: bool = False
) -> Tensor:
    """The example's pixels, float32 (3, height, width) in -1 … 1, at the size of its bucket.

    ``rng`` drives random crop and colour; without one the crop is central and colours stay. Raises DatasetError
    naming an image that cannot be decoded or that changed since it was measured.
    """
    image = _open(record)
    image = _resize(image, record.resized, settings.resize_interpolation)
    left, top = _corner(record.resized, record.bucket, rng if settings.random_crop else None)
    image = image.crop((left, top, left + record.bucket[0], top + record.bucket[1]))
    if settings.color_aug and rng is not None:
        image = _recolour(image, rng)
    if flipped:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    array = np.asarray(image, dtype=np.float32)
    return torch.from_numpy(array).permute(2, 0, 1).contiguous().div_(127.5).sub_(1.0)


def crop_top_left(record: ImageRecord, *, flipped: bool) -> tuple[int, int]:
    """The (top, left) that SDXL is told; mirrored images count from the other side."""
    left, top, right, _ = record.crop_ltrb
    return int(top), int(record.bucket[0] - right if flipped else left)


def _open(record: ImageRecord) -> Image.Image:
    try:
        with Image.open(record.path) as file:
            image = file.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DatasetError(
            f"the image {record.path} cannot be read",
            why=str(error),
            todo="mend or remove it; `lorakit check` finds such files before a training",
        ) from error
    if image.size != (record.width, record.height):
        raise DatasetError(
            f"the image {record.path} is {image.width}×{image.height} now",
            why=f"it was {record.width}×{record.height} when the training started",
            todo="leave the dataset alone while it is trained on",
        )
    return image


def _resize(image: Image.Image, size: Size, how: str | None) -> Image.Image:
    if image.size == size:
        return image
    shrinks = image.width > size[0] and image.height > size[1]
    return image.resize(size, _FILTERS[how or ("area" if shrinks else "lanczos")])


def _corner(resized: Size, bucket: Size, rng: random.Random | None) -> tuple[int, int]:
    spare = (resized[0] - bucket[0], resized[1] - bucket[1])
    if rng is None:
        return spare[0] // 2, spare[1] // 2
    return rng.randint(0, spare[0]), rng.randint(0, spare[1])


def _recolour(image: Image.Image, rng: random.Random) -> Image.Image:
    """Small random changes of brightness, contrast and saturation (each up to a tenth)."""
    for kind in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = kind(image).enhance(rng.uniform(0.9, 1.1))
    return image
