"""What was measured of a training, as plain data: all that rules look at, and nothing that they would have to fetch."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from functools import cache
from typing import Any

from lorakit.verdict.diagnose.thresholds import Scale

__all__ = [
    "PARTS",
    "CaptionFacts",
    "CheckpointFacts",
    "EmbeddingFacts",
    "Facts",
    "PartFacts",
    "PictureFacts",
    "Setup",
    "Unseen",
]

PARTS: Mapping[str, str] = types.MappingProxyType({"unet": "UNet", "te1": "TE1", "te2": "TE2"})


@dataclass(frozen=True)
class Setup:
    """What was asked for. Rates 0: that part was not trained; None: nobody knows.

    ``pair``: the two text encoders were given rates of their own. ``short_batches`` of ``batches_per_epoch`` were not full.
    ``goes_on``: the training started from a LoRA's weights.
    """

    unet_lr: float | None = None
    te1_lr: float | None = None
    te2_lr: float | None = None
    pair: bool = False
    schedule: str | None = None
    optimizer: str | None = None
    warmup_steps: int | None = None
    total_steps: int | None = None
    epochs: int | None = None
    dim: float | None = None
    alpha: float | None = None
    batch_size: int | None = None
    accumulation: int = 1
    processes: int = 1
    images: int | None = None
    batches_per_epoch: int | None = None
    short_batches: int | None = None
    min_snr_gamma: float | None = None
    noise_offset: float | None = None
    trainer: str | None = None
    probe: bool = True
    goes_on: bool = False

    def rate(self, part: str) -> float | None:
        """The rate of a part that was asked for."""
        return {"unet": self.unet_lr, "te1": self.te1_lr, "te2": self.te2_lr}[part]


@dataclass(frozen=True)
class PartFacts:
    """One part of a checkpoint: Frobenius norm of ΔW, its share of the square of all, and relative to the base's weights there.

    ``relative`` is None where the base model could not be looked at. ``dead`` of its ``modules`` are as they began, TE1's last layer, which SDXL never reads, not
    counted.
    """

    norm: float
    share: float
    modules: int
    dead: int
    relative: float | None = None


@dataclass(frozen=True)
class CheckpointFacts:
    """One checkpoint: its file, the step it was saved at (None: unknown) and its parts."""

    file: str
    step: int | None
    parts: Mapping[str, PartFacts]


@dataclass(frozen=True)
class EmbeddingFacts:
    """How alike the text encoders make the captions, with a checkpoint and without (mean pairwise cosine, by encoder)."""

    file: str
    captions: int
    similarity: Mapping[str, float]
    base: Mapping[str, float]

    @property
    def diversity(self) -> float:
        """1 − mean similarity over both encoders."""
        return 1 - sum(self.similarity.values()) / len(self.similarity)


@dataclass(frozen=True)
class CaptionFacts:
    """The captions of the images that train: how many, how many differ, and the most frequent one."""

    images: int
    distinct: int
    most_frequent: str = ""


@dataclass(frozen=True)
class PictureFacts:
    """One prompt's last sample: ``step``, correlation of pixels eight apart, spread of all (0 … 1).

    ``change`` is the mean change of its pixels (0 … 1) against the sample before the first step, None where there is none.
    """

    file: str
    step: int
    grain: float
    spread: float
    change: float | None = None


@dataclass(frozen=True)
class Unseen:
    """Something that could not be looked at, and why."""

    what: str
    why: str


@dataclass(frozen=True)
class Facts:
    """Everything known of one training. ``losses``: of each optimizer step, in order; ``validation``: (step, loss).

    ``grads``: median and largest gradient norm by part. ``rates``: peak and last rate by part, as the trainer told them.
    ``warnings``: lines the trainer gave. ``seen``: what a person says the pictures show. ``source``: the file of losses.
    """

    subject: str
    scale: Scale
    status: str = ""
    reason: str = ""
    message: str = ""
    setup: Setup = Setup()
    losses: tuple[float, ...] = ()
    first_step: int = 1
    nan_since: int | None = None
    validation: tuple[tuple[int, float], ...] = ()
    grads: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    rates: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    checkpoints: tuple[CheckpointFacts, ...] = ()
    embeddings: tuple[EmbeddingFacts, ...] = ()
    captions: CaptionFacts | None = None
    pictures: tuple[PictureFacts, ...] = ()
    seen: tuple[str, ...] = ()
    source: str = "attempts/01/progress.jsonl"
    unseen: tuple[Unseen, ...] = ()

    @property
    def last(self) -> CheckpointFacts | None:
        """The last checkpoint."""
        return self.checkpoints[-1] if self.checkpoints else None

    def part(self, part: str) -> PartFacts | None:
        """A part of the last checkpoint."""
        return None if self.last is None else self.last.parts.get(part)

    def trained(self, part: str) -> bool:
        """Whether a part was trained: by its rate, else by being in the file."""
        rate = self.setup.rate(part)
        return rate > 0 if rate is not None else self.part(part) is not None

    def to_json(self) -> dict[str, Any]:
        """Plain values; :meth:`from_json` reads them back."""
        return asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Facts:
        """Facts from plain values, as recorded."""
        found = _read(cls, plain)
        assert isinstance(found, cls)
        return found


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _read(kind: Any, value: Any) -> Any:
    """A value of a type hint from plain JSON: dataclasses, tuples, mappings and what may be None; anything else as it is."""
    if value is None:
        return None
    if is_dataclass(kind) and isinstance(kind, type):
        hints = _hints(kind)
        return kind(**{one.name: _read(hints[one.name], value[one.name]) for one in fields(kind) if one.name in value})
    arguments = typing.get_args(kind)
    origin = typing.get_origin(kind)
    if origin is tuple:
        inner = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        return tuple(_read(one, item) for one, item in zip(inner, value, strict=True))
    if origin is Mapping or origin is dict or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return {key: _read(arguments[1], item) for key, item in value.items()}
    if origin in (types.UnionType, typing.Union):
        return _read(next(one for one in arguments if one is not type(None)), value)
    return value
