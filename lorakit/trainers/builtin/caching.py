"""Fills the caches before the training: latents through the VAE, captions through the text encoders."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from accelerate import Accelerator

from lorakit.dataset.scan import ImageRecord, ScannedData
from lorakit.trainers.builtin import latents
from lorakit.trainers.builtin.checkpoint import BaseModel
from lorakit.trainers.builtin.data import cache_jobs
from lorakit.trainers.builtin.latents import LatentStore
from lorakit.trainers.builtin.monitor import Monitor
from lorakit.trainers.builtin.text import encode
from lorakit.trainers.builtin.text_cache import TextStore
from lorakit.trainers.builtin.tokenizers import Tokenizers

__all__ = ["cache_latents", "cache_text"]

#: Raises when the training should not go on.
Pause = Callable[[], None]


def cache_latents(
    stores: Mapping[int, LatentStore],
    data: ScannedData,
    base: BaseModel,
    accelerator: Accelerator,
    *,
    monitor: Monitor,
    chunk: int,
    pause: Pause,
) -> None:
    """Encode every image that the stores, by seed, lack; to disk the processes share the work, in memory each does all."""
    store = next(iter(stores.values()))
    jobs = list(cache_jobs(data))
    if store.to_disk:
        store.refuse_conflicts(jobs)
        jobs = jobs[accelerator.process_index :: accelerator.num_processes]
    todo = list(store.missing(jobs))
    monitor.phase("cache_latents", 0, len(todo))

    def advance(done: int) -> None:
        monitor.phase("cache_latents", done, len(todo))
        pause()

    with torch.no_grad():
        latents.fill(stores, todo, base.vae, chunk=chunk, advance=advance)
    accelerator.wait_for_everyone()


def cache_text(
    store: TextStore,
    data: ScannedData,
    base: BaseModel,
    tokenizers: Tokenizers,
    accelerator: Accelerator,
    *,
    monitor: Monitor,
    max_token_length: int | None,
    pause: Pause,
) -> None:
    """Encode every caption that ``store`` lacks, one by one: a result must not depend on what was cached before it."""
    records: Sequence[ImageRecord] = list(_records(data))
    if store.to_disk:
        records = records[accelerator.process_index :: accelerator.num_processes]
    todo = list(store.missing(records))
    monitor.phase("cache_text", 0, len(todo))
    with torch.no_grad(), accelerator.autocast():
        for done, record in enumerate(todo, start=1):
            text = encode(base, tokenizers, [record.caption], max_token_length)
            store.put(record, text.hidden[0], text.pooled[0])
            monitor.phase("cache_text", done, len(todo))
            pause()
    accelerator.wait_for_everyone()


def _records(data: ScannedData) -> Iterable[ImageRecord]:
    for dataset in data.datasets:
        yield from dataset.train
        yield from dataset.validation
