"""The tokenizer cache: CLIP's vocabulary from a package or a folder, whole or not at all, and passed to sd-scripts."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from lorakit.errors import TrainerError
from lorakit.trainers.render import RenderPaths, render
from lorakit.trainers.sd_scripts import tokenizers
from lorakit.workspace import Workspace
from tests.trainers.presets import shipped

CAPTIONS = (
    "1girl, solo, masterpiece, best quality",
    "a photo of sks dog on a beach at sunset, 35mm, f/1.8",
    "café naïve Ünïcode ß",
    "日本語 привет ελληνικά हिन्दी 🎉",
    "it's we'll don't o'clock",
    "(x:1.2) foo_bar <lora> \\( / -- :: 10,000 3d #tag @x",
    "  double   space\tand\nline ",
    "zorp " * 60,
    "",
)


@pytest.fixture(scope="module")
def merges() -> tuple[str, ...]:
    pytest.importorskip("instant_clip_tokenizer")
    return tokenizers.merges_of_package()


@pytest.fixture(scope="module")
def cache(merges: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizers") / "cache"
    tokenizers.fill(folder, merges)
    return folder


def test_the_layout_is_the_trainers(cache: Path) -> None:
    assert tokenizers.is_complete(cache)
    found = {str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file()}
    names = ("merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json")
    folders = ("openai_clip-vit-large-patch14", "laion_CLIP-ViT-bigG-14-laion2B-39B-b160k")
    assert found == {f"{folder}/{name}" for folder in folders for name in names}
    config = json.loads((cache / folders[0] / "tokenizer_config.json").read_text())
    assert (config["model_max_length"], config["pad_token"]) == (77, "<|endoftext|>")
    assert json.loads((cache / folders[1] / "special_tokens_map.json").read_text())["pad_token"] == "!"


def test_the_vocabulary_is_clips(cache: Path) -> None:
    vocabulary = json.loads((cache / "openai_clip-vit-large-patch14" / "vocab.json").read_text(encoding="utf-8"))
    assert sorted(vocabulary.values()) == list(range(49408))
    known = {"!": 0, "<|startoftext|>": 49406, "<|endoftext|>": 49407, "hello</w>": 3306, "world</w>": 1002, "in": 512}
    assert {token: vocabulary[token] for token in known} == known


def test_the_real_tokenizer_reads_it_and_gives_the_same_ids(cache: Path) -> None:
    pytest.importorskip("torch")
    from lorakit.trainers.builtin.tokenizers import load_tokenizers

    package, folder = load_tokenizers(), load_tokenizers(cache)  # the second is transformers' own
    for caption in CAPTIONS:
        assert package.first.words(caption) == folder.first.words(caption) == folder.second.words(caption), caption


def test_first_bakes_at_once_fill_it_without_harm_to_each_other(merges: tuple[str, ...], tmp_path: Path) -> None:
    cache = tmp_path / "vendor" / "tokenizers"
    children = []
    for _ in range(3):
        if (child := os.fork()) == 0:
            try:
                tokenizers.fill(cache, merges)
            except BaseException:  # noqa: BLE001 (told by the exit code: this process must not go on as a test)
                os._exit(1)
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert tokenizers.is_complete(cache)
    assert [path.name for path in cache.parent.iterdir()] == ["tokenizers"]


@pytest.mark.parametrize("below", ["", "laion_CLIP-ViT-bigG-14-laion2B-39B-b160k", "tokenizer"])
def test_a_folder_gives_it_too(cache: Path, tmp_path: Path, below: str, merges: tuple[str, ...]) -> None:
    (tmp_path / "model" / below).mkdir(parents=True)
    shutil.copy(cache / "openai_clip-vit-large-patch14" / "merges.txt", tmp_path / "model" / below)
    assert tokenizers.merges_of_folder(tmp_path / "model") == merges
    workspace = Workspace(tmp_path / "work")
    where, origin = tokenizers.provide(workspace, tmp_path / "model")
    assert where == workspace.vendor / "tokenizers"
    assert origin == str(tmp_path / "model")
    for path in cache.rglob("*.*"):
        assert (where / path.relative_to(cache)).read_bytes() == path.read_bytes()


def test_another_vocabulary_is_not_taken(cache: Path, tmp_path: Path) -> None:
    text = (cache / "openai_clip-vit-large-patch14" / "merges.txt").read_text(encoding="utf-8")
    (tmp_path / "merges.txt").write_text(text.replace("\nt h\n", "\nh t\n", 1), encoding="utf-8")
    with pytest.raises(TrainerError, match="another vocabulary"):
        tokenizers.merges_of_folder(tmp_path)
    (tmp_path / "merges.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(TrainerError, match="cannot be read"):
        tokenizers.merges_of_folder(tmp_path)


def test_no_vocabulary_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizers, "_PACKAGE", "no_such_package")
    with pytest.raises(TrainerError, match="no CLIP vocabulary") as error:
        tokenizers.provide(Workspace(tmp_path))
    assert "--tokenizers DIR" in error.value.todo


def test_what_a_killed_filling_left_goes_away(tmp_path: Path, merges: tuple[str, ...]) -> None:
    cache = tmp_path / "tokenizers"
    left = tmp_path / ".tokenizers.lorakit-tmp-99999999"
    (left / "openai_clip-vit-large-patch14").mkdir(parents=True)
    (cache / "openai_clip-vit-large-patch14").mkdir(parents=True)
    assert not tokenizers.is_complete(cache)
    tokenizers.fill(cache, merges)
    assert tokenizers.is_complete(cache)
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizers"]


def test_the_hubs_own_cache_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert not tokenizers.in_hub_cache()
    for name in ("models--openai--clip-vit-large-patch14", "models--laion--CLIP-ViT-bigG-14-laion2B-39B-b160k"):
        (tmp_path / name / "snapshots" / "abc").mkdir(parents=True)
        (tmp_path / name / "snapshots" / "abc" / "merges.txt").touch()
    assert tokenizers.in_hub_cache()


def test_only_sd_scripts_is_given_the_cache(tmp_path: Path, merges: tuple[str, ...]) -> None:
    workspace = Workspace(tmp_path)
    preset = shipped("quickstart")
    none = RenderPaths.of(workspace, preset, tmp_path / "run")
    assert "--tokenizer_cache_dir" not in render(preset, none, kind="sd-scripts")
    cache, _ = tokenizers.provide(workspace)
    paths = RenderPaths.of(workspace, preset, tmp_path / "run")
    words = render(preset, paths, kind="sd-scripts")
    assert words[words.index("--tokenizer_cache_dir") + 1] == str(cache)
    assert "--tokenizer_cache_dir" not in render(preset, paths, kind="builtin")
    own = shipped("quickstart", "base.tokenizer_cache=mine")
    words = render(own, paths, kind="sd-scripts")
    assert words[words.index("--tokenizer_cache_dir") + 1] == str(tmp_path / "mine")
