"""What makes a trial the same as an earlier one.

A trial is the same as an earlier one when all of this is: the command line that its preset comes to, but for names and the
places of files (and for the seed, if lorakit drew it); pictures, captions and their repeats; base model, VAE, starting
weights, dataset TOML and sample prompts, by what is in them; the number of processes; and the trainer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorakit.errors import DiskError

if TYPE_CHECKING:
    from lorakit.archive.hashing import FileHash, HashCache
    from lorakit.dataset.scan import ImageRecord, ScannedData
    from lorakit.preset.models import Preset
    from lorakit.preset.rules import TrainerKind
    from lorakit.workspace import Workspace

__all__ = ["Identifier"]


class Identifier:
    """Tells trials apart. What they share (pictures, models) is read once, however many trials there are."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._cache: HashCache | None = None
        self._images: dict[int, tuple[ScannedData, str]] = {}
        self._contents_of: dict[int, tuple[ScannedData, str]] = {}
        self._hashes: dict[tuple[Path, ...], tuple[str, ...]] = {}

    def identify(self, preset: Preset, data: ScannedData, trainer: TrainerKind) -> str:
        """The sha256 of everything that makes a trial what it is; a preset without a seed is any seed's.

        Values count as the command line says them: a preset may say them in other words, or not at all. Raises DiskError
        for a file that cannot be read.
        """
        record = {
            "command": _command(preset, trainer),
            "seed": preset.seed,
            "processes": preset.launch.processes,
            "probe": preset.trainer.probe,
            "files": {key: self._contents(paths) for key, paths in self._files(preset).items()},
            "images": self._pictures(data),
            "trainer": trainer,
        }
        if preset.length.spikes:  # only where it is asked for: trials of before stay what they were
            record["spikes"] = preset.length.spikes
        return hashlib.sha256(json.dumps(record, sort_keys=True).encode("utf-8", "surrogateescape")).hexdigest()

    def contents(self, preset: Preset, data: ScannedData) -> dict[str, str]:
        """A digest of everything that a trial reads: ``images`` (with captions and repeats) and the files of keys such as base.model.

        Which images are held out for validation does not count: that is the seed's doing.
        """
        files = {key: self._contents(paths) for key, paths in self._files(preset).items()}
        told = {key: hashlib.sha256(" ".join(found).encode()).hexdigest() for key, found in files.items()}
        return {**told, "images": self._read(data)}

    def _read(self, data: ScannedData) -> str:
        if id(data) not in self._contents_of:
            images = {image.path: image for dataset in data.datasets for image in (*dataset.train, *dataset.validation)}
            captions = [image.caption_path for image in images.values() if image.caption_path is not None]
            hashes = self._hash((*map(Path, images), *map(Path, captions)))
            repeats = [subset.num_repeats for dataset in data.datasets for subset in dataset.spec.subsets]
            told = sorted([*found[:3], found[4]] for found in (_fingerprint(one, hashes) for one in images.values()))
            digest = hashlib.sha256(json.dumps([repeats, told]).encode("utf-8", "surrogateescape")).hexdigest()
            self._contents_of[id(data)] = (data, digest)
        return self._contents_of[id(data)][1]

    def _files(self, preset: Preset) -> dict[str, tuple[Path, ...]]:
        from lorakit.bake.checks import model_files

        asked = {"dataset.config": preset.dataset.config, "sample.prompts": preset.sample.prompts}
        named = {key: (self._workspace.resolve(path),) for key, path in asked.items() if path}
        return {**named, **model_files(preset, self._workspace)}

    def _contents(self, paths: tuple[Path, ...]) -> tuple[str, ...]:
        if paths not in self._hashes:
            found = self._hash(paths)
            self._hashes[paths] = tuple(found[path].sha256 for path in paths)
        return self._hashes[paths]

    def _pictures(self, data: ScannedData) -> str:
        if id(data) not in self._images:
            images = [image for dataset in data.datasets for image in (*dataset.train, *dataset.validation)]
            captions = [image.caption_path for image in images if image.caption_path is not None]
            hashes = self._hash(tuple(map(Path, (*(image.path for image in images), *captions))))
            told = json.dumps(sorted(_fingerprint(image, hashes) for image in images))
            digest = hashlib.sha256(told.encode("utf-8", "surrogateescape")).hexdigest()
            self._images[id(data)] = (data, digest)  # with the data itself, so that its id stays its own
        return self._images[id(data)][1]

    def _hash(self, paths: tuple[Path, ...]) -> dict[Path, FileHash]:
        from lorakit.archive.hashing import HashCache, hash_files

        self._cache = self._cache or HashCache(self._workspace.private / "hashes.sqlite")
        try:
            return hash_files(paths, cache=self._cache)
        except OSError as error:
            raise DiskError(f"{error.filename} cannot be read", why=error.strerror or str(error)) from error


def _command(preset: Preset, trainer: TrainerKind) -> tuple[str, ...]:
    """The trainer's arguments with nothing in them that only names: not the run, not where files lie."""
    from lorakit.trainers.render import RenderPaths, render

    base, dataset, network, sample = preset.base, preset.dataset, preset.network, preset.sample
    nameless = {
        "name": "trial",
        "seed": preset.seed or 0,
        "base": base.model_copy(update={"model": "model", "vae": _known(base.vae), "tokenizer_cache": None}),
        "dataset": dataset.model_copy(
            update={key: _known(getattr(dataset, key)) for key in ("path", "reg_path", "config")}
        ),
        "network": network.model_copy(update={"weights": _known(network.weights)}),
        "sample": sample.model_copy(update={"prompts": _known(sample.prompts)}),
    }
    nowhere = Path("/")
    return render(preset.model_copy(update=nameless), RenderPaths(nowhere, nowhere, nowhere), kind=trainer)


def _known(path: str | None) -> str | None:
    # That there is such a file counts, and what is in it; not where.
    return "known by its content" if path else None


def _fingerprint(image: ImageRecord, hashes: Mapping[Path, FileHash]) -> list[Any]:
    caption = "" if image.caption_path is None else hashes[Path(image.caption_path)].sha256
    return [hashes[Path(image.path)].sha256, caption, image.caption, image.repeats, image.is_reg]
