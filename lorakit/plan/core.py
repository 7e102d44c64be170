"""The numbers before the run: what will be trained on, for how long, at which rates, and what will be written."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lorakit.dataset.blueprint import Skipped
from lorakit.dataset.scan import Progress, ScannedData, ScannedDataset, scan
from lorakit.plan.inputs import PlanInput
from lorakit.plan.network import NetworkSize
from lorakit.plan.writes import (
    Checkpoint,
    SampleMoment,
    cache_bytes,
    checkpoints,
    peak_bytes,
    sample_bytes,
    sample_moments,
)
from lorakit.schedule import Scheduler, StepCounts, curve, lr_at_step, sampled_steps, steps

__all__ = ["Bucket", "Disk", "Folder", "LrPoint", "Plan", "Regularisation", "ValidationPlan", "plan_from"]


@dataclass(frozen=True)
class Folder:
    """One subset: its images, how often each comes in an epoch, and examples = the sum of that."""

    path: Path
    repeats: int
    images: int
    examples: int
    is_reg: bool
    class_tokens: str | None
    dataset: int


@dataclass(frozen=True)
class Bucket:
    """One bucket of one dataset; ``count`` is examples (images × repeats) in an epoch, sizes in pixels."""

    width: int
    height: int
    count: int
    batches: int
    images: int
    dataset: int

    def short(self, batch_size: int) -> bool:
        """Whether its last batch is not full."""
        return self.count % batch_size != 0


@dataclass(frozen=True)
class LrPoint:
    """The rate that optimizer step ``step`` (1-based) uses."""

    step: int
    lr: float


@dataclass(frozen=True)
class ValidationPlan:
    """Images held out, and batches measured each time; counts are 0 without a split.

    ``overlap``: training images that sd-scripts' rounding would validate on too (the built-in trainer leaves them out).
    """

    images: int = 0
    batches: int = 0
    overlap: int = 0


@dataclass(frozen=True)
class Regularisation:
    """Regularisation images used, their examples in an epoch, and the examples (images × repeats) found on disk."""

    images: int = 0
    examples: int = 0
    found: int = 0


@dataclass(frozen=True)
class Disk:
    """Bytes, estimated: what the run writes at most at a time, and what is free where it writes."""

    needed: int
    free: int
    weights: int
    states: int
    samples: int
    caches: int


@dataclass(frozen=True)
class Plan:
    """A run in exact numbers.

    ``lr`` has the rates of each trained part at chosen steps, and of parameter groups in it that have rates of their own
    ("unet plus", "unet_block5"); ``curve`` the multiplier of all. ``warmup_steps`` counts the optimizer steps below the full rate. ``data`` is what the scan found, image by image (not in
    the JSON).
    """

    name: str
    images: int
    skipped: tuple[Skipped, ...]
    folders: tuple[Folder, ...]
    buckets: tuple[Bucket, ...]
    batch_sizes: tuple[int, ...]
    short_batches: int
    examples_per_epoch: int
    counts: StepCounts
    warmup_steps: int
    decay_steps: int
    lr: Mapping[str, tuple[LrPoint, ...]]
    curve: tuple[tuple[int, float], ...]
    network: NetworkSize
    checkpoints: tuple[Checkpoint, ...]
    samples: tuple[SampleMoment, ...]
    validation: ValidationPlan
    reg: Regularisation
    disk: Disk
    warnings: tuple[str, ...]
    data: ScannedData

    @property
    def batches_per_epoch(self) -> int:
        """Batches in an epoch, over all processes."""
        return self.counts.batches_per_epoch

    @property
    def epochs(self) -> int:
        """Epochs begun."""
        return self.counts.epochs

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.counts.total_steps

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists, texts and numbers; rates and sizes as documented on the fields."""
        plain: dict[str, Any] = {
            name: _plain(getattr(self, name))
            for name in ("name", "images", "skipped", "folders", "buckets", "batch_sizes", "short_batches")
        }
        plain |= {
            "examples_per_epoch": self.examples_per_epoch,
            "batches_per_epoch": self.batches_per_epoch,
            "batches_per_process": self.counts.batches_per_process,
            "updates_per_epoch": self.counts.updates_per_epoch,
            "epochs": self.epochs,
            "total_steps": self.total_steps,
            "processes": self.counts.processes,
            "gradient_accumulation_steps": self.counts.gradient_accumulation_steps,
            "warmup_steps": self.warmup_steps,
            "decay_steps": self.decay_steps,
            "lr": {part: _plain(points) for part, points in self.lr.items()},
            "curve": [{"step": step, "factor": factor} for step, factor in self.curve],
            "network": {
                "parameters": dict(self.network.parameters),
                "modules": dict(self.network.modules),
                "trained": dict(self.network.trained),
                "tensors": dict(self.network.tensors),
                "exact": self.network.exact,
                "total_parameters": self.network.total_parameters,
                "total_modules": self.network.total_modules,
            },
        }
        for name in ("checkpoints", "samples", "validation", "reg", "disk", "warnings"):
            plain[name] = _plain(getattr(self, name))
        return plain


