"""Units: what is printed reads back, what people write is understood, and nothing is guessed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lorakit.preset.units import (
    Alpha,
    Resolution,
    TextEncoderRates,
    UnitError,
    Warmup,
    format_number,
    format_rate,
    parse_rate,
    shown,
)

if TYPE_CHECKING:
    from collections.abc import Callable

PARSERS: tuple[Callable[[Any], Any], ...] = (
    parse_rate,
    TextEncoderRates.parse,
    Warmup.parse,
    Resolution.parse,
    Alpha.parse,
)

rates = st.floats(0, allow_nan=False, allow_infinity=False)
sides = st.integers(64, 16384)
warmups = st.floats(0, 1, exclude_min=True, exclude_max=True).map(lambda ratio: Warmup(ratio=ratio)) | st.integers(
    0, 2**31 - 1
).map(lambda steps: Warmup(steps=steps))
alphas = st.floats(0, exclude_min=True, allow_infinity=False).map(lambda number: Alpha(number=number)) | st.floats(
    0, exclude_min=True, allow_infinity=False
).map(lambda divisor: Alpha(divisor=divisor))
anything: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.dates()
    | st.from_regex(r"[-+0-9.e%xdim/ ]{0,12}(steps?)?", fullmatch=True)
    | st.sampled_from(["²", "١٢", "1_0", "9" * 5000, "dim/0", "dim/nan", "1e999", "inf%", "nan", "0x10"]),
    lambda items: st.lists(items, max_size=3) | st.dictionaries(st.text(max_size=3), items, max_size=2),
    max_leaves=4,
)


@given(rates)
@example(0.0)
@example(-0.0)
@example(5e-324)
def test_a_printed_rate_reads_back(rate: float) -> None:
    assert parse_rate(format_rate(rate)) == rate
    assert parse_rate(rate) == rate


def test_less_than_nothing_by_a_hair_is_nothing() -> None:
    assert math.copysign(1, parse_rate(-0.0)) == 1
    assert str(TextEncoderRates.parse([-0.0, 0])) == "0"


@given(rates, rates)
def test_printed_text_encoder_rates_read_back(te1: float, te2: float) -> None:
    pair = TextEncoderRates(te1, te2)
    assert TextEncoderRates.parse(str(pair)) == pair
    assert TextEncoderRates.parse(pair.plain()) == pair
    assert TextEncoderRates.parse(pair) is pair


@given(warmups)
@example(Warmup(ratio=0.07))
@example(Warmup(ratio=1 / 3))
@example(Warmup(ratio=0.9999999999999999))
@example(Warmup(ratio=5e-324))
def test_a_printed_warmup_reads_back(warmup: Warmup) -> None:
    assert Warmup.parse(str(warmup)) == warmup
    assert Warmup.parse(warmup.plain()) == warmup
    assert Warmup.parse(warmup) is warmup


@given(sides, sides)
def test_a_printed_resolution_reads_back(width: int, height: int) -> None:
    resolution = Resolution(width, height)
    assert Resolution.parse(str(resolution)) == resolution
    assert Resolution.parse(resolution.plain()) == resolution
    assert Resolution.parse(resolution) is resolution


@given(alphas)
def test_a_printed_alpha_reads_back(alpha: Alpha) -> None:
    assert Alpha.parse(str(alpha)) == alpha
    assert Alpha.parse(alpha.plain()) == alpha
    assert Alpha.parse(alpha) is alpha


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**60), 2**60))
def test_a_printed_number_reads_back(number: float) -> None:
    assert float(format_number(number)) == float(number)


def _outcome(parse: Callable[[Any], Any], value: Any) -> Any:
    try:
        return parse(value)
    except UnitError as error:
        return error


@given(anything)
@example(10**400)
@example(float("nan"))
@example("9" * 5000 + " steps")
@example([10**400, 1])
def test_whatever_is_given_is_a_unit_or_a_sentence(value: Any) -> None:
    for parse in PARSERS:
        outcome = _outcome(parse, value)
        if isinstance(outcome, UnitError):
            assert 10 < len(str(outcome)) < 300
            assert "\n" not in str(outcome)
        else:
            assert parse(outcome) == outcome


@pytest.mark.parametrize(
    ("rate", "text"), [(1e-4, "1e-4"), (2.5e-4, "2.5e-4"), (0.1, "0.1"), (1.0, "1"), (0, "0"), (1e-10, "1e-10")]
)
def test_rates_are_printed_as_people_write_them(rate: float, text: str) -> None:
    assert format_rate(rate) == text


@pytest.mark.parametrize(
    ("value", "warmup", "text"),
    [
        ("5%", Warmup(ratio=0.05), "5%"),
        (" 2.5 % ", Warmup(ratio=0.025), "2.5%"),
        (0.05, Warmup(ratio=0.05), "5%"),
        ("0.05", Warmup(ratio=0.05), "5%"),
        ("100 steps", Warmup(steps=100), "100 steps"),
        ("100steps", Warmup(steps=100), "100 steps"),
        ("1 step", Warmup(steps=1), "1 step"),
        (0, Warmup(steps=0), "0 steps"),
        ("0%", Warmup(steps=0), "0 steps"),
        (0.0, Warmup(steps=0), "0 steps"),
    ],
)
def test_warmup_spellings(value: Any, warmup: Warmup, text: str) -> None:
    assert Warmup.parse(value) == warmup
    assert str(Warmup.parse(value)) == text


@pytest.mark.parametrize(
    ("value", "why", "todo"),
    [
        (
            100.0,
            "100.0 could mean 100 steps or 100 times the run; the trainer would take it as the second",
            'write "100 steps" or "5%"',
        ),
        (100, "100 does not say whether steps or a share of the run is meant", 'write "100 steps" or "5%"'),
        (1.0, "1.0 could mean 1 step or the whole run", 'write "1 step" or "5%"'),
        ("100", '"100" does not say whether steps or a share of the run is meant', 'write "100 steps" or "5%"'),
        ("100%", "100% of the run leaves nothing to train", 'write less than "100%"'),
        (-1, "-1 is less than nothing", 'write "5%", 0.05 or "100 steps"'),
        (True, "true is neither a share of the run nor steps", 'write "5%", 0.05 or "100 steps"'),
        ("soon", '"soon" is neither a share of the run nor steps', 'write "5%", 0.05 or "100 steps"'),
    ],
)
def test_a_ratio_is_never_guessed(value: Any, why: str, todo: str) -> None:
    with pytest.raises(UnitError) as caught:
        Warmup.parse(value)
    assert (caught.value.why, caught.value.todo) == (why, todo)


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (1024, 1024),
        ([832, 1216], [832, 1216]),
        ("832x1216", [832, 1216]),
        ("832 × 1216", [832, 1216]),
        ("512,512", 512),
    ],
)
def test_resolution_spellings(value: Any, plain: Any) -> None:
    assert Resolution.parse(value).plain() == plain


@pytest.mark.parametrize("value", [0, -5, 63, 20000, 1024.0, True, "", "x", "832x", [1, 2, 3], [], [832, True], None])
def test_resolutions_that_cannot_be(value: Any) -> None:
    with pytest.raises(UnitError, match="resolution"):
        Resolution.parse(value)


def test_alpha_of_a_dim() -> None:
    assert Alpha.parse("dim").of(32) == 32
    assert Alpha.parse("dim/2").of(32) == 16
    assert Alpha.parse(8).of(32) == 8
    assert str(Alpha.parse(" dim / 2 ")) == "dim/2"


@pytest.mark.parametrize("value", [0, -1, "dim/0", "dim/-2", "dim*2", "dim/", "half", True, float("inf"), [1], None])
def test_alphas_that_cannot_be(value: Any) -> None:
    with pytest.raises(UnitError):
        Alpha.parse(value)


@pytest.mark.parametrize("value", [-1e-4, float("nan"), float("inf"), True, "fast", "", [1e-4], None])
def test_rates_that_cannot_be(value: Any) -> None:
    with pytest.raises(UnitError, match="learning rate"):
        parse_rate(value)


@pytest.mark.parametrize("value", [[1e-4], [1e-4, 2e-4, 3e-4], "1e-4/2e-4/3e-4", [1e-4, -1], []])
def test_text_encoder_rates_that_cannot_be(value: Any) -> None:
    with pytest.raises(UnitError):
        TextEncoderRates.parse(value)


@given(anything)
def test_a_quoted_value_stays_on_one_short_line(value: Any) -> None:
    text = shown(value)
    assert len(text) <= 400
    assert "\n" not in text
