"""Rows 1 to 4, 7 and 9: processes are killed, deaf, frozen, or strangers; nothing of a run stays, and no stranger is touched."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lorakit.archive.diagnose_log import Reason, Status
from lorakit.archive.records import is_alive, state
from lorakit.archive.run import Run
from lorakit.archive.seal import verify
from lorakit.bake.bake import start
from lorakit.bake.ending import end_run, living
from lorakit.launch.processes import wait_gone
from tests.bake.runs import (
    keeper_of,
    launcher_of,
    left_over,
    make_run,
    rank_of,
    reaped,
    wait_for,
    wait_for_steps,
    wait_sealed,
)

ROOT = Path(__file__).parents[2]
SLOW = ("--steps", "2000", "--seconds", "0.02")


def both_ranks(run: Run) -> None:
    """Wait until both ranks have begun; only one tells its steps."""
    wait_for_steps(run)
    wait_for((run.attempt(1).ranks / "rank-1.json").exists)


@pytest.mark.usefixtures("launcher")
def test_row_01_a_killed_keeper_takes_the_training_with_it(tmp_path: Path) -> None:
    with reaped(make_run(tmp_path, *SLOW, processes=2)) as run:
        start(run)
        both_ranks(run)
        ranks = (rank_of(run, 0), rank_of(run, 1))
        keeper_of(run).kill(signal.SIGKILL)
        assert wait_gone(ranks, 20) == ()
        wait_for(lambda: not left_over(run))
        wait_for(lambda: state(run).is_final)
        found = state(run)
        assert (found.status, found.reason, found.sealed) == (Status.INTERRUPTED, Reason.KEEPER_LOST, False)
        assert found.steps > 0
        assert f"pid {keeper_of(run).pid}, is gone" in found.evidence
        assert living(run.attempt(1)) == ()


@pytest.mark.parametrize("processes", [1, 2], ids=["row_02_single", "row_03_two_ranks"])
def test_rows_02_03_a_killed_launcher_takes_all_ranks_with_it(tmp_path: Path, processes: int) -> None:
    """With the real accelerate: alone it would orphan its ranks, each in a session of its own."""
    with reaped(make_run(tmp_path, *SLOW, processes=processes)) as run:
        start(run)
        wait_for_steps(run)
        if processes == 2:
            both_ranks(run)
        ranks = tuple(rank_of(run, rank) for rank in range(processes))
        assert all(rank.is_alive() for rank in ranks)
        launcher_of(run).kill(signal.SIGKILL)
        found = wait_sealed(run)
        assert (found.status, found.reason) == (Status.FAILED, Reason.LAUNCHER_LOST)
        assert "launcher" in found.message
        assert "SIGKILL" in found.evidence
        assert wait_gone(ranks, 0) == ()
        assert left_over(run) == ()
        wait_for(lambda: not is_alive(run.attempt(1)))  # the keeper itself ends after its seal


@pytest.mark.usefixtures("launcher")
def test_row_04_one_killed_rank_ends_the_run_and_is_named(tmp_path: Path) -> None:
    with reaped(make_run(tmp_path, *SLOW, "--fault", "rank1-kill", processes=2)) as run:
        start(run)
        found = wait_sealed(run)
        assert (found.status, found.reason) == (Status.FAILED, Reason.SIGNALLED)
        assert "rank 1 was killed by signal 9 (SIGKILL)" in found.message
        assert found.evidence == "ranks/exit-1.json: signal 9 (SIGKILL)"
        assert left_over(run) == ()
        assert verify(run) == ()


@pytest.mark.slow
@pytest.mark.usefixtures("launcher")
def test_row_07_deaf_ranks_end_in_bounded_time_in_whatever_session(tmp_path: Path) -> None:
    with reaped(make_run(tmp_path, *SLOW, "--fault", "deaf", processes=2)) as run:
        start(run)
        both_ranks(run)
        ranks = (rank_of(run, 0), rank_of(run, 1))
        began = time.monotonic()
        ended = end_run(run, within=1)  # deaf to the stop file, then to TERM
        assert (ended.over, ended.survivors, ended.by_force) == (True, (), False)
        assert time.monotonic() - began < 60
        assert wait_gone(ranks, 0) == ()
        found = state(run)
        assert (found.status, found.reason, found.sealed) == (Status.STOPPED, Reason.STOPPED_BY_USER, True)


@pytest.mark.usefixtures("quick")
def test_row_07_a_deaf_keeper_is_ended_from_outside(tmp_path: Path) -> None:
    with reaped(make_run(tmp_path, *SLOW, processes=2)) as run:
        start(run)
        both_ranks(run)
        keeper_of(run).kill(signal.SIGSTOP)
        began = time.monotonic()
        ended = end_run(run, 3, clock=lambda: began + (time.monotonic() - began) * 100)
        assert (ended.over, ended.survivors, ended.by_force) == (True, (), True)
        assert left_over(run) == ()
        found = state(run)
        assert (found.status, found.reason) == (Status.INTERRUPTED, Reason.KEEPER_LOST)


@pytest.fixture
def freezer() -> Iterator[Path]:
    """A frozen control group: what is in it hangs in state D, and KILL does not end it."""
    group = Path(f"/sys/fs/cgroup/freezer/lorakit-test-{os.getpid()}")
    try:
        group.mkdir()
    except OSError:
        pytest.skip("no freezer here: a process that hangs in the kernel cannot be made")
    yield group
    (group / "freezer.state").write_text("THAWED")
    wait_for(lambda: not (group / "tasks").read_text())
    group.rmdir()


@pytest.mark.usefixtures("quick")
def test_row_07_a_rank_that_hangs_in_the_kernel_is_named(
    tmp_path: Path, freezer: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from lorakit.cli.main import main

    (tmp_path / "lorakit.toml").touch()
    with reaped(make_run(tmp_path / "runs", *SLOW)) as run:
        start(run)
        wait_for_steps(run)
        stuck = rank_of(run)
        (freezer / "tasks").write_text(str(stuck.pid))
        (freezer / "freezer.state").write_text("FROZEN")
        wait_for(lambda: (freezer / "freezer.state").read_text().strip() == "FROZEN")
        began = time.monotonic()
        assert main(["-C", str(tmp_path), "stop", run.short, "--kill"]) == 10
        assert time.monotonic() - began < 60
        assert f"could not kill pid {stuck.pid}" in capfd.readouterr().err
        found = state(run)
        assert (found.status, found.sealed) == (Status.STOPPED, True)
        assert f"could not kill pid {stuck.pid}" in found.message
        assert stuck.is_alive()
        (freezer / "freezer.state").write_text("THAWED")
        assert wait_gone((stuck,), 20) == ()


STRANGER = """
import json, subprocess, sys, time
from pathlib import Path
from lorakit.archive.records import is_alive, state
from lorakit.archive.run import Run
from lorakit.bake.ending import living, _kill
from lorakit.launch.processes import ProcessId
run = Run(Path(sys.argv[1]))
sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
ours = subprocess.Popen(sleep)
who = ProcessId.of(ours.pid)
facts = {"schema": 1, "time": time.time(), "keeper": who.to_json(), "cookie": "gone"}
run.attempt(1).started.write_text(json.dumps(facts))
(run.attempt(1).ranks / "rank-0.json").write_text(json.dumps({"rank": 0, **who.to_json()}))
before = state(run).status.value
ours.kill()
ours.wait()
time.sleep(0.05)
Path("/proc/sys/kernel/ns_last_pid").write_text(str(who.pid - 1))
stranger = subprocess.Popen(sleep)
same = stranger.pid == who.pid
after = state(run)
_kill(run.attempt(1))
signalled = who.kill(9)
time.sleep(0.05)
print(before, same, after.status.value, is_alive(run.attempt(1)), len(living(run.attempt(1))), signalled, stranger.poll())
stranger.kill()
"""


def test_row_09_a_pid_that_a_stranger_has_now_is_left_alone(tmp_path: Path) -> None:
    space = ["unshare", "-Urmpf", "--mount-proc"]
    if subprocess.run(
        [*space, "sh", "-c", ": > /proc/sys/kernel/ns_last_pid"], check=False, capture_output=True
    ).returncode:
        pytest.skip("no pid namespaces here: a pid cannot be given out again at will")
    run = make_run(tmp_path)
    command = [*space, sys.executable, "-c", STRANGER, str(run.path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["running", "True", "interrupted", "False", "0", "False", "None"]
    assert json.loads(run.attempt(1).started.read_text())["keeper"]["pid"] > 1
