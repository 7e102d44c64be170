"""Token counts without torch, against the tokenizer that the built-in trainer uses."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorakit.dataset.desk.tokens import ClipCounter, cut_at

instant = pytest.importorskip("instant_clip_tokenizer")


@pytest.fixture(scope="module")
def counter() -> ClipCounter:
    from lorakit.trainers.sd_scripts.tokenizers import merges_of_package

    return ClipCounter(merges_of_package())


@pytest.fixture(scope="module")
def reference() -> object:
    return instant.Tokenizer()


def expected(reference: object, text: str) -> int:
    from ftfy import fix_text

    return len(reference.encode(unicodedata.normalize("NFC", fix_text(text))))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "text",
    ["", "a", "1girl, long_hair, :d", "it's DON'T we've", "日本語 テスト", "naïve café ½ ² Ⅷ 2024", "a  b\tc\n", "(x:1.2)",
     "émile’s “quote”", "👩‍👩‍👧 family", "score_9, rating: safe", "photo of a zorp" * 60],
)  # fmt: skip
def test_counts_are_those_of_clips_tokenizer(counter: ClipCounter, reference: object, text: str) -> None:
    assert counter.count(text) == expected(reference, text)


@given(st.text(max_size=60))
def test_counts_of_any_text(counter: ClipCounter, reference: object, text: str) -> None:
    if "<|" not in text and "\x00" not in text:
        assert counter.count(text) == expected(reference, text)


def test_special_tokens_are_one_each(counter: ClipCounter) -> None:
    assert counter.count("<|endoftext|>") == 1


def test_a_cut_keeps_what_fits_and_names_the_rest(counter: ClipCounter) -> None:
    caption = ", ".join(f"tag number {n}" for n in range(40))
    cut = cut_at(caption, 75, counter.count)
    assert cut is not None
    assert f"{cut.kept} {cut.lost}" == caption
    assert counter.count(cut.kept) <= 75 < counter.count(f"{cut.kept} {cut.lost.split()[0]}")
    assert cut.tokens == counter.count(caption)


def test_a_caption_that_fits_is_not_cut_and_one_endless_word_is_lost_whole(counter: ClipCounter) -> None:
    assert cut_at("a, b", 75, counter.count) is None
    cut = cut_at("xq" * 300, 75, counter.count)
    assert cut is not None
    assert cut.kept == ""
