"""`lorakit sheet` and `lorakit embeddings` before anything is drawn: the estimate, what is refused, what is warned of."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorakit.workspace import Workspace
from tests.cli.made_runs import make_run
from tests.cli.running import Cli, golden
from tests.cli.test_weighing import checkpoints, lora


@pytest.fixture
def base(tmp_path: Path) -> str:
    """Stands for a base model: until something is drawn, it is only hashed."""
    path = tmp_path / "base.safetensors"
    path.write_bytes(b"base")
    return str(path)


def test_a_dry_run_tells_pictures_and_what_is_not_known(cli: Cli, workspace: Workspace, base: str) -> None:
    run = make_run(workspace.runs)
    checkpoints(run)
    line = [
        "sheet",
        run.short,
        "--base",
        base,
        "-p",
        "a zorp",
        "-x",
        "weight=0.5,1",
        "-z",
        'prompt=zorp,"red, round"',
        "-y",
        "epoch=1,last",
    ]
    done = cli(*line, "--seed", "7", "--steps", "8", "--cfg", "3", "--size", "64x96", "--dry-run")
    golden("sheet-dry-run.txt", done.out.replace(run.short, "k3f9"))
    told = cli(*line, "--dry-run", "--json").json
    assert (told["places"], told["pictures"], told["to_draw"], told["seconds"]) == (12, 10, 10, None)
    assert told["y"] == ["base model", "epoch 1", "last checkpoint"]
    assert "torn" in done.err or "left out" in done.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["-x", "epok=1"], "did you mean epoch?"),
        (["-x", "weight=9"], "numbers from -5 to 5"),
        (["--size", "100x64"], "multiples of 32"),
        (["--size", "big"], "multiples of 32"),
        (["--steps", "0"], "it takes 1 to 1000"),
        (["--cfg", "-1"], "it takes 0 to 50"),
        (["--seed", "-2"], "it takes -1 to"),
        (["--batch", "0"], "it takes 1 to 256"),
        (["--side", "5"], "it takes 32 to 4096"),
        (["--precision", "int8"], "there are auto, fp32, bf16 and fp16"),
        (["--sampler", "foo"], "there is no sampler"),
        (["-o", "sheet.jpg"], "write -o sheet.png"),
        (["-y", "seed", "-x", "epoch", "-z", "cfg=1,2", "--attribution"], "all three are taken"),
        (["--prompts", "none.txt"], "has no prompts"),
        (["-y", "epoch=9"], "no checkpoint of epoch 9"),
    ],
)
def test_refusals(cli: Cli, workspace: Workspace, base: str, words: list[str], told: str) -> None:
    run = make_run(workspace.runs)
    checkpoints(run)
    assert told in " ".join(cli("sheet", run.short, "--base", base, "-p", "a zorp", *words, code=None).err.split())


def test_files_need_a_base_and_captions(cli: Cli, tmp_path: Path, base: str) -> None:
    path = str(lora(tmp_path / "mine.safetensors", 1.0))
    assert "add --base FILE" in cli("sheet", path, "-p", "x", code=2).err
    assert "add --captions FILE" in cli("embeddings", path, "--base", base, code=2).err
    assert "cannot be read" in cli("embeddings", path, "--base", base, "--captions", "gone.txt", code=2).err
    (tmp_path / "one.txt").write_text("a cat\n\na cat\n")
    assert (
        "1 distinct caption has no pairs"
        in cli("embeddings", path, "--base", base, "--captions", str(tmp_path / "one.txt"), code=2).err
    )


def test_without_runs_there_is_nothing_to_show(cli: Cli, workspace: Workspace) -> None:
    assert "no run with a checkpoint" in cli("sheet", code=9).err
