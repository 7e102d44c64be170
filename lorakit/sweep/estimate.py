"""How long a bake will take, from the measured speed of earlier runs of the same shape on this machine; unknown where there is none."""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from lorakit.archive.run import Run, read_record

if TYPE_CHECKING:
    from lorakit.archive.facts import Value
    from lorakit.archive.index import Index
    from lorakit.plan import Plan
    from lorakit.preset.models import Preset
    from lorakit.sweep.standing import Standing, TrialStanding
    from lorakit.workspace import Workspace

__all__ = ["Estimate", "Forecast", "forecast", "forecast_of", "left_of", "shape_of"]

#: Settings that decide how long a step takes: an earlier run counts when it has the same values.
_SAME: Final = (
    "trainer.kind", "length.batch_size", "length.gradient_accumulation",
    "network.module", "network.algo", "network.enable_conv", "network.dora_wd", "optim.type",
    "precision.mixed", "precision.full", "precision.fp8_base", "precision.fp8_base_unet",
    "memory.gradient_checkpointing", "memory.cpu_offload_checkpointing", "memory.attention", "memory.cache_latents",
    "memory.cache_text_encoder_outputs", "launch.processes", "launch.cpu", "launch.threads",
)  # fmt: skip
#: A rank costs little time: what lies between two of these counts as one class.
_DIM_CLASSES: Final = (16, 64, 128)
#: Runs that an estimate is taken from, the newest ones, and how many are looked into to find them.
_TAKEN, _LOOKED_INTO = 5, 40
#: Mean picture sizes that differ by less than this share take the same time.
_PIXELS_ALIKE: Final = 0.1


@dataclass(frozen=True)
class Estimate:
    """What a step takes, what comes on top of all steps (start, loading, caching, saving, samples), and the runs that say so."""

    seconds_per_step: float
    extra: float
    runs: tuple[str, ...]

    def seconds(self, steps: int) -> float:
        """Wall time of a run of so many steps."""
        return self.extra + steps * self.seconds_per_step


@dataclass(frozen=True)
class Forecast:
    """Seconds of each bake, None where nothing of its shape was ever baked here; ``runs`` are the short ids that it was told from."""

    seconds: tuple[float | None, ...]
    runs: tuple[str, ...]

    @property
    def unknown(self) -> int:
        """Bakes whose time is not known."""
        return sum(one is None for one in self.seconds)

    @property
    def total(self) -> float | None:
        """Seconds of all whose time is known, one after another; None when none is."""
        known = [one for one in self.seconds if one is not None]
        return sum(known) if known else None

    def at_once(self, slots: int) -> float | None:
        """Seconds until all are done, so many side by side, each as fast as alone: the longest is begun first."""
        if self.total is None:
            return None
        ends = [0.0] * max(1, slots)
        for one in sorted((one for one in self.seconds if one is not None), reverse=True):
            ends[ends.index(min(ends))] += one
        return max(ends)


def shape_of(preset: Preset, plan: Plan, trainer: str, base: str | None = None) -> dict[str, Any]:
    """What decides the speed of a bake, in plain values; ``base`` is the digest of the base model, where it is known.

    ``pixels`` is the mean size of an example. What a preset leaves to the machine (CPU or GPU, threads) is decided as a bake would.
    """
    from lorakit.launch.accelerate import default_threads
    from lorakit.launch.environment import has_gpu

    launch = preset.launch
    cpu = launch.cpu if launch.cpu is not None else not has_gpu()
    threads = launch.threads if launch.threads is not None else default_threads(launch.processes, cpu=cpu)
    decided = {"trainer.kind": trainer, "launch.cpu": cpu, "launch.threads": threads}
    examples = sum(bucket.count for bucket in plan.buckets)
    pixels = sum(bucket.width * bucket.height * bucket.count for bucket in plan.buckets) / max(1, examples)
    rates = (preset.optim.unet_lr, preset.optim.te_lr.te1, preset.optim.te_lr.te2)
    return {
        **{key: decided[key] if key in decided else _plain(_value(preset, key)) for key in _SAME},
        "base.model": preset.base.model,
        "base": base,
        "dim": _dim_class(preset.network.dim),
        "parts": [bool(rate) for rate in rates],
        "pixels": round(pixels),
    }


def forecast(bakes: Iterable[tuple[Mapping[str, Any], int]], workspace: Workspace) -> Forecast:
    """How long each of these bakes, (shape, steps), will take. Never raises for an archive that is damaged."""
    from lorakit.archive.index import index_path, open_index

    asked = list(bakes)
    found: dict[str, Estimate | None] = {}
    with contextlib.ExitStack() as stack:
        measured: _Measured | None = None
        for shape, _ in asked:
            key = repr(sorted(shape.items()))
            if key not in found:
                if measured is None:
                    index = stack.enter_context(open_index(workspace.runs, index_path(workspace.private)))
                    measured = _Measured(index)
                found[key] = measured.estimate(shape) if shape else None
    seconds, runs = [], dict[str, None]()
    for shape, steps in asked:
        one = found[repr(sorted(shape.items()))]
        seconds.append(None if one is None else one.seconds(steps))
        runs |= dict.fromkeys(one.runs if one is not None else ())
    return Forecast(tuple(seconds), tuple(runs))


