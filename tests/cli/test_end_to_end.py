"""The command line with the real built-in trainer on the tiny model: a sweep, what it leaves, and Ctrl-C at a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lorakit.archive.records import state
from lorakit.archive.run import list_runs
from lorakit.workspace import Workspace
from tests.bench_models import bench_checkpoint
from tests.cli.running import Cli

OFF = (
    "length.epochs=",
    "sample.prompts=",
    "sample.every_n_epochs=",
    "save.every_n_epochs=",
    "validation.split=0",
    "validation.every_n_epochs=",
    "validation.max_steps=",
)
SMALL = [word for key in OFF for word in ("--set", key)]
#: Makes its standard input the terminal that Ctrl-C comes from, then is `lorakit`.
AT_A_TERMINAL = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from lorakit.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
#: Seconds in which anything must happen, on a machine that does much else.
PATIENCE = 240


@pytest.fixture
def model(workspace: Workspace) -> None:
    """The tiny base model, where the quickstart looks for it."""
    (workspace.root / "models").mkdir()
    (workspace.root / "models" / "bench-sdxl.safetensors").symlink_to(bench_checkpoint())


@pytest.mark.usefixtures("model")
def test_a_sweep_from_the_first_line_to_the_comparison(workspace: Workspace, cli: Cli) -> None:
    line = ["sweep", "quickstart", *SMALL, "--set", "length.steps=2", "--unet-lr", "1e-3,3e-3", "--set", "seed="]
    first = cli(*line).out
    assert first.count("✓ baked") == 2
    again = cli(*line).out
    assert again.count("✓ done before") == 2
    one, two = list_runs(workspace.runs)
    assert len(list_runs(workspace.runs)) == 2

    found = cli("compare", one.short, two.short, "--json").json
    assert found["settings"] == {"optim.unet_lr": [1e-3, 3e-3]}  # the drawn seed is shared
    assert found["inputs"] == {}
    assert found["results"]["steps"] == [2, 2]
    assert found["results"]["loss_first"][0] == found["results"]["loss_first"][1]  # the rate acts after the first step
    for run in (one, two):
        cli("verify", run.short)
        planned = json.loads(run.plan.read_text())
        assert planned["total_steps"] == state(run).steps == 2
        assert list(run.weights.glob("*.safetensors"))
    assert "1e-3" in cli("ls").out
    assert cli("logs", one.short).out


@pytest.mark.usefixtures("model")
@pytest.mark.skipif(sys.platform != "linux", reason="runs are kept by Linux means")
def test_ctrl_c_at_a_terminal_stops_cleanly(workspace: Workspace) -> None:
    line = ["bake", "quickstart", *SMALL, "--set", "length.steps=500"]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", AT_A_TERMINAL, *line],
        cwd=workspace.root,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"},
        start_new_session=True,
    )
    os.close(theirs)
    try:
        screen = read_until(ours, r"\b2/500\b")
        os.write(ours, b"\x03")
        screen += read_until(ours, r"stopping after this step")
        screen += read_until(ours, r"■ .*quickstart_")
        screen += read_to_end(ours)
        assert process.wait(PATIENCE) == 130
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    (run,) = list_runs(workspace.runs)
    found = state(run)
    assert (found.status.value, found.sealed) == ("stopped", True)
    assert 2 <= found.steps < 500
    assert list(run.weights.glob("*.safetensors"))
    assert re.search(r"━.*/500", screen)
    assert "Traceback" not in screen
    assert screen.count("\x1b[?25h") >= screen.count("\x1b[?25l") > 0  # the cursor is given back


def read_until(handle: int, pattern: str) -> str:
    """What the terminal shows up to a pattern; fails when it never comes."""
    text = ""
    deadline = time.monotonic() + PATIENCE
    while not re.search(pattern, plain(text)):
        assert time.monotonic() < deadline, plain(text)[-2000:]
        text += read_some(handle, deadline)
    return text


def read_to_end(handle: int) -> str:
    text = ""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            text += read_some(handle, deadline)
        except OSError:  # Linux says so when the last program at the terminal has gone
            return text
    raise AssertionError(plain(text)[-2000:])


def read_some(handle: int, deadline: float) -> str:
    ready, _, _ = select.select([handle], [], [], max(0, deadline - time.monotonic()))
    return os.read(handle, 65536).decode(errors="replace") if ready else ""


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_the_plan_of_the_quickstart_is_quick_and_light(workspace: Workspace, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lorakit", "plan", "quickstart"],
        cwd=workspace.root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("quickstart · ")
    assert done.stderr == ""
