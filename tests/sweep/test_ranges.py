"""Ranges of values."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lorakit.errors import UsageError
from lorakit.sweep.ranges import expand


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1e-5..1e-3 log 5", "1e-5 3.162e-5 1e-4 3.162e-4 1e-3"),
        ("1..10 lin 4", "1 4 7 10"),
        ("0-1.25 (+0.25)", "0 0.25 0.5 0.75 1 1.25"),
        ("0-1 (+0.4)", "0 0.4 0.8"),
        ("8-2 (-2)", "8 6 4 2"),
        ("0-1 [5]", "0 0.25 0.5 0.75 1"),
        ("1e-5-1e-4 [3]", "1e-5 5.5e-5 1e-4"),
        ("1-5", "1 2 3 4 5"),
        ("3-1", "3 2 1"),
        ("-1-1", "-1 0 1"),
        ("8..64 log 4", "8 16 32 64"),
        ("5..9 log 1", "5"),
        # no ranges
        ("1e-5", "1e-5"),
        ("5e-5/2e-5", "5e-5/2e-5"),
        ("dim/2", "dim/2"),
        ("[1,2]", "[1,2]"),
        ('"1-5"', '"1-5"'),
        ("cosine", "cosine"),
        ("a-b", "a-b"),
    ],
)
def test_ranges_of_every_spelling(text: str, values: str) -> None:
    assert expand(text) == tuple(values.split(" "))


@pytest.mark.parametrize(
    "text",
    ["1..2", "0..1 log 3", "-1..1 log 3", "1..2 lin 0", "1-2 (0)", "1-2 (-1)", "0-1 [0]", "0..1 lin 99999", "1-9999"],
)
def test_a_range_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="range"):
        expand(text)


RATES = st.floats(1e-7, 1e3).map(lambda value: float(f"{value:.3g}"))


@given(RATES, RATES, st.integers(2, 40), st.sampled_from(["log", "lin"]))
def test_spaced_ranges_have_their_ends_and_go_one_way(first: float, last: float, count: int, kind: str) -> None:
    assume(max(first, last) / min(first, last) > 1.5)
    values = [float(value) for value in expand(f"{first!r}..{last!r} {kind} {count}")]
    assert (values[0], values[-1]) == (first, last)
    assert values == sorted(values, reverse=first > last)
    if kind == "log" and len(values) == count:
        ratios = [other / one for one, other in itertools.pairwise(values)]
        assert all(math.isclose(ratio, (last / first) ** (1 / (count - 1)), rel_tol=5e-3) for ratio in ratios)


@given(st.text("0123456789.-+e() [],lognin/", max_size=25))
def test_any_text_is_a_range_itself_or_refused(text: str) -> None:
    try:
        values = expand(text)
    except UsageError:
        return
    assert 1 <= len(values) <= 1000
    assert len(set(values)) == len(values)
