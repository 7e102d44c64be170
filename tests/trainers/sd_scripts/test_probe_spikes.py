"""A loss or gradient that has left its ordinary size for good is noticed, one that is large now and then is not."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorakit.preset.models import Length
from lorakit.trainers.sd_scripts.probe_spikes import FEWEST, IN_A_ROW, SPIKES_ENV, WINDOW, Series, Spikes
from tests.trainers.sd_scripts.test_probe import train

CALM = [0.1, 0.12, 0.08, 0.11] * 6


def said(spikes: Spikes, losses: list[float], part: str = "") -> list[str]:
    norms = [{part: loss} if part else {} for loss in losses]
    return [
        spikes.add(step, 0.1 if part else loss, norm)
        for step, (loss, norm) in enumerate(zip(losses, norms, strict=True), 1)
    ]


def test_steps_far_above_the_median_in_a_row_are_a_spike() -> None:
    told = said(Spikes(loss=5), [*CALM, 0.6, 0.7, 0.8])
    assert told[:-1] == [""] * 26
    assert told[-1] == "the loss was more than 5 times its median of 0.105 in steps 25 to 27 (at last 0.8)"


def test_one_that_comes_down_again_is_none() -> None:
    assert not any(said(Spikes(loss=5), [*CALM, 0.6, 0.7, 0.1] * 3))


def test_nothing_is_judged_by_too_few_steps() -> None:
    assert not any(said(Spikes(loss=5), [0.1] * (FEWEST - 1) + [9.0] * IN_A_ROW))


def test_a_gradient_of_any_part() -> None:
    told = said(Spikes(gradient=10), [*CALM, 2.0, 2.0, 2.0], part="te2")
    assert told[-1].startswith("the gradient norm of te2 was more than 10 times")
    assert not any(said(Spikes(loss=10), [*CALM, 2.0, 2.0, 2.0], part="te2"))


def test_numbers_that_are_none_are_passed_over() -> None:
    told = said(Spikes(gradient=5), [*CALM, math.inf, math.nan, 0.6, math.inf, 0.6, 0.6], part="unet")
    assert [bool(words) for words in told[-3:]] == [False, False, True]


@given(st.lists(st.floats(0.01, 1.0), max_size=3 * WINDOW))
def test_what_stays_within_the_factor_is_never_one(values: list[float]) -> None:
    series = Series(101)
    assert [series.add(value) for value in values] == [None] * len(values)


def test_a_preset_says_what_the_environment_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Length(steps=9, stop_at_loss_spike=5.0, stop_at_gradient_spike=12.5).spikes
    assert asked == "loss=5 gradient=12.5"
    monkeypatch.setenv(SPIKES_ENV, asked)
    found = Spikes.from_env()
    assert found.loss is not None
    assert (found.loss.factor, found.gradient) == (5.0, 12.5)
    monkeypatch.delenv(SPIKES_ENV)
    assert (Spikes.from_env().loss, Spikes.from_env().gradient, Length(steps=9).spikes) == (None, None, "")


def test_the_probe_ends_the_training_as_a_stop_does(tmp_path: Path) -> None:
    edit = f"args.losses, args.max_train_steps = {[*CALM, *[0.9] * 9]}, 999"
    ran = train(tmp_path, edit, **{SPIKES_ENV: "loss=5"})
    assert ran.code == 0, ran.err
    (end,) = ran.of("end")
    assert (end["reason"], end["steps"]) == ("spike", len(CALM) + IN_A_ROW)
    assert "steps 25 to 27" in end["message"]
    assert [record["kind"] for record in ran.of("save")] == ["state", "final"]
    (tmp_path / "unasked").mkdir()
    unasked = train(tmp_path / "unasked", edit)
    assert [record["reason"] for record in unasked.of("end")] == ["ok"]
