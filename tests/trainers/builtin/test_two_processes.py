"""Two real processes under accelerate on the CPU: the planned steps, and the numbers of one process with twice the accumulation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lorakit import protocol
from lorakit.launch.accelerate import LaunchShape, config_text, free_port
from tests.trainers.builtin.runs import arguments, train, write_images


def test_two_processes_train_together(tiny_base: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "data" / "1_cat", ((64, 64),) * 6)
    changes = {
        "max_train_steps": None, "max_train_epochs": 2, "train_batch_size": 1, "text_encoder_lr": "1e-3",
        "validation_split": 0.34, "validation_seed": 1, "lr_scheduler": "linear", "save_every_n_steps": 2,
    }  # fmt: skip
    (tmp_path / "accelerate.yaml").write_text(config_text(LaunchShape(processes=2, cpu=True, port=free_port())))
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(tmp_path / "accelerate.yaml"),
        "-m", "lorakit.trainers.builtin", *arguments(tiny_base, tmp_path / "data", tmp_path / "two", changes),
    ]  # fmt: skip
    progress = tmp_path / "progress.jsonl"
    done = subprocess.run(
        command,
        env={**os.environ, protocol.PROGRESS_ENV: str(progress)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    records = protocol.read(progress)
    steps = [record for record in records if record["type"] == "step"]
    (start,) = [record for record in records if record["type"] == "start"]
    assert start["total_steps"] == len(steps) == 4  # 4 batches, two processes, two epochs
    assert [record["type"] for record in records].count("end") == 1
    assert [path.name for path in sorted((tmp_path / "two").glob("*.safetensors"))] == [
        "x-step00000002.safetensors", "x-step00000004.safetensors", "x.safetensors",
    ]  # fmt: skip
    one = train(tiny_base, tmp_path / "data", tmp_path / "one", {**changes, "gradient_accumulation_steps": 2})
    assert [record["loss"] for record in steps] == pytest.approx(one.losses, rel=1e-4)
    assert [record["lr"] for record in steps] == [pytest.approx(record["lr"]) for record in one.of("step")]
    validations = [record["loss"] for record in records if record["type"] == "validation"]
    assert validations == pytest.approx([record["loss"] for record in one.of("validation")], rel=1e-4)
    weights = load_file(tmp_path / "two" / "x.safetensors")
    for name, tensor in one.weights().items():
        if "lora_down" in name:  # Adam makes ±rate of the tiniest difference in a vanishing gradient of "up"
            torch.testing.assert_close(weights[name], tensor, rtol=0, atol=3e-2)
