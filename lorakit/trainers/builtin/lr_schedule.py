"""The learning-rate schedule of a training, made by transformers and diffusers and counted as the trainer counts."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lorakit.errors import TrainerError
from lorakit.schedule import StepCounts
from lorakit.trainers.builtin.optim import adafactor_finds_its_rate, literals
from lorakit.trainers.builtin.options import OptimOptions, ScheduleOptions

__all__ = ["build_scheduler"]


def build_scheduler(
    optimizer: Optimizer, options: ScheduleOptions, optim: OptimOptions, counts: StepCounts
) -> LRScheduler:
    """The scheduler over ``counts.total_ticks`` ticks; the loop advances it ``counts.processes`` ticks per update.

    An AdaFactor that finds its own rate gets a scheduler that only reports it, starting from ``learning_rate``.
    Raises TrainerError for settings that the schedule rejects.
    """
    warmup = counts.length_in_ticks(options.lr_warmup_steps)
    if adafactor_finds_its_rate(optim):
        if warmup:
            raise TrainerError(
                "AdaFactor with relative_step takes no warm-up",
                todo="leave lr_warmup_steps out, or give optimizer_args relative_step=False",
            )
        return _adafactor(optimizer, optim.learning_rate)
    name = options.lr_scheduler
    if name.startswith("adafactor"):
        raise TrainerError(
            "the schedule adafactor needs AdaFactor with relative_step=True",
            todo="choose another lr_scheduler, or leave relative_step on",
        )
    arguments = _specific(options, counts) | literals(options.lr_scheduler_args)
    try:
        if name == "piecewise_constant":
            return _piecewise_constant(optimizer, arguments)
        from transformers.optimization import get_scheduler

        scheduler: LRScheduler = get_scheduler(
            name,
            optimizer,
            num_warmup_steps=warmup,
            num_training_steps=counts.total_ticks,
            scheduler_specific_kwargs=arguments,
        )
    except (TypeError, ValueError) as error:
        raise TrainerError(f"the schedule {name} rejects its settings: {error}") from error
    return scheduler


def _specific(options: ScheduleOptions, counts: StepCounts) -> dict[str, Any]:
    """What only one schedule takes. Cycles of the min-lr schedules are counted in half waves."""
    match options.lr_scheduler:
        case "cosine_with_restarts":
            return {"num_cycles": options.lr_scheduler_num_cycles}
        case "polynomial":
            return {"power": options.lr_scheduler_power}
        case "inverse_sqrt":
            return {"timescale": options.lr_scheduler_timescale}
        case "cosine_with_min_lr":
            return {
                "num_cycles": options.lr_scheduler_num_cycles / 2,
                "min_lr_rate": options.lr_scheduler_min_lr_ratio,
            }
        case "warmup_stable_decay":
            return {
                "num_decay_steps": counts.length_in_ticks(options.lr_decay_steps),
                "num_cycles": options.lr_scheduler_num_cycles / 2,
                "min_lr_ratio": options.lr_scheduler_min_lr_ratio or 0.0,
            }
    return {}


def _adafactor(optimizer: Optimizer, initial_rate: float) -> LRScheduler:
    from transformers.optimization import AdafactorSchedule

    class Told(AdafactorSchedule):
        """Also has a rate for a group that module dropout left without gradients."""

        def get_lr(self) -> list[float | Tensor]:
            """The rate that each group last used; the initial one before its first step."""
            adafactor: Any = self.optimizer
            rates: list[float | Tensor] = []
            for group in adafactor.param_groups:
                state = adafactor.state[group["params"][0]]
                rates.append(float(adafactor._get_lr(group, state)) if state else initial_rate)
            return rates

    scheduler: LRScheduler = Told(optimizer, initial_rate)  # type: ignore[no-untyped-call]
    return scheduler


def _piecewise_constant(optimizer: Optimizer, arguments: dict[str, Any]) -> LRScheduler:
    from diffusers.optimization import get_piecewise_constant_schedule

    scheduler: LRScheduler = get_piecewise_constant_schedule(optimizer, **arguments)
    return scheduler
