"""What a noisy series says."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lorakit.verdict.diagnose.series import ends, plateau, spikes


def test_ends_are_means_and_welchs_error() -> None:
    found = ends([1.0, 3.0, 2.0, 9.0, 1.0, 2.0], 2)
    assert found is not None
    assert (found.window, found.first, found.last) == (2, 2.0, 1.5)
    assert found.error == pytest.approx(math.sqrt((2.0 + 0.5) / 2))
    assert found.fell == pytest.approx(0.5 / found.error)


def test_a_window_is_at_most_half_and_too_few_values_tell_nothing() -> None:
    found = ends([4.0, 4.0, 1.0, 1.0], 100)
    assert found is not None
    assert found.window == 2
    assert found.fell == math.inf  # no noise at all
    assert ends([1.0, 2.0, 3.0], 100) is None
    assert ends([], 100) is None


def test_a_constant_series_neither_fell_nor_rose() -> None:
    found = ends([0.1] * 50, 10)
    assert found is not None
    assert found.fell == 0


def test_noise_alone_hardly_ever_falls_by_two_errors() -> None:
    rng = np.random.default_rng(3)
    found = [ends((0.1 + 0.02 * rng.standard_normal(300)).tolist(), 100) for _ in range(200)]
    assert sum(one is not None and one.fell >= 2 for one in found) <= 12  # 2.3 % on one side are 5 of 200


def test_spikes_are_held_against_what_was_before() -> None:
    values = [0.1] * 60
    values[30] = 0.81
    values[5] = 9.0  # nothing is known so early
    assert spikes(values, 8) == 1
    assert spikes(values, 8.2) == 0


def test_a_plateau_begins_where_it_stops_falling() -> None:
    rng = np.random.default_rng(5)
    noise = (0.005 * rng.standard_normal(400)).tolist()
    slope = [0.3 - 0.002 * min(at, 100) for at in range(400)]
    assert plateau([a + b for a, b in zip(slope, noise, strict=True)], 10, 2) in (120, 160)
    assert plateau([0.3 - 0.0005 * at + noise[at] for at in range(400)], 10, 2) is None
    assert plateau([0.1] * 30, 10, 2) is None  # too short to be cut
    assert plateau([0.1] * 100, 10, 2) == 10
