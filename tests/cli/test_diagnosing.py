"""`lorakit diagnose` on runs, sweeps and files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lorakit.archive.run import Run
from lorakit.preset.files import load_preset
from lorakit.workspace import Workspace
from tests.cli.running import Cli
from tests.verdict.diagnose.made_run import base_model, lora, made


@pytest.fixture
def fried(workspace: Workspace) -> Run:
    base_model(workspace.root / "models" / "base.safetensors")
    return made(workspace.runs, unet=20.0, noise=True)


@pytest.fixture
def healthy(workspace: Workspace) -> Run:
    base_model(workspace.root / "models" / "base.safetensors")
    return made(workspace.runs)


def test_a_fault_with_its_evidence_what_to_try_and_the_next_command(cli: Cli, fried: Run) -> None:
    printed = cli("diagnose", fried.short, "--no-embeddings").out
    assert printed.startswith("D11 sure     the UNet is fried\n")
    assert (
        "the UNet moved by 200% of its own weights (healthy below 60%; 100% at step 100)  weights/hifumi.safetensors"
        in printed
    )
    assert "1 of 1 samples of step 200 are noise or one flat colour  samples/last.png" in printed
    assert "→ lower it: UNet rate 9e-4" in printed
    assert "carried by   UNet 100%" in printed
    assert "not seen     similarity of captions" in printed
    assert printed.endswith(f"next preset: lorakit diagnose {fried.short} --write presets/NAME.toml\n")


def test_a_healthy_run_has_none(cli: Cli, healthy: Run) -> None:
    printed = cli("diagnose", healthy.short, "--no-embeddings").out
    assert printed.startswith("nothing found")
    assert "healthy " in printed
    assert f"lorakit diagnose {healthy.short} --then anneal --write" in printed


def test_json_is_what_is_kept_in_the_run(cli: Cli, fried: Run) -> None:
    told = cli("diagnose", fried.short, "--no-embeddings", "--json").json
    assert told == json.loads((fried.analysis / "diagnosis.json").read_text(encoding="utf-8"))
    assert [one["code"] for one in told["findings"]] == ["D11"]
    assert told["findings"][0]["changes"] == {"optim.unet_lr": 9e-4}


def test_the_next_preset_is_written_and_checks_clean(cli: Cli, workspace: Workspace, fried: Run) -> None:
    printed = cli("diagnose", fried.short, "--no-embeddings", "--write", "presets/next").out
    assert "✓ presets/next.toml" in printed
    assert "optim.unet_lr = 9e-4  D11 the UNet is fried" in printed
    assert load_preset(workspace.presets / "next.toml").preset.optim.unet_lr == 9e-4
    assert (
        "keeps all rules" in cli("check", "next", "--trainer", "builtin").out
        or "can be baked" in cli("check", "next").out
    )
    assert "exists" in cli("diagnose", fried.short, "--no-embeddings", "--write", "presets/next", code=2).err


def test_going_on_from_a_checkpoint(cli: Cli, workspace: Workspace, healthy: Run) -> None:
    words = (
        "diagnose",
        healthy.short,
        "--no-embeddings",
        "--then",
        "refine-te",
        "--from",
        "hifumi-000005",
        "--write",
        "presets/on.toml",
    )
    told = cli(*words, "--json").json
    assert told["written"] == "presets/on.toml"
    assert told["written_changes"]["optim.te_lr"]["value"] == 1e-5
    weights = load_preset(workspace.presets / "on.toml").preset.network.weights
    assert weights == f"runs/{healthy.id}/weights/hifumi-000005.safetensors"


def test_what_is_seen_counts_and_thresholds_can_be_set(cli: Cli, workspace: Workspace, healthy: Run) -> None:
    printed = cli("diagnose", healthy.short, "--no-embeddings", "--saw", "unrelated-content").out
    assert "D03 possible a text encoder is overcooked" in printed
    assert "D12" in cli("diagnose", healthy.short, "--no-embeddings", "--set", "unet.moved_little=0.3").out
    (workspace.root / "lorakit.toml").write_text("[diagnose]\nunet.moved_much = 0.1\n", encoding="utf-8")
    assert "D11" in cli("diagnose", healthy.short, "--no-embeddings").out


@pytest.mark.parametrize(
    "words",
    [
        ("--saw", "x"),
        ("--then", "anneal"),
        ("--then", "home", "--write", "x"),
        ("--from", "y"),
        ("--set", "nothing=1"),
        ("--write", "x.toml"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_writes_nothing(cli: Cli, healthy: Run, words: tuple[str, ...]) -> None:
    assert cli("diagnose", healthy.short, "--no-embeddings", *words, code=2).err
    assert not Path("x.toml").exists()


def test_a_bare_file(cli: Cli, workspace: Workspace) -> None:
    path = lora(workspace.root / "mine.safetensors", metadata={"ss_unet_lr": "0.0001", "ss_text_encoder_lr": "5e-05"})
    printed = cli("diagnose", str(path)).out
    assert "carried by   UNet" in printed
    assert "a file alone does not hold them" in printed
    assert "lorakit import FILE" in cli("diagnose", str(path), "--write", "x", code=2).err


def test_a_run_that_cannot_be_written_to_is_diagnosed_all_the_same(cli: Cli, fried: Run) -> None:
    request = json.loads(fried.request.read_text(encoding="utf-8"))
    fried.request.write_text(json.dumps({**request, "schema": 99}), encoding="utf-8")
    printed = cli("diagnose", fried.short, "--no-embeddings").out
    assert "D11" in printed
    assert "not kept in the run" in printed


def test_nothing_of_that_name(cli: Cli, healthy: Run) -> None:
    assert "no run is called" in cli("diagnose", "zzzz", code=9).err


def test_a_sweep_ranks_its_trials(cli: Cli, workspace: Workspace) -> None:
    base_model(workspace.root / "models" / "base.safetensors")
    folder = workspace.root / "sweeps" / "2026-11-22_1320_hifumi_3fa1c2d4"
    (folder / "trials").mkdir(parents=True)
    rows = []
    for index, (rate, unet) in enumerate((("3e-3", 2.0), ("3e-3", 2.2), ("3e-2", 20.0), ("3e-2", 22.0)), 1):
        made(workspace.runs, unet=unet, lineage={"kind": "sweep", "sweep": "3fa1c2d4", "trial": f"t{index}"})
        rows.append(
            {
                "index": index, "identity": f"t{index}", "name": f"hifumi-{index}", "point": {"optim.unet_lr": rate, "seed": str(index)},
                "preset": "", "source": "presets/hifumi.toml", "trainer": "builtin", "seed": index, "steps": 200, "bytes": 1, "findings": [],
            }
        )  # fmt: skip
    axes = {"optim.unet_lr": ["3e-3", "3e-2"]}
    (folder / "sweep.json").write_text(
        json.dumps({"schema": 1, "sweep": "3fa1c2d4", "axes": axes, "preset": "x", "time": 1.0}), encoding="utf-8"
    )
    (folder / "trials" / "0001.json").write_text(json.dumps({"schema": 1, "trials": rows}), encoding="utf-8")
    printed = cli("diagnose", "3fa1c2d4").out
    lines = printed.splitlines()
    assert lines[0].startswith("3fa1c2d4 · 4 trials looked at")
    assert [line.split()[1] for line in lines[2:6]] == ["3e-3", "3e-3", "3e-2", "3e-2"]
    assert lines[2].endswith("none")
    assert "D11 the UNet is fried" in lines[5]
    assert any(line.startswith("optim.unet_lr moved UNet moved") for line in lines)
    told = cli("diagnose", "3fa1c2d4", "--json").json
    assert [one["weight"] for one in told["trials"]][:2] == [0, 0]
    assert cli("diagnose", "3fa1c2d4", "--write", "x", code=2).err
