"""Runs as jobs of a real Slurm: trained, stopped, cut short, started again, cancelled, refused."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from lorakit.archive.diagnose_log import Reason, Status
from lorakit.archive.records import state
from lorakit.archive.run import list_runs, read_record
from lorakit.archive.seal import verify
from lorakit.errors import UsageError
from lorakit.launch import slurm
from lorakit.workspace import Workspace
from tests.bake.runs import wait_for, wait_for_steps, wait_sealed
from tests.faults.places import value_after
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import bake


def start_again(cluster: Cluster, job: str, begun: Callable[[], bool]) -> None:
    """Hurry a job that waits to be started again: Slurm would let it wait for two minutes."""

    def hurry() -> bool:
        if slurm.job_states([job])[job].word == "PENDING":
            cluster.ask("scontrol", "update", f"JobId={job}", "StartTime=now")
            time.sleep(0.5)
        return begun()

    wait_for(hurry)


def test_a_job_trains_and_seals_its_run(workspace: Workspace) -> None:
    run, job = bake(workspace)
    assert read_record(run.attempt(1).job)["job"] == job
    assert state(run).status in {Status.QUEUED, Status.RUNNING}
    found = wait_sealed(run)
    assert (found.status, found.steps, found.attempt) == (Status.OK, 12, 1)
    wait_for(lambda: slurm.job_states([job])[job].is_over)
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
    start_again(cluster, job, lambda: run.attempt(2).path.exists())
    wait_for(lambda: run.manifest(2).exists())
    found = state(run)
    assert (found.status, found.attempt, found.steps) == (Status.OK, 2, 12)
    assert (read_record(run.attempt(2).resumed) or {})["step"] == 3
    assert (run.path / "weights/02/steady.safetensors").read_bytes()[-64:] == value_after(12)
    wait_for(lambda: slurm.job_states([job])[job].is_over)
    assert verify(run) == ()
    told = (run.path / "slurm.log").read_text()
    assert told.index("attempt 1 in job") < told.index("goes on after step 3") < told.index("attempt 2 in job")