#: Stands in for :func:`lorakit.dataset.scan.scan`: the same arguments, the same result.
Scan = Callable[..., ScannedData]


def plan_from(asked: PlanInput, *, progress: Progress | None = None, scan: Scan = scan) -> Plan:
    """Scan the dataset and compute everything; reads file headers and captions, writes nothing.

    ``scan`` may be one that remembers: many plans of one dataset need one look at it.

    Raises DatasetError for data that the trainer would stop at, UsageError for a length or schedule that cannot be.
    """
    data = scan(asked.blueprint, skip_unreadable=asked.skip_unreadable, progress=progress)
    counts = steps(
        data.batches_per_epoch,
        max_train_epochs=asked.max_train_epochs,
        max_train_steps=asked.max_train_steps,
        gradient_accumulation_steps=asked.gradient_accumulation_steps,
        processes=asked.processes,
    )
    scheduler = _scheduler(asked, counts)
    warmup = counts.length_in_steps(asked.schedule.warmup) if asked.schedule.name else 0
    written = checkpoints(counts, asked.saving, asked.network, asked.output_name, asked.optimizer_type)
    moments = sample_moments(counts, asked.sampling)
    train = [image for dataset in data.datasets for image in dataset.train]
    reg = [image for image in train if image.is_reg]
    buckets = _buckets(data)
    return Plan(
        name=asked.output_name,
        images=data.images,
        skipped=data.skipped,
        folders=_folders(data),
        buckets=buckets,
        batch_sizes=tuple(dataset.spec.batch_size for dataset in data.datasets),
        short_batches=sum(bucket.short(data.datasets[bucket.dataset].spec.batch_size) for bucket in buckets),
        examples_per_epoch=sum(image.repeats for image in train),
        counts=counts,
        warmup_steps=min(warmup, counts.total_steps),
        decay_steps=counts.length_in_steps(asked.schedule.decay),
        lr=_rates(asked, scheduler, counts, warmup),
        curve=curve(scheduler, counts.total_steps, counts.processes),
        network=asked.network,
        checkpoints=written,
        samples=moments,
        validation=_validation(data, asked),
        reg=Regularisation(len(reg), sum(image.repeats for image in reg), sum(d.reg_found for d in data.datasets)),
        disk=_disk(asked, data, written, moments),
        warnings=(*asked.warnings, *data.warnings, *_crop_warnings(asked, data)),
        data=data,
    )


def _scheduler(asked: PlanInput, counts: StepCounts) -> Scheduler:
    s = asked.schedule
    if s.name is None:
        return Scheduler()
    return Scheduler(
        name=s.name,
        total_ticks=counts.total_ticks,
        warmup_ticks=counts.length_in_ticks(s.warmup),
        decay_ticks=counts.length_in_ticks(s.decay),
        num_cycles=s.num_cycles,
        power=s.power,
        timescale=s.timescale,
        min_lr_ratio=s.min_lr_ratio,
        base_lr=s.base_lr,
        step_rules=s.step_rules,
    )


