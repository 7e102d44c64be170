"""Latents that are computed once: in memory, or in npz files beside the images in the trainer's layout.

A file counts only when everything that made it is the same: image file, size, bucket, resize filter, VAE. The files
carry a key for that, which sd-scripts ignores; files without it (sd-scripts' own, unverifiable) are made anew.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lorakit import atomic
from lorakit.dataset.scan import ImageRecord
from lorakit.errors import DatasetError, DiskError, RunFailed
from lorakit.trainers.builtin.images import PixelSettings, read_pixels
from lorakit.trainers.builtin.rng import torch_generator

__all__ = [
    "SCALE",
    "CacheJob",
    "LatentStore",
    "encode_pixels",
    "file_identity",
    "fill",
    "latent_path",
    "read_npz",
    "write_npz",
]

#: What latents are multiplied with before they are noised (SDXL's VAE scaling factor).
SCALE = 0.13025

_KEY = "lorakit_key"


@dataclass(frozen=True)
class CacheJob:
    """One image whose latents are wanted, and whether its mirror image is, too."""

    record: ImageRecord
    settings: PixelSettings
    flip: bool = False


class LatentStore:
    """Latents of images, unscaled float32 (4, h/8, w/8), by image, bucket and orientation.

    With ``to_disk`` only paths are kept, and a latent is read from its file when asked for.
    """

    def __init__(self, *, to_disk: bool, vae_identity: str) -> None:
        self.to_disk = to_disk
        self._vae = vae_identity
        self._memory: dict[tuple[str, bool], np.ndarray[Any, Any]] = {}

    def key(self, job: CacheJob) -> str:
        """What a file of this job must say about its making."""
        record = job.record
        parts = (
            self._vae, file_identity(record.path), record.width, record.height, record.bucket, record.resized,
            job.settings.resize_interpolation,
        )  # fmt: skip
        return hashlib.sha256(repr(parts).encode("utf-8", "surrogateescape")).hexdigest()

    def refuse_conflicts(self, jobs: Iterable[CacheJob]) -> None:
        """Raise DatasetError when one file would have to hold two different latents."""
        files: dict[Path, str] = {}
        for job in jobs:
            path = latent_path(job.record)
            if files.setdefault(path, self.key(job)) != self.key(job):
                raise DatasetError(
                    f"{path} would have to hold two different latents of one image",
                    why=f"{job.record.path} is used at two sizes",
                    todo="cache in memory (cache_latents without cache_latents_to_disk)",
                )

    def missing(self, jobs: Iterable[CacheJob]) -> Iterator[CacheJob]:
        """The jobs that are still to be done, each once."""
        seen: set[tuple[str, bool]] = set()
        for job in jobs:
            key = self.key(job)
            if (key, job.flip) in seen:
                continue
            seen.add((key, job.flip))
            if not (self._usable(job, key) if self.to_disk else (key, job.flip) in self._memory):
                yield job

    def put(self, job: CacheJob, plain: Tensor, mirrored: Tensor | None) -> None:
        """Keep one image's latents (4, h/8, w/8)."""
        key = self.key(job)
        arrays = {False: plain.numpy()} | ({} if mirrored is None else {True: mirrored.numpy()})
        if not self.to_disk:
            self._memory |= {(key, flipped): array for flipped, array in arrays.items()}
            return
        record = job.record
        content = {
            "latents": arrays[False],
            "original_size": np.array([record.width, record.height]),
            "crop_ltrb": np.array(record.crop_ltrb),
            _KEY: np.array(key),
        }
        if mirrored is not None:
            content["latents_flipped"] = arrays[True]
        path = latent_path(record)
        before = read_npz(path)
        if before is not None and str(before.get(_KEY)) == key:  # another dataset may want the mirror image
            content = before | content
        write_npz(path, content)

    def get(self, job: CacheJob, *, flipped: bool) -> Tensor:
        """One image's latents (4, h/8, w/8); DatasetError when its file vanished or changed."""
        if not self.to_disk:
            return torch.from_numpy(self._memory[self.key(job), flipped])
        path = latent_path(job.record)
        content = read_npz(path)
        if content is None or str(content.get(_KEY)) != self.key(job):
            raise DatasetError(
                f"the cached latents {path} vanished or were changed while they were trained on",
                todo="start the training again; one dataset can be cached for one training at a time",
            )
        return torch.from_numpy(content["latents_flipped" if flipped else "latents"])

    def _usable(self, job: CacheJob, key: str) -> bool:
        content = read_npz(latent_path(job.record))
        if content is None or str(content.get(_KEY)) != key:
            return False
        shape = (4, job.record.bucket[1] // 8, job.record.bucket[0] // 8)
        wanted = ("latents", "latents_flipped") if job.flip else ("latents",)
        return all(name in content and content[name].shape == shape for name in wanted)


def encode_pixels(vae: Any, pixels: Tensor, generators: Sequence[torch.Generator], *, chunk: int = 1) -> Tensor:
    """One sample of the VAE's posterior per image, unscaled float32 (B, 4, h/8, w/8), on the VAE's device.

    ``pixels`` is (B, 3, h, w) in -1 … 1; ``generators`` has one per image, on the CPU. Raises RunFailed when the VAE
    overflows, as SDXL's does in fp16.
    """
    parts: list[Tensor] = []
    for start in range(0, len(pixels), chunk):
        mean, std = _posterior(vae, pixels[start : start + chunk])
        parts.append(_sample(mean, std, generators[start : start + chunk]))
    return torch.cat(parts)


def _posterior(vae: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (B, 4, h/8, w/8) of what the VAE takes images for, float32."""
    parameter = next(vae.parameters())
    with torch.no_grad():
        posterior = vae.encode(pixels.to(parameter.device, parameter.dtype)).latent_dist
        return posterior.mean.float(), posterior.std.float()


def _sample(mean: Tensor, std: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    noise = torch.stack([torch.randn(mean.shape[1:], generator=generator) for generator in generators])
    latents = mean + std * noise.to(mean.device)
    if not torch.isfinite(latents).all():
        raise RunFailed(
            "the VAE gave NaN or infinite latents",
            why="SDXL's own VAE overflows in fp16",
            todo="set --no_half_vae, or give a VAE that is made for fp16",
        )
    return latents


def fill(
    stores: Mapping[int, LatentStore],
    jobs: Sequence[CacheJob],
    vae: Any,
    *,
    chunk: int,
    advance: Callable[[int], None],
) -> None:
    """Encode ``jobs`` and keep them in the store of each seed, images of one size together.

    ``advance`` is told how many are done after each chunk.

    The sample of an image depends on the seed and the image's file name, not on order or process; on disk, where trainings of
    other seeds read it too, on the name alone. However many seeds there are, an image is read and encoded once.
    """
    by_size: dict[tuple[int, int], list[CacheJob]] = {}
    for job in jobs:
        by_size.setdefault(job.record.bucket, []).append(job)
    done = 0
    for members in by_size.values():
        for start in range(0, len(members), chunk):
            part = members[start : start + chunk]
            plain = _encode_jobs(vae, part, stores, flipped=False)
            mirrored = _encode_jobs(vae, part, stores, flipped=True) if any(job.flip for job in part) else None
            for seed, store in stores.items():
                for index, job in enumerate(part):
                    flipped = mirrored[seed][index] if mirrored is not None and job.flip else None
                    store.put(job, plain[seed][index], flipped)
            done += len(part)
            advance(done)


def _encode_jobs(
    vae: Any, jobs: Sequence[CacheJob], stores: Mapping[int, LatentStore], *, flipped: bool
) -> dict[int, Tensor]:
    """The latents of images of one size, by seed."""
    pixels = torch.stack([read_pixels(job.record, job.settings, flipped=flipped) for job in jobs])
    mean, std = _posterior(vae, pixels)
    found: dict[int, Tensor] = {}
    for seed, store in stores.items():
        drawn = 0 if store.to_disk else seed
        generators = [torch_generator(drawn, "latent", job.record.path.name, int(flipped)) for job in jobs]
        found[seed] = _sample(mean, std, generators).cpu()
    return found


def latent_path(record: ImageRecord) -> Path:
    """The trainer's name of an SDXL latent file: stem and original size."""
    return record.path.with_name(f"{record.path.stem}_{record.width:04d}x{record.height:04d}_sdxl.npz")


def file_identity(path: Path) -> str:
    """Name, size and time of change: the same for a file that nobody touched."""
    status = path.stat()
    return f"{path.name}:{status.st_size}:{status.st_mtime_ns}"


def read_npz(path: Path) -> dict[str, np.ndarray[Any, Any]] | None:
    """The arrays of a file; None when it is missing or damaged."""
    try:
        # Opened here: numpy leaves a damaged file open
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return None


def write_npz(path: Path, content: dict[str, np.ndarray[Any, Any]]) -> None:
    """Write arrays whole or not at all; DiskError when the folder of the images cannot be written."""
    buffer = io.BytesIO()
    np.savez(buffer, **content)  # type: ignore[arg-type]
    try:
        # Through a link: lorakit hands over links to where the caches are kept.
        atomic.write_bytes(Path(os.path.realpath(path)), buffer.getvalue())
    except OSError as error:
        raise DiskError(
            f"the cache file {path} cannot be written",
            why=error.strerror or str(error),
            todo="make room or give write permission, or cache in memory (without …_to_disk)",
        ) from error
