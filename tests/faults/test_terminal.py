"""Rows 5 and 6: Ctrl-C at a terminal, and terminals that are closed; the training is the small one, all else is real."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from lorakit.archive.diagnose_log import Status
from lorakit.archive.records import state
from lorakit.archive.run import Run
from lorakit.archive.seal import verify
from lorakit.bake.bake import request_stop
from tests.bake.runs import left_over, make_run, reaped, wait_for, wait_for_steps, wait_sealed
from tests.faults.terminal import Terminal, workspace

pytestmark = pytest.mark.usefixtures("quick")


def small(folder: Path, *arguments: str) -> Run:
    return make_run(workspace(folder) / "runs", "--steps", "90000", "--seconds", "0.02", *arguments)


@pytest.mark.parametrize("times", [1, pytest.param(2, marks=pytest.mark.slow), 3])
def test_row_05_ctrl_c_stops_hurries_kills(tmp_path: Path, times: int) -> None:
    run = small(tmp_path, "--fault", {1: "", 2: "ignore-stop", 3: "deaf"}[times])
    with reaped(run), closing(Terminal(tmp_path, "bake", "small", prepared=run.path)) as terminal:
        terminal.until(r"\d/90000")
        for level in range(1, times + 1):
            terminal.press_ctrl_c()
            wait_for(run.attempt(1).stop(level).exists)
        assert terminal.to_end() == 130
        found = state(run)
        assert (found.status, found.sealed) == (Status.STOPPED, True)
        words = {1: "stopped", 2: "terminated", 3: "killed"}
        assert f"{words[times]} by the user" in terminal.plain
        assert "stopped-by-user" in terminal.plain
        assert (run.weights / "small.safetensors").exists() == (times == 1)
        assert "small trainer, rank 0" in run.attempt(1).log.read_text()
        assert left_over(run) == ()
        assert verify(run) == ()


def test_row_06_a_closed_terminal_is_nothing_to_the_run_and_can_be_opened_again(tmp_path: Path) -> None:
    run = small(tmp_path)
    with reaped(run):
        with closing(Terminal(tmp_path, "bake", "small", prepared=run.path)) as terminal:
            terminal.until(r"\d/90000")
            terminal.hang_up()
            assert terminal.process.wait(60) != 0, "hung up"
        seen = state(run).steps
        wait_for_steps(run, seen + 5)
        assert state(run).status is Status.RUNNING
        with (
            closing(Terminal(tmp_path, "watch", run.short)) as watching,
            closing(Terminal(tmp_path, "logs", "-f", run.short)) as reading,
        ):
            for terminal in (watching, reading):
                terminal.until(r"━.*\d+/90000")  # the live view, with the steps from before the hang-up in it
                terminal.until(r"loss \S+  [▁▂▃▄▅▆▇█]{8}")
                terminal.until(r"Ctrl-C looks away")
            reading.until(r"small trainer, rank 0")
            watching.press_ctrl_c()
            assert watching.to_end() == 0
            assert state(run).status is Status.RUNNING
            request_stop(run)
            assert reading.to_end() == 0
        found = wait_sealed(run)
        assert found.status is Status.STOPPED
        assert verify(run) == ()


@pytest.mark.slow
def test_row_06_a_detached_run_needs_no_terminal_from_its_start(tmp_path: Path) -> None:
    run = small(tmp_path)
    with reaped(run):
        with closing(Terminal(tmp_path, "bake", "small", "--detach", prepared=run.path)) as terminal:
            assert terminal.to_end() == 0
            assert f"lorakit watch {run.short}" in terminal.plain
        wait_for_steps(run, 5)
        with closing(Terminal(tmp_path, "stop", run.short)) as stopping:
            assert stopping.to_end() == 0
            assert "stopped by the user" in stopping.plain
        assert state(run).sealed
        assert left_over(run) == ()