def _rates(asked: PlanInput, scheduler: Scheduler, counts: StepCounts, warmup: int) -> dict[str, tuple[LrPoint, ...]]:
    # The first step at the full rate is always among those shown.
    shown = sorted({*sampled_steps(counts.total_steps), min(warmup + 1, counts.total_steps)} - {0})
    return {
        part: tuple(LrPoint(step, lr_at_step(scheduler, rate, step, counts.processes)) for step in shown)
        for part, rate in asked.rates.items()
        if rate is not None
    }


def _folders(data: ScannedData) -> tuple[Folder, ...]:
    folders = []
    for index, dataset in enumerate(data.datasets):
        for number, subset in enumerate(dataset.spec.subsets):
            images = [image for image in dataset.train if image.subset_index == number]
            path = subset.image_dir or subset.metadata_file
            assert path is not None
            folders.append(
                Folder(
                    path=path,
                    repeats=subset.num_repeats,
                    images=len(images),
                    examples=sum(image.repeats for image in images),
                    is_reg=subset.is_reg,
                    class_tokens=subset.class_tokens,
                    dataset=index,
                )
            )
    return tuple(folders)


def _buckets(data: ScannedData) -> tuple[Bucket, ...]:
    return tuple(bucket for index, dataset in enumerate(data.datasets) for bucket in _buckets_of(dataset, index))


def _buckets_of(dataset: ScannedDataset, index: int) -> list[Bucket]:
    images: dict[tuple[int, int], int] = {}
    for image in dataset.train:
        images[image.bucket] = images.get(image.bucket, 0) + 1
    batches = dataset.batches()
    return [
        Bucket(*size, count=count, batches=batches[size], images=images[size], dataset=index)
        for size, count in dataset.bucket_counts().items()
    ]


def _validation(data: ScannedData, asked: PlanInput) -> ValidationPlan:
    images = sum(len(dataset.validation) for dataset in data.datasets)
    batches = sum(sum(dataset.batches(validation=True).values()) for dataset in data.datasets)
    if asked.max_validation_steps is not None:
        batches = min(batches, asked.max_validation_steps)
    return ValidationPlan(images, batches, sum(dataset.overlap for dataset in data.datasets))


def _disk(
    asked: PlanInput, data: ScannedData, written: tuple[Checkpoint, ...], moments: tuple[SampleMoment, ...]
) -> Disk:
    weights = peak_bytes(tuple(file for file in written if not file.kind.endswith("state")))
    states = peak_bytes(tuple(file for file in written if file.kind.endswith("state")))
    pictures = sample_bytes(moments, asked.sampling)
    caches = 0
    for dataset in data.datasets:
        flipped = any(subset.flip_aug for subset in dataset.spec.subsets)
        sizes = tuple(image.bucket for image in (*dataset.train, *dataset.validation))
        caches += cache_bytes(sizes, asked.caching, flipped=flipped)
    place = asked.output_dir
    while not place.exists() and place != place.parent:
        place = place.parent
    return Disk(
        needed=weights + states + pictures + caches,
        free=shutil.disk_usage(place).free,
        weights=weights,
        states=states,
        samples=pictures,
        caches=caches,
    )


def _crop_warnings(asked: PlanInput, data: ScannedData) -> list[str]:
    """Without buckets and without cached latents the trainer neither resizes nor crops: it stops in data loading."""
    if asked.caching.latents:
        return []
    misfits = [
        image
        for dataset in data.datasets
        if not dataset.spec.enable_bucket
        for image in (*dataset.train, *dataset.validation)
        if (image.width, image.height) != image.bucket and not _may_crop(dataset, image.subset_index)
    ]
    if not misfits:
        return []
    return [
        (
            f"{len(misfits)} images are not of the training resolution, such as {misfits[0].path.name!r} "
            f"({misfits[0].width}×{misfits[0].height}): with buckets off and latents not cached, sd-scripts stops at them"
        )
    ]


def _may_crop(dataset: ScannedDataset, subset: int) -> bool:
    return dataset.spec.subsets[subset].random_crop


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return {key: _plain(item) for key, item in asdict(value).items()}
    return value
