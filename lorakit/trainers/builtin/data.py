"""Training examples on their way to the model: what the loader's workers make of a batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lorakit.dataset.captions import CaptionSettings, caption_of_example
from lorakit.dataset.scan import ImageRecord, ScannedData
from lorakit.errors import LorakitError
from lorakit.trainers.builtin.batches import Batch
from lorakit.trainers.builtin.images import PixelSettings, crop_top_left, read_pixels
from lorakit.trainers.builtin.latents import CacheJob, LatentStore
from lorakit.trainers.builtin.rng import python_random
from lorakit.trainers.builtin.text_cache import TextStore

__all__ = ["BatchLoader", "Examples", "Loaded", "Sources", "cache_jobs", "steady"]


@dataclass(frozen=True)
class Loaded:
    """A batch with its data, all on the CPU.

    Either ``latents`` (B, 4, h/8, w/8), unscaled, or ``pixels`` (B, 3, h, w) in -1 … 1; either ``hidden`` (B, tokens, d)
    and ``pooled`` (B, dp), or ``captions``. ``sizes`` (B, 6) are original height and width, crop top and left, target
    height and width. ``weights`` (B,) are the prior-loss weights.
    """

    batch: Batch
    sizes: Tensor
    weights: Tensor
    captions: tuple[str, ...]
    latents: Tensor | None = None
    pixels: Tensor | None = None
    hidden: Tensor | None = None
    pooled: Tensor | None = None


@dataclass(frozen=True)
class Sources:
    """What examples are made of."""

    data: ScannedData
    seed: int
    total_steps: int
    prior_loss_weight: float = 1.0
    latents: LatentStore | None = None
    text: TextStore | None = None


class Examples(Dataset["Loaded | LorakitError"]):
    """Maps a :class:`Batch` to its data. Holds nothing that changes, so workers may live for the whole training."""

    def __init__(self, sources: Sources) -> None:
        self.sources = sources

    def __getitem__(self, batch: Batch) -> Loaded | LorakitError:
        """A batch's data, or the error that stands in its way: a worker would wrap a raised one in its traceback."""
        try:
            return self._load(batch)
        except LorakitError as error:
            return error

    def _load(self, batch: Batch) -> Loaded:
        sources = self.sources
        dataset = sources.data.datasets[batch.dataset]
        records = dataset.validation if batch.validation else dataset.train
        parts = [self._example(batch, slot, records[index]) for slot, index in enumerate(batch.images)]
        text = None if sources.text is None else [sources.text.get(records[index]) for index in batch.images]
        stacked = torch.stack([part.image for part in parts])
        return Loaded(
            batch=batch,
            sizes=torch.tensor([part.sizes for part in parts], dtype=torch.float32),
            weights=torch.tensor([part.weight for part in parts], dtype=torch.float32),
            captions=tuple(part.caption for part in parts),
            latents=None if sources.latents is None else stacked,
            pixels=stacked if sources.latents is None else None,
            hidden=None if text is None else torch.stack([hidden for hidden, _ in text]),
            pooled=None if text is None else torch.stack([pooled for _, pooled in text]),
        )

    def _example(self, batch: Batch, slot: int, record: ImageRecord) -> _Example:
        sources = self.sources
        dataset = sources.data.datasets[batch.dataset]
        subset = dataset.spec.subsets[record.subset_index]
        kind = "validation example" if batch.validation else "example"
        rng = python_random(sources.seed, kind, batch.epoch, batch.position, slot)
        flipped = subset.flip_aug and rng.random() < 0.5 and not batch.validation
        settings = PixelSettings.of(dataset.spec, subset)
        if sources.latents is not None:
            image = sources.latents.get(CacheJob(record, settings, flip=subset.flip_aug), flipped=flipped)
        else:
            image = read_pixels(record, settings, None if batch.validation else rng, flipped=flipped)
        captions = CaptionSettings.of(subset)
        caption = caption_of_example(
            record.caption,
            steady(captions) if batch.validation else captions,
            rng,
            epoch=batch.epoch,
            step=batch.step,
            total_steps=sources.total_steps,
        )
        top, left = crop_top_left(record, flipped=flipped)
        sizes = (record.height, record.width, top, left, record.bucket[1], record.bucket[0])
        return _Example(image, caption, sizes, sources.prior_loss_weight if record.is_reg else 1.0)


@dataclass(frozen=True)
class _Example:
    image: Tensor
    caption: str
    sizes: tuple[int, int, int, int, int, int]
    weight: float


def steady(settings: CaptionSettings) -> CaptionSettings:
    """The same captions without anything that changes from epoch to epoch: for validation."""
    return dataclasses.replace(
        settings,
        shuffle_caption=False,
        token_warmup_step=0,
        caption_dropout_rate=0.0,
        caption_dropout_every_n_epochs=0,
        caption_tag_dropout_rate=0.0,
    )


def cache_jobs(data: ScannedData) -> Iterator[CacheJob]:
    """Every image whose latents a training needs, validation images included."""
    for dataset in data.datasets:
        for record in dataset.train:
            subset = dataset.spec.subsets[record.subset_index]
            yield CacheJob(record, PixelSettings.of(dataset.spec, subset), flip=subset.flip_aug)
        for record in dataset.validation:
            subset = dataset.spec.subsets[record.subset_index]
            yield CacheJob(record, PixelSettings.of(dataset.spec, subset), flip=subset.flip_aug)


class _Order:
    """The batches to load next; a sampler that the loop refills before each epoch."""

    def __init__(self) -> None:
        self.batches: Iterable[Batch] = ()

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)


class BatchLoader:
    """A DataLoader whose order is given anew for every pass, so that its workers can stay."""

    def __init__(self, examples: Examples, *, workers: int, persistent: bool) -> None:
        self._order = _Order()
        self._loader: DataLoader[Any] = DataLoader(
            examples,
            batch_size=None,
            sampler=self._order,
            num_workers=workers,
            persistent_workers=persistent and workers > 0,
        )

    def load(self, batches: Iterable[Batch]) -> Iterator[Loaded]:
        """The data of ``batches`` in their order; raises DatasetError naming an image that cannot be read."""
        self._order.batches = batches
        for loaded in self._loader:
            if isinstance(loaded, LorakitError):
                raise loaded
            yield loaded
