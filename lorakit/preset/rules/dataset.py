"""LK031…: pictures, buckets, captions and the validation split."""

from __future__ import annotations

import math
from typing import Final

from lorakit.preset.models import Dataset, Preset
from lorakit.preset.rules.rule import Table, TrainerKind
from lorakit.preset.rules.trained import caches_latents

TABLE: Final = Table[TrainerKind]("Dataset")


def _sides(data: Dataset) -> tuple[int, int]:
    return data.resolution.width, data.resolution.height


def _bare(data: Dataset) -> bool:
    """Whether pictures come from folders: a dataset TOML has settings of its own, which planning looks at."""
    return data.config is None


def _buckets(data: Dataset) -> bool:
    return data.bucket and _bare(data)


def _differs(data: Dataset, *names: str) -> str:
    # A default of the models and a value that equals it are one and the same thing to the trainer.
    return ", ".join(name for name in names if getattr(data, name) != Dataset.model_fields[name].default)


@TABLE.error(
    "LK031", "dataset.bucket_step", "bucket sides that are no multiples of 32",
    why="SDXL halves a picture five times over; the trainer stops with an assertion",
    todo="set dataset.bucket_step to 64 (or 32)",
)  # fmt: skip
def _bucket_step_fits_the_model(preset: Preset, _: TrainerKind) -> bool:
    return _buckets(preset.dataset) and preset.dataset.bucket_step % 32 != 0


@TABLE.error(
    "LK032", "dataset.bucket_min", "the shortest bucket side is longer than a side of the resolution",
    why="the resolution itself would be no bucket; the trainer stops with an assertion",
    todo="lower dataset.bucket_min, or raise dataset.resolution",
)  # fmt: skip
def _bucket_min_within_resolution(preset: Preset, _: TrainerKind) -> bool | str:
    data = preset.dataset
    lowest = data.bucket_min // data.bucket_step * data.bucket_step
    return f"{lowest} and {min(_sides(data))}" if _buckets(data) and lowest > min(_sides(data)) else False


@TABLE.error(
    "LK033", "dataset.bucket_max", "the longest bucket side is shorter than a side of the resolution",
    why="the resolution itself would be no bucket; the trainer stops with an assertion",
    todo="raise dataset.bucket_max (2048 suits 1024), or lower dataset.resolution",
)  # fmt: skip
def _bucket_max_beyond_resolution(preset: Preset, _: TrainerKind) -> bool | str:
    data = preset.dataset
    return (
        f"{_longest(data)} and {max(_sides(data))}" if _buckets(data) and _longest(data) < max(_sides(data)) else False
    )


@TABLE.warning(
    "LK034", "dataset.bucket_max", "bucket_max leaves no room for tall and wide pictures",
    why="a portrait or landscape has to be longer than the resolution to keep its area, and is shrunk where it may not be",
    todo="set dataset.bucket_max to about twice the resolution",
)  # fmt: skip
def _buckets_have_room(preset: Preset, _: TrainerKind) -> bool:
    data = preset.dataset
    room = max(_sides(data)) * 1.25
    return _buckets(data) and not data.bucket_no_upscale and max(_sides(data)) <= _longest(data) < room


@TABLE.warning(
    "LK035", "dataset.bucket_step", "bucket_min or bucket_max is no multiple of bucket_step",
    why="the trainer rounds the minimum down and the maximum up",
    todo="give multiples of dataset.bucket_step",
)  # fmt: skip
def _bucket_limits_are_steps(preset: Preset, _: TrainerKind) -> bool | str:
    data = preset.dataset
    odd = [name for name in ("bucket_min", "bucket_max") if getattr(data, name) % data.bucket_step]
    if data.bucket_min < data.bucket_step:
        return False  # LK040
    return _buckets(data) and not data.bucket_no_upscale and ", ".join(odd)


@TABLE.warning(
    "LK036", "dataset.bucket_no_upscale", "bucket_min and bucket_max do not count with bucket_no_upscale",
    why="every picture then makes a bucket of its own size, as small or as long as it is",
    todo="leave bucket_min and bucket_max out, or set dataset.bucket_no_upscale = false",
)  # fmt: skip
def _no_upscale_ignores_limits(preset: Preset, _: TrainerKind) -> bool | str:
    data = preset.dataset
    return _buckets(data) and data.bucket_no_upscale and _differs(data, "bucket_min", "bucket_max")


@TABLE.warning(
    "LK037", "dataset.bucket", "bucket settings without buckets",
    why="with dataset.bucket = false every picture is cropped to the resolution",
    todo="set dataset.bucket = true, or leave them out",
)  # fmt: skip
def _bucket_settings_need_buckets(preset: Preset, _: TrainerKind) -> bool | str:
    data = preset.dataset
    names = ("bucket_min", "bucket_max", "bucket_step", "bucket_no_upscale")
    return _bare(data) and not data.bucket and _differs(data, *names)


@TABLE.error(
    "LK038", "dataset.resolution", "a resolution without buckets whose sides are no multiples of 32",
    why="SDXL halves a picture five times over, so other sizes do not fit together again on the way up",
    todo="round the sides to multiples of 32, or set dataset.bucket = true",
)  # fmt: skip
def _bare_resolution_fits_the_model(preset: Preset, _: TrainerKind) -> bool:
    return _bare(preset.dataset) and not preset.dataset.bucket and any(side % 32 for side in _sides(preset.dataset))


