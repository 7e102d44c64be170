"""Which examples make which batch, in which order: a function of the dataset, the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lorakit.dataset.buckets import Size
from lorakit.dataset.scan import ScannedData
from lorakit.schedule import StepCounts
from lorakit.trainers.builtin.rng import python_random

__all__ = ["Batch", "epoch_batches", "process_batches", "validation_batches"]


@dataclass(frozen=True, slots=True)
class Batch:
    """Images of one bucket: ``images`` are their numbers within the dataset's training (or validation) images.

    ``position`` is the batch's place in the epoch over all processes, ``step`` the optimizer steps done before it.
    """

    dataset: int
    bucket: Size
    images: tuple[int, ...]
    epoch: int
    position: int
    step: int = 0
    validation: bool = False


def epoch_batches(data: ScannedData, seed: int, epoch: int) -> tuple[Batch, ...]:
    """All batches of ``epoch`` (from 1) in the order in which they are trained.

    Each bucket's examples (images × repeats) are shuffled and cut into batches, whose last may be short; then all
    batches are shuffled. Batches mix neither buckets nor datasets.
    """
    batches: list[tuple[int, Size, tuple[int, ...]]] = []
    for number, dataset in enumerate(data.datasets):
        by_bucket: dict[Size, list[int]] = {}
        for index, image in enumerate(dataset.train):
            by_bucket.setdefault(image.bucket, []).extend([index] * image.repeats)
        rng = python_random(seed, "bucket order", epoch, number)
        for bucket in sorted(by_bucket):
            members = by_bucket[bucket]
            rng.shuffle(members)
            size = dataset.spec.batch_size
            batches += [(number, bucket, tuple(members[i : i + size])) for i in range(0, len(members), size)]
    python_random(seed, "batch order", epoch).shuffle(batches)
    return tuple(
        Batch(number, bucket, members, epoch, position) for position, (number, bucket, members) in enumerate(batches)
    )


def process_batches(
    data: ScannedData, seed: int, epoch: int, counts: StepCounts, *, rank: int = 0, skip: int = 0
) -> Iterator[Batch]:
    """The batches of ``epoch`` (from 1) that process ``rank`` trains, without its first ``skip``.

    Batches are dealt in turn; where they do not come out even, the epoch's first ones are dealt again, with draws of
    their own. So P processes see what one process with P times the gradient accumulation sees.
    """
    everything = epoch_batches(data, seed, epoch)
    first_step = (epoch - 1) * counts.updates_per_epoch
    for turn in range(skip, counts.batches_per_process):
        position = turn * counts.processes + rank
        batch = everything[position % len(everything)]
        step = first_step + turn // counts.gradient_accumulation_steps
        yield Batch(batch.dataset, batch.bucket, batch.images, epoch, position, step)


def validation_batches(data: ScannedData, limit: int | None = None) -> tuple[Batch, ...]:
    """The batches of held-back images in a fixed order, at most ``limit``."""
    batches: list[Batch] = []
    for number, dataset in enumerate(data.datasets):
        by_bucket: dict[Size, list[int]] = {}
        for index, image in enumerate(dataset.validation):
            by_bucket.setdefault(image.bucket, []).extend([index] * image.repeats)
        size = dataset.spec.batch_size
        for bucket in sorted(by_bucket):
            members = by_bucket[bucket]
            for start in range(0, len(members), size):
                images = tuple(members[start : start + size])
                batches.append(Batch(number, bucket, images, 0, len(batches), validation=True))
    return tuple(batches if limit is None else batches[:limit])
