"""Two captions a picture: what is written, and what the trainer makes of it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from lorakit.dataset.captions import CaptionSettings, caption_of_example
from lorakit.dataset.desk.dual import Use, dual_captions, settings_needed
from lorakit.dataset.desk.rewrite import apply, undo
from lorakit.dataset.files import read_caption
from lorakit.errors import DatasetError, UsageError

TAGS, SENTENCE = "zorp, red star", "A star, painted {red}."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, suffixes in (("a", (".txt", ".caption")), ("b", (".txt",)), ("c", (".caption",)), ("d", ())):
        (tmp_path / f"{name}.png").write_bytes(b"a picture by its name")
        for suffix in suffixes:
            (tmp_path / f"{name}{suffix}").write_text(TAGS if suffix == ".txt" else SENTENCE, encoding="utf-8")
    return tmp_path


def written(folder: Path, use: Use, *, protect: str | None = None, sentence_first: bool = False) -> str:
    made = dual_captions(
        folder,
        use,
        tags="txt",
        sentences=".caption",
        target=".train.txt",
        protect=protect,
        sentence_first=sentence_first,
    )
    apply(folder, made.changes, "captions")
    return (folder / "a.train.txt").read_text(encoding="utf-8").rstrip("\n")


@pytest.mark.parametrize(
    ("use", "first", "text"),
    [
        ("tags", False, TAGS), ("sentences", False, SENTENCE), ("joined", False, f"{TAGS}, {SENTENCE}"),
        ("joined", True, f"{SENTENCE} {TAGS}"), ("either", False, f"{TAGS}\nA star, painted {{{{red}}}}."),
    ],
)  # fmt: skip
def test_each_use(folder: Path, use: Use, first: bool, text: str) -> None:
    assert written(folder, use, sentence_first=first) == text


def test_a_missing_half_is_replaced_by_the_other_and_named(folder: Path) -> None:
    made = dual_captions(folder, "tags", tags=".txt", sentences=".caption", target=".train.txt")
    assert [path.name for path in made.fallen_back] == ["c.png"]
    assert [path.name for path in made.neither] == ["d.png"]
    assert [change.path.name for change in made.changes] == ["a.train.txt", "b.train.txt", "c.train.txt"]


def test_either_is_drawn_by_the_trainer_with_the_settings_that_are_named(folder: Path) -> None:
    written(folder, "either")
    assert settings_needed("either", ".train.txt", None) == {
        "dataset.caption_extension": ".train.txt",
        "dataset.enable_wildcard": True,
    }
    text = read_caption(str(folder / "a.train.txt"), all_lines=True)
    assert text is not None
    settings = CaptionSettings(enable_wildcard=True)
    drawn = {caption_of_example(text, settings, random.Random(n), epoch=1, step=0, total_steps=1) for n in range(20)}
    assert drawn == {TAGS, SENTENCE}


def test_a_protected_sentence_is_shuffled_as_one_and_reads_as_before(folder: Path) -> None:
    text = written(folder, "joined", protect=";;")
    assert settings_needed("joined", ".train.txt", ";;")["dataset.secondary_separator"] == ";;"
    settings = CaptionSettings(shuffle_caption=True, secondary_separator=";;")
    for seed in range(10):
        assert SENTENCE in caption_of_example(text, settings, random.Random(seed), epoch=1, step=0, total_steps=1)


def test_nothing_is_lost_and_again_nothing_changes(folder: Path) -> None:
    written(folder, "joined")
    made = dual_captions(folder, "joined", tags=".txt", sentences=".caption", target=".train.txt")
    assert (made.changes, made.same) == ((), 3)
    undo(folder)
    assert not list(folder.glob("*.train.txt"))
    assert (folder / "a.txt").read_text(encoding="utf-8") == TAGS


def test_a_tag_file_may_be_written_over_and_comes_back(folder: Path) -> None:
    made = dual_captions(folder, "joined", tags=".txt", sentences=".caption", target=".txt")
    apply(folder, made.changes, "captions")
    assert (folder / "a.txt").read_text(encoding="utf-8").startswith(TAGS + ", A star")
    undo(folder)
    assert (folder / "a.txt").read_text(encoding="utf-8") == TAGS


@pytest.mark.parametrize(
    "wrong",
    [{"sentences": ".txt"}, {"protect": "a,b"}, {"protect": " "}, {"protect": "star"}, {"target": "a/b"}],
)
def test_what_cannot_be(folder: Path, wrong: dict[str, str]) -> None:
    asked = {"tags": ".txt", "sentences": ".caption", "target": ".train.txt"} | wrong
    with pytest.raises(UsageError):
        dual_captions(folder, "joined", **asked)  # type: ignore[arg-type]


def test_a_folder_without_any_of_them_and_a_binary_caption(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"a picture by its name")
    with pytest.raises(DatasetError, match="neither"):
        dual_captions(tmp_path, "tags", tags=".txt", sentences=".caption", target=".x")
    (tmp_path / "a.txt").write_bytes(b"\0\1")
    made = dual_captions(tmp_path, "tags", tags=".txt", sentences=".caption", target=".x")
    assert made.left[0][1].startswith("is binary")
