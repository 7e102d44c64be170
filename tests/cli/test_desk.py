"""The dataset desk at the command line: a check, a sorted folder, two runs side by side."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lorakit.errors import TrainerError
from lorakit.evidence import embeddings
from lorakit.evidence.embeddings import PairSimilarity
from lorakit.trainers.sd_scripts import tokenizers
from lorakit.workspace import Workspace
from tests.archive.made import born
from tests.cli.running import Cli, golden
from tests.dataset.desk.made import caption, scene


@pytest.fixture
def rooms(workspace: Workspace) -> Path:
    folder = workspace.datasets / "rooms"
    for number in range(4):
        text = f"zrm style, brass floor lamp, cozy, oak floor, living room, tag {number}, leather sofa"
        scene(folder / "2_rooms" / f"{number}.png", number, (1024, 1024), text=text)
    return folder


def test_check_says_what_is_there(cli: Cli, rooms: Path) -> None:
    done = cli("dataset", "check", "datasets/rooms")
    assert "can be trained on; nothing to look at" in done.out
    assert "2_rooms  4 × 2  8 per epoch" in done.out
    assert "everywhere" in done.out
    assert done.out.rstrip().endswith("next: lorakit dataset check datasets/rooms --html dataset.html")


def test_check_of_a_preset_and_its_page(cli: Cli, workspace: Workspace) -> None:
    done = cli("dataset", "check", "datasets/demo/zorp", "--preset", "quickstart", "--html", "zorp.html", "--json")
    assert done.json["resolution"] == [128, 128]
    assert done.json["tokens"]["max_token_length"] == 75
    assert {one["code"] for one in done.json["findings"]} == {"same-caption"}
    assert (workspace.root / "zorp.html").read_text(encoding="utf-8").count("data:image/jpeg") == 16


def test_a_page_in_a_folder_that_is_not_there(cli: Cli, rooms: Path) -> None:
    assert "there is no folder" in cli("dataset", "check", "datasets/rooms", "--html", "no/x.html", code=2).err


def test_without_a_vocabulary_it_says_so_and_a_folder_gives_one(
    cli: Cli, rooms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merges = tokenizers.merges_of_package()

    def none() -> tuple[str, ...]:
        raise TrainerError("no CLIP vocabulary on this machine")

    monkeypatch.setattr(tokenizers, "merges_of_package", none)
    assert "not counted: no CLIP vocabulary on this machine" in cli("dataset", "check", "datasets/rooms").out
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    assert "longest 2" in cli("dataset", "check", "datasets/rooms", "--tokenizer", str(folder)).out


def test_a_folder_that_would_stop_the_trainer_says_so_and_exits_0(cli: Cli, rooms: Path) -> None:
    caption(rooms / "2_rooms/0.png", "")
    done = cli("dataset", "check", "datasets/rooms")
    assert "the trainer would stop at it" in done.out
    assert "0.txt' is empty" in done.out


def test_tags_are_sorted_shown_first_written_and_undone(cli: Cli, rooms: Path) -> None:
    before = {path.name: path.read_bytes() for path in (rooms / "2_rooms").iterdir()}
    shown = cli("dataset", "tags", "datasets/rooms", "--ontology", "interiors")
    assert "nothing is written yet" in shown.out
    assert {path.name: path.read_bytes() for path in (rooms / "2_rooms").iterdir()} == before
    done = cli("dataset", "tags", "datasets/rooms", "--ontology", "interiors", "--write", "--json").json
    assert done["trigger"] == ["zrm style"]
    assert done["categories"]["0.txt"]["furniture"] == ["brass floor lamp", "leather sofa"]
    assert (rooms / "2_rooms/0.txt").read_text(
        encoding="utf-8"
    ) == "zrm style, living room, brass floor lamp, leather sofa, cozy, oak floor, tag 0"
    assert "4 files as before" in cli("dataset", "undo", "datasets/rooms").out
    assert {path.name: path.read_bytes() for path in (rooms / "2_rooms").iterdir()} == before
    assert "nothing to undo" in cli("dataset", "undo", "datasets/rooms", code=6).err


@pytest.mark.parametrize(("te2", "code"), [(0.97, 0), (0.94, 6)])
def test_check_measures_before_and_after_and_keeps_from_writing(
    cli: Cli, rooms: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, te2: float, code: int
) -> None:
    asked: list[tuple[str, str]] = []

    def similar(_base: Path, pairs: list[tuple[str, str]], **_: object) -> list[PairSimilarity]:
        asked.extend(pairs)
        return [PairSimilarity(0.99, te2, 20, 20) for _ in pairs]

    monkeypatch.setattr(embeddings, "pair_similarities", similar)
    (workspace.root / "base.safetensors").write_bytes(b"asked of nobody here")
    words = (
        "dataset",
        "tags",
        "datasets/rooms",
        "--ontology",
        "interiors",
        "--check",
        "--base",
        "base.safetensors",
        "--write",
    )
    done = cli(*words, code=code)
    assert f"TE2 {te2:.4f}" in done.out
    assert "4 of 4 captions have exactly as many tokens as before" in done.out
    assert sorted(asked[0][0].split(", ")) == sorted(asked[0][1].split(", "))
    written = (rooms / "2_rooms/0.txt").read_text(encoding="utf-8").startswith("zrm style, living room")
    assert written is (code == 0)
    if code:
        assert "both must exceed 0.95" in done.err
        cli(*words, "--anyway")
        assert (rooms / "2_rooms/0.txt").read_text(encoding="utf-8").startswith("zrm style, living room")


def test_check_needs_a_base_model(cli: Cli, rooms: Path) -> None:
    words = ("dataset", "tags", "datasets/rooms", "--ontology", "interiors", "--check")
    assert "needs a base model" in cli(*words, code=2).err
    assert "neither a base model nor a preset" in cli(*words, "--base", "nobody", code=2).err
    assert "there is no base model" in cli(*words, "--base", "nobody.safetensors", code=2).err


def test_edits_of_a_folder(cli: Cli, rooms: Path) -> None:
    cli("dataset", "add", "datasets/rooms", "photo", "--where", "/tag [12]/", "--last", "--write")
    cli("dataset", "rename", "datasets/rooms", "/(.*) lamp/", r"\1 light", "--write")
    cli("dataset", "remove", "datasets/rooms", "oak*", "--write")
    cli("dataset", "add", "datasets/rooms", "COZY", "--write")
    assert "nothing to change" in cli("dataset", "dedupe", "datasets/rooms", "--write").out
    assert (rooms / "2_rooms/1.txt").read_text(
        encoding="utf-8"
    ) == "zrm style, brass floor light, cozy, living room, tag 1, leather sofa, photo"
    for _ in range(3):
        cli("dataset", "undo", "datasets/rooms")
    assert (rooms / "2_rooms/1.txt").read_text(
        encoding="utf-8"
    ) == "zrm style, brass floor lamp, cozy, oak floor, living room, tag 1, leather sofa"


def test_two_captions_a_picture(cli: Cli, rooms: Path) -> None:
    for number in range(4):
        caption(rooms / "2_rooms" / f"{number}.png", "A room, warm and low.", ".caption")
    done = cli("dataset", "captions", "datasets/rooms", "--use", "joined", "--protect", ";;", "--write")
    assert 'dataset.caption_extension = ".train.txt" · dataset.secondary_separator = ";;"' in done.out
    assert "A room, warm and low." in done.out
    assert (
        (rooms / "2_rooms/0.train.txt").read_text(encoding="utf-8").endswith("leather sofa, A room;; warm and low.\n")
    )
    assert "is not known" in cli("dataset", "captions", "datasets/rooms", "--use", "all", code=2).err
    assert (
        cli("dataset", "captions", "datasets/rooms", "--use", "either", "--json").json["settings"][
            "dataset.enable_wildcard"
        ]
        is True
    )


def test_diff_of_a_folder_then_and_now(cli: Cli, rooms: Path, workspace: Workspace) -> None:
    shutil.copytree(rooms, workspace.datasets / "old")
    (rooms / "2_rooms/0.png").unlink()
    scene(rooms / "2_rooms/new.png", 9, (1024, 1024), text="zrm style")
    scene(rooms / "2_rooms/1.png", 8, (1024, 1024))
    caption(rooms / "2_rooms/2.png", "zrm style, a lamp")
    (workspace.datasets / "old/2_rooms").rename(workspace.datasets / "old/3_rooms")
    found = cli("dataset", "diff", "datasets/old", "datasets/rooms", "--json").json
    assert (found["added"], found["removed"], found["replaced"]) == (
        ["rooms/new.png"],
        ["rooms/0.png"],
        ["rooms/1.png"],
    )
    assert [one["path"] for one in found["recaptioned"]] == ["rooms/2.png"]
    assert found["recaptioned"][0]["added"] == ["a lamp"]
    assert found["rearranged"] == [["rooms/2.png", "repeats 3 → 2"], ["rooms/3.png", "repeats 3 → 2"]]
    golden("dataset_diff.txt", cli("dataset", "diff", "datasets/old", "datasets/rooms").out)
    assert "have the same pictures" in cli("dataset", "diff", "datasets/rooms", "datasets/rooms").out


def test_diff_of_a_run_and_a_folder(cli: Cli, rooms: Path, workspace: Workspace) -> None:
    record = {"images": cli("dataset", "diff", "datasets/rooms", "datasets/rooms", "--json").json["images"]}
    assert record["images"] == [4, 4]
    run = born(workspace.runs, "hifumi")
    (run.dataset).write_text(
        json.dumps({"images": [{"path": "/else/2_rooms/9.png", "sha256": "0", "caption": "x"}]}), encoding="utf-8"
    )
    found = cli("dataset", "diff", run.short, "datasets/rooms", "--json").json
    assert found["removed"] == ["rooms/9.png"]
    assert len(found["added"]) == 4
    run.dataset.write_text("{", encoding="utf-8")
    assert "no readable dataset.json" in cli("dataset", "diff", run.short, "datasets/rooms", code=9).err
    assert "neither a run nor a folder" in cli("dataset", "diff", "nobody", "datasets/rooms", code=9).err
