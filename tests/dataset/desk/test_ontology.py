"""Ontologies: the shipped ones, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorakit.dataset.desk.edits import dedupe, sort
from lorakit.dataset.desk.ontology import load_ontology, parse_ontology, shipped
from lorakit.dataset.desk.tags import plain_tag
from lorakit.errors import DatasetError

#: The order that interiors are sorted in.
INTERIORS = [
    "meta", "quality", "style", "space", "lighting", "colors", "materials", "furniture", "atmosphere", "architectural", "decorative",
    "composition", "environment", "general",
]  # fmt: skip


def test_three_ship_with_hundreds_of_tags_each() -> None:
    assert shipped() == ("anime", "interiors", "photographs")
    for name in shipped():
        assert sum(len(category.tags) for category in load_ontology(name).categories) > 500


def test_interiors_has_the_fourteen_categories_in_order() -> None:
    assert [category.name for category in load_ontology("interiors").categories] == INTERIORS


@pytest.mark.parametrize(
    ("name", "tag", "category"),
    [
        ("interiors", "leather sofa", "furniture"), ("interiors", "brass floor lamps", "furniture"), ("interiors", "oak floor", "architectural"),
        ("interiors", "Mid_Century_Modern", "style"), ("interiors", "24mm", "composition"), ("interiors", "sea view", "environment"),
        ("interiors", "(soft light:1.2)", "lighting"), ("interiors", "never heard of", "general"), ("anime", "2girls", "subject"),
        ("anime", "hatsune miku (vocaloid)", "character"), ("anime", "watercolor (medium)", "style"), ("anime", "blue_eyes", "eyes"),
        ("anime", "looking at viewer", "pose"), ("anime", "score_9", "quality"), ("photographs", "a 30 year old woman", "subject"),
        ("photographs", "85mm", "camera"), ("photographs", "f/1.8", "camera"), ("photographs", "red wool coat", "clothing"),
    ],
)  # fmt: skip
def test_tags_find_their_category(name: str, tag: str, category: str) -> None:
    assert load_ontology(name).category(tag) == category


@pytest.mark.parametrize("name", ["anime", "interiors", "photographs"])
def test_every_listed_tag_is_in_its_own_category(name: str) -> None:
    ontology = load_ontology(name)
    for category in ontology.categories:
        for tag in category.tags:
            assert ontology.category(tag) == category.name


@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters=","), min_size=1, max_size=12), max_size=8),
    st.integers(0, 3),
)
def test_sorting_neither_adds_nor_loses_a_tag_and_done_twice_changes_nothing(tags: list[str], keep: int) -> None:
    edit = sort(load_ontology("anime"), triggers=["zorp"], keep=keep)
    before = (*tags, "zorp", "1girl", "smile")
    after = edit(before)
    assert sorted(after) == sorted(before)
    assert plain_tag(after[0]) == "zorp"
    assert edit(after) == after


def test_within_a_category_the_order_stays() -> None:
    assert sort(load_ontology("interiors"))(("red sofa", "cozy", "blue sofa")) == ("red sofa", "blue sofa", "cozy")


def test_dedupe_keeps_the_first_spelling() -> None:
    assert dedupe(("Red_Hair", "red hair", "(red hair:1.1)", "x")) == ("Red_Hair", "x")


def test_every_problem_of_an_ontology_is_named() -> None:
    text = """
    colour = 1
    fallback = "none"
    [[category]]
    name = "a"
    tags = ["x", 3]
    pattern = []
    [[category]]
    name = "b"
    tags = ["y"]
    patterns = ["("]
    [[category]]
    tags = ["Y"]
    """
    with pytest.raises(DatasetError) as caught:
        parse_ontology(text, "mine")
    assert {problem.key for problem in caught.value.problems} >= {
        "colour",
        "a.tags",
        "a.pattern",
        "b.patterns",
        "category[2]",
        "tags",
        "fallback",
    }


@pytest.mark.parametrize("text", ["", "x = ", "category = 3", "[[category]]\nname = ''"])
def test_what_is_no_ontology_is_refused(text: str) -> None:
    with pytest.raises(DatasetError):
        parse_ontology(text, "mine")


def test_an_unknown_name_lists_the_known_ones_and_files_are_read(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="there is no ontology manga") as caught:
        load_ontology("manga")
    assert "anime, interiors, photographs" in caught.value.todo
    with pytest.raises(DatasetError, match="cannot be read"):
        load_ontology(str(tmp_path / "none.toml"))
    (tmp_path / "mine.toml").write_text(
        '[[category]]\nname = "a"\ntags = ["x"]\n[[category]]\nname = "rest"\n', encoding="utf-8"
    )
    assert sort(load_ontology(str(tmp_path / "mine.toml")))(("q", "x")) == ("x", "q")
    (tmp_path / "latin.toml").write_bytes("name = 'é'".encode("latin-1"))
    with pytest.raises(DatasetError, match="not UTF-8"):
        load_ontology(str(tmp_path / "latin.toml"))
