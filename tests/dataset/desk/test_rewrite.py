"""Edits of folders: nothing is lost, neither by the edit nor by kill -9 nor by a folder that is read-only."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorakit import atomic
from lorakit.dataset.desk import edits
from lorakit.dataset.desk.caption_files import read_caption_file
from lorakit.dataset.desk.edits import Edit, rewriting
from lorakit.dataset.desk.rewrite import UNDO, Change, apply, undo
from lorakit.errors import DatasetError, DiskError, UsageError
from tests.dataset.desk.made import caption, scene
from tests.faults.test_crash_points import crashes


def folder_of(path: Path, *texts: str | bytes) -> Path:
    for number, text in enumerate(texts):
        picture = path / "3_x" / f"{number}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(b"a picture by its name")
        caption(picture, text)
    return path


def texts(path: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted(path.glob("3_x/*.txt"))]


@pytest.mark.parametrize(
    ("edit", "before", "after"),
    [
        (edits.add(["zorp"]), "a, b", "zorp, a, b"),
        (edits.add(["Zorp"]), "a,zorp", "a,zorp"),
        (edits.add(["z"], last=True), "a", "a, z"),
        (edits.add(["z"], where="*hair"), "a, red_hair", "z, a, red_hair"),
        (edits.add(["z"], where="*hair"), "a, b", "a, b"),
        (edits.remove(["*hair"]), "a, red_hair, b", "a, b"),
        (edits.remove(["star (symbol)"]), "a, star_(symbol)", "a"),
        (edits.remove(["/b.*/"]), "a, big, b", "a"),
        (edits.rename("blond hair", "blonde hair"), "Blond_Hair, x", "blonde hair, x"),
        (edits.rename("blond hair", "blonde hair"), "blonde hair, blond hair", "blonde hair"),
        (edits.rename("/(.*) coloured/", r"\1"), "red coloured, x", "red, x"),
        (edits.rename("a", "A"), "x, a", "x, A"),
        (edits.dedupe, "a, b, A", "a, b"),
        (edits.remove(["nothing"]), " a ,b,, ", " a ,b,, "),
    ],
)
def test_edits(edit: Edit, before: str, after: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, before)
    made = rewriting(folder, edit)
    apply(folder, made.changes, "test")
    assert texts(folder) == [after.encode()]


def test_only_the_first_line_is_edited_and_all_else_is_kept_to_the_byte(tmp_path: Path) -> None:
    odd = "\ufeff  a, b \r\nsecond, a\r\n\r\n"
    folder = folder_of(tmp_path, odd, "b")
    apply(folder, rewriting(folder, edits.rename("a", "c")).changes, "test")
    assert texts(folder)[0].decode() == odd.replace("a, b", "c, b")


@given(st.text(max_size=40).filter(lambda text: text != ""))
def test_a_caption_file_put_together_again_is_the_same(text: str) -> None:
    path = Path("/dev/shm" if os.path.isdir("/dev/shm") else "/tmp") / f"lorakit-caption-{os.getpid()}"
    try:
        path.write_bytes(text.encode("utf-8", "replace"))
        file = read_caption_file(path)
        assert file.fault or file.with_caption(file.caption) == file.data
    finally:
        path.unlink()


def test_what_cannot_be_rewritten_is_left_and_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, b"\x89PNG\0\1", "caf\xe9".encode("latin-1"), b"", "b", b"x" * 1_000_001)
    made = rewriting(folder, edits.remove(["b"]))
    assert made.changes == ()
    assert [reason.split(",")[0].split(":")[0] for _, reason in made.left] == [
        "is binary", "is not UTF-8 (byte 3)", "is empty (0 bytes)", "would have no tag left", "is larger than 1 MB",
    ]  # fmt: skip


def test_sentences_and_fixed_parts_are_left_alone_by_sorting(tmp_path: Path) -> None:
    sentence = "A woman stands in a room, smiling."
    folder = folder_of(tmp_path, sentence, "z, a ||| b, a ||| q, p")
    made = rewriting(folder, lambda tags: tuple(sorted(tags)), keep_front=True, sentences=False)
    assert [one.after for one in made.edited] == ["z, a ||| a, b ||| q, p"]
    assert [reason for _, reason in made.left] == ["is a sentence"]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: edits.matcher("/(/"),
        lambda: edits.matcher(" "),
        lambda: edits.rename("a", " "),
        lambda: edits.add([" "]),
    ],
)
def test_edits_that_cannot_be_meant(wrong: Callable[[], object]) -> None:
    with pytest.raises(UsageError):
        wrong()


def test_a_group_that_there_is_not() -> None:
    with pytest.raises(UsageError, match="names a group"):
        edits.rename("/a/", r"\2")(("a",))


def test_undo_goes_back_step_by_step(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a, b", "b, c")
    for edit in (edits.add(["x"]), edits.rename("b", "d")):
        apply(folder, rewriting(folder, edit).changes, "step")
    assert texts(folder) == [b"x, a, d", b"x, d, c"]
    undo(folder)
    assert texts(folder) == [b"x, a, b", b"x, b, c"]
    undo(folder)
    assert texts(folder) == [b"a, b", b"b, c"]
    with pytest.raises(DatasetError, match="nothing to undo"):
        undo(folder)


def test_undo_of_a_folder_below_names_the_right_one(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a")
    apply(folder, rewriting(folder, edits.add(["x"])).changes, "step")
    with pytest.raises(DatasetError) as caught:
        undo(folder / "3_x")
    assert str(folder) in caught.value.todo


def test_a_caption_changed_since_is_never_overwritten(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a", "b")
    apply(folder, rewriting(folder, edits.add(["x"])).changes, "step")
    (folder / "3_x/0.txt").write_bytes(b"by hand")
    with pytest.raises(DatasetError, match="changed since"):
        undo(folder)
    assert texts(folder) == [b"by hand", b"x, b"]
    assert undo(folder, anyway=True).left == (folder / "3_x/0.txt",)
    assert texts(folder) == [b"by hand", b"b"]


def test_a_caption_changed_meanwhile_stops_the_rewrite_before_it_begins(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a", "b")
    made = rewriting(folder, edits.add(["x"]))
    (folder / "3_x/1.txt").write_bytes(b"by hand")
    with pytest.raises(DatasetError, match="changed while"):
        apply(folder, made.changes, "step")
    assert texts(folder) == [b"a", b"by hand"]


def test_links_and_rights_stay(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "set", "a")
    kept = tmp_path / "elsewhere.txt"
    (folder / "3_x/0.txt").replace(kept)
    (folder / "3_x/0.txt").symlink_to(kept)
    kept.chmod(0o600)
    apply(folder, rewriting(folder, edits.add(["x"])).changes, "step")
    assert (folder / "3_x/0.txt").is_symlink()
    assert kept.read_bytes() == b"x, a"
    assert kept.stat().st_mode & 0o777 == 0o600
    undo(folder)
    assert kept.read_bytes() == b"a"


def test_a_read_only_folder_is_said_before_anything_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path, "a")
    made = rewriting(folder, edits.add(["x"]))
    monkeypatch.setattr(os, "access", lambda path, _mode: str(path) == str(folder))  # root may write everywhere
    with pytest.raises(DiskError, match="cannot be written"):
        apply(folder, made.changes, "step")
    assert texts(folder) == [b"a"]


def test_a_disk_that_fills_says_how_to_go_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path, "a", "b")
    made = rewriting(folder, edits.add(["x"]))
    real = atomic.write_bytes

    def full(path: Path, data: bytes) -> None:
        if path.name == "1.txt":
            raise OSError(28, "No space left on device")
        real(path, data)

    monkeypatch.setattr(atomic, "write_bytes", full)
    with pytest.raises(DiskError) as caught:
        apply(folder, made.changes, "step")
    assert "1 of 2" in caught.value.why
    monkeypatch.undo()
    undo(folder)
    assert texts(folder) == [b"a", b"b"]


def test_a_torn_record_touches_nothing(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a")
    apply(folder, rewriting(folder, edits.add(["x"])).changes, "step")
    (folder / UNDO / "0001.json").write_text("{", encoding="utf-8")
    with pytest.raises(DatasetError, match="cannot be read"):
        undo(folder)
    assert texts(folder) == [b"x, a"]


def test_kill_9_at_every_step_of_a_rewrite_leaves_each_caption_old_or_new_and_undo_brings_all_back(
    tmp_path: Path,
) -> None:
    def work(path: Path) -> None:
        apply(path, rewriting(path, edits.add(["x"])).changes, "step")

    for at, folder in enumerate(crashes(tmp_path, lambda path: folder_of(path, "a", "b"), work)):
        assert texts(folder)[0] in {b"a", b"x, a"}
        assert texts(folder)[1] in {b"b", b"x, b"}
        if at % 2:  # done again it ends as it should; undone, everything is as it was
            work(folder)
            assert texts(folder) == [b"x, a", b"x, b"]
        while any(text.startswith(b"x") for text in texts(folder)):
            undo(folder)
        assert texts(folder) == [b"a", b"b"]
        assert not [path for path in (folder / "3_x").iterdir() if atomic.TEMP_MARK in path.name and at % 2]


def test_kill_9_at_every_step_of_an_undo_can_be_undone_again(tmp_path: Path) -> None:
    def make(path: Path) -> None:
        folder_of(path, "a", "b")
        changes = rewriting(path, edits.add(["x"])).changes
        apply(path, [*changes, Change(path / "3_x/new.txt", None, b"new")], "step")

    for folder in crashes(tmp_path, make, undo):
        if list((folder / UNDO).glob("*.json")):
            undo(folder)
        assert texts(folder) == [b"a", b"b"]


def test_two_rewrites_of_one_folder_do_not_mix(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a")
    (folder / UNDO).mkdir()
    with atomic.claimed(folder / UNDO), pytest.raises(DatasetError, match="another rewrite"):
        apply(folder, rewriting(folder, edits.add(["x"])).changes, "step")


def test_pictures_of_all_folders_are_found_and_hidden_ones_are_not(tmp_path: Path) -> None:
    scene(tmp_path / "a/b/1.png", text="a")
    scene(tmp_path / ".hidden/1.png", text="a")
    made = rewriting(tmp_path, edits.add(["x"]))
    assert [one.path.relative_to(tmp_path) for one in made.edited] == [Path("a/b/1.txt")]
    (tmp_path / "none").mkdir()
    with pytest.raises(DatasetError, match="holds no pictures"):
        rewriting(tmp_path / "none", edits.add(["x"]))