@TABLE.warning(
    "LK039", "dataset.bucket", "neither buckets nor cached latents",
    why="pictures are then not resized: the training stops when it is the turn of one that is not of the resolution's size "
    "(with random_crop or face_crop_aug_range: of one that is smaller), which may be many steps later",
    todo="set dataset.bucket = true or memory.cache_latents = true, or have all pictures of the resolution's size",
)  # fmt: skip
def _sizes_must_fit_without_buckets(preset: Preset, _: TrainerKind) -> bool:
    return _bare(preset.dataset) and not preset.dataset.bucket and not caches_latents(preset)


@TABLE.error(
    "LK040", "dataset.bucket_min", "the shortest bucket side is shorter than a step",
    why="it is rounded down to a multiple of bucket_step, which is 0; the trainer stops at a division by zero",
    todo="set dataset.bucket_min to dataset.bucket_step or more",
)  # fmt: skip
def _bucket_min_is_a_step(preset: Preset, _: TrainerKind) -> bool:
    data = preset.dataset
    return _buckets(data) and not data.bucket_no_upscale and data.bucket_min < data.bucket_step


@TABLE.error(
    "LK042", "dataset.reg_path", "reg_path beside a dataset TOML",
    why="the trainer takes everything from the TOML and ignores reg_path",
    todo="put the pictures into the TOML as a subset with is_reg = true, or use dataset.path",
)  # fmt: skip
def _reg_path_needs_path(preset: Preset, _: TrainerKind) -> bool:
    return preset.dataset.reg_path is not None and preset.dataset.config is not None


@TABLE.error(
    "LK051", "dataset.face_crop_aug_range", "not a lower and an upper bound",
    why="the trainer reads two numbers, the second not below the first, and stops with an assertion otherwise",
    todo='write two numbers such as "2.0,4.0"',
)  # fmt: skip
def _face_crop_is_a_range(preset: Preset, _: TrainerKind) -> bool:
    text = preset.dataset.face_crop_aug_range
    if text is None:
        return False
    try:
        bounds = [float(part) for part in text.split(",")]
    except ValueError:
        return True
    return len(bounds) != 2 or not all(map(math.isfinite, bounds)) or bounds[0] > bounds[1]


@TABLE.warning(
    "LK052", "dataset.face_crop_aug_range", "crops around faces do not happen with buckets or cached latents",
    why="both need every picture to be cropped the same way each time",
    todo="leave dataset.face_crop_aug_range out, or turn dataset.bucket and memory.cache_latents off",
)  # fmt: skip
def _face_crop_is_inert(preset: Preset, _: TrainerKind) -> bool:
    data = preset.dataset
    return _bare(data) and data.face_crop_aug_range is not None and (data.bucket or caches_latents(preset))


@TABLE.warning(
    "LK053", "dataset.keep_tokens", "keep_tokens where no tag moves",
    why="it only counts with shuffle_caption, caption_tag_dropout_rate or token_warmup_step",
    todo="set dataset.shuffle_caption = true, or leave keep_tokens out",
)  # fmt: skip
def _keep_tokens_needs_moving_tags(preset: Preset, _: TrainerKind) -> bool:
    data = preset.dataset
    moving = data.shuffle_caption or data.caption_tag_dropout_rate > 0 or data.token_warmup_step > 0
    return data.keep_tokens > 0 and not moving and _bare(data)


@TABLE.warning(
    "LK054", "dataset.token_warmup_min", "token_warmup_min without token_warmup_step",
    why="all tags are in from the first step on",
    todo="set dataset.token_warmup_step, or leave token_warmup_min out",
)  # fmt: skip
def _token_warmup_needs_steps(preset: Preset, _: TrainerKind) -> bool:
    data = preset.dataset
    return data.token_warmup_step == 0 and bool(_differs(data, "token_warmup_min")) and _bare(data)


@TABLE.warning(
    "LK056", "dataset.caption_dropout_rate", "every caption is dropped",
    why="the model then only ever sees empty captions",
    todo="lower dataset.caption_dropout_rate (0.1 is much), or set caption_dropout_every_n_epochs above 1",
)  # fmt: skip
def _some_captions_are_kept(preset: Preset, _: TrainerKind) -> bool:
    data = preset.dataset
    return _bare(data) and (data.caption_dropout_rate == 1 or data.caption_dropout_every_n_epochs == 1)


@TABLE.error(
    "LK061", "dataset.persistent_workers", "persistent workers, but no workers",
    why="with dataset.workers = 0 the trainer loads pictures itself; torch stops after the model is loaded",
    todo="set dataset.workers to 1 or more, or dataset.persistent_workers = false",
)  # fmt: skip
def _persistence_needs_workers(preset: Preset, _: TrainerKind) -> bool:
    return preset.dataset.persistent_workers and preset.dataset.workers == 0


@TABLE.error(
    "LK071", "validation.split", "all pictures are held out",
    why="nothing is left to train on; the trainer ends at once and calls it success",
    todo="set validation.split to 0.1 or less",
)  # fmt: skip
def _split_leaves_pictures(preset: Preset, _: TrainerKind) -> bool:
    return preset.validation.split == 1


@TABLE.warning(
    "LK072", "validation.split", "validation settings without a split",
    why="no picture is held out, so there is nothing to validate with",
    todo="set validation.split, such as 0.1, or leave them out",
)  # fmt: skip
def _validation_needs_a_split(preset: Preset, _: TrainerKind) -> bool | str:
    validation = preset.validation
    names = ("seed", "every_n_epochs", "every_n_steps", "max_steps")
    given = ", ".join(name for name in names if getattr(validation, name) is not None)
    # A dataset TOML may hold the split.
    return validation.split == 0 and preset.dataset.config is None and given


def _longest(data: Dataset) -> int:
    return -(-data.bucket_max // data.bucket_step) * data.bucket_step
