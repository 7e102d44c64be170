"""Real launches through accelerate of a small real trainer: what the archive says about every way to end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lorakit.archive.diagnose_log import Reason, Status
from lorakit.archive.records import state
from lorakit.archive.run import Run
from lorakit.archive.seal import verify
from lorakit.bake.bake import follow, request_stop, start, trouble
from lorakit.errors import ArchiveError, RunFailed, Stopped
from lorakit.launch.processes import is_locked
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

#: A launcher without torch, where it is not the launcher that is tested.
QUICK = Path(__file__).with_name("quick")

SLOW = ("--steps", "2000", "--seconds", "0.02")


def bake(run: Run) -> list[dict[str, object]]:
    """Start a run and watch it to its end."""
    seen: list[dict[str, object]] = []
    start(run)
    follow(run, lambda _, records: seen.extend(records))
    return seen


def test_a_run_is_trained_recorded_and_sealed(tmp_path: Path) -> None:
    run = make_run(tmp_path, "--steps", "20")
    seen = bake(run)
    assert [record["type"] for record in seen] == ["start", *["step"] * 20, "save", "end"]
    found = state(run)
    assert (found.status, found.steps, found.total_steps, found.sealed) == (Status.OK, 20, 20, True)
    assert (found.checkpoints, found.loss_first, found.message) == (1, 0.75, "20 steps")
    assert trouble(found) is None
    assert verify(run) == ()
    assert "small trainer, rank 0, threads 1" in run.attempt(1).log.read_text()
    assert run.attempt(1).keeper_log.read_text() == ""
    assert (run.samples / "one.png").is_file()
    assert (run.state / "small-state" / "train_state.json").is_file()
    assert not (run.weights / "small-state").exists()
    saved = next(record for record in seen if record["type"] == "save")
    assert run.locate(str(saved["path"])) == run.weights / "small.safetensors"
    started = json.loads(run.attempt(1).started.read_text())
    assert started["argv"][-2:] == ["--steps", "20"]
    assert started["environment"]["set"]["PYTHONUNBUFFERED"] == "1"
    assert left_over(run) == ()
    assert not is_locked(run.attempt(1).alive)
    with pytest.raises(ArchiveError, match="could not be started") as caught:
        start(run)
    assert "started before" in caught.value.why
    with pytest.raises(ArchiveError, match="has ended"):
        request_stop(run)


@pytest.fixture(params=["quick", pytest.param("accelerate", marks=pytest.mark.slow)])
def launcher(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The quick launcher, and in the long suite the real one."""
    if request.param == "quick":
        monkeypatch.setenv("PYTHONPATH", str(QUICK))
    return str(request.param)


@pytest.mark.usefixtures("launcher")
@pytest.mark.parametrize(
    ("fault", "reason", "said"),
    [
        ("kill", Reason.SIGNALLED, "failed at step 2 of 4: rank 0 was killed by signal 9 (SIGKILL)"),
        ("exit3", Reason.ERROR, "failed at step 2 of 4: ended with exit code 3"),
        ("exception", Reason.ERROR, "ValueError: the shapes do not match"),
        ("cuda", Reason.OOM_CUDA, "CUDA out of memory (tried 1.10 GiB, 312.50 MiB free of 23.65 GiB)"),
        ("full", Reason.DISK_FULL, "the disk is full"),
        ("no-data", Reason.NO_DATA, "found no images"),
        ("torn", Reason.TORN_RESULT, "the final LoRA file is incomplete"),
        ("nan", Reason.NAN, "NaN or infinite at step 2"),
    ],
)
def test_a_failed_run_is_kept_sealed_and_says_why(tmp_path: Path, fault: str, reason: Reason, said: str) -> None:
    run = make_run(tmp_path, "--fault", fault)
    bake(run)
    found = state(run)
    assert (found.status, found.reason, found.sealed) == (Status.FAILED, reason, True)
    assert said in found.message
    assert "\n" not in found.message
    assert found.log_tail
    assert verify(run) == ()
    assert isinstance(trouble(found), RunFailed)
    assert left_over(run) == ()


def test_a_python_that_is_not_there(tmp_path: Path) -> None:
    run = make_run(tmp_path, python="/nowhere/python")
    bake(run)
    found = state(run)
    assert (found.status, found.reason, found.sealed) == (Status.FAILED, Reason.NEVER_STARTED, True)
    assert "/nowhere/python cannot be started" in found.message


