"""What a run's progress file adds up to: steps, losses, speed, memory, saved files (stdlib only, one pass)."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lorakit import protocol
from lorakit.archive.shared import patient

if TYPE_CHECKING:
    from lorakit.archive.run import Run

__all__ = ["Progress", "Saved", "gpu_bytes", "progress_from_log", "read_attempts", "read_progress", "summarise"]


@dataclass(frozen=True)
class Saved:
    """A file the trainer says it wrote; ``kind`` is epoch, step, final or state."""

    step: int
    epoch: int
    path: str
    bytes: int
    kind: str


@dataclass(frozen=True)
class Progress:
    """The sum of one or several attempts' progress files.

    ``steps`` counts optimizer steps done, those before ``first_step`` included, where the trainer went on.
    ``loss_first`` and ``loss_last`` are the means over the first and last epoch that was read, each at least a tenth and at
    most half of the steps (a single step's loss is mostly noise, and an epoch has seen every picture), ``loss_average`` of all; a step
    that was trained twice counts as it was trained last. ``nan_since`` is the step from which on every loss was NaN or infinite.
    ``steps_per_second`` comes from the trainer's own clock; ``seconds`` is for how long the attempts are known to have gone on, by the
    keeper's word and the steps after it. Memory in bytes.
    """

    steps: int = 0
    total_steps: int | None = None
    first_step: int = 0
    epoch: int = 0
    epochs: int | None = None
    phase: str = ""
    phase_done: int | None = None
    phase_total: int | None = None
    loss_first: float | None = None
    loss_last: float | None = None
    loss_average: float | None = None
    validation: float | None = None
    nan_since: int | None = None
    steps_per_second: float | None = None
    seconds: float = 0.0
    lr: Mapping[str, float] = field(default_factory=dict)
    grad_norm: Mapping[str, float] = field(default_factory=dict)
    rss: int | None = None
    vram: int | None = None
    saved: tuple[Saved, ...] = ()
    samples: int = 0
    warnings: tuple[str, ...] = ()
    end_reason: str | None = None
    end_message: str = ""


def read_progress(path: Path) -> Progress:
    """The sum of one attempt's progress file; all zeros when there is none."""
    return summarise(patient(lambda: protocol.read(path)))


def read_attempts(run: Run, upto: int) -> Progress:
    """The sum of a run's attempts, from the first to this one: one training, whatever interrupted it.

    What an earlier attempt did after the step from which a later one went on counts no more: it was lost, and is trained again.
    """
    paths = [run.attempt(number).progress for number in range(1, upto + 1)]
    return summarise(*(patient(functools.partial(protocol.read, path)) for path in paths))


def summarise(*attempts: Iterable[Mapping[str, Any]]) -> Progress:
    """The sum of the protocol records of one or several attempts. Unknown types and keys of the wrong type are passed over."""
    total = _Sum()
    for records in attempts:
        total.begin()
        for record in records:
            total.add(record)
    return total.progress()


@dataclass(frozen=True)
class _Step:
    """What counts of one optimizer step; ``warm`` says that it is not the first of its attempt, which pays for warming up."""

    step: int
    epoch: int
    loss: float | None
    seconds: float | None
    warm: bool


@dataclass
class _Sum:
    """Adds records up in the order they come."""

    values: dict[str, Any] = field(default_factory=dict)
    steps: list[_Step] = field(default_factory=list)
    validations: list[tuple[int, float]] = field(default_factory=list)
    saved: list[Saved] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    samples: int = 0
    nan_since: int | None = None
    device: int | None = None
    warm: bool = False
    seconds: float = 0.0
    since_told: float = 0.0
    told_before: float = 0.0

    def begin(self) -> None:
        """A further attempt: how the one before ended is no matter."""
        self.warm, self.nan_since = False, None
        self.seconds, self.since_told = self.seconds + self.since_told, 0.0
        for name in ("end_reason", "end_message", "phase", "phase_done", "phase_total"):
            self.values.pop(name, None)
        self.told_before = self.seconds

    def add(self, record: Mapping[str, Any]) -> None:
        """Take one record into account."""
        match record.get("type"):
            case "step":
                self._step(record)
            case "start":
                self._start(record)
            case "phase":
                self.values.update(phase=str(record.get("name", "")), phase_done=None, phase_total=None)
                _keep(self.values, record, done="phase_done", total="phase_total")
            case "save":
                self._save(record)
            case "memory":
                self._memory(record)
            case "sample":
                self.samples += 1
            case "validation":
                if (loss := _float(record.get("loss"))) is not None:
                    self.validations.append((_int(record.get("step")), loss))
            case "warn":
                self.warnings.append(str(record.get("message", "")))
            case "end":
                self.values["end_reason"] = str(record.get("reason", ""))
                self.values["end_message"] = str(record.get("message") or "")
                _keep(self.values, record, steps="steps")

    def _start(self, record: Mapping[str, Any]) -> None:
        """Where this attempt begins: what was done beyond that is done again."""
        _keep(self.values, record, total_steps="total_steps", epochs="epochs", first_step="first_step")
        first = _int(record.get("first_step"))
        self.steps = [one for one in self.steps if one.step <= first]
        self.validations = [one for one in self.validations if one[0] <= first]
        self.values["steps"] = first
        if self.steps:
            self.values["epoch"] = self.steps[-1].epoch

    def _step(self, record: Mapping[str, Any]) -> None:
        loss, seconds = record.get("loss"), _float(record.get("seconds"))
        if isinstance(loss, str):  # the writer's way to say nan or inf
            self.nan_since = _int(record.get("step")) if self.nan_since is None else self.nan_since
        elif _float(loss) is not None:
            self.nan_since = None
        step, epoch = _int(record.get("step")), _int(record.get("epoch"))
        self.steps.append(_Step(step, epoch, _float(loss), seconds, self.warm))
        self.warm = True
        self.since_told += seconds or 0.0
        _keep(self.values, record, step="steps", epoch="epoch")
        for name in ("lr", "grad_norm"):
            if isinstance(parts := record.get(name), dict):
                self.values[name] = {part: rate for part, rate in parts.items() if isinstance(rate, (int, float))}
        for name in ("rss", "vram"):
            self._peak(name, record.get(name))
        self.values.update(phase="train", phase_done=None, phase_total=None)

    def _save(self, record: Mapping[str, Any]) -> None:
        path, kind = str(record.get("path", "")), str(record.get("kind", ""))
        one = Saved(_int(record.get("step")), _int(record.get("epoch")), path, _int(record.get("bytes")), kind)
        self.saved.append(one)

    def _memory(self, record: Mapping[str, Any]) -> None:
        self._peak("rss", record.get("rss"))
        if (used := gpu_bytes(record)) is not None:
            self.device = max(used, self.device or 0)
        if (elapsed := _float(record.get("elapsed"))) is not None:
            self.seconds, self.since_told = self.told_before + elapsed, 0.0

    def _peak(self, name: str, size: object) -> None:
        if isinstance(size, int):
            self.values[name] = max(size, self.values.get(name) or 0)

    def progress(self) -> Progress:
        """The sum so far."""
        if self.device is not None and not self.values.get("vram"):
            self.values["vram"] = self.device  # the trainer's own word counts more: it knows what is a cache
        with_loss = [one for one in self.steps if one.loss is not None]
        losses = [one.loss for one in with_loss if one.loss is not None]
        window = _window([one.epoch for one in with_loss])
        return Progress(
            **self.values,
            loss_first=_mean(losses[:window]),
            loss_last=_mean(losses[-window:]),
            loss_average=_mean(losses),
            validation=self.validations[-1][1] if self.validations else None,
            nan_since=self.nan_since,
            steps_per_second=_speed(self.steps),
            seconds=self.seconds + self.since_told,
            saved=tuple({(Path(one.path).name, one.kind): one for one in self.saved}.values()),
            samples=self.samples,
            warnings=tuple(self.warnings),
        )


def gpu_bytes(record: Mapping[str, Any]) -> int | None:
    """Bytes that a run has on all GPUs together, from a ``memory`` record; None where the driver does not tell."""
    cards = record.get("gpus")
    ours = [card.get("ours") for card in cards if isinstance(card, Mapping)] if isinstance(cards, list) else []
    known = [size for size in ours if isinstance(size, int)]
    return sum(known) if known else None


def _keep(values: dict[str, Any], record: Mapping[str, Any], **names: str) -> None:
    """Take whole numbers over under other names."""
    for key, name in names.items():
        if isinstance(value := record.get(key), int) and not isinstance(value, bool):
            values[name] = value


def _int(value: object) -> int:
    return value if isinstance(value, int) else 0


def _float(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def _window(epochs: list[int]) -> int:
    """How many steps count as the first and the last epoch, from the epoch of each step."""
    count = len(epochs)
    first = sum(epoch == epochs[0] for epoch in epochs) if len(set(epochs)) > 1 else 0
    return max(1, min(count // 2, max(first, math.ceil(count / 10))))


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _speed(steps: Iterable[_Step]) -> float | None:
    """Steps per second; the first step of an attempt pays for warming up and is left out when there are others."""
    timed = [one for one in steps if one.seconds is not None]
    counted = [one.seconds or 0.0 for one in timed if one.warm] or [one.seconds or 0.0 for one in timed]
    spent = sum(counted)
    return len(counted) / spent if spent > 0 else None


#: The bar of sd-scripts: ``steps:  33%|███▎      | 1/3 [00:00<00:00,  2.18it/s, avr_loss=1.13]``.
_BAR: Final = re.compile(
    r"(?<!validation )steps:\s+\d+%\|[^|]*\|\s+(\d+)/(\d+)\s+\[[^\]]*?(?:avr_loss=([\d.eE+-]+|nan))?\]"
)


def progress_from_log(text: str) -> Progress:
    """What can be told from the log of a trainer that does not speak the protocol: steps, total, average loss."""
    last: re.Match[str] | None = None
    loss: str | None = None
    for last in _BAR.finditer(text):
        loss = last.group(3) or loss
    if last is None:
        return Progress()
    average = None if loss is None or loss == "nan" else float(loss)
    return Progress(
        steps=int(last.group(1)),
        total_steps=int(last.group(2)),
        loss_average=average,
        nan_since=int(last.group(1)) if loss == "nan" else None,
    )
