"""Masks beside a subset's images (``conditioning_data_dir``): one for each image, of its size, and none besides."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from lorakit.dataset.files import UnreadableImage, image_size, is_image_name
from lorakit.dataset.records import ImageRecord
from lorakit.errors import Problem

__all__ = ["mask_problems"]


def mask_problems(images: Sequence[ImageRecord], folder: Path) -> tuple[Problem, ...]:
    """Everything about the masks in ``folder`` that would stop the trainer. A mask has the stem and pixel size of its image."""
    try:
        masks = {Path(name).stem: name for name in sorted(os.listdir(folder)) if is_image_name(name)}
    except OSError as error:
        return (Problem(f"{folder} cannot be read as a folder of masks: {error.strerror}"),)
    problems = []
    for image in images:
        name = masks.pop(image.path.stem, None)
        if name is None:
            problems.append(Problem(f"{str(image.path)!r} has no mask in {folder}"))
        elif wrong := _wrong_size(image, folder / name):
            problems.append(wrong)
    problems += [Problem(f"mask {str(folder / name)!r} belongs to no image") for name in masks.values()]
    return tuple(problems)


def _wrong_size(image: ImageRecord, mask: Path) -> Problem | None:
    try:
        size = image_size(str(mask))
    except UnreadableImage as error:
        return Problem(f"mask {str(mask)!r} cannot be read as an image ({error})")
    if size == (image.width, image.height):
        return None
    return Problem(
        f"mask {str(mask)!r} is {size[0]}×{size[1]}, its image {image.width}×{image.height}",
        todo="make them the same size",
    )
