"""`lorakit weights` on files and on runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from lorakit.archive.run import Run
from lorakit.workspace import Workspace
from tests.cli.made_runs import make_run
from tests.cli.running import Cli

Q = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
TE = "lora_te2_text_model_encoder_layers_3_mlp_fc1"


def lora(path: Path, scale: float) -> Path:
    rng = np.random.default_rng(3)
    tensors = {}
    for name, factor in ((Q, scale), (TE, 0.0)):
        tensors[f"{name}.lora_down.weight"] = rng.standard_normal((2, 6)).astype(np.float32)
        tensors[f"{name}.lora_up.weight"] = rng.standard_normal((5, 2)).astype(np.float32) * np.float32(factor)
        tensors[f"{name}.alpha"] = np.array(2.0, np.float32)
    save_file(tensors, path)
    return path


def checkpoints(run: Run) -> None:
    for path in run.weights.glob("*.safetensors"):
        path.unlink()
    for name, scale in (("hifumi-000001", 1.0), ("hifumi-000002", 2.0), ("hifumi", 3.0)):
        lora(run.weights / f"{name}.safetensors", scale)
    (run.weights / "hifumi-000003.safetensors").write_bytes(b"torn")


def test_one_file_by_part_and_block(cli: Cli, tmp_path: Path) -> None:
    printed = cli("weights", str(lora(tmp_path / "mine.safetensors", 1.0))).out
    assert "mine.safetensors · dim 2 alpha 2 · 2 modules" in printed
    assert "UNet" in printed
    assert "100.0%" in printed
    assert "1 of 1" in printed  # TE2 was never trained
    assert "IN04" in printed
    assert "L03" in printed


def test_a_run_grows_along_its_whole_checkpoints(cli: Cli, workspace: Workspace) -> None:
    run = make_run(workspace.runs)
    checkpoints(run)
    lines = cli("weights", run.short).out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [f"hifumi{end}.safetensors" for end in ("-000001", "-000002", "")]
    assert "×2.00" in lines[2]
    assert "×1.50" in lines[3]
    assert all(line.endswith("UNet 100%") for line in lines[1:])


def test_two_files_are_compared(cli: Cli, tmp_path: Path) -> None:
    one, two = (str(lora(tmp_path / f"{name}.safetensors", scale)) for name, scale in (("a", 1.0), ("b", -2.0)))
    told = json.loads(cli("weights", one, two, "--json", "--modules").out)
    assert [file["parts"]["unet"]["dead"] for file in told["files"]] == [0, 0]
    assert len(told["files"][0]["modules"]) == 2
    assert abs(told["cosine"]["unet"] + 1) < 1e-4
    assert "growth" not in cli("weights", one, two).out


def test_what_cannot_be_measured_is_said_in_a_line(cli: Cli, workspace: Workspace, tmp_path: Path) -> None:
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(b"x")
    assert "torn.safetensors cannot be measured" in cli("weights", str(torn), code=None).err
    run = make_run(workspace.runs)
    for path in run.weights.glob("*.safetensors"):
        path.unlink()
    assert "has no whole checkpoint" in cli("weights", run.short, code=None).err
