"""The curves of a training, whoever trained: loss, validation, rates and gradient norms by part, from progress or event files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeGuard

from lorakit import protocol
from lorakit.archive.run import Run
from lorakit.errors import LorakitError
from lorakit.evidence.events import Curve, event_files, joined, read_events

__all__ = ["Curves", "Series", "curves_of_logs", "curves_of_run", "last_gradients", "thinned"]

#: Bytes at the end of a progress file that hold its last steps, some two hundred.
_TAIL: Final = 64 << 10
#: What event files call things → what they are here. TE1 stands for both text encoders where there is one rate for them.
_TAGS: Final = {
    "loss/current": "loss",
    "loss/validation/step_average": "validation",
    "loss/validation/epoch_average": "validation",
    "lr/unet": "lr.unet",
    "lr/te1": "lr.te1",
    "lr/te2": "lr.te2",
    "lr/textencoder": "lr.te1",
    "norm/avg_grad_norm": "grad.all",
    "grad_norm/unet": "grad.unet",
    "grad_norm/te1": "grad.te1",
    "grad_norm/te2": "grad.te2",
}
#: Tags whose step is the number of an epoch.
_BY_EPOCH: Final = frozenset({"loss/validation/epoch_average"})


@dataclass(frozen=True)
class Series:
    """One curve: where (``steps``, ``epochs`` with fractions, ``seconds`` of training) and the ``values``; NaN where unknown."""

    steps: tuple[float, ...]
    epochs: tuple[float, ...]
    seconds: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Curves:
    """Curves by name (loss, validation, lr.unet, grad.te1, …), where they come from, and what could not be read of it."""

    series: Mapping[str, Series]
    source: str = ""
    complaint: str = ""


class _Point(NamedTuple):
    """A tuple, for there are thousands of each run."""

    name: str
    step: float
    epoch: float
    seconds: float
    value: float


def curves_of_run(run: Run) -> Curves:
    """From the progress files of all attempts; from the event files where no progress tells steps. Never raises for damage.

    Steps that a resumed attempt went over again count once, as they were last; time goes on where the attempt before ended.
    """
    points: dict[tuple[str, float], _Point] = {}
    elapsed = 0.0
    for number in range(1, run.last_attempt.number + 1):
        began = last = None
        for record in protocol.read(run.attempt(number).progress):
            kind, when = record.get("type"), record.get("t")
            if kind not in ("step", "validation") or not isinstance(when, (int, float)):
                continue
            began = when if began is None else began
            last = when
            for point in _points(record, elapsed + when - began):
                points[point.name, point.step] = point
        elapsed += last - began if began is not None and last is not None else 0.0
    if points:
        return Curves(_series(_with_epochs(points.values())), "progress.jsonl")
    return curves_of_logs([run.attempt(number).events for number in range(1, run.last_attempt.number + 1)])


def _points(record: Mapping[str, Any], seconds: float) -> Iterable[_Point]:
    step, epoch = record.get("step"), record.get("epoch")
    if not _number(step):
        return
    named = {"loss" if record["type"] == "step" else "validation": record.get("loss")}
    for key, name in (("lr", "lr"), ("grad_norm", "grad")):
        parts = record.get(key)
        named |= {f"{name}.{part}": value for part, value in parts.items()} if isinstance(parts, dict) else {}
    for name, value in named.items():
        if isinstance(value, str) and value in {"nan", "inf", "-inf"}:  # as the writer of the progress spells them
            value = math.nan  # noqa: PLW2901
        if _number(value):
            yield _Point(name, float(step), float(epoch) if _number(epoch) else math.nan, seconds, float(value))


def _number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _with_epochs(points: Iterable[_Point]) -> list[_Point]:
    """The number of an epoch as a place in it: step 7 of 14 in epoch 3 is at 2.5."""
    found = sorted(points, key=lambda point: point.step)
    ends: dict[float, float] = {}
    for point in found:
        if not math.isnan(point.epoch):
            ends[point.epoch] = max(point.step, ends.get(point.epoch, 0.0))
    before = {epoch: ends.get(epoch - 1, 0.0) for epoch in ends}
    lengths = [ends[epoch] - before[epoch] for epoch in ends]
    usual = max(lengths, default=0.0)

    def place(point: _Point) -> float:
        if math.isnan(point.epoch):
            return math.nan
        length = ends[point.epoch] - before[point.epoch]
        # A last epoch that is not over yet is as long as the others.
        length = usual if point.epoch == max(ends) and length < usual else length
        return point.epoch - 1 + (point.step - before[point.epoch]) / (length or 1.0)

    return [_Point(point.name, point.step, place(point), point.seconds, point.value) for point in found]


def _series(points: Iterable[_Point]) -> dict[str, Series]:
    by_name: dict[str, list[_Point]] = {}
    for point in points:
        by_name.setdefault(point.name, []).append(point)
    return {
        name: Series(*(tuple(getattr(point, key) for point in some) for key in ("step", "epoch", "seconds", "value")))
        for name, some in by_name.items()
    }


def curves_of_logs(folders: Sequence[Path]) -> Curves:
    """From all event files below folders, such as a kohya trainer's log folder. Never raises for damage: it is told."""
    paths = [path for folder in folders for path in event_files(folder)]
    complaints, read = [], []
    for path in paths:
        try:
            found = read_events(path)
        except LorakitError as error:
            complaints.append(f"{path.name}: {error}")
            continue
        read.append(found)
        if found.complaint:
            complaints.append(f"{path.name}: {found.complaint}")
        elif not found.points:
            complaints.append(f"{path.name}: no points")
    curves = joined(read).curves
    began = min((float(curve.times[0]) for curve in curves.values() if len(curve)), default=0.0)
    # One point for an epoch gives the length of epochs in steps; without it nobody knows.
    per_epoch = _steps_per_epoch(curves)
    series = {}
    for tag in sorted(curves, key=lambda tag: (tag not in _TAGS, tag == "lr/textencoder")):
        name = _TAGS.get(tag, tag)
        if name in series or tag == "loss/epoch_average":
            continue
        series[name] = _of_curve(curves[tag], began, per_epoch, by_epoch=tag in _BY_EPOCH)
    return Curves(series, "event files" if paths else "", "; ".join(complaints))


