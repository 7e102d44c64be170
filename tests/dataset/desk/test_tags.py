"""Captions as tags: splitting, counting, look-alike spellings."""

from __future__ import annotations

import pytest

from lorakit.dataset.desk.tags import count_tags, is_sentence, plain_tag, spellings, split


def test_a_caption_is_split_at_commas_and_empty_tags_are_none() -> None:
    assert split(" a ,, b c,") == ("a", "b c")


@pytest.mark.parametrize(
    ("tag", "plain"),
    [("Red_Hair", "red hair"), ("(red hair:1.2)", "red hair"), ("((x))", "x"), ("star \\(symbol\\)", "star (symbol)"), (":d", ":d"), ("[b]", "b")],
)  # fmt: skip
def test_tags_are_compared_without_case_underscores_and_weights(tag: str, plain: str) -> None:
    assert plain_tag(tag) == plain


def test_frequencies_count_captions_not_uses() -> None:
    table = count_tags([("x", "a", "a"), ("x", "b"), ("x",)])
    assert table.counts == (("x", 3), ("a", 1), ("b", 1))
    assert table.repeated == (("a", 1),)
    assert table.everywhere == (("x", 3),)
    assert table.once == ("a", "b")


@pytest.mark.parametrize(
    ("counts", "ways"),
    [
        ((("long hair", 9), ("long_hair", 2)), ("long hair", "long_hair")),
        ((("blonde hair", 9), ("blond hair", 2)), ("blonde hair", "blond hair")),
        ((("green eyes", 9), ("gren eyes", 1)), ("green eyes", "gren eyes")),
        ((("sitting", 9), ("siting", 1)), ("sitting", "siting")),
        ((("flower", 9), ("flowers", 8)), ("flower", "flowers")),
        ((("smiling", 9), ("smlilng", 1)), None),
        ((("2girls", 9), ("3girls", 1)), None),
        ((("red hair", 9), ("bed hair", 1)), None),
        ((("standing", 5), ("stranding", 4)), None),
    ],
)
def test_spellings_that_look_alike(counts: tuple[tuple[str, int], ...], ways: tuple[str, ...] | None) -> None:
    found = spellings(counts)
    assert (tuple(tag for tag, _ in found[0].ways) if found else None) == ways


def test_sentences_are_told_from_tags() -> None:
    assert is_sentence("A cat is sitting on a table, looking out.")
    assert not is_sentence("1girl, solo, long hair, standing on one leg")
    assert not is_sentence("")
