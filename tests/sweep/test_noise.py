"""The noise floor against scipy's own tests, and against what noise is known to do."""

from __future__ import annotations

import random
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lorakit.errors import UsageError
from lorakit.sweep import noise
from lorakit.sweep.noise import noise_of
from lorakit.sweep.report import MEASURES, Cell

LOSS = MEASURES["loss.last"]


def cell(name: str, *values: float) -> Cell:
    return Cell((("network.dim", name),), (), values)


def test_pairs_are_those_of_tukeys_test() -> None:
    groups = [(0.119, 0.121, 0.120), (0.117, 0.118, 0.119), (0.127, 0.125, 0.130)]
    found = noise_of(LOSS, [cell(str(at), *values) for at, values in enumerate(groups)])
    assert found is not None
    theirs = stats.tukey_hsd(*groups)
    for at, one in enumerate(found.cells):
        for other_at, other in enumerate(found.cells[:at]):
            pair = found.compare(one, other)
            assert pair.p == pytest.approx(theirs.pvalue[at][other_at], rel=1e-6)
            assert pair.counts == (theirs.pvalue[at][other_at] < noise.ALPHA) == found.counts(one, other)
    assert found.df == 6
    assert found.sd == pytest.approx(statistics.fmean(statistics.variance(values) for values in groups) ** 0.5)


def test_two_cells_are_compared_by_students_test() -> None:
    one, other = (1.0, 1.2, 1.1, 0.9), (1.4, 1.3, 1.5)
    found = noise_of(LOSS, [cell("1", *one), cell("2", *other)])
    assert found is not None
    pair = found.compare(*found.cells)
    assert pair.p == pytest.approx(stats.ttest_ind(one, other).pvalue, rel=1e-6)
    assert pair.counts
    assert pair.difference == pytest.approx(statistics.fmean(other) - statistics.fmean(one))


def test_a_cell_without_replicates_borrows_the_spread_of_the_others() -> None:
    cells = [cell("1", 1.0, 1.1, 0.9), cell("2", 1.05), cell("3")]
    found = noise_of(LOSS, cells)
    assert found is not None
    assert [len(one.values) for one in found.cells] == [3, 1]
    assert found.df == 2
    assert not found.counts(cells[0], cells[1])
    assert not found.counts(cells[0], cells[2])  # nothing was measured of it
    assert not found.counts(cells[0], cells[0])


def test_without_replicates_nobody_knows() -> None:
    assert noise_of(LOSS, [cell("1", 1.0), cell("2", 2.0)]) is None
    assert noise_of(LOSS, []) is None


def test_replicates_that_agree_to_the_last_digit_leave_no_noise() -> None:
    found = noise_of(LOSS, [cell("1", 1.0, 1.0), cell("2", 1.1, 1.1), cell("3", 1.1, 1.1)])
    assert found is not None
    assert (found.sd, found.low, found.high) == (0.0, 0.0, 0.0)
    assert found.counts(found.cells[0], found.cells[1])
    assert not found.counts(found.cells[1], found.cells[2])
    assert found.compare(found.cells[1], found.cells[2]).p == 1.0
    assert found.unlike is None


def test_unlike_spreads_are_noticed() -> None:
    rng = random.Random(3)
    cells = [cell("1", *(rng.gauss(1, 0.001) for _ in range(6))), cell("2", *(rng.gauss(1, 0.1) for _ in range(6)))]
    found = noise_of(LOSS, cells)
    assert found is not None
    assert found.is_uneven


def test_one_false_difference_among_all_pairs_in_twenty_sweeps() -> None:
    """Sweeps of nothing but noise: how often any of the 15 pairs is called different."""
    rng = random.Random(11)
    alarms = 0
    for _ in range(400):
        found = noise_of(LOSS, [cell(str(at), *(rng.gauss(0.1, 0.002) for _ in range(3))) for at in range(6)])
        assert found is not None
        alarms += any(found.counts(one, other) for one, other in found.pairs())
    assert 8 <= alarms <= 34  # 20 expected; a false alarm of this test itself is rarer than 1 in 500


def test_the_interval_holds_the_true_spread_nineteen_times_in_twenty() -> None:
    rng = random.Random(12)
    held = 0
    for _ in range(400):
        found = noise_of(LOSS, [cell(str(at), *(rng.gauss(0, 1.0) for _ in range(3))) for at in range(4)])
        assert found is not None
        held += found.low <= 1.0 <= found.high
    assert 366 <= held <= 394


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=3), min_size=2, max_size=4))
def test_what_counts_does_not_depend_on_the_order(groups: list[list[float]]) -> None:
    forward = noise_of(LOSS, [cell(str(at), *values) for at, values in enumerate(groups)])
    assert forward is not None
    for one, other in forward.pairs():
        assert forward.counts(one, other) == forward.counts(other, one)
        assert forward.low <= forward.sd <= forward.high or forward.sd == 0


def test_without_scipy_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="scipy is not installed") as refused:
        noise_of(LOSS, [cell("1", 1.0, 1.1)])
    assert "lorakit[noise]" in refused.value.todo


def test_measures_in_whole_numbers_are_numbers_too() -> None:
    found = noise_of(MEASURES["rss"], [cell("1", 600_000_001, 600_000_005), cell("2", 600_000_002, 600_000_009)])
    assert found is not None
    assert found.unlike is not None
    assert not found.is_uneven
