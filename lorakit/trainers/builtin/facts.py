"""What a training tells about its data: the printed block, and the facts for the LoRA file's metadata."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from lorakit.dataset.scan import ImageRecord, ScannedData, ScannedDataset
from lorakit.schedule import StepCounts
from lorakit.trainers.builtin.metadata import TrainingFacts
from lorakit.trainers.builtin.options import TrainOptions

__all__ = ["console_block", "training_facts"]


def console_block(data: ScannedData, counts: StepCounts, options: TrainOptions) -> Iterator[str]:
    """The lines that describe a training, in the trainer's wording."""
    sizes = ", ".join(str(dataset.spec.batch_size) for dataset in data.datasets)
    yield "running training"
    yield f"  num train images * repeats: {_examples(data)}"
    yield f"  num validation images * repeats: {sum(len(dataset.validation) for dataset in data.datasets)}"
    yield f"  num reg images: {sum(dataset.reg_found for dataset in data.datasets)}"
    yield f"  num batches per epoch: {counts.batches_per_epoch}"
    yield f"  num epochs: {counts.epochs}"
    yield f"  batch size per device: {sizes}"
    yield f"  gradient accumulation steps = {options.length.gradient_accumulation_steps}"
    yield f"  total optimization steps: {counts.total_steps}"


def training_facts(data: ScannedData, counts: StepCounts, options: TrainOptions, optimizer: str) -> TrainingFacts:
    """The facts of a training for :func:`metadata.build_metadata`; ``optimizer`` is its description."""
    toml = options.data.dataset_config is not None
    return TrainingFacts(
        num_train_images=_examples(data),
        num_validation_images=sum(len(dataset.validation) for dataset in data.datasets),
        num_reg_images=sum(dataset.reg_found for dataset in data.datasets),
        num_batches_per_epoch=counts.batches_per_epoch,
        num_epochs=counts.epochs,
        max_train_steps=counts.total_steps,
        total_batch_size=options.data.defaults.train_batch_size * counts.processes * counts.gradient_accumulation_steps,
        optimizer=optimizer,
        dataset_dirs=_folders(data.datasets, reg=False),
        reg_dataset_dirs=_folders(data.datasets, reg=True),
        tag_frequency=_tags(data.datasets),
        bucket_info=None if toml else _buckets(data.datasets[0]),
        datasets=tuple(_described(dataset) for dataset in data.datasets) if toml else None,
    )


def _examples(data: ScannedData) -> int:
    return sum(image.repeats for dataset in data.datasets for image in dataset.train if not image.is_reg)


def _by_folder(dataset: ScannedDataset, *, reg: bool) -> dict[int, list[ImageRecord]]:
    folders: dict[int, list[ImageRecord]] = {}
    for image in dataset.train:
        if image.is_reg == reg:
            folders.setdefault(image.subset_index, []).append(image)
    return folders


def _folders(datasets: Sequence[ScannedDataset], *, reg: bool) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for dataset in datasets:
        for index, images in _by_folder(dataset, reg=reg).items():
            subset = dataset.spec.subsets[index]
            name = images[0].path.parent.name
            found[name] = {"n_repeats": subset.num_repeats, "img_count": len(images)}
    return found


def _tags(datasets: Sequence[ScannedDataset]) -> dict[str, dict[str, int]]:
    """How often each tag (lower case, between commas) stands in a folder's captions."""
    found: dict[str, dict[str, int]] = {}
    for dataset in datasets:
        for image in dataset.train:
            counter = Counter(found.get(image.path.parent.name, {}))
            counter.update(tag for part in image.caption.split(",") if (tag := part.strip().lower()))
            found[image.path.parent.name] = dict(counter)
    return found


def _buckets(dataset: ScannedDataset) -> dict[str, Any]:
    counts = dataset.bucket_counts()
    # Each image once, however often it is repeated, as sd-scripts counts.
    errors = [abs(image.bucket[0] / image.bucket[1] - image.width / image.height) for image in dataset.train]
    return {
        "buckets": {
            str(index): {"resolution": list(bucket), "count": count}
            for index, (bucket, count) in enumerate(counts.items())
        },
        "mean_img_ar_error": sum(errors) / len(errors) if errors else 0.0,
    }


def _described(dataset: ScannedDataset) -> dict[str, Any]:
    spec = dataset.spec
    return {
        "is_dreambooth": True,
        "batch_size_per_device": spec.batch_size,
        "num_train_images": sum(image.repeats for image in dataset.train if not image.is_reg),
        "num_reg_images": dataset.reg_found,
        "resolution": list(spec.resolution),
        "enable_bucket": spec.enable_bucket,
        "min_bucket_reso": spec.min_bucket_reso,
        "max_bucket_reso": spec.max_bucket_reso,
        "tag_frequency": _tags([dataset]),
        "bucket_info": _buckets(dataset),
        "resize_interpolation": spec.resize_interpolation,
        "subsets": [
            {
                "img_count": sum(image.subset_index == index for image in dataset.train),
                "num_repeats": subset.num_repeats,
                "color_aug": subset.color_aug,
                "flip_aug": subset.flip_aug,
                "random_crop": subset.random_crop,
                "shuffle_caption": subset.shuffle_caption,
                "keep_tokens": subset.keep_tokens,
                "keep_tokens_separator": subset.keep_tokens_separator,
                "secondary_separator": subset.secondary_separator,
                "enable_wildcard": subset.enable_wildcard,
                "caption_prefix": subset.caption_prefix,
                "caption_suffix": subset.caption_suffix,
                "resize_interpolation": subset.resize_interpolation,
                "image_dir": None if subset.image_dir is None else subset.image_dir.name,
                "class_tokens": subset.class_tokens,
                "is_reg": subset.is_reg,
            }
            for index, subset in enumerate(spec.subsets)
        ],
    }
