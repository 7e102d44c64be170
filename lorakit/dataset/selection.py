"""Which images of those found are used: the validation split and the balancing of regularisation images."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lorakit.errors import DatasetError

if TYPE_CHECKING:
    from lorakit.dataset.records import ImageRecord

__all__ = ["balance_regularisation", "split_for_validation"]


def split_for_validation(
    images: Sequence[ImageRecord], split: float, seed: int | None
) -> tuple[list[ImageRecord], list[ImageRecord], int]:
    """Split one subset's images, given in order of path: training, validation, and how many the trainer would use in both.

    As the trainer does: shuffled by python's random with ``seed``; the first ceil(n × (1 − split)) train, the last
    round(n × split) validate. The two roundings can overlap in small subsets (n = 6, split = 0.25: 5 + 2); here the
    training images are the trainer's, and validation leaves them out. Raises DatasetError for a split outside [0, 1)
    and for a missing seed, with which the trainer would shuffle twice and train on validation images.
    """
    if not 0 <= split < 1:
        raise DatasetError(f"validation_split is {split}", todo="use a share from 0 up to, but not including, 1")
    if seed is None:
        raise DatasetError(
            "validation_split is set without validation_seed",
            why="sd-scripts would then shuffle twice and validate on images that it trains on",
            todo="set validation_seed",
        )
    shuffled = list(images)
    random.Random(seed).shuffle(shuffled)
    trained = math.ceil(len(shuffled) * (1 - split))
    validated = round(len(shuffled) * split)
    shared = max(0, trained + validated - len(shuffled))
    return shuffled[:trained], shuffled[len(shuffled) - validated + shared :], shared


def balance_regularisation(images: Sequence[ImageRecord], wanted: int) -> list[ImageRecord]:
    """The regularisation images that are used against ``wanted`` training examples (images × repeats), and how often.

    In order, each with its own repeats, until ``wanted`` is reached; if they run out, one repeat more each, round and
    round. The sum may exceed ``wanted`` by one image's repeats − 1.
    """
    if not images or wanted < 1:
        return []
    used: list[ImageRecord] = []
    total = 0
    for image in images:
        used.append(image)
        total += image.repeats
        if total >= wanted:
            return used
    rounds, rest = divmod(wanted - total, len(used))
    return [replace(image, repeats=image.repeats + rounds + (i < rest)) for i, image in enumerate(used)]
