"""What a scan gives: image records, datasets with their bucket counts, everything passed over."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lorakit.dataset.blueprint import DatasetSpec, Skipped
from lorakit.dataset.buckets import Size

__all__ = ["ImageRecord", "ScannedData", "ScannedDataset"]


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image that is trained on (or validated with). Sizes are (width, height) in pixels.

    ``repeats`` is how often it comes in one epoch, after regularisation balancing. ``caption`` is the text before the
    caption pipeline; ``caption_path`` is None when it comes from the class tokens or is empty for want of either.
    """

    path: Path
    caption: str
    caption_path: Path | None
    width: int
    height: int
    repeats: int
    is_reg: bool
    subset_index: int
    bucket: Size
    resized: Size
    crop_ltrb: tuple[float, float, float, float]


@dataclass(frozen=True)
class ScannedDataset:
    """What one dataset really holds.

    ``reg_found`` counts regularisation images × repeats before balancing. ``overlap`` is how many training images
    sd-scripts' rounding would put into the validation set as well; they are not in ``validation`` here.
    """

    spec: DatasetSpec
    train: tuple[ImageRecord, ...]
    validation: tuple[ImageRecord, ...] = ()
    reg_found: int = 0
    overlap: int = 0

    def bucket_counts(self, *, validation: bool = False) -> dict[Size, int]:
        """Examples of one epoch (images × repeats) by bucket, in ascending order of bucket."""
        counts: dict[Size, int] = {}
        for image in self.validation if validation else self.train:
            counts[image.bucket] = counts.get(image.bucket, 0) + image.repeats
        return dict(sorted(counts.items()))

    def batches(self, *, validation: bool = False) -> dict[Size, int]:
        """Batches of one epoch by bucket: ceil(examples / batch size); the last of a bucket may be short."""
        size = self.spec.batch_size
        return {bucket: -(-count // size) for bucket, count in self.bucket_counts(validation=validation).items()}


@dataclass(frozen=True)
class ScannedData:
    """All datasets, what is passed over and why, and what deserves a look.

    ``unreadable`` has the images that were skipped because they cannot be opened: a trainer that finds them stops.
    ``stray_caches`` counts files beside the images that a trainer might believe more than the images (``*.npz``).
    """

    datasets: tuple[ScannedDataset, ...]
    skipped: tuple[Skipped, ...] = ()
    warnings: tuple[str, ...] = ()
    unreadable: tuple[Path, ...] = ()
    stray_caches: int = 0

    @property
    def images(self) -> int:
        """Distinct images trained on, without regularisation and validation."""
        return sum(not image.is_reg for dataset in self.datasets for image in dataset.train)

    @property
    def batches_per_epoch(self) -> int:
        """Batches of all datasets in one epoch, over all processes."""
        return sum(sum(dataset.batches().values()) for dataset in self.datasets)
