"""Steps, warm-up and learning rates: the trainer's arithmetic, and the real schedulers step by step."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorakit.errors import UsageError
from lorakit.schedule import CLOSED_FORMS, Scheduler, curve, lr_at_step, lr_factor, parse_warmup, sampled_steps, steps
from lorakit.trainers.catalogue import int_or_float


@pytest.mark.parametrize(
    ("text", "value"),
    [("5%", 0.05), ("0.05", 0.05), ("100", 100), ("0", 0.0), ("100%", 1.0), ("1", 1), ("0.999", 0.999), ("150%", 1.5)],
)
def test_parse_warmup(text: str, value: float) -> None:
    assert parse_warmup(text) == value
    assert type(parse_warmup(text)) is type(value)


@pytest.mark.parametrize("text", ["1.0", "1e2", "", "%", "five", "2.5", "inf", "nan%x"])
def test_parse_warmup_refuses_what_the_trainer_refuses(text: str) -> None:
    with pytest.raises(UsageError):
        parse_warmup(text)


@given(st.one_of(st.integers(0, 10**6).map(str), st.floats(0, 200).map(repr), st.floats(0, 200).map(lambda f: f"{f}%")))
def test_parse_warmup_is_the_catalogues(text: str) -> None:
    try:
        expected = int_or_float(text)
    except (ValueError, TypeError):
        with pytest.raises(UsageError):
            parse_warmup(text)
        return
    assert parse_warmup(text) == expected


# Steps


def test_contract_examples() -> None:
    # 9 batches; A = 2, 3 epochs: 15 steps. With P = 2 one epoch is printed as ceil(9 / 2) = 5, two as 10.
    counts = steps(9, max_train_epochs=3, gradient_accumulation_steps=2)
    assert (counts.updates_per_epoch, counts.epochs, counts.total_steps) == (5, 3, 15)
    counts = steps(9, max_train_epochs=2, processes=2)
    assert (counts.batches_per_process, counts.updates_per_epoch, counts.total_steps) == (5, 5, 10)


def test_steps_ask_for_epochs() -> None:
    counts = steps(9, max_train_steps=20)
    assert (counts.epochs, counts.total_steps) == (3, 20)
    assert steps(9, max_train_steps=18).epochs == 2
    assert steps(9).total_steps == 1600


def test_epochs_win_over_steps() -> None:
    assert steps(9, max_train_epochs=1, max_train_steps=500).total_steps == 9


@pytest.mark.parametrize("bad", [{"batches_per_epoch": 0}, {"processes": 0}, {"gradient_accumulation_steps": 0}])
def test_counts_that_cannot_be(bad: dict[str, int]) -> None:
    arguments = {"batches_per_epoch": 9, **bad}
    with pytest.raises(UsageError):
        steps(**arguments)


@given(st.integers(1, 400), st.integers(1, 6), st.integers(1, 8), st.integers(1, 9))
def test_a_simulated_training_takes_the_planned_steps(
    batches: int, epochs: int, processes: int, accumulate: int
) -> None:
    counts = steps(batches, max_train_epochs=epochs, processes=processes, gradient_accumulation_steps=accumulate)
    done = 0
    for _ in range(epochs):
        dealt = list(range(batches)) + list(range(-batches % processes))  # even batches: the first ones again
        mine = dealt[::processes]
        done += len([i for i in range(1, len(mine) + 1) if i % accumulate == 0 or i == len(mine)])
    assert counts.total_steps == done
    assert counts.epochs == epochs


def test_lengths_in_ticks_and_steps() -> None:
    counts = steps(10, max_train_steps=100, processes=4)
    assert counts.total_ticks == 400
    assert (counts.length_in_ticks(0.05), counts.length_in_steps(0.05)) == (20, 5)
    # A whole number is ticks: with four processes 10 of them pass in two and a half steps.
    assert (counts.length_in_ticks(10), counts.length_in_steps(10)) == (10, 3)
    assert steps(10, max_train_steps=343).length_in_steps(0.05) == 17


# Rates


def test_the_first_step_of_a_warmup_uses_a_rate_of_zero() -> None:
    factors = [lr_factor("constant_with_warmup", n, total_steps=10, warmup=4) for n in range(1, 8)]
    assert factors == [0, 0.25, 0.5, 0.75, 1, 1, 1]


def test_processes_tick_together() -> None:
    one = [lr_factor("cosine", n, total_steps=50, warmup=0.1) for n in range(1, 51)]
    four = [lr_factor("cosine", n, total_steps=50, warmup=0.1, processes=4) for n in range(1, 51)]
    assert one == pytest.approx(four)
    # A warm-up in whole numbers shrinks with the processes, as in the trainer.
    assert lr_factor("linear", 3, total_steps=50, warmup=8, processes=4) == 1


def test_what_cannot_be_scheduled() -> None:
    with pytest.raises(UsageError, match="cannot warm up"):
        Scheduler("constant", total_ticks=10, warmup_ticks=1)
    with pytest.raises(UsageError, match="min_lr_ratio"):
        Scheduler("cosine_with_min_lr", total_ticks=10)
    with pytest.raises(UsageError, match="above"):
        Scheduler("polynomial", total_ticks=10, base_lr=1e-7)
    with pytest.raises(UsageError, match="closed form"):
        Scheduler("reduce_lr_on_plateau")
    for rules in ("", "a", "1:x,2", "1:2:3,4"):
        with pytest.raises(UsageError, match="step_rules"):
            Scheduler("piecewise_constant", step_rules=rules)


def test_curve_is_sampled_from_first_to_last() -> None:
    sampled = curve(Scheduler("linear", total_ticks=343), 343)
    assert len(sampled) == 25
    assert sampled[0] == (1, 1.0)
    assert sampled[-1] == (343, 1 / 343)
    assert curve(Scheduler("linear", total_ticks=3), 3) == ((1, 1.0), (2, 2 / 3), (3, 1 / 3))
    assert sampled_steps(0) == ()


@given(st.integers(1, 5000), st.integers(2, 40))
def test_sampled_steps_ascend(total: int, count: int) -> None:
    sampled = sampled_steps(total, count)
    assert sampled[0] == 1
    assert sampled[-1] == total
    assert list(sampled) == sorted(set(sampled))
    assert len(sampled) == min(total, count)


# Against the real schedulers (transformers; diffusers for piecewise_constant), as the trainer calls them.

CASES: list[tuple[str, dict[str, Any]]] = [
    ("constant", {}),
    ("constant_with_warmup", {"warmup": 7}),
    ("linear", {"warmup": 0.1}),
    ("linear", {}),
    ("cosine", {"warmup": 0.05}),
    ("cosine", {"num_cycles": 3}),
    ("cosine_with_restarts", {"warmup": 5, "num_cycles": 3}),
    ("cosine_with_restarts", {}),
    ("polynomial", {"warmup": 4, "power": 2.0, "base_lr": 1e-4}),
    ("polynomial", {"base_lr": 3e-7}),
    ("inverse_sqrt", {"warmup": 9}),
    ("inverse_sqrt", {"warmup": 3, "timescale": 20}),
    ("inverse_sqrt", {}),
    ("cosine_with_min_lr", {"warmup": 0.1, "min_lr_ratio": 0.1}),
    ("cosine_with_min_lr", {"min_lr_ratio": 0.0, "num_cycles": 3}),
    ("warmup_stable_decay", {"warmup": 5, "decay": 0.3}),
    ("warmup_stable_decay", {"warmup": 0.1, "decay": 20, "min_lr_ratio": 0.2, "num_cycles": 2}),
    ("piecewise_constant", {"step_rules": "1:10,0.1:20,0.01"}),
    ("piecewise_constant", {"step_rules": "0.5"}),
]


def real_scheduler(name: str, ticks: int, settings: dict[str, Any], rates: list[float]) -> Any:
    import torch
    from diffusers.optimization import get_piecewise_constant_schedule
    from transformers.optimization import get_scheduler

    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates]
    optimizer = torch.optim.SGD(groups, lr=settings.get("base_lr", 1e-3))
    if name == "piecewise_constant":
        return get_piecewise_constant_schedule(optimizer, settings["step_rules"])

    def in_ticks(length: float) -> int:
        return length if isinstance(length, int) else int(length * ticks)

    warmup, decay = in_ticks(settings.get("warmup", 0)), in_ticks(settings.get("decay", 0))
    cycles = settings.get("num_cycles", 1)
    special: dict[str, Any] = {
        "cosine_with_restarts": {"num_cycles": cycles},
        "polynomial": {"power": settings.get("power", 1.0)},
        "inverse_sqrt": {"timescale": settings.get("timescale")},
        "cosine_with_min_lr": {"num_cycles": cycles / 2, "min_lr_rate": settings.get("min_lr_ratio")},
        "warmup_stable_decay": {
            "num_cycles": cycles / 2,
            "num_decay_steps": decay,
            "num_stable_steps": ticks - warmup - decay,
            "min_lr_ratio": settings.get("min_lr_ratio") or 0.0,
        },
    }.get(name, {})
    total = None if name == "warmup_stable_decay" else ticks
    return get_scheduler(
        name, optimizer, num_warmup_steps=warmup, num_training_steps=total, scheduler_specific_kwargs=special
    )


@pytest.mark.parametrize(("name", "settings"), CASES)
@pytest.mark.parametrize("processes", [1, 3])
def test_every_step_uses_the_rate_of_the_real_scheduler(name: str, settings: dict[str, Any], processes: int) -> None:
    total, rates = 60, [1e-4, 2.5e-5]
    scheduler = real_scheduler(name, total * processes, settings, rates)
    for step in range(1, total + 1):
        factor = lr_factor(name, step, total_steps=total, processes=processes, **settings)
        for rate, real in zip(rates, scheduler.get_last_lr(), strict=True):
            assert math.isclose(rate * factor, real, rel_tol=1e-12, abs_tol=1e-20), step
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # no optimizer steps are made here
            for _ in range(processes):
                scheduler.step()


def test_every_closed_form_is_compared() -> None:
    assert {name for name, _ in CASES} == set(CLOSED_FORMS)


@given(
    st.sampled_from([case for case in CASES if "base_lr" not in case[1]]),
    st.integers(1, 500),
    st.integers(1, 8),
    st.data(),
)
def test_factors_stay_between_zero_and_one(
    case: tuple[str, dict[str, Any]], total: int, processes: int, data: st.DataObject
) -> None:
    name, settings = case
    step = data.draw(st.integers(1, total))
    assert 0 <= lr_factor(name, step, total_steps=total, processes=processes, **settings) <= 1


def test_lr_at_step() -> None:
    scheduler = Scheduler("linear", total_ticks=20)
    assert lr_at_step(scheduler, 1e-4, 6, processes=2) == pytest.approx(5e-5)