def forecast_of(now: Standing, workspace: Workspace) -> Forecast:
    """How long the trials of a sweep will take that wait, in its order."""
    return forecast([(one.trial.shape, one.trial.steps) for one in left_of(now)], workspace)


def left_of(now: Standing) -> tuple[TrialStanding, ...]:
    """The trials that wait, in the order of the sweep."""
    return tuple(one for one in now.trials if one.phase.value in {"waiting", "queued", "interrupted"})


class _Measured:
    """The runs of an archive that ended well on this machine, and how fast they were."""

    def __init__(self, index: Index) -> None:
        from lorakit.launch.processes import this_host

        self._index = index
        state, host = index.column("state"), index.column("host")
        speed, seconds, steps = (index.column(key) for key in ("speed", "seconds", "steps"))
        self._known = [
            number
            for number in reversed(index.numbers)
            if state.get(number) == "ok" and host.get(number) == this_host() and number in speed
            and number in seconds and number in steps
        ]  # fmt: skip

    def estimate(self, shape: Mapping[str, Any]) -> Estimate | None:
        column = self._index.column
        numbers = self._known
        for key in (*_SAME, "base.model"):
            if not numbers:
                return None
            values = column(key)
            numbers = [number for number in numbers if values.get(number) == shape.get(key)]
        dims = column("network.dim")
        numbers = [number for number in numbers if _dim_class(dims.get(number)) == shape.get("dim")]
        unet, texts = column("optim.unet_lr"), column("optim.te_lr")
        parts = shape.get("parts")
        numbers = [number for number in numbers if [bool(unet.get(number)), *_trained(texts.get(number))] == parts]
        chosen = []
        for number in numbers[:_LOOKED_INTO]:
            if _is_alike(self._index.run(number), shape):
                chosen.append(number)
            if len(chosen) == _TAKEN:
                break
        if not chosen:
            return None
        per_step, extra = [], []
        for number in chosen:
            one = 1 / float(column("speed")[number])  # type: ignore[arg-type]
            per_step.append(one)
            extra.append(max(0.0, float(column("seconds")[number]) - float(column("steps")[number]) * one))  # type: ignore[arg-type]
        runs = tuple(self._index.run(number).short for number in chosen)
        return Estimate(statistics.median(per_step), statistics.median(extra), runs)


def _is_alike(run: Run, shape: Mapping[str, Any]) -> bool:
    """What the index does not tell: the base model's content, the size of the pictures, the GPU."""
    from hashlib import sha256

    if "pack" in (read_record(run.attempt(1).started) or {}):
        return False  # its seconds are those of all that trained in its process
    buckets = (read_record(run.plan) or {}).get("buckets") or ()
    with contextlib.suppress(KeyError, TypeError, ZeroDivisionError):
        examples = sum(one["count"] for one in buckets)
        pixels = sum(one["width"] * one["height"] * one["count"] for one in buckets) / examples
        if abs(pixels - shape["pixels"]) > _PIXELS_ALIKE * shape["pixels"]:
            return False
        if shape.get("base"):
            files = (read_record(run.dataset) or {})["models"]["base.model"]
            if sha256(" ".join(one["sha256"] for one in files).encode()).hexdigest() != shape["base"]:
                return False
        return bool(shape["launch.cpu"]) or _cards(run) == _cards_here()
    return False  # a record that cannot be read says nothing


def _cards(run: Run) -> list[str]:
    found = (read_record(run.environment) or {}).get("gpus") or ()
    return sorted({str(card.get("name")) for card in found if isinstance(card, dict)})


def _cards_here() -> list[str]:
    from lorakit.launch.environment import gpus

    return sorted({card.name for card in gpus()})


def _trained(rates: Value | None) -> list[bool]:
    """Which text encoders a rate, or a pair of them as ``5e-5/2e-5``, trains."""
    pair = rates.split("/") if isinstance(rates, str) else [rates, rates]
    try:
        return [float(one or 0) != 0.0 for one in pair]  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return []


def _dim_class(dim: Value | None) -> int | None:
    """The class of a rank by its upper end; 0 above the last one, None for what is no rank."""
    return next((top for top in _DIM_CLASSES if dim <= top), 0) if isinstance(dim, int) else None


def _value(preset: Preset, key: str) -> Any:
    table, _, name = key.partition(".")
    return getattr(getattr(preset, table), name)


def _plain(value: Any) -> Any:
    """A value as the index of the archive has it."""
    if value is None:
        return None
    if isinstance(value, (bool, int, str)):
        return value if not isinstance(value, str) else str(value) or None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Sequence):
        return "/".join(str(item) for item in value)
    return str(value)
