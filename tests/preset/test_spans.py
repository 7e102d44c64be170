"""Spans of time: what is written is read back, and a number without a unit is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorakit.preset.spans import seconds, span_text


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("1 h 30 m", 5400), ("2d", 172800)],
)
def test_spans_are_read(text: str, expected: int) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize(
    "value", ["", "30", 30, 1.5, None, "0s", "m30", "30m1h", "-5m", "1.5h", "30 minutes", True, []]
)
def test_what_has_no_unit_or_means_nothing_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="with its unit"):
        seconds(value)


@given(st.integers(1, 10**9))
def test_what_is_printed_is_read_back(number: int) -> None:
    assert seconds(span_text(number)) == number