def _steps_per_epoch(curves: Mapping[str, Curve]) -> float:
    epochs, loss = curves.get("loss/epoch_average"), curves.get("loss/current")
    if epochs is None or loss is None or not len(epochs) or not len(loss):
        return math.nan
    last = float(epochs.steps.max())
    # Steps of the event file begin at 0.
    return (float(loss.steps.max()) + 1) / last if last > 0 else math.nan


def _of_curve(curve: Curve, began: float, per_epoch: float, *, by_epoch: bool) -> Series:
    import numpy as np

    steps = curve.steps.astype(np.float64)
    steps, epochs = (steps * per_epoch, steps) if by_epoch else (steps + 1, (steps + 1) / per_epoch)
    columns = (steps, epochs, curve.times - began, curve.values)
    return Series(*(tuple(column.tolist()) for column in columns))


def thinned(series: Series, most: int) -> Series:
    """The same curve in at most ``most`` points, each the mean of as many neighbours (those that are no numbers left out)."""
    import numpy as np

    count = len(series.values)
    if count <= most:
        return series
    bounds = np.linspace(0, count, most + 1).astype(int)[:-1]

    def means(column: tuple[float, ...]) -> tuple[float, ...]:
        values = np.asarray(column, np.float64)
        known = np.isfinite(values)
        sums = np.add.reduceat(np.where(known, values, 0.0), bounds)
        counts = np.add.reduceat(known.astype(np.float64), bounds)
        return tuple(np.where(counts > 0, sums / np.maximum(counts, 1.0), np.nan).tolist())

    return Series(means(series.steps), means(series.epochs), means(series.seconds), means(series.values))


def last_gradients(run: Run) -> dict[str, float]:
    """The mean gradient norm of each part over the last steps, at most a tenth of them; from the end of the progress alone.

    Empty where none was told. Gradients are as they were before clipping.
    """
    path = run.last_attempt.progress
    try:
        size = path.stat().st_size
    except OSError:
        return {}
    follower = protocol.Follower(path, offset=max(0, size - _TAIL))
    try:
        records = [record for record in follower.poll() if record.get("type") == "step"]
    except OSError:
        return {}
    last = records[-1].get("step") if records else 0
    window = max(1, last // 10 if isinstance(last, int) else 1)
    values: dict[str, list[float]] = {}
    for record in records[-window:]:
        parts = record.get("grad_norm")
        for part, value in parts.items() if isinstance(parts, dict) else ():
            if _number(value):
                values.setdefault(str(part), []).append(float(value))
    return {part: sum(found) / len(found) for part, found in values.items()}
