"""Time in a training: how many steps, how long the warm-up, which learning rate each step uses.

A *step* is one optimizer update. Schedulers count *ticks*: with P processes, accelerate advances the scheduler P ticks
per update, and the trainer plans P × as many ticks, so that a run of any P sees the same curve.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from lorakit.errors import UsageError

__all__ = [
    "CLOSED_FORMS",
    "Scheduler",
    "StepCounts",
    "curve",
    "lr_at_step",
    "lr_factor",
    "parse_warmup",
    "steps",
]

#: Where the polynomial schedule ends, as an absolute rate.
POLYNOMIAL_END: Final = 1e-7


def parse_warmup(text: str) -> int | float:
    """A warm-up or decay length as the trainer reads it: an int is steps, a float is a share of the run.

    ``"5%"`` and ``"0.05"`` are 0.05, ``"100"`` is 100, ``"0"`` is 0.0, ``"100%"`` is 1.0 (the whole run). Raises
    UsageError where the trainer's parser would stop, as for ``"1.0"`` and ``"1e2"``.
    """
    try:
        if text.endswith("%"):
            return float(text[:-1]) / 100
        value = float(text)
        return int(text) if value >= 1 else value
    except ValueError as error:
        raise UsageError(
            f"{text!r} is no length of warm-up that the trainer reads",
            todo='write steps as a whole number ("100") or a share as "5%" or "0.05"',
        ) from error


@dataclass(frozen=True)
class StepCounts:
    """Step arithmetic of one run. ``batches_per_epoch`` is over all processes, the rest is what each process sees."""

    batches_per_epoch: int
    batches_per_process: int
    updates_per_epoch: int
    epochs: int
    total_steps: int
    processes: int
    gradient_accumulation_steps: int

    @property
    def total_ticks(self) -> int:
        """Length of the run in ticks of the scheduler."""
        return self.total_steps * self.processes

    def length_in_ticks(self, length: float) -> int:
        """A warm-up or decay in ticks. An int is taken as ticks, *not* multiplied by the processes (as the trainer does)."""
        return length if isinstance(length, int) else int(length * self.total_ticks)

    def length_in_steps(self, length: float) -> int:
        """The optimizer steps that a warm-up or decay lasts, the last one counted even if only begun."""
        return -(-self.length_in_ticks(length) // self.processes)


def steps(
    batches_per_epoch: int,
    *,
    max_train_epochs: int | None = None,
    max_train_steps: int = 1600,
    gradient_accumulation_steps: int = 1,
    processes: int = 1,
) -> StepCounts:
    """How long the trainer trains; ``max_train_epochs`` wins over ``max_train_steps`` when given.

    The last accumulation of an epoch may be short and still makes a step. Raises UsageError for counts that cannot be.
    """
    if min(batches_per_epoch, gradient_accumulation_steps, processes) < 1:
        raise UsageError("batches, gradient accumulation and processes must each be at least 1")
    per_process = math.ceil(batches_per_epoch / processes)
    updates = math.ceil(per_process / gradient_accumulation_steps)
    if max_train_epochs is not None:
        # In this order and in floats, as the trainer computes it.
        total = max_train_epochs * math.ceil(batches_per_epoch / processes / gradient_accumulation_steps)
    else:
        total = max_train_steps
    return StepCounts(
        batches_per_epoch=batches_per_epoch,
        batches_per_process=per_process,
        updates_per_epoch=updates,
        epochs=math.ceil(total / updates),
        total_steps=total,
        processes=processes,
        gradient_accumulation_steps=gradient_accumulation_steps,
    )


@dataclass(frozen=True)
class Scheduler:
    """A learning-rate schedule with its settings; lengths are in ticks.

    ``base_lr`` is the optimizer's own rate (``learning_rate``), which only ``polynomial`` needs: its end is absolute
    but its curve is shared by all parts. ``step_rules`` is that of ``piecewise_constant``, such as "1:10,0.1:20,0.01".
    """

    name: str = "constant"
    total_ticks: int = 1
    warmup_ticks: int = 0
    decay_ticks: int = 0
    num_cycles: int = 1
    power: float = 1.0
    timescale: int | None = None
    min_lr_ratio: float | None = None
    base_lr: float = 1.0
    step_rules: str = ""
    _rules: tuple[tuple[int, float], ...] = field(init=False, repr=False, default=())

    def __post_init__(self) -> None:
        """Raise UsageError for what the trainer would stop at."""
        name = self.name
        if name not in CLOSED_FORMS:
            raise UsageError(f"no closed form for the schedule {name!r}", todo=f"one of {', '.join(CLOSED_FORMS)}")
        if name in {"constant", "piecewise_constant"} and self.warmup_ticks:
            raise UsageError(f"{name} cannot warm up", todo="use constant_with_warmup, or no warm-up")
        if name == "cosine_with_min_lr" and self.min_lr_ratio is None:
            raise UsageError("cosine_with_min_lr needs lr_scheduler_min_lr_ratio")
        if name == "polynomial" and self.base_lr <= POLYNOMIAL_END:
            raise UsageError(f"polynomial ends at {POLYNOMIAL_END}, so learning_rate must be above it")
        if name == "piecewise_constant":
            object.__setattr__(self, "_rules", _parse_rules(self.step_rules))

    def factor(self, tick: int) -> float:
        """What every part's own rate is multiplied by after ``tick`` ticks (0: the first step)."""
        if tick < self.warmup_ticks:
            return self._warming_up(tick / self.warmup_ticks)
        return CLOSED_FORMS[self.name](self, tick)

    def _warming_up(self, progress: float) -> float:
        if self.name == "warmup_stable_decay":  # it starts from its lowest rate, not from 0
            low = self.min_lr_ratio or 0.0
            return progress * (1.0 - low) + low
        return progress

    def progress(self, tick: int) -> float:
        """The share of what follows the warm-up that is done after ``tick`` ticks."""
        return (tick - self.warmup_ticks) / max(1, self.total_ticks - self.warmup_ticks)


