"""The dataset of a training: scanned by the same code as the plan, and checked for what this trainer cannot do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lorakit.dataset.blueprint import Blueprint, SubsetSpec, from_folders, from_toml
from lorakit.dataset.scan import ScannedData, scan
from lorakit.errors import Problem, TrainerError
from lorakit.trainers.builtin.monitor import Monitor
from lorakit.trainers.builtin.options import CacheOptions, TrainOptions

__all__ = ["read_dataset", "refuse_unsupported"]


def read_dataset(options: TrainOptions, monitor: Monitor) -> ScannedData:
    """Find and measure all images. Needs no torch.

    Raises DatasetError for data that cannot be trained on and TrainerError for settings that are not implemented.
    """
    data = options.data
    if data.dataset_config is not None:
        blueprint = from_toml(data.dataset_config, data.defaults)
    else:
        blueprint = from_folders(Path(data.train_data_dir or ""), data.reg_data_dir, data.defaults)
    refuse_unsupported(blueprint, options.cache)
    monitor.phase("scan")
    scanned = scan(blueprint, progress=lambda done, total: monitor.phase("scan", done, total))
    for warning in scanned.warnings:
        monitor.warn(warning)
    return scanned


def refuse_unsupported(blueprint: Blueprint, cache: CacheOptions) -> None:
    """Raise TrainerError naming everything in ``blueprint`` (a dataset TOML may ask for more than the command line)."""
    problems = tuple(
        problem for dataset in blueprint.datasets for subset in dataset.subsets for problem in _problems(subset, cache)
    )
    if problems:
        raise TrainerError(
            "the built-in trainer refuses the dataset's settings: " + ", ".join(dict.fromkeys(p.key for p in problems)),
            why="; ".join(problem.what for problem in problems),
            todo="leave these settings out, or train with sd-scripts",
            problems=problems,
        )


def _problems(subset: SubsetSpec, cache: CacheOptions) -> Iterator[Problem]:
    where = str(subset.image_dir or subset.metadata_file)
    for name in ("metadata_file", "conditioning_data_dir", "face_crop_aug_range", "alpha_mask", "cache_info"):
        if getattr(subset, name):
            yield Problem(f"{name} is not implemented ({where})", key=name)
    if subset.custom_attributes:
        yield Problem(f"custom_attributes are not implemented ({where})", key="custom_attributes")
    if cache.cache_latents:
        for name in ("color_aug", "random_crop"):
            if getattr(subset, name):
                yield Problem(f"{name} with cache_latents ({where})", key=name)
    if cache.cache_text_encoder_outputs:
        for name in ("shuffle_caption", "caption_dropout_rate", "caption_tag_dropout_rate", "token_warmup_step"):
            if getattr(subset, name):
                yield Problem(f"{name} with cache_text_encoder_outputs ({where})", key=name)
