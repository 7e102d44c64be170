"""Row 29: the node of a job is lost. It is a machine of its own as far as processes and host name go, and all of it ends at once."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lorakit.archive.diagnose_log import Reason, Status
from lorakit.archive.records import state
from lorakit.archive.repair import repair_run
from lorakit.archive.run import read_record
from lorakit.archive.seal import verify
from lorakit.bake.resume import resume
from lorakit.workspace import Workspace
from tests.bake.runs import wait_for, wait_for_steps
from tests.cli.running import Cli
from tests.faults.places import value_after
from tests.slurm import cluster as clusters
from tests.slurm.conftest import bake
from tests.slurm.test_jobs import job_state, start_again

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> Iterator[clusters.Cluster]:
    """A Slurm whose node calls itself node-a."""
    if why := clusters.missing() or ("" if shutil.which("unshare") else "no unshare"):
        warnings.warn(pytest.PytestWarning(f"NO SLURM HERE, its tests are skipped: {why}"), stacklevel=1)
        pytest.skip(f"no Slurm: {why}")
    folder = Path(tempfile.mkdtemp(prefix="lkf", dir="/tmp"))
    try:
        with clusters.running(folder / "s", cpus=2, apart="node-a") as made:
            for name, value in made.env.items():
                monkeypatch.setenv(name, value)
            yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_row_29_a_lost_node(
    made: Callable[..., Workspace], far: clusters.Cluster, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the node is gone the job goes on on another, or is told by the controller: never guessed."""
    monkeypatch.setenv("SOAK_SECONDS", "0.3")
    place = made()
    run, job = bake(place)
    wait_for_steps(run, 5)
    assert state(run).status is Status.RUNNING, "its lock is held, whoever holds it"
    far.lose_node()
    wait_for(lambda: state(run).status is not Status.RUNNING)
    found = state(run)
    assert (found.status, found.reason) == (Status.UNKNOWN, Reason.OTHER_HOST)
    assert "node-a" in found.message
    assert repair_run(run) == (), "only that machine could tell"
    assert not run.attempt(1).ended.exists(), "nobody was left to write it"
    far.start_node("node-b")
    start_again(far, job, run.attempt(2).path.exists)
    wait_for(lambda: run.manifest(2).exists())
    ended = read_record(run.attempt(1).ended) or {}
    assert (ended["status"], ended["reason"]) == ("interrupted", "keeper-lost")
    assert f"job {job} again on node-b" in ended["evidence"]
    assert state(run).status is Status.OK
    assert (run.path / "weights/02/steady.safetensors").read_bytes()[-64:] == value_after(12)
    assert verify(run) == ()

    once = made("requeue = false\n", name="once")
    run, job = bake(once)
    wait_for_steps(run, 5)
    far.lose_node()
    wait_for(lambda: job_state(job).is_over)
    assert job_state(job).word == "NODE_FAIL", "so the controller calls it"
    cli("-C", str(once.root), "repair")
    found = state(run)
    assert (found.status, found.reason, found.sealed) == (Status.INTERRUPTED, Reason.KEEPER_LOST, True)
    assert f"job {job}: node_fail" in found.evidence
    resume(run, once)  # here, with what the node left behind
    assert (state(run).status, state(run).attempt) == (Status.OK, 2)
    assert (run.path / "weights/02/steady.safetensors").read_bytes()[-64:] == value_after(12)
    assert verify(run) == ()
