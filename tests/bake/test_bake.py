"""Whole bakes with the built-in trainer on the tiny model: few, for each is a real training."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from lorakit.archive.diagnose_log import Status
from lorakit.archive.records import state
from lorakit.archive.run import Run, list_runs, open_run
from lorakit.archive.seal import verify
from lorakit.bake.bake import bake, follow, trouble
from lorakit.errors import RunFailed
from lorakit.preset.files import load_preset
from lorakit.workspace import Workspace
from tests.bake.runs import left_over, reaped, wait_for, wait_sealed


def test_a_preset_becomes_a_sealed_run(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """With samples, states and epoch checkpoints, in a workspace with a space, beside a user's own accelerate default."""
    home = workspace.root / "home"
    (home / "accelerate").mkdir(parents=True)
    (home / "accelerate" / "default_config.yaml").write_text("distributed_type: MULTI_GPU\nnum_processes: 4\n")
    monkeypatch.setenv("HF_HOME", str(home))
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    monkeypatch.setenv("HF_TOKEN", "hf_thismustneverbefoundinanarchive")
    (workspace.presets / "prompts.txt").write_text("thing --w 64 --h 64 --s 2 --d 1\n")
    extra = ("sample.prompts=presets/prompts.txt", "sample.every_n_steps=2", "save.every_n_steps=2", "save.state=true")
    seen: list[dict[str, Any]] = []
    runs: list[Run] = []

    def on_update(run: Run, records: Any) -> None:
        runs.append(run)
        seen.extend(records)

    run = bake(
        load_preset(workspace.presets / "small.toml", extra), workspace, on_update=on_update, lineage={"of": "x"}
    )
    found = state(run)
    assert found.status is Status.OK, found
    assert trouble(found) is None
    assert (found.steps, found.total_steps, found.sealed) == (3, 3, True)
    assert set(runs) == {run}
    plan = json.loads(run.plan.read_text())
    steps = [record for record in seen if record["type"] == "step"]
    assert len(steps) == plan["total_steps"] == 3
    assert verify(run) == ()
    planned = {file["name"] for file in plan["checkpoints"] if file["kept"]}
    assert planned == {path.name for folder in (run.weights, run.state) for path in folder.iterdir()} - {"sample"}
    assert len(list(run.samples.glob("*.png"))) == 1
    for record in seen:
        if record["type"] in {"save", "sample"}:
            assert run.locate(record["path"]) is not None
    assert load_file(run.weights / "small_thing.safetensors")
    assert list(run.attempt(1).events.rglob("events.out.tfevents.*"))
    assert json.loads(run.request.read_text())["lineage"] == {"of": "x"}
    for path in run.path.rglob("*"):
        if path.is_file():
            assert b"hf_thismustneverbefound" not in path.read_bytes(), path
    assert left_over(run) == ()
    assert open_run(workspace.runs, "small") == run
    pasted = subprocess.run(["sh", "-n", str(run.command_sh)], check=False)
    assert pasted.returncode == 0


def test_two_processes_and_a_graceful_stop(workspace: Workspace) -> None:
    resolved = load_preset(workspace.presets / "small.toml", ("length.steps=400", "launch.processes=2"))
    run = bake(resolved, workspace, detach=True)
    with reaped(run):
        wait_for(lambda: state(run).steps >= 1 or state(run).is_final, 90)
        assert state(run).status is Status.RUNNING
        script = (
            "import sys; from pathlib import Path; from lorakit.bake.bake import request_stop; "
            "from lorakit.archive.run import Run; request_stop(Run(Path(sys.argv[1])))"
        )
        subprocess.run([sys.executable, "-c", script, str(run.path)], check=True)
        follow(run)
        found = wait_sealed(run)
        assert found.status is Status.STOPPED, found.message
        assert 0 < found.steps < 400
        assert load_file(run.weights / "small_thing.safetensors")
        ranks = json.loads(run.attempt(1).ended.read_text())["ranks"]
        assert [(rank["rank"], rank["code"]) for rank in ranks] == [(0, 0), (1, 0)]
        assert verify(run) == ()
        assert left_over(run) == ()


def test_a_training_that_fails_is_an_error_with_a_reason(workspace: Workspace) -> None:
    """The dataset vanishes between the look and the training."""
    resolved = load_preset(workspace.presets / "small.toml")

    def vanish(run: Run, records: Any) -> None:
        del run
        if not records:
            workspace.datasets.rename(workspace.root / "elsewhere") if workspace.datasets.exists() else None

    run = bake(resolved, workspace, on_update=vanish)
    found = state(run)
    assert (found.status, found.sealed) == (Status.FAILED, True)
    error = trouble(found)
    assert isinstance(error, RunFailed)
    assert "never started" in error.what or "failed at step 0" in error.what
    assert found.log_tail
    assert "\n" not in found.message
    assert list_runs(workspace.runs) == (run,), "it is kept"


@pytest.mark.slow  # the default suite does this with the small trainer
def test_a_killed_bake_command_leaves_the_run_going(workspace: Workspace) -> None:
    script = (
        "import sys; from pathlib import Path; from lorakit.bake.bake import bake; from lorakit.preset.files import "
        "load_preset; from lorakit.workspace import Workspace; w = Workspace(Path(sys.argv[1])); "
        "bake(load_preset(w.presets / 'small.toml'), w)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(workspace.root)], start_new_session=True)
    wait_for(lambda: bool(list_runs(workspace.runs)))
    (run,) = list_runs(workspace.runs)
    with reaped(run):
        wait_for(run.attempt(1).started.exists)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        found = wait_sealed(run, 300)  # a real training, from the launcher's start on
        assert (found.status, found.steps) == (Status.OK, 3)
        assert Path(run.weights / "small_thing.safetensors").is_file()
