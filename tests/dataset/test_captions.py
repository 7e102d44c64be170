"""The caption pipeline: order of the stages, and what each does."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorakit.dataset.blueprint import SubsetSpec
from lorakit.dataset.captions import CaptionSettings, caption_of_example, expand_wildcards


def made(caption: str, *, seed: int = 0, epoch: int = 1, step: int = 0, total: int = 100, **settings: Any) -> str:
    return caption_of_example(
        caption,
        CaptionSettings(**settings),
        random.Random(seed),
        epoch=epoch,
        step=step,
        total_steps=total,
    )


def test_nothing_asked_nothing_changed() -> None:
    assert made("a,b ,  c") == "a,b ,  c"
    assert made("a, {x|y}\nb") == "a, {x|y}"


def test_prefix_and_suffix_take_a_space() -> None:
    assert made("a", caption_prefix="pre,", caption_suffix="post") == "pre, a post"
    assert made("", caption_prefix="pre") == "pre "


def test_whole_caption_dropout() -> None:
    assert made("a", caption_dropout_rate=1.0, caption_prefix="p") == ""
    dropped = sum(made("a", seed=seed, caption_dropout_rate=0.3) == "" for seed in range(2000))
    assert 500 < dropped < 700


def test_dropout_every_n_epochs_counts_from_one() -> None:
    kept = [made("a", epoch=epoch, caption_dropout_every_n_epochs=3) for epoch in range(1, 8)]
    assert kept == ["a", "a", "", "a", "a", "", "a"]


def test_wildcards() -> None:
    assert {made("{a|b} c", seed=seed, enable_wildcard=True) for seed in range(20)} == {"a c", "b c"}
    assert made("{{a|b}} {c}", enable_wildcard=True) == "{a|b} c"
    assert {made("a\nb", seed=seed, enable_wildcard=True) for seed in range(20)} == {"a", "b"}
    assert made("{} {a|}", seed=1, enable_wildcard=True) in {"{} a", "{} "}


@given(st.text(alphabet="ab|{} ,", max_size=30), st.integers(0, 5))
def test_wildcards_never_fail_and_leave_plain_text_alone(text: str, seed: int) -> None:
    result = expand_wildcards(text, random.Random(seed))
    if "{" not in text and "}" not in text:
        assert result == text


def test_shuffle_keeps_the_first_tokens() -> None:
    seen = {made("k1, k2, a, b, c", seed=seed, shuffle_caption=True, keep_tokens=2) for seed in range(100)}
    assert len(seen) == 6
    assert all(caption.startswith("k1, k2, ") for caption in seen)


def test_keep_tokens_separator_fixes_both_ends() -> None:
    seen = {
        made("a, b ||| c, d ||| e", seed=seed, shuffle_caption=True, keep_tokens_separator="|||") for seed in range(50)
    }
    assert seen == {"a, b, c, d, e", "a, b, d, c, e"}
    assert made("a|||b", seed=3, shuffle_caption=True, keep_tokens_separator="|||", keep_tokens=9) == "a, b"
    # Without the mark in the caption, keep_tokens counts.
    assert made("a, b", seed=3, shuffle_caption=True, keep_tokens_separator="|||", keep_tokens=2) == "a, b"


def test_rejoined_with_a_comma_whatever_the_separator() -> None:
    assert made("a;b , c", shuffle_caption=True, keep_tokens=9, caption_separator=";") == "a, b , c"


def test_tag_dropout_spares_fixed_tags() -> None:
    assert made("k, a, b", caption_tag_dropout_rate=1.0, keep_tokens=1) == "k"
    assert made("a, b", caption_tag_dropout_rate=1.0) == ""
    left = sum(len(made("a, b, c, d", seed=seed, caption_tag_dropout_rate=0.25).split(", ")) for seed in range(1000))
    assert 2800 < left < 3200


def test_secondary_separator_comes_last() -> None:
    seen = {made("a;;b, c", seed=seed, shuffle_caption=True, secondary_separator=";;") for seed in range(20)}
    assert seen == {"a,b, c", "c, a,b"}


@pytest.mark.parametrize(("step", "tags"), [(0, 1), (5, 3), (9, 4), (10, 5), (99, 5)])
def test_token_warmup_by_steps(step: int, tags: int) -> None:
    # 1 + floor(step × (5 − 1) / 10)
    caption = made("a, b, c, d, e", step=step, token_warmup_step=10)
    assert len(caption.split(", ")) == tags


def test_token_warmup_as_a_share_of_the_run() -> None:
    assert made("a, b, c, d, e", step=5, total=20, token_warmup_step=0.5) == "a, b, c"
    assert made("a, b, c, d, e", step=10, total=20, token_warmup_step=0.5) == "a, b, c, d, e"
    assert made("a, b", step=0, total=20, token_warmup_step=0.5, token_warmup_min=0) == ""
    assert made("a, b", step=0, total=20, token_warmup_step=0.5, token_warmup_min=7) == "a, b"


@given(
    st.lists(st.text(alphabet="abcé '\"-_()", min_size=1, max_size=8).map(str.strip).filter(bool), max_size=8),
    st.integers(0, 10),
    st.integers(0, 1000),
)
def test_shuffling_loses_nothing(tags: list[str], keep: int, seed: int) -> None:
    result = made(", ".join(tags), seed=seed, shuffle_caption=True, keep_tokens=keep)
    assert sorted(result.split(", ")) == sorted(tags or [""])
    assert result.split(", ")[: min(keep, len(tags))] == tags[:keep]


@given(st.text(max_size=60), st.integers(0, 3), st.booleans(), st.sampled_from([0.0, 0.5]))
def test_any_caption_is_deterministic_by_rng(text: str, seed: int, wildcard: bool, rate: float) -> None:
    settings: dict[str, Any] = {"shuffle_caption": True, "enable_wildcard": wildcard, "caption_tag_dropout_rate": rate}
    assert made(text, seed=seed, **settings) == made(text, seed=seed, **settings)


def test_settings_of_a_subset() -> None:
    subset = SubsetSpec(image_dir=None, shuffle_caption=True, keep_tokens=3, caption_prefix="p")
    assert CaptionSettings.of(subset) == CaptionSettings(shuffle_caption=True, keep_tokens=3, caption_prefix="p")
