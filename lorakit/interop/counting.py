"""What each trainer would have made of a dataset: which files it counts, how it rounds, and what really runs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

from lorakit.dataset.blueprint import DatasetSpec
from lorakit.dataset.buckets import Bucketer
from lorakit.dataset.files import UnreadableImage, image_size, is_image_name
from lorakit.errors import UsageError
from lorakit.plan import Plan
from lorakit.plan.from_preset import dataset_defaults
from lorakit.preset.models import Preset
from lorakit.preset.units import format_number

__all__ = ["DIALECTS", "Dialect", "Row", "chosen", "half_even", "table"]

_PICTURES: Final = ("png", "jpg", "jpeg", "webp", "bmp")


def half_even(value: Fraction) -> int:
    """To the nearest whole number, a half to the even one: what PowerShell's [int] and Python's round do."""
    return round(value)


@dataclass(frozen=True)
class Facts:
    """What all rows are made from: the dataset as sd-scripts reads it, and the recipe as it is typed into each trainer."""

    plan: Plan
    preset: Preset
    folders: tuple[tuple[Path, int], ...]
    reg_folders: tuple[tuple[Path, int], ...]
    sizes: Mapping[Path, tuple[int, int]]

    @property
    def epochs(self) -> int:
        return self.preset.length.epochs or 1

    @property
    def batch(self) -> int:
        return self.preset.length.batch_size

    @property
    def accumulation(self) -> int:
        return self.preset.length.gradient_accumulation

    @property
    def ratio(self) -> Fraction | None:
        """The warmup as a share, exactly as it is spelled; None where it is steps."""
        share = self.preset.optim.warmup.ratio
        return None if share is None else Fraction(repr(share))

    @property
    def has_reg(self) -> bool:
        return self.preset.dataset.reg_path is not None


@dataclass(frozen=True)
class Row:
    """One trainer's numbers. ``steps`` is what it computes, None where it computes none; ``runs`` what is trained."""

    name: str
    title: str
    images: int
    items: int
    steps: int | None
    warmup: int
    warmup_told: str
    runs: int
    runs_epochs: float
    unet: float
    te: float
    causes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As ``lorakit plan --as … --json`` prints it; rates are those of a weight, rate × alpha / dim."""
        return asdict(self)


@dataclass(frozen=True)
class Dialect:
    """One trainer's way to count. ``counts`` tells a file by its name; ``steps`` makes steps of an epoch's items.

    ``passes``: what it hands to sd-scripts, which then counts again where that is "epochs".
    """

    name: str
    title: str
    suffixes: tuple[str, ...]
    steps: Callable[[Facts, int, Mapping[tuple[int, int], int]], int | None]
    warmup: Callable[[Facts, int], tuple[int, str]]
    passes: str
    recursive: bool = False
    case: str = "blind"
    zero_te_trains: bool = False
    counts_reg: bool = False
    cause: str = ""

    def counts(self, name: str) -> bool:
        """Whether a file of this name is an image to it."""
        suffix = os.path.splitext(name)[1].lstrip(".")
        if self.case == "sd-scripts":
            return is_image_name(name)
        return (suffix if self.case == "exact" else suffix.lower()) in self.suffixes


def _estimate(facts: Facts, items: int) -> Fraction:
    return Fraction(items * facts.epochs, facts.batch)


def _half_even_steps(facts: Facts, items: int, _: Mapping[tuple[int, int], int]) -> int:
    return half_even(_estimate(facts, items))


def _anon_steps(facts: Facts, items: int, _: Mapping[tuple[int, int], int]) -> int:
    return half_even(_estimate(facts, items) * (2 if facts.has_reg else 1))


def _floor_steps(facts: Facts, items: int, _: Mapping[tuple[int, int], int]) -> int:
    return int(_estimate(facts, items))


def _ceil_steps(facts: Facts, items: int, _: Mapping[tuple[int, int], int]) -> int:
    return -int(-_estimate(facts, items) // 1)


def _gui_steps(facts: Facts, items: int, _: Mapping[tuple[int, int], int]) -> int:
    return -int(-_estimate(facts, items) / facts.accumulation * (2 if facts.has_reg else 1) // 1)


def _bucket_steps(facts: Facts, _: int, buckets: Mapping[tuple[int, int], int]) -> int:
    batches = sum(-(-count // facts.batch) for count in buckets.values())
    return -(-batches // facts.accumulation) * facts.epochs


def _whole_batches(facts: Facts, _: int, buckets: Mapping[tuple[int, int], int]) -> int:
    batches = sum(count // facts.batch for count in buckets.values())
    return batches * facts.epochs // facts.accumulation


def _none(_facts: Facts, _items: int, _buckets: Mapping[tuple[int, int], int]) -> int | None:
    return None


def _rounded(facts: Facts, steps: int) -> tuple[int, str]:
    return _warm(facts, steps, half_even)


def _cut(facts: Facts, steps: int) -> tuple[int, str]:
    return _warm(facts, steps, int)


def _percent(facts: Facts, steps: int) -> tuple[int, str]:
    """Whole percents, of which steps are rounded."""
    ratio = facts.ratio
    if ratio is None:
        return facts.plan.warmup_steps, ""
    return half_even(Fraction(int(ratio * 100) * steps, 100)), ""


def _as_ratio(facts: Facts, steps: int) -> tuple[int, str]:
    found, _ = _warm(facts, steps, int)
    return found, "" if facts.ratio is None else f"ratio {format_number(float(facts.ratio))}"


def _warm(facts: Facts, steps: int, rounding: Callable[[Fraction], int]) -> tuple[int, str]:
    return (facts.plan.warmup_steps, "") if facts.ratio is None else (rounding(facts.ratio * steps), "")


DIALECTS: Final[tuple[Dialect, ...]] = (
    Dialect(
        "legacy-ps1", "legacy PowerShell scripts", ("png", "bmp", "gif", "jpg", "jpeg", "webp"), _half_even_steps, _rounded,
        "steps", recursive=True, cause="passes its own steps, so sd-scripts trains more or fewer epochs",
    ),
    Dialect(
        "anon-1337", "anon-1337 v1.13", ("jpg", "png", "webp"), _anon_steps, _rounded, "epochs", cause="passes epochs; the warmup is a share of its own estimate, rounded half to even",
    ),
    Dialect(
        "easy-training-2023", "LoRA_Easy_Training_Scripts, Feb 2023", ("png", "bmp", "gif", "jpeg", "jpg", "webp"), _floor_steps,
        _cut, "epochs", zero_te_trains=True, cause="passes epochs; the warmup is a share of its own estimate, rounded down",
    ),
    Dialect(
        "easy-training", "LoRA_Easy_Training_Scripts", _PICTURES, _bucket_steps, _rounded, "epochs", case="exact",
        zero_te_trains=True, counts_reg=True, cause="passes epochs; counts buckets, but lower-case suffixes alone; the warmup is rounded half to even",
    ),
    Dialect(
        "kohya-gui-2023", "kohya_ss, Feb 2023", ("jpg", "jpeg", "png", "webp"), _ceil_steps, _percent, "steps", case="exact",
        cause="passes its own steps, rounded up, from lower-case suffixes without .bmp",
    ),
    Dialect(
        "kohya-gui", "kohya_ss v26, max_train_steps 0", ("jpg", "jpeg", "png", "webp"), _gui_steps, _as_ratio, "steps",
        cause="passes its own steps, which know of no buckets",
    ),
    Dialect(
        "kohya-gui-untouched", "kohya_ss v26 as it opens", ("jpg", "jpeg", "png", "webp"), _none, _as_ratio, "1600",
        cause="max_train_steps 1600 in its box beats the epochs",
    ),
    Dialect("sd-scripts", "sd-scripts", _PICTURES, _bucket_steps, _cut, "epochs", case="sd-scripts"),
    Dialect(
        "onetrainer", "OneTrainer (approximate)", (*_PICTURES, "tif", "tiff", "avif"), _whole_batches, _cut, "itself",
        cause="approximate: drops the short batch of every bucket, and its buckets are its own (these are sd-scripts'); repeats and sub-folders are said in its concepts.json, which is not read",
    ),
)  # fmt: skip


def chosen(names: str) -> tuple[Dialect, ...]:
    """The trainers of a list such as ``kohya-gui,easy-training``; ``all`` is every one. Raises UsageError."""
    known = {dialect.name: dialect for dialect in DIALECTS}
    asked = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in asked if name not in known and name != "all"]
    if unknown or not asked:
        raise UsageError(
            f"{', '.join(unknown) or 'nothing'} is no trainer to compare with", todo=f"one of all, {', '.join(known)}"
        )
    wanted = dict.fromkeys(known if "all" in asked else asked)
    return tuple(known[name] for name in wanted)


def table(preset: Preset, plan: Plan, dialects: Sequence[Dialect]) -> tuple[Row, ...]:
    """A row for each trainer, with the causes of what differs. Raises UsageError where the dataset is no folders."""
    if preset.dataset.config is not None:
        raise UsageError(
            "plan --as compares how folders are counted, and this preset has a dataset TOML", todo="set dataset.path"
        )
    folders, reg = (
        tuple((folder.path, folder.repeats) for folder in plan.folders if folder.is_reg is side)
        for side in (False, True)
    )
    records = [one for dataset in plan.data.datasets for one in (*dataset.train, *dataset.validation) if not one.is_reg]
    sizes = {Path(record.path): record.bucket for record in records}
    facts = Facts(plan, preset, folders, reg, sizes)
    return tuple(_row(facts, dialect) for dialect in dialects)


def _row(facts: Facts, dialect: Dialect) -> Row:
    found = [pair for folder, repeats in facts.folders for pair in _files(folder, dialect, repeats)]
    reg = [pair for folder, repeats in facts.reg_folders for pair in _files(folder, dialect, repeats)]
    items = sum(repeats for _, repeats in found)
    buckets: Counter[tuple[int, int]] = Counter()
    for path, repeats in (*found, *(reg if dialect.counts_reg else ())):
        buckets[facts.sizes.get(path) or _bucket(facts, path)] += repeats
    real = facts.plan.counts
    if facts.preset.length.epochs is None and dialect.passes != "1600":
        steps: int | None = facts.plan.total_steps  # steps were asked for: nobody counts
        runs = facts.plan.total_steps
    else:
        steps = dialect.steps(facts, items, buckets)
        passed = {"epochs": real.updates_per_epoch * facts.epochs, "1600": 1600}
        runs = passed.get(dialect.passes, steps or 0)
    if dialect.name == "sd-scripts":
        steps = runs
    warmup, told = dialect.warmup(facts, steps if steps is not None else runs)
    per_epoch = max(1, (steps or 1) / facts.epochs) if dialect.passes == "itself" else real.updates_per_epoch
    unet, te, rate_causes = _rates(facts, dialect)
    return Row(
        dialect.name, dialect.title, len(found), items, steps, warmup, told, runs, round(runs / per_epoch, 1), unet, te,
        (*_file_causes(facts, found), *((dialect.cause,) if dialect.cause else ()), *rate_causes),
    )  # fmt: skip


def _files(folder: Path, dialect: Dialect, repeats: int) -> Iterable[tuple[Path, int]]:
    for base, folders, names in os.walk(folder):
        if not dialect.recursive:
            folders.clear()
        folders.sort()
        for name in sorted(names):
            if dialect.counts(name):
                yield Path(base) / name, repeats


def _bucket(facts: Facts, path: Path) -> tuple[int, int]:
    """The bucket of a picture that sd-scripts passes over."""
    defaults = dataset_defaults(facts.preset)
    spec = DatasetSpec(
        (), defaults.resolution or (1024, 1024), enable_bucket=defaults.enable_bucket, min_bucket_reso=defaults.min_bucket_reso,
        max_bucket_reso=defaults.max_bucket_reso, bucket_reso_steps=defaults.bucket_reso_steps,
        bucket_no_upscale=defaults.bucket_no_upscale,
    )  # fmt: skip
    try:
        return Bucketer(spec.bucket_settings).assign(*image_size(str(path))).bucket
    except UnreadableImage:
        return (0, 0)


def _file_causes(facts: Facts, found: Sequence[tuple[Path, int]]) -> list[str]:
    """Which files are counted that sd-scripts does not see, and the other way round."""
    mine = {path for path, _ in found}
    real = set(facts.sizes)
    causes = []
    for verb, paths in (("counts", mine - real), ("does not see", real - mine)):
        groups: Counter[str] = Counter()
        homes = {folder for folder, _ in facts.folders}
        for path in paths:
            groups["in sub-folders" if path.parent not in homes else path.suffix] += 1
        if groups:
            told = ", ".join(f"{count} {what}" for what, count in sorted(groups.items()))
            causes.append(f"{verb} {told}")
    return causes


def _rates(facts: Facts, dialect: Dialect) -> tuple[float, float, list[str]]:
    """What a weight learns with: rate × alpha / dim, as each trainer would apply the same numbers."""
    optim, network = facts.preset.optim, facts.preset.network
    scale = network.alpha.of(network.dim) / network.dim
    te, causes = optim.te_lr.te1, []
    if optim.te_lr.is_pair:
        causes.append("has one box for both text encoders: TE1's rate is taken" if dialect.name != "sd-scripts" else
                      "without the probe gives both text encoders the first rate")  # fmt: skip
    if dialect.zero_te_trains and te == 0 and optim.unet_lr:
        te = optim.unet_lr
        causes.append("drops a text encoder rate of 0: they train at learning_rate")
    return optim.unet_lr * scale, te * scale, causes
