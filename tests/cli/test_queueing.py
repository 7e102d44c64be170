"""`lorakit queue` as it is typed; the training itself is made up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lorakit.archive.run import list_runs
from lorakit.workspace import Workspace
from tests.cli.made_runs import OUT_OF_MEMORY
from tests.cli.running import Cli
from tests.cli.test_baking import STOPPED, Oven
from tests.cli.test_baking import model as _model
from tests.cli.test_baking import oven as _oven

model, oven = _model, _oven


def test_a_queue_from_the_first_preset_to_the_last_run(workspace: Workspace, model: Path, oven: Oven, cli: Cli) -> None:
    assert "nothing waits" in cli("queue", "ls").out
    assert "nothing waits" in cli("queue", "start").out
    added = cli("queue", "add", "quickstart", "--set", "network.dim=4").out
    assert added.startswith("✓ 1  quickstart  network.dim=4  queued  ")
    assert added.endswith("next: lorakit queue start\n")
    cli("queue", "add", "quickstart")
    assert "in the queue already" in cli("queue", "add", "quickstart").out
    assert "2 quickstart  comes first" in cli("queue", "first", "2").out
    listed = cli("queue", "ls", "--json").json
    assert listed["state"] == "idle"
    assert [one["index"] for one in listed["entries"]] == [2, 1]
    oven.ends = [OUT_OF_MEMORY]
    out = cli("queue", "start", code=10).out
    assert [resolved.preset.network.dim for resolved, _ in oven.asked] == [8, 4]
    assert "1 of 2 done" in out
    assert "lorakit queue retry N" in out
    assert "✗ failed" in cli("queue", "ls").out
    assert "next: lorakit queue start" in cli("queue", "retry", "2").out
    assert len(cli("queue", "start", "--json").json) == 1
    assert "nothing waits" in cli("queue", "ls").out
    assert cli("queue", "watch").out.count("✓ done") == 2
    assert "done before: " in cli("queue", "add", "quickstart").out


def test_what_is_taken_out_is_not_baked(workspace: Workspace, model: Path, oven: Oven, cli: Cli) -> None:
    cli("queue", "add", "quickstart")
    cli("queue", "add", "quickstart", "--set", "network.dim=4", "--first")
    assert "1 quickstart  taken out" in cli("queue", "rm", "1").out
    assert "no entry 7" in cli("queue", "rm", "7", code=2).err
    cli("queue", "start")
    assert [resolved.preset.network.dim for resolved, _ in oven.asked] == [4]
    assert "1 more that ended or were taken out" in cli("queue", "ls").out
    assert "– cancelled" in cli("queue", "ls", "--all").out


def test_a_stop_leaves_the_rest_for_later(workspace: Workspace, model: Path, oven: Oven, cli: Cli) -> None:
    cli("queue", "add", "quickstart")
    cli("queue", "add", "quickstart", "--set", "network.dim=4")
    oven.ends = [STOPPED]
    assert "■ stopped" in cli("queue", "start", code=130).out
    assert "1 waiting · not started" in cli("queue", "ls").out
    assert "paused" in cli("queue", "pause").out
    assert cli("queue", "ls", "--json").json["state"] == "paused"
    cli("queue", "start")
    assert len(oven.asked) == 2


def test_what_cannot_be_queued(workspace: Workspace, model: Path, cli: Cli) -> None:
    assert "no preset" in cli("queue", "add", "nothing", code=4).err
    model.unlink()
    assert "is missing" in cli("queue", "add", "quickstart", code=7).err
    assert cli("queue", "ls", "--json").json["entries"] == []


@pytest.mark.slow
def test_a_real_queue_is_killed_and_goes_on(workspace: Workspace, model: Path, cli: Cli) -> None:
    """A detached start is killed; its training goes on to the end by itself; the queue is paused; started again, the rest is baked."""
    small = ("--set", "length.steps=2", "--set", "sample.every_n_epochs=", "--set", "validation.split=0")
    cli("queue", "add", "quickstart", *small)
    cli("queue", "add", "quickstart", *small, "--set", "network.dim=4")
    line = [sys.executable, "-m", "lorakit", "-C", str(workspace.root), "queue", "start"]
    subprocess.run([*line, "--detach"], check=True, stdout=subprocess.DEVNULL, timeout=60)
    until = time.monotonic() + 120
    while not list_runs(workspace.runs) and time.monotonic() < until:
        time.sleep(0.1)
    shifts = workspace.root / "sweeps" / "queue" / "shifts"
    import json

    os.kill(json.loads(next(shifts.glob("*.json")).read_text())["process"]["pid"], signal.SIGKILL)
    while cli("queue", "ls", "--json").json["state"] == "started":
        time.sleep(0.1)
    assert "what handed out its runs was killed" in cli("queue", "ls").out
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL, timeout=250)
    assert [one["phase"] for one in cli("queue", "ls", "--json").json["entries"]] == ["done", "done"]
    assert len(list_runs(workspace.runs)) == 2