def lr_factor(
    name: str,
    step: int,
    *,
    total_steps: int,
    warmup: float = 0,
    decay: float = 0,
    processes: int = 1,
    num_cycles: int = 1,
    power: float = 1.0,
    timescale: int | None = None,
    min_lr_ratio: float | None = None,
    base_lr: float = 1.0,
    step_rules: str = "",
) -> float:
    """The multiplier of each part's rate that optimizer step ``step`` (1-based) uses.

    That is the scheduler's value *before* its ``step``-th advance: step 1 of a run with warm-up uses a rate of 0.
    Raises UsageError for an unknown schedule or settings that the trainer would stop at.
    """
    counts = steps(1, max_train_steps=total_steps, processes=processes)
    scheduler = Scheduler(
        name=name,
        total_ticks=counts.total_ticks,
        warmup_ticks=counts.length_in_ticks(warmup),
        decay_ticks=counts.length_in_ticks(decay),
        num_cycles=num_cycles,
        power=power,
        timescale=timescale,
        min_lr_ratio=min_lr_ratio,
        base_lr=base_lr,
        step_rules=step_rules,
    )
    return factor_at_step(scheduler, step, processes)


def factor_at_step(scheduler: Scheduler, step: int, processes: int = 1) -> float:
    """The multiplier that optimizer step ``step`` (1-based) uses."""
    return scheduler.factor((step - 1) * processes)


def lr_at_step(scheduler: Scheduler, rate: float, step: int, processes: int = 1) -> float:
    """The rate that optimizer step ``step`` (1-based) uses for a part whose own rate is ``rate``."""
    return rate * factor_at_step(scheduler, step, processes)


def sampled_steps(total_steps: int, count: int = 25) -> tuple[int, ...]:
    """Up to ``count`` steps (1-based) spread evenly from the first to the last."""
    if total_steps <= count:
        return tuple(range(1, total_steps + 1))
    return tuple(1 + round(i * (total_steps - 1) / (count - 1)) for i in range(count))