def test_a_python_without_accelerate(tmp_path: Path) -> None:
    run = make_run(tmp_path, python=sys._base_executable)  # type: ignore[attr-defined]
    bake(run)
    found = state(run)
    assert (found.status, found.reason) == (Status.FAILED, Reason.MISSING_MODULE)
    assert "accelerate" in found.message


@pytest.mark.usefixtures("launcher")
def test_what_the_trainer_leaves_behind_is_ended(tmp_path: Path) -> None:
    run = make_run(tmp_path, "--fault", "child")
    bake(run)
    assert state(run).status is Status.OK
    assert left_over(run) == ()


@pytest.mark.usefixtures("launcher")
def test_stopping_once_saves_what_is_trained(tmp_path: Path) -> None:
    with reaped(make_run(tmp_path, *SLOW)) as run:
        start(run)
        wait_for_steps(run)
        assert state(run).status is Status.RUNNING
        run.attempt(1).alive.unlink()
        assert state(run).status is Status.RUNNING, "where locks do not work the keeper itself tells"
        request_stop(run)
        request_stop(run)
        found = wait_sealed(run)
        assert found.status is Status.STOPPED
        assert 0 < found.steps < 2000
        assert (run.weights / "small.safetensors").is_file()
        assert "what was trained is saved" in found.message
        assert isinstance(trouble(found), Stopped)
        assert verify(run) == ()


@pytest.mark.usefixtures("launcher")
def test_stopping_twice_is_faster_and_thrice_kills(tmp_path: Path) -> None:
    with reaped(make_run(tmp_path, *SLOW, "--fault", "ignore-term")) as run:
        start(run)
        wait_for_steps(run)
        request_stop(run, 2)
        wait_for(lambda: not launcher_of(run).is_alive())
        assert rank_of(run).is_alive(), "this trainer is deaf to TERM"
        request_stop(run, 3)
        found = wait_sealed(run)
        assert (found.status, found.reason) == (Status.STOPPED, Reason.STOPPED_BY_USER)
        assert "killed by the user" in found.message
        assert left_over(run) == ()
        assert verify(run) == ()


def test_a_trainer_that_obeys_ends_with_the_second_request(tmp_path: Path) -> None:
    with reaped(make_run(tmp_path, *SLOW, processes=2)) as run:
        start(run)
        wait_for_steps(run)
        request_stop(run, 2)
        found = wait_sealed(run)
        assert found.status is Status.STOPPED
        assert "terminated by the user" in found.message
        ranks = json.loads(run.attempt(1).ended.read_text())["ranks"]
        assert [(rank["rank"], rank["signal"]) for rank in ranks] == [(0, signal.SIGTERM), (1, signal.SIGTERM)]
        assert left_over(run) == ()


@pytest.mark.usefixtures("launcher")
def test_a_killed_shim_takes_its_trainer_with_it(tmp_path: Path) -> None:
    with reaped(make_run(tmp_path, *SLOW)) as run:
        start(run)
        wait_for_steps(run)
        trainer = rank_of(run)
        shim = json.loads((run.attempt(1).ranks / "rank-0.json").read_text())["shim"]
        subprocess.run(["kill", "-9", str(shim)], check=True)
        found = wait_sealed(run)
        assert (found.status, found.reason) == (Status.FAILED, Reason.SIGNALLED)
        assert "before it could say" in found.message
        assert not trainer.is_alive()
        assert left_over(run) == ()


@pytest.mark.usefixtures("launcher")
def test_a_terminated_keeper_ends_and_seals_its_run(tmp_path: Path) -> None:
    """What a machine that goes down does."""
    with reaped(make_run(tmp_path, *SLOW)) as run:
        start(run)
        wait_for_steps(run)
        keeper_of(run).kill(signal.SIGHUP)
        keeper_of(run).kill(signal.SIGINT)
        keeper_of(run).kill(signal.SIGTERM)
        found = wait_sealed(run)
        assert (found.status, found.reason) == (Status.STOPPED, Reason.TERMINATED)
        assert "signal to its keeper" in found.message
        assert left_over(run) == ()


def test_one_failing_rank_ends_the_run_and_is_named(tmp_path: Path) -> None:
    with reaped(make_run(tmp_path, *SLOW, "--fault", "rank1-exit", processes=2)) as run:
        bake(run)
        found = state(run)
        assert (found.status, found.reason) == (Status.FAILED, Reason.ERROR)
        assert "rank 1 ended with exit code 7" in found.message
        assert left_over(run) == ()


