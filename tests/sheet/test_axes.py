"""The grammar of axes: what each spelling means, and that whatever is typed is an axis or a UsageError."""

from __future__ import annotations

import contextlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorakit.errors import UsageError
from lorakit.sheet.axes import KINDS, SAMPLERS, Axis, parse_axis, sampler_name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("epoch", Axis("epoch")),
        ("checkpoint=1,3,last", Axis("epoch", ("1", "3", "last"))),
        ("epoch=1-7 (+2), last", Axis("epoch", ("1", "3", "5", "7", "last"))),
        ("epoch=step 200, all", Axis("epoch", ("step200", "all"))),
        ("weight", Axis("weight", ("0", "0.25", "0.5", "0.75", "1", "1.25", "1.5"))),
        ("unet=0-1.5 (+0.5)", Axis("unet", ("0", "0.5", "1", "1.5"))),
        ("te=0-1 [3]", Axis("te", ("0", "0.5", "1"))),
        ("TE weight=1.0,1,-0.5", Axis("te", ("1", "-0.5"))),
        ("seed=123456789-123456791", Axis("seed", ("123456789", "123456790", "123456791"))),
        ("seed=5-1 (-2)", Axis("seed", ("5", "3", "1"))),
        ("seed=4294967295", Axis("seed", ("4294967295",))),
        ("Seed=7,7", Axis("seed", ("7", "7"))),
        ("sampler=euler_a, DPM++ 2M Karras, ddim", Axis("sampler", ("Euler a", "DPM++ 2M Karras", "DDIM"))),
        ("steps=10-30 (+10)", Axis("steps", ("10", "20", "30"))),
        ("cfg scale=1-10 [4]", Axis("cfg", ("1", "4", "7", "10"))),
        ("part=UNet,both", Axis("part", ("unet", "both"))),
        ("prompt", Axis("prompt")),
        ('prompt=zorp, "a red, round ball"', Axis("prompt", ("zorp", "a red, round ball"))),
        ('Prompt S/R=a ""b"", "say ""hi"", twice"', Axis("prompt", ('a ""b""', 'say "hi", twice'))),
        ("prompt=a=b,c", Axis("prompt", ("a=b", "c"))),
        ("run=k3f9, hifumi-000004.safetensors", Axis("run", ("k3f9", "hifumi-000004.safetensors"))),
    ],
)
def test_spellings(text: str, expected: Axis) -> None:
    assert parse_axis(text) == expected


def test_minus_one_draws_a_seed_each_time() -> None:
    rng = random.Random(1)
    again = random.Random(1)
    drawn = parse_axis("seed=-1--1 [4],7,-1", rng=rng)
    assert drawn.values is not None
    assert drawn == parse_axis("seed=-1--1 [4],7,-1", rng=again)
    assert len(set(drawn.values)) == 6
    assert drawn.values[4] == "7"
    assert all(0 <= int(value) < 2**32 for value in drawn.values)
    assert parse_axis("seed=-1--1 [4]") != parse_axis("seed=-1--1 [4]")


@pytest.mark.parametrize(
    "text",
    [
        "", "=", "epok=1", "colour=red", "weight=abc", "weight=9", "weight=nan", "weight=inf", "weight=1,,2", "weight=",
        "seed=1.5", "seed=-2", "seed=4294967296", "steps=0", "steps=1.5", "cfg=-1", "epoch=1.5", "epoch=x", "epoch=-1",
        "sampler=foo", "part=vae", 'prompt="x', "run=a,,b", "seed=1-500", "seed=-1--1 [101]", "weight=0-1 (+0)", "seed=1-9 (-1)",
    ],
)  # fmt: skip
def test_what_no_axis_can_mean_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_axis(text)


def test_a_slip_of_the_pen_is_told_the_word() -> None:
    with pytest.raises(UsageError) as caught:
        parse_axis("epok=1")
    assert caught.value.why == "did you mean epoch?"


@given(st.text(max_size=40))
def test_any_text_is_an_axis_or_a_usage_error(text: str) -> None:
    with contextlib.suppress(UsageError):
        parse_axis(text)


@given(st.sampled_from(sorted(KINDS)), st.text(max_size=40))
def test_any_values_are_an_axis_or_a_usage_error(kind: str, values: str) -> None:
    try:
        found = parse_axis(f"{kind}={values}")
    except UsageError:
        return
    assert found.kind == kind
    assert found.values


@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), min_size=1, max_size=20),
        min_size=1,
        max_size=5,
    )
)
def test_quoted_whole_prompts_come_back(prompts: list[str]) -> None:
    wanted = tuple(dict.fromkeys(prompt.strip() for prompt in prompts))
    line = ", ".join('"' + prompt.replace('"', '""') + '"' for prompt in prompts)
    assert parse_axis(f"prompt={line}").values == wanted


@given(st.integers(0, 2**32 - 100), st.integers(0, 50), st.integers(1, 7))
def test_a_range_of_seeds_keeps_every_digit(first: int, length: int, step: int) -> None:
    found = parse_axis(f"seed={first}-{first + length} (+{step})")
    assert found.values == tuple(str(value) for value in range(first, first + length + 1, step))


def test_every_name_of_a_sampler_means_it() -> None:
    for name, others in SAMPLERS.items():
        assert {sampler_name(one) for one in (name, name.upper(), *others)} == {name}
