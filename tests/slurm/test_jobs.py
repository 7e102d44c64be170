"""Runs as jobs of a real Slurm: trained, stopped, cut short, started again, cancelled, refused."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from lorakit.archive.diagnose_log import Reason, Status
from lorakit.archive.records import state
from lorakit.archive.run import list_runs, read_record
from lorakit.archive.seal import verify
from lorakit.archive.states import training_states
from lorakit.bake.batch import cancel_waiting
from lorakit.cli import batching
from lorakit.errors import ArchiveError
from lorakit.launch import slurm
from lorakit.workspace import Workspace
from tests.bake.runs import wait_for, wait_for_steps, wait_sealed
from tests.cli.running import Cli
from tests.faults.places import value_after
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import bake

Made = Callable[..., Workspace]
#: A job that waits for as long as a test wants.
LATER = 'extra = ["--begin=now+1hour"]\n'


def job_state(job: str) -> slurm.JobState:
    """What Slurm says now."""
    states = slurm.job_states([job], 20.0)
    assert states is not None
    return states[job]


def start_again(cluster: Cluster, job: str, begun: Callable[[], bool]) -> None:
    """Hurry a job that waits to be started again: Slurm would let it wait for two minutes."""

    def hurry() -> bool:
        if job_state(job).word == "PENDING":
            cluster.ask("scontrol", "update", f"JobId={job}", "StartTime=now")
            time.sleep(0.5)
        return begun()

    wait_for(hurry, 120.0)


@pytest.mark.usefixtures("short")  # it is looked at below, when its time is over
def test_a_job_trains_and_seals_its_run(workspace: Workspace, cli: Cli) -> None:
    cli("-C", str(workspace.root), "bake", "steady", "--on", "slurm")
    (run,) = list_runs(workspace.runs)
    found = wait_sealed(run)
    job = (read_record(run.attempt(1).job) or {})["job"]
    assert (found.status, found.steps, found.attempt) == (Status.OK, 12, 1)
    wait_for(lambda: job_state(job).is_over)
    assert verify(run) == ()
    told = (run.path / "slurm.log").read_text()
    assert f"attempt 1 in job {job}" in told
    assert "ok: 12 steps" in told


def test_row_29_a_requeued_job_goes_on_from_its_last_whole_state(
    workspace: Workspace, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOAK_SECONDS", "0.2")
    run, job = bake(workspace)
    wait_for_steps(run, 4)
    cluster.ask("scontrol", "requeue", job)
    wait_for(lambda: run.manifest(1).exists())
    first = read_record(run.attempt(1).ended) or {}
    assert (first["status"], first["reason"]) == ("stopped", "preempted")
    assert job in first["message"]
    start_again(cluster, job, run.attempt(2).path.exists)
    wait_for(lambda: run.manifest(2).exists())
    found = state(run)
    assert (found.status, found.attempt, found.steps) == (Status.OK, 2, 12)
    from_step = (read_record(run.attempt(2).resumed) or {})["step"]
    assert from_step in {3, 6, 9}
    assert (run.path / "weights/02/steady.safetensors").read_bytes()[-64:] == value_after(12)
    wait_for(lambda: job_state(job).is_over)
    assert verify(run) == ()
    told = (run.path / "slurm.log").read_text()
    assert told.index("attempt 1 in job") < told.index(f"goes on after step {from_step}") < told.index("attempt 2 in")


@pytest.mark.slow
def test_row_29_a_job_without_a_whole_state_says_so_and_starts_nothing(
    workspace: Workspace, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOAK_SECONDS", "0.2")
    run, job = bake(workspace, "save.state=false", "length.steps=2000")
    wait_for_steps(run, 2)
    cluster.ask("scontrol", "requeue", job)
    wait_for(lambda: run.manifest(1).exists())
    start_again(cluster, job, lambda: "no training state to go on from" in (run.path / "slurm.log").read_text())
    wait_for(lambda: job_state(job).is_over)
    assert job_state(job).word == "FAILED"
    assert run.last_attempt.number == 1
    assert state(run).reason is Reason.PREEMPTED


def test_row_29_a_running_job_is_stopped_gracefully_and_ends(
    workspace: Workspace, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOAK_SECONDS", "0.1")
    run, job = bake(workspace, "length.steps=2000")
    wait_for_steps(run, 2)
    cli("-C", str(workspace.root), "stop", run.short)
    found = state(run)
    assert (found.status, found.reason, found.sealed) == (Status.STOPPED, Reason.STOPPED_BY_USER, True)
    wait_for(lambda: job_state(job).is_over)
    assert job_state(job).word == "COMPLETED"


def test_row_29_a_job_that_is_cancelled_while_it_trains_is_sealed(
    workspace: Workspace, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOAK_SECONDS", "0.1")
    run, job = bake(workspace, "length.steps=2000")
    wait_for_steps(run, 2)
    cluster.ask("scancel", job)
    found = wait_sealed(run)
    assert (found.status, found.reason) == (Status.STOPPED, Reason.PREEMPTED)
    assert f"job {job} was ended before its time" in found.message


def test_row_29_a_waiting_job_is_queued_and_can_be_stopped(made: Made, cluster: Cluster, cli: Cli) -> None:
    place = made(LATER)
    run, job = bake(place)
    wait_for(lambda: job_state(job).waits)
    assert state(run).status is Status.QUEUED
    shown = cli("-C", str(place.root), "show", run.short).out
    assert f"job {job}: pending" in shown
    assert "queued" in cli("-C", str(place.root), "ls").out
    cli("-C", str(place.root), "stop", run.short)
    found = state(run)
    assert (found.status, found.reason, found.sealed) == (Status.STOPPED, Reason.STOPPED_BY_USER, True)
    assert found.message == "cancelled before it started"
    assert cluster.ask("squeue", "-h", "-j", job) == ""


def test_row_29_a_job_that_left_the_queue_is_told_and_repaired(made: Made, cluster: Cluster, cli: Cli) -> None:
    place = made(LATER)
    run, job = bake(place)
    cluster.ask("scancel", job)
    wait_for(lambda: job_state(job).is_over)
    assert state(run).status is Status.QUEUED  # the folder cannot know
    assert "left the queue without starting" in cli("-C", str(place.root), "show", run.short).out
    cli("-C", str(place.root), "repair")
    found = state(run)
    assert (found.status, found.reason, found.sealed) == (Status.INTERRUPTED, Reason.NEVER_STARTED, True)
    assert f"job {job}: cancelled" in found.evidence


def test_row_29_what_slurm_does_not_answer_is_unknown(
    made: Made, cluster: Cluster, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "PATIENCE", 1.0)
    monkeypatch.setattr(batching, "_BRIEFLY", 1.0)
    place = made(LATER)
    run, job = bake(place)
    cluster.freeze()
    try:
        assert slurm.job_states([job], 0.5) is None
        assert "Slurm does not answer" in cli("-C", str(place.root), "show", run.short).out
        assert "queued" in cli("-C", str(place.root), "ls").out
        with pytest.raises(ArchiveError, match="nobody knows"):
            cancel_waiting(run)
    finally:
        cluster.thaw()
    assert state(run).status is Status.QUEUED
    assert run.attempt(1).path.is_dir()


def test_row_29_a_job_that_slurm_refuses_leaves_nothing(made: Made, cluster: Cluster, cli: Cli) -> None:
    del cluster
    place = made('partition = "nowhere"\n')
    told = cli("-C", str(place.root), "bake", "steady", "--on", "slurm", code=2).err
    assert "Slurm refused the job" in told
    assert "invalid partition specified: nowhere" in told
    assert list_runs(place.runs) == ()
    assert [path.name for path in place.runs.iterdir()] == []


def test_row_29_a_job_whose_time_is_over_ends_gracefully_and_is_queued_again(
    short: tuple[object, str], workspace: Workspace, cli: Cli
) -> None:
    del workspace
    run, job = short
    found = wait_sealed(run)  # type: ignore[arg-type]
    assert (found.status, found.reason) == (Status.STOPPED, Reason.TIMED_OUT)
    (newest, *_) = training_states(found.run)
    assert (newest.whole, newest.step) == (True, found.steps)  # saved at the very step that it was stopped at
    assert 0 < found.steps < 2000
    wait_for(lambda: job_state(job).waits)
    root = str(found.run.path.parents[1])
    assert "goes on when Slurm starts it again" in cli("-C", root, "show").out
    assert "it does not start again" in cli("-C", root, "stop").out
    assert job_state(job).is_over
    assert state(found.run).attempt == 1
