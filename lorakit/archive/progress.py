"""What a run's progress file adds up to: steps, losses, speed, memory, saved files (stdlib only, one pass)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from lorakit import protocol

__all__ = ["Progress", "Saved", "gpu_bytes", "progress_from_log", "read_progress", "summarise"]


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
    """The sum of a progress file.

    ``steps`` counts optimizer steps done, those of earlier attempts included when the trainer went on from ``first_step``.
    ``loss_first`` and ``loss_last`` are the means over the first and last epoch of this attempt, each at least a tenth and at
    most half of its steps (a single step's loss is mostly noise, and an epoch has seen every picture), ``loss_average`` of all; ``nan_since`` is the step from which on every loss was NaN or infinite. ``steps_per_second`` comes from the trainer's own clock. Memory in bytes.
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
    """The sum of a progress file; all zeros when there is none."""
    return summarise(protocol.read(path))


def summarise(records: Iterable[Mapping[str, Any]]) -> Progress:
    """The sum of protocol records. Records of unknown type and keys of the wrong type are passed over."""
    losses: list[float] = []
    epochs: list[int] = []
    seconds: list[float] = []
    saved: list[Saved] = []
    warnings: list[str] = []
    values: dict[str, Any] = {}
    nan_since: int | None = None
    device: int | None = None
    samples = 0
    for record in records:
        kind = record.get("type")
        if kind == "step":
            loss = record.get("loss")
            if isinstance(loss, str):  # the writer's way to say nan or inf
                nan_since = _int(record.get("step")) if nan_since is None else nan_since
            elif isinstance(loss, (int, float)):
                losses.append(float(loss))
                epochs.append(_int(record.get("epoch")))
                nan_since = None
            _keep(values, record, step="steps", epoch="epoch")
            if isinstance(spent := record.get("seconds"), (int, float)):
                seconds.append(float(spent))
            for name in ("lr", "grad_norm"):
                if isinstance(parts := record.get(name), dict):
                    values[name] = {part: rate for part, rate in parts.items() if isinstance(rate, (int, float))}
            for name in ("rss", "vram"):
                if isinstance(size := record.get(name), int):
                    values[name] = max(size, values.get(name) or 0)
            values.update(phase="train", phase_done=None, phase_total=None)
        elif kind == "start":
            _keep(values, record, total_steps="total_steps", epochs="epochs", first_step="first_step")
            values.setdefault("steps", values.get("first_step", 0))
        elif kind == "phase":
            values.update(phase=str(record.get("name", "")), phase_done=None, phase_total=None)
            _keep(values, record, done="phase_done", total="phase_total")
        elif kind == "save":
            size = record.get("bytes")
            saved.append(
                Saved(
                    step=_int(record.get("step")),
                    epoch=_int(record.get("epoch")),
                    path=str(record.get("path", "")),
                    bytes=_int(size),
                    kind=str(record.get("kind", "")),
                )
            )
        elif kind == "memory":
            if isinstance(size := record.get("rss"), int):
                values["rss"] = max(size, values.get("rss") or 0)
            if (used := gpu_bytes(record)) is not None:
                device = max(used, device or 0)
        elif kind == "sample":
            samples += 1
        elif kind == "validation":
            if isinstance(measured := record.get("loss"), (int, float)):
                values["validation"] = float(measured)
        elif kind == "warn":
            warnings.append(str(record.get("message", "")))
        elif kind == "end":
            values["end_reason"] = str(record.get("reason", ""))
            values["end_message"] = str(record.get("message") or "")
            _keep(values, record, steps="steps")
    if device is not None and not values.get("vram"):  # the trainer's own word counts more: it knows what is a cache
        values["vram"] = device
    window = _window(epochs)
    return Progress(
        **values,
        loss_first=_mean(losses[:window]),
        loss_last=_mean(losses[-window:]),
        loss_average=_mean(losses),
        nan_since=nan_since,
        steps_per_second=_speed(seconds),
        saved=tuple(saved),
        samples=samples,
        warnings=tuple(warnings),
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


def _window(epochs: list[int]) -> int:
    """How many steps count as the first and the last epoch, from the epoch of each step."""
    count = len(epochs)
    first = sum(epoch == epochs[0] for epoch in epochs) if len(set(epochs)) > 1 else 0
    return max(1, min(count // 2, max(first, math.ceil(count / 10))))


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _speed(seconds: list[float]) -> float | None:
    """Steps per second; the first step pays for warming up and is left out when there are others."""
    counted = seconds[1:] or seconds
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
