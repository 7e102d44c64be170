"""Aspect-ratio buckets: which resolutions exist, which one an image trains in, how it is resized and cropped.

All sizes are (width, height) in pixels. The rules are those of sd-scripts (``BucketManager``), so that what
lorakit plans is what either trainer does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

from lorakit.errors import DatasetError, Problem

__all__ = ["BucketAssignment", "BucketSettings", "Bucketer", "Size", "assign_bucket", "bucket_resolutions", "crop_ltrb"]

Size: TypeAlias = tuple[int, int]

#: SDXL halves a latent (1/8 of the pixels) twice: bucket sides must be multiples of 8 × 2 × 2.
_SDXL_STEP = 32


@dataclass(frozen=True)
class BucketSettings:
    """What decides the buckets of one dataset; field names are the trainer's. ``resolution`` is (width, height)."""

    resolution: Size
    enable_bucket: bool = True
    min_bucket_reso: int = 256
    max_bucket_reso: int = 1024
    bucket_reso_steps: int = 64
    bucket_no_upscale: bool = False

    @property
    def max_area(self) -> int:
        """Pixels that no bucket exceeds."""
        return self.resolution[0] * self.resolution[1]

    @property
    def min_side(self) -> int:
        """``min_bucket_reso`` as the trainer uses it: rounded down to the step."""
        return self.min_bucket_reso // self.bucket_reso_steps * self.bucket_reso_steps

    @property
    def max_side(self) -> int:
        """``max_bucket_reso`` as the trainer uses it: rounded up to the step."""
        return -(-self.max_bucket_reso // self.bucket_reso_steps) * self.bucket_reso_steps

    def problems(self) -> tuple[Problem, ...]:
        """Every value that the trainer would stop at, in plain words."""
        found: list[Problem] = []
        if min(self.resolution) < 1:
            found.append(Problem(f"resolution {_text(self.resolution)} has a side below 1", key="resolution"))
        if not self.enable_bucket:
            return tuple(found)
        step = self.bucket_reso_steps
        if step < 1 or step % _SDXL_STEP:
            return (
                *found,
                Problem(
                    f"bucket_reso_steps is {step}",
                    why=f"SDXL needs bucket sides that are multiples of {_SDXL_STEP}",
                    todo="use 64 or 32",
                    key="bucket_reso_steps",
                ),
            )
        if self.bucket_no_upscale:
            return tuple(found)  # the trainer ignores min and max then
        if self.min_side == 0:
            found.append(
                Problem(
                    f"min_bucket_reso {self.min_bucket_reso} is below bucket_reso_steps {step}",
                    why="rounded down to the step it is 0",
                    todo=f"use {step} or more",
                    key="min_bucket_reso",
                )
            )
        if min(self.resolution) < self.min_side:
            found.append(
                Problem(
                    f"the smaller side of resolution {_text(self.resolution)} is below min_bucket_reso {self.min_side}",
                    todo=f"lower min_bucket_reso to {min(self.resolution)} or less",
                    key="min_bucket_reso",
                )
            )
        if max(self.resolution) > self.max_side:
            found.append(
                Problem(
                    f"the larger side of resolution {_text(self.resolution)} is above max_bucket_reso {self.max_side}",
                    todo=f"raise max_bucket_reso to {max(self.resolution)} or more (2048 suits 1024 px training)",
                    key="max_bucket_reso",
                )
            )
        return tuple(found)


@dataclass(frozen=True)
class BucketAssignment:
    """Where one image trains.

    ``bucket`` is the training size; ``resized`` the size before cropping to it; ``crop_ltrb`` the left, top, right
    and bottom that SDXL is told (pixels of the bucket, as floats; the trainer truncates left and top to int).
    """

    bucket: Size
    resized: Size
    crop_ltrb: tuple[float, float, float, float]


def bucket_resolutions(settings: BucketSettings) -> tuple[Size, ...]:
    """All bucket sizes in ascending order, for buckets that may upscale (``bucket_no_upscale`` has no fixed list)."""
    if not settings.enable_bucket:
        return (settings.resolution,)
    step, low, high, area = settings.bucket_reso_steps, settings.min_side, settings.max_side, settings.max_area
    square = math.isqrt(area) // step * step
    sizes = {(square, square)}
    for width in range(low, high + 1, step):
        height = min(high, area // width // step * step)
        if height >= low:
            sizes |= {(width, height), (height, width)}
    return tuple(sorted(size for size in sizes if min(size) > 0))


class Bucketer:
    """Assigns images to the buckets of one dataset; remembers sizes that it has seen."""

    def __init__(self, settings: BucketSettings) -> None:
        """Raise DatasetError with every setting that the trainer would stop at."""
        if problems := settings.problems():
            raise DatasetError(
                "the bucket settings cannot be used", why="; ".join(p.what for p in problems), problems=problems
            )
        self.settings = settings
        fixed = settings.enable_bucket and settings.bucket_no_upscale
        self.resolutions = () if fixed else bucket_resolutions(settings)
        self._known = frozenset(self.resolutions)
        self._ratios = tuple((width / height, (width, height)) for width, height in self.resolutions)
        self._seen: dict[Size, BucketAssignment] = {}

    def assign(self, width: int, height: int) -> BucketAssignment:
        """The bucket of a ``width`` × ``height`` image; DatasetError when the image is too narrow to have one."""
        size = (width, height)
        if size not in self._seen:
            self._seen[size] = self._assign(size)
        return self._seen[size]

    def _assign(self, size: Size) -> BucketAssignment:
        if not self.settings.enable_bucket:
            bucket = self.settings.resolution
            return BucketAssignment(bucket, _cover(size, bucket), crop_ltrb(bucket, size))
        if self.settings.bucket_no_upscale:
            return _assign_without_upscaling(size, self.settings)
        bucket = size if size in self._known else self._nearest(size[0] / size[1])
        return BucketAssignment(bucket, _cover(size, bucket), crop_ltrb(bucket, size))

    def _nearest(self, ratio: float) -> Size:
        # The distance is linear in width / height, so portrait and landscape are not mirror images of each other;
        # min() keeps the first of equals in ascending order, as the trainer's argmin does.
        return min(self._ratios, key=lambda entry: abs(entry[0] - ratio))[1]


def assign_bucket(width: int, height: int, settings: BucketSettings) -> BucketAssignment:
    """The bucket of one ``width`` × ``height`` image (many images: make one Bucketer).

    Raises DatasetError for settings or sizes that no bucket can be made for.
    """
    return Bucketer(settings).assign(width, height)


def crop_ltrb(bucket: Size, image: Size) -> tuple[float, float, float, float]:
    """The crop that SDXL is conditioned on: the image fitted *inside* the bucket, as letterboxing would.

    Not the pixels that are really cropped (those cover the bucket); the floor of half the margin, in bucket pixels.
    """
    ratio = image[0] / image[1]
    if bucket[0] / bucket[1] > ratio:
        width, height = bucket[1] * ratio, float(bucket[1])
    else:
        width, height = float(bucket[0]), bucket[0] / ratio
    left, top = (bucket[0] - width) // 2, (bucket[1] - height) // 2
    return (left, top, left + width, top + height)


def _cover(image: Size, bucket: Size) -> Size:
    """The size that keeps the image's ratio and covers the bucket; halves round up."""
    if image == bucket:
        return image
    by_height = image[0] / image[1] > bucket[0] / bucket[1]
    scale = bucket[1] / image[1] if by_height else bucket[0] / image[0]
    return (int(image[0] * scale + 0.5), int(image[1] * scale + 0.5))


def _assign_without_upscaling(image: Size, settings: BucketSettings) -> BucketAssignment:
    step = settings.bucket_reso_steps
    resized = image if image[0] * image[1] <= settings.max_area else _shrink(image, settings.max_area, step)
    bucket = (resized[0] // step * step, resized[1] // step * step)
    if min(bucket) == 0:
        raise DatasetError(
            f"a {_text(image)} image has no bucket",
            why=f"with bucket_no_upscale its shorter side ends below bucket_reso_steps ({step})",
            todo="remove or enlarge it, or turn bucket_no_upscale off",
        )
    return BucketAssignment(bucket, resized, crop_ltrb(bucket, image))


def _shrink(image: Size, max_area: int, step: int) -> Size:
    """The size of about ``max_area`` that has one side on the step and keeps the image's ratio best."""
    ratio = image[0] / image[1]
    ideal_width = math.sqrt(max_area * ratio)
    width = _round_to_step(ideal_width, step)
    height = _round_to_step(max_area / ideal_width, step)
    height_of_width, width_of_height = _round_to_step(width / ratio, step), _round_to_step(height * ratio, step)
    if not (height_of_width and height):
        return (0, 0)
    off_by_width = abs(width / height_of_width - ratio)
    off_by_height = abs(width_of_height / height - ratio)
    if off_by_width < off_by_height:
        return (width, int(width / ratio + 0.5))
    return (int(height * ratio + 0.5), height)


def _round_to_step(value: float, step: int) -> int:
    """To the nearest pixel, then *down* to the step: the trainer's rounding."""
    return int(value + 0.5) // step * step


def _text(size: Size) -> str:
    return f"{size[0]}×{size[1]}"
