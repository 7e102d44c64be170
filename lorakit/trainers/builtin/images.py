"""Pixels of one example: read, resized to cover its bucket, cropped, mirrored, coloured."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor
from torch.nn import functional

from lorakit.dataset.blueprint import DatasetSpec, SubsetSpec
from lorakit.dataset.buckets import Size
from lorakit.dataset.scan import ImageRecord
from lorakit.errors import DatasetError

__all__ = ["PixelSettings", "crop_top_left", "read_pixels", "resize"]

_Pixels: TypeAlias = np.ndarray[Any, Any]

#: Names that Pillow answers for; its lanczos and box are the trainer's own, its nearest differs from it in ties only.
_PILLOW: Final = {
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "nearest": Image.Resampling.NEAREST,
}

#: Names that mean plain interpolation between neighbours, without averaging when shrinking.
_PLAIN: Final = {"bilinear": "bilinear", "linear": "bilinear", "bicubic": "bicubic", "cubic": "bicubic"}


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
    image = resize(image, record.resized, settings.resize_interpolation)
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


def resize(image: Image.Image, size: Size, how: str | None) -> Image.Image:
    """``image`` at ``size``; ``how`` is a name of the trainer, None is area when shrinking and lanczos when enlarging."""
    if image.size == size:
        return image
    shrinks = image.width > size[0] and image.height > size[1]
    how = how or ("area" if shrinks else "lanczos")
    if how in _PILLOW:
        return image.resize(size, _PILLOW[how])
    pixels = np.asarray(image)
    if how == "area" and shrinks:
        return Image.fromarray(_to_bytes(_average(_average(pixels, size[1], 0), size[0], 1)))
    tensor = torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None]
    mode = _PLAIN.get(how, "bilinear")  # area without shrinking
    resized = functional.interpolate(tensor, size=(size[1], size[0]), mode=mode, align_corners=False)
    return Image.fromarray(_to_bytes(resized[0].permute(1, 2, 0).numpy()))


def _average(array: _Pixels, count: int, axis: int) -> _Pixels:
    """``array`` with ``count`` rows (axis 0) or columns (axis 1): the mean over each one's share, fractions counted.

    By way of the running sum, which between two pixels is linear; Pillow's box filter takes a pixel whole or not at all.
    """
    length = array.shape[axis]
    shape = list(array.shape)
    shape[axis] = length + 1
    total = np.zeros(shape)
    np.cumsum(array, axis=axis, out=total[1:] if axis == 0 else total[:, 1:])
    edges = np.arange(count + 1) * (length / count)
    whole = np.minimum(edges.astype(np.int64), length - 1)
    part = (edges - whole).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
    at_edges = np.take(total, whole, axis) * (1.0 - part) + np.take(total, whole + 1, axis) * part
    averaged: _Pixels = np.diff(at_edges, axis=axis) * (count / length)
    return averaged


def _to_bytes(array: _Pixels) -> _Pixels:
    rounded: _Pixels = np.clip(np.rint(array), 0, 255).astype(np.uint8)
    return rounded


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
