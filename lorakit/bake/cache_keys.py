"""The keys of cached latents and text-encoder outputs: everything that decides what is in the files, and nothing else."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lorakit.dataset.caches import latent_name, text_name
from lorakit.errors import DatasetError

if TYPE_CHECKING:
    from lorakit.dataset.records import ImageRecord, ScannedData, ScannedDataset
    from lorakit.plan import Plan
    from lorakit.preset.models import Preset
    from lorakit.preset.rules import TrainerKind
    from lorakit.workspace import Workspace

__all__ = ["CacheSet", "Found", "cache_sets", "found_caches", "trainer_version"]

#: Raised when what is in the files changes its meaning.
_FORMAT: Final = 1
#: Hex digits of a key, and of a file's name in its entry.
_KEY, _NAME = 20, 40


@dataclass(frozen=True)
class CacheSet:
    """The cache of one kind ("latents" or "text") that a training needs.

    ``names`` has, for each dataset, the file in the entry that stands for a cache file beside an image.
    """

    kind: str
    key: str
    names: tuple[Mapping[Path, str], ...]

    def folder(self, root: Path) -> Path:
        """The entry's folder under the caches' root."""
        return root / self.kind / self.key

    @property
    def files(self) -> frozenset[str]:
        """Every file of the entry."""
        return frozenset(name for names in self.names for name in names.values())

    def links(self, root: Path, dataset: int) -> dict[Path, Path]:
        """Where the cache files beside the images of one dataset really lie."""
        return {beside: self.folder(root) / name for beside, name in self.names[dataset].items()}


def cache_sets(
    preset: Preset,
    data: ScannedData,
    *,
    kind: TrainerKind,
    version: str,
    sha256: Callable[[Path], str],
    models: Mapping[str, tuple[Path, ...]],
) -> tuple[CacheSet, ...]:
    """The caches on disk that ``preset`` asks for.

    ``sha256`` gives a file's content, ``models`` the files of the base model and the VAE by preset key; ``version`` is the
    trainer's, for another one may read pictures in another way. Raises DatasetError for images that lie elsewhere than in
    their subset's image_dir, whose caches could not be kept apart.
    """
    memory = preset.memory
    wanted: dict[str, Callable[[ScannedDataset], Iterator[tuple[Path, str]]]] = {}
    made_by = [_FORMAT, kind, version]
    if memory.cache_latents_to_disk:
        vae = [sha256(path) for path in models.get("base.vae") or models["base.model"]]
        latents = [*made_by, "latents", vae, _formats(preset, "mixed", "full", "no_half_vae")]
        wanted["latents"] = lambda dataset: _latents(dataset, latents, sha256)
    if memory.cache_text_encoder_outputs_to_disk:
        encoders = [sha256(path) for path in models["base.model"]]
        asked = preset.dataset
        text = [*made_by, "text", encoders, _formats(preset, "mixed", "full", "fp8_base"), preset.base.tokenizer_cache]
        text += [asked.max_token_length, asked.weighted_captions]
        wanted["text"] = lambda dataset: _texts(dataset, text)
    if wanted:
        _refuse_scattered(data)
    return tuple(_set(name, tuple(dict(files(one)) for one in data.datasets)) for name, files in wanted.items())


def _set(kind: str, names: tuple[dict[Path, str], ...]) -> CacheSet:
    files = sorted({name for one in names for name in one.values()})
    return CacheSet(kind, _digest(files, _KEY), names)


def _latents(dataset: ScannedDataset, shared: list[Any], sha256: Callable[[Path], str]) -> Iterator[tuple[Path, str]]:
    for image in (*dataset.train, *dataset.validation):
        subset = dataset.spec.subsets[image.subset_index]
        shape = [image.width, image.height, image.bucket, image.resized, image.crop_ltrb]
        pixels = [subset.flip_aug, subset.alpha_mask, subset.resize_interpolation or dataset.spec.resize_interpolation]
        yield latent_name(image), _digest([*shared, sha256(image.path), shape, pixels], _NAME) + ".npz"


def _texts(dataset: ScannedDataset, shared: list[Any]) -> Iterator[tuple[Path, str]]:
    for image in (*dataset.train, *dataset.validation):
        yield text_name(image), _digest([*shared, image.caption], _NAME) + ".npz"


def _formats(preset: Preset, *names: str) -> dict[str, Any]:
    return {name: getattr(preset.precision, name) for name in names}


def _digest(value: Any, length: int) -> str:
    return hashlib.sha256(json.dumps(value).encode("ascii")).hexdigest()[:length]


def _refuse_scattered(data: ScannedData) -> None:
    for dataset in data.datasets:
        for image in (*dataset.train, *dataset.validation):
            if not _in_own_folder(dataset, image):
                raise DatasetError(
                    f"{image.path} cannot have its latents or texts cached on disk",
                    why="its metadata file names it outside of image_dir, where a cache that may be stale cannot be kept from it",
                    todo="cache in memory (memory.cache_…_to_disk = false), or put the images right into image_dir",
                )


def _in_own_folder(dataset: ScannedDataset, image: ImageRecord) -> bool:
    folder = dataset.spec.subsets[image.subset_index].image_dir
    return folder is not None and image.path.parent == Path(os.path.abspath(folder))


def trainer_version(kind: TrainerKind, checkout: Path | None) -> str:
    """The version of a trainer, as far as its files tell: a commit or a release."""
    from lorakit._version import __version__
    from lorakit.trainers.sd_scripts.installed import head_of

    return __version__ if kind == "builtin" or checkout is None else head_of(checkout)


@dataclass(frozen=True)
class Found:
    """A cache that a bake would use: of ``files`` wanted, ``found`` were made by earlier runs.

    ``key`` is empty where it is not known: no run has read the model yet.
    """

    kind: str
    key: str
    files: int
    found: int


def found_caches(preset: Preset, plan: Plan, workspace: Workspace) -> tuple[Found, ...]:
    """What of a bake's caches is there already. Reads the images where there may be some; never a model file.

    Raises DatasetError as :func:`cache_sets` does, or when an image cannot be read.
    """
    from lorakit.archive.hashing import HashCache, hash_file
    from lorakit.bake.cache_store import cache_root, is_whole
    from lorakit.bake.checks import model_files
    from lorakit.errors import TrainerError
    from lorakit.trainers.choose import choose

    memory = preset.memory
    if not (memory.cache_latents_to_disk or memory.cache_text_encoder_outputs_to_disk):
        return ()
    try:
        choice = choose(preset, workspace)
    except TrainerError:
        return ()
    models = model_files(preset, workspace)
    known = HashCache(workspace.private / "hashes.sqlite")
    model_paths = {path for paths in models.values() for path in paths}
    unread = any(known.get(path) is None for path in model_paths)

    def sha256(path: Path) -> str:
        try:
            there = known.get(path)
            # A model that no run has read yet has no cache, and 7 GB need not be read to find that out.
            return there.sha256 if there else str(path) if unread else hash_file(path).sha256
        except OSError as error:
            raise DatasetError(f"{path} cannot be read", why=error.strerror or str(error)) from error

    version = trainer_version(choice.kind, choice.checkout)
    sets = cache_sets(preset, plan.data, kind=choice.kind, version=version, sha256=sha256, models=models)
    root = cache_root(workspace)
    return tuple(
        Found(one.kind, "", len(one.files), 0)
        if unread
        else Found(one.kind, one.key, len(one.files), sum(is_whole(one.folder(root) / name) for name in one.files))
        for one in sets
    )