WATCHER = """
import sys
from pathlib import Path
from lorakit.archive.run import Run
from lorakit.bake.bake import _interrupts, follow, start
run = Run(Path(sys.argv[1]))
start(run)
with _interrupts(run):
    follow(run, lambda _, records: [print(record["type"], flush=True) for record in records])
"""


def watcher(run: Run) -> subprocess.Popen[str]:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", WATCHER, str(run.path)]
    return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True, start_new_session=True)


@pytest.mark.usefixtures("launcher")
def test_the_run_goes_on_when_the_command_that_started_it_is_killed(tmp_path: Path) -> None:
    run = make_run(tmp_path, "--steps", "100", "--seconds", "0.02")
    with reaped(run), watcher(run) as process:
        wait_for(run.attempt(1).progress.exists)
        process.kill()
        process.wait()
        found = wait_sealed(run)
        assert (found.status, found.steps) == (Status.OK, 100)


def test_ctrl_c_is_for_the_run(tmp_path: Path) -> None:
    run = make_run(tmp_path, *SLOW)
    with reaped(run), watcher(run) as process:
        wait_for_steps(run)
        process.send_signal(signal.SIGINT)
        said = process.communicate()[0].split()
        assert process.returncode == 0
        assert said.count("stop") == 1
        assert said[-1] == "end"
        found = state(run)
        assert (found.status, found.sealed) == (Status.STOPPED, True)
        assert (run.weights / "small.safetensors").is_file()


@pytest.mark.usefixtures("launcher")
def test_ctrl_c_three_times_kills(tmp_path: Path) -> None:
    run = make_run(tmp_path, *SLOW, "--fault", "deaf")
    with reaped(run), watcher(run) as process:
        wait_for_steps(run)
        for level in (1, 2, 3):
            process.send_signal(signal.SIGINT)
            wait_for(run.attempt(1).stop(level).exists)
        process.communicate()
        found = wait_sealed(run)
        assert found.status is Status.STOPPED
        assert left_over(run) == ()


SMALL_DISK = """
import subprocess, sys, time
from pathlib import Path
disk = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], check=True)
from lorakit.archive.records import state
from lorakit.archive.seal import verify
from lorakit.bake.bake import follow, start
from tests.bake.runs import make_run
run = make_run(disk / "runs", "--fault", "fill", "--steps", "50")
start(run)
follow(run)
found = state(run)
print(found.status.value, found.reason.value, found.sealed, len(verify(run)), found.message)
"""


@pytest.mark.usefixtures("launcher")
def test_a_disk_that_fills_up_still_leaves_a_sealed_record(tmp_path: Path) -> None:
    if subprocess.run(["unshare", "-Urm", "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("no user namespaces here: a small disk cannot be made")
    root = Path(__file__).parents[2]
    command = ["unshare", "-Urm", sys.executable, "-c", SMALL_DISK, str(tmp_path)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("failed disk-full True 0 failed at step")


BROKEN = """
import sys
from pathlib import Path
from lorakit.launch.accelerate import SHIM
from lorakit.launch.processes import processes_with_cookie
from lorakit.launch.supervisor import Launch, supervise
folder = Path(sys.argv[1])
calls = []
def broken():
    calls.append(1)
    if (folder / "ready").exists():
        raise RuntimeError("the supervisor itself fails")
    return 0
program = "import pathlib, time; pathlib.Path('ready').touch(); time.sleep(600)"
argv = (sys.executable, "-c", f"import subprocess, sys; subprocess.call([sys.executable, '-c', {program!r}])")
try:
    supervise(Launch(argv, {"LORAKIT_RUN": "broken-" + str(folder)}, folder, "broken-" + str(folder)), stop_level=broken)
except RuntimeError as error:
    print(error, processes_with_cookie("broken-" + str(folder)))
"""


def test_a_supervisor_that_fails_leaves_no_training_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-c", BROKEN, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "the supervisor itself fails ()\n"


@pytest.mark.usefixtures("launcher")
def test_watching_a_run_that_has_ended_returns_at_once(tmp_path: Path) -> None:
    run = make_run(tmp_path, "--steps", "2")
    bake(run)
    seen: list[dict[str, object]] = []
    began = time.monotonic()
    follow(run, lambda _, records: seen.extend(records))
    assert time.monotonic() - began < 2.0
    assert len(seen) == 5
    seen.clear()
    follow(run, lambda _, records: seen.extend(records), from_start=False)
    assert seen == []
