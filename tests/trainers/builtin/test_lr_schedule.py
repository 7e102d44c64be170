"""Schedules: what the trainer does at every step is what the plan says."""

from __future__ import annotations

import pytest
import torch
from torch.nn import Parameter

from lorakit import schedule
from lorakit.errors import TrainerError
from lorakit.trainers.builtin.lr_schedule import build_scheduler
from lorakit.trainers.builtin.options import OptimOptions, ScheduleOptions

RATES = (1e-3, 2e-4)
CASES = [
    ScheduleOptions("constant"),
    ScheduleOptions("constant_with_warmup", lr_warmup_steps=5),
    ScheduleOptions("linear", lr_warmup_steps=0.1),
    ScheduleOptions("cosine", lr_warmup_steps=3, lr_scheduler_num_cycles=3),
    ScheduleOptions("cosine_with_restarts", lr_warmup_steps=0.05, lr_scheduler_num_cycles=3),
    ScheduleOptions("polynomial", lr_warmup_steps=4, lr_scheduler_power=2.0),
    ScheduleOptions("inverse_sqrt", lr_warmup_steps=4, lr_scheduler_timescale=7),
    ScheduleOptions("inverse_sqrt", lr_warmup_steps=4),
    ScheduleOptions("cosine_with_min_lr", lr_warmup_steps=4, lr_scheduler_min_lr_ratio=0.1, lr_scheduler_num_cycles=2),
    ScheduleOptions("warmup_stable_decay", lr_warmup_steps=0.1, lr_decay_steps=10, lr_scheduler_min_lr_ratio=0.2),
    ScheduleOptions("piecewise_constant", lr_scheduler_args=('step_rules="1:10,0.1:20,0.01"',)),
]


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("options", CASES, ids=lambda options: f"{options.lr_scheduler}-{options.lr_warmup_steps}")
def test_every_step_has_the_planned_rate(options: ScheduleOptions, processes: int) -> None:
    optimizer = torch.optim.SGD([{"params": [Parameter(torch.ones(1))], "lr": rate} for rate in RATES], lr=RATES[0])
    counts = schedule.steps(60, max_train_steps=30, processes=processes)
    scheduler = build_scheduler(optimizer, options, OptimOptions(learning_rate=RATES[0]), counts)
    rules = options.lr_scheduler_args[0].split('"')[1] if options.lr_scheduler_args else ""
    for step in range(1, 31):
        factor = schedule.lr_factor(
            options.lr_scheduler,
            step,
            total_steps=30,
            warmup=options.lr_warmup_steps,
            decay=options.lr_decay_steps,
            processes=processes,
            num_cycles=options.lr_scheduler_num_cycles,
            power=options.lr_scheduler_power,
            timescale=options.lr_scheduler_timescale,
            min_lr_ratio=options.lr_scheduler_min_lr_ratio,
            base_lr=RATES[0],
            step_rules=rules,
        )
        assert scheduler.get_last_lr() == pytest.approx([rate * factor for rate in RATES], rel=1e-9, abs=1e-15), step
        optimizer.step()
        for _ in range(processes):
            scheduler.step()


def test_settings_that_a_schedule_rejects() -> None:
    optimizer = torch.optim.SGD([{"params": [Parameter(torch.ones(1))], "lr": 1.0}], lr=1e-8)
    counts = schedule.steps(60, max_train_steps=30)
    for options in (
        ScheduleOptions("polynomial"),  # its end, 1e-7, lies above the rate
        ScheduleOptions("linear", lr_scheduler_args=("no_such=1",)),
        ScheduleOptions("adafactor:1e-3"),
    ):
        with pytest.raises(TrainerError):
            build_scheduler(optimizer, options, OptimOptions(), counts)