def curve(scheduler: Scheduler, total_steps: int, processes: int = 1, count: int = 25) -> tuple[tuple[int, float], ...]:
    """``count`` (step, multiplier) pairs from the first step to the last, for a sparkline."""
    return tuple((step, factor_at_step(scheduler, step, processes)) for step in sampled_steps(total_steps, count))


def _constant(_: Scheduler, _tick: int) -> float:
    return 1.0


def _linear(s: Scheduler, tick: int) -> float:
    return max(0.0, (s.total_ticks - tick) / max(1, s.total_ticks - s.warmup_ticks))


def _cosine(s: Scheduler, tick: int) -> float:
    # Always half a wave: the trainer does not hand lr_scheduler_num_cycles to this one.
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * s.progress(tick))))


def _cosine_with_restarts(s: Scheduler, tick: int) -> float:
    progress = s.progress(tick)
    if progress >= 1.0:
        return 0.0
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * ((s.num_cycles * progress) % 1.0))))


def _polynomial(s: Scheduler, tick: int) -> float:
    if tick > s.total_ticks or s.total_ticks <= s.warmup_ticks:
        return POLYNOMIAL_END / s.base_lr
    left = 1 - s.progress(tick)
    return float(((s.base_lr - POLYNOMIAL_END) * left**s.power + POLYNOMIAL_END) / s.base_lr)


def _inverse_sqrt(s: Scheduler, tick: int) -> float:
    timescale = s.timescale or s.warmup_ticks or 10_000
    return 1.0 / math.sqrt((tick + timescale - s.warmup_ticks) / timescale)


def _cosine_with_min_lr(s: Scheduler, tick: int) -> float:
    low = s.min_lr_ratio or 0.0
    # num_cycles / 2 waves: one "cycle" goes down once.
    wave = 0.5 * (1.0 + math.cos(math.pi * s.num_cycles * s.progress(tick)))
    return max(0.0, wave * (1 - low) + low)


def _warmup_stable_decay(s: Scheduler, tick: int) -> float:
    low = s.min_lr_ratio or 0.0
    decay_from = s.total_ticks - s.decay_ticks
    if tick < decay_from:
        return 1.0
    if tick >= s.total_ticks:
        return low
    progress = (tick - decay_from) / max(1, s.decay_ticks)
    wave = 0.5 * (1.0 + math.cos(math.pi * s.num_cycles * progress))
    return max(0.0, wave * (1.0 - low) + low)


def _piecewise_constant(s: Scheduler, tick: int) -> float:
    return next((value for until, value in s._rules if tick < until), s._rules[-1][1])


def _parse_rules(text: str) -> tuple[tuple[int, float], ...]:
    """``"1:10,0.1:20,0.01"``: 1 before tick 10, 0.1 before tick 20, then 0.01."""
    *parts, last = text.split(",")
    try:
        pairs = [part.split(":") for part in parts]
        rules = {int(until): float(value) for value, until in pairs}
        return (*sorted(rules.items()), (0, float(last)))
    except ValueError as error:
        raise UsageError(
            f"step_rules {text!r} cannot be read", todo='write "factor:until_step,…,last factor", as "1:10,0.1:20,0.01"'
        ) from error


#: Schedules whose value at any tick is a formula (transformers' and, for piecewise_constant, diffusers' definitions).
CLOSED_FORMS: Final[dict[str, Callable[[Scheduler, int], float]]] = {
    "constant": _constant,
    "constant_with_warmup": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "cosine_with_restarts": _cosine_with_restarts,
    "polynomial": _polynomial,
    "inverse_sqrt": _inverse_sqrt,
    "cosine_with_min_lr": _cosine_with_min_lr,
    "warmup_stable_decay": _warmup_stable_decay,
    "piecewise_constant": _piecewise_constant,
}
