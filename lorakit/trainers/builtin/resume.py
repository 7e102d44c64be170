"""Where a training starts: at the beginning, or at the position of a state."""

from __future__ import annotations

import dataclasses
import random

from accelerate import Accelerator

from lorakit.errors import TrainerError
from lorakit.schedule import StepCounts
from lorakit.trainers.builtin.loop import Loop, Training
from lorakit.trainers.builtin.loss_average import LossAverage
from lorakit.trainers.builtin.monitor import Monitor
from lorakit.trainers.builtin.options import TrainOptions
from lorakit.trainers.builtin.parallel import mean_over_processes
from lorakit.trainers.builtin.state import Position

__all__ = ["agree_on_seed", "check_position", "loop_at"]


def loop_at(training: Training, position: Position | None) -> Loop:
    """The loop of ``training``, at ``position`` if there is one."""
    if position is None:
        return Loop(training)
    training.average = LossAverage(position.losses)
    training.scale = dataclasses.replace(training.scale, factor=position.loss_scale, good_updates=position.good_updates)
    return Loop(training, step=position.current_step, epoch=position.current_epoch, batches_done=position.batches_done)


def check_position(position: Position, counts: StepCounts, options: TrainOptions, monitor: Monitor) -> None:
    """Refuse a state that does not fit this training; warn where its numbers will differ."""
    if position.current_step >= counts.total_steps:
        raise TrainerError(
            f"the state is at step {position.current_step}, this training ends at {counts.total_steps}",
            todo="raise max_train_steps or max_train_epochs, or resume from an earlier state",
        )
    ours = (counts.batches_per_epoch, counts.processes, counts.gradient_accumulation_steps)
    theirs = (position.batches_per_epoch, position.processes, position.gradient_accumulation_steps)
    if ours != theirs and position.batches_done:
        raise TrainerError(
            "the state was saved within an epoch of another shape",
            why=f"batches, processes, gradient accumulation were {theirs}, now {ours}",
            todo="resume with the same dataset and launch settings, or from a state saved at an epoch's end",
        )
    if ours != theirs:
        monitor.warn(f"resuming with other batches, processes, gradient accumulation: {theirs} then, {ours} now")
    if options.length.seed not in (None, position.seed):
        monitor.warn(f"resuming with seed {options.length.seed}; the state was made with {position.seed}")
    if counts.total_steps != position.total_steps:
        monitor.warn(f"resuming towards {counts.total_steps} steps; the state was made towards {position.total_steps}")


def agree_on_seed(asked: int | None, position: Position | None, accelerator: Accelerator) -> int:
    """The seed: the one asked for, else the state's, else one that the first process draws for all."""
    if asked is not None:
        return asked
    if position is not None:
        return position.seed
    drawn = float(random.SystemRandom().randrange(2**32)) if accelerator.is_main_process else 0.0
    processes: int = accelerator.num_processes
    return round(mean_over_processes(accelerator, [drawn])[0] * processes)
