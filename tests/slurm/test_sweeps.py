"""A sweep as a job array of a real Slurm: a width, typed again, asked for, cancelled."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from lorakit.archive.records import state
from lorakit.archive.run import list_runs
from lorakit.workspace import Workspace
from tests.bake.runs import wait_for
from tests.cli.running import Cli
from tests.slurm.cluster import Cluster
from tests.slurm.test_jobs import LATER, Made, start_again

AXES = ("sweep", "steady", "--set", "network.dim=2,4")


def phases(cli: Cli, root: str) -> list[str]:
    return [one["phase"] for one in cli("-C", root, "sweep", "status", "--json").json["trials"]]


def all_done(cli: Cli, root: str) -> Callable[[], bool]:
    def done() -> bool:
        time.sleep(0.3)
        return phases(cli, root) == ["done"] * 2

    return done


def test_row_29_a_sweep_is_one_array_with_a_width_and_goes_on_when_typed_again(
    workspace: Workspace, cluster: Cluster, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOAK_SECONDS", "0.1")
    root = str(workspace.root)
    told = cli("-C", root, *AXES, "--on", "slurm", "--width", "1", "--json").json
    assert len(told["trials"]) == 2
    job = told["job"]
    shown = cluster.ask("scontrol", "show", "job", str(job))
    assert f"ArrayJobId={job}" in shown
    assert "ArrayTaskThrottle=1" in shown
    wait_for(lambda: phases(cli, root) == ["running", "queued"])
    again = cli("-C", root, *AXES, "--on", "slurm").out
    assert "nothing to submit" in again
    wait_for(lambda: any(state(run).steps >= 4 for run in list_runs(workspace.runs)))
    (first,) = list_runs(workspace.runs)
    cluster.ask("scontrol", "requeue", f"{job}_1")
    wait_for(lambda: first.manifest(1).exists())
    start_again(cluster, f"{job}_1", first.attempt(2).path.exists)
    wait_for(all_done(cli, root), 80)
    runs = list_runs(workspace.runs)
    assert [state(run).attempt for run in runs] == [2, 1]  # each trial once, the interrupted one in two parts
    assert "nothing to submit" in cli("-C", root, *AXES, "--on", "slurm").out


def test_row_29_trials_that_wait_are_cancelled_and_submitted_again(made: Made, cluster: Cluster, cli: Cli) -> None:
    place = made(LATER)
    root = str(place.root)
    cli("-C", root, *AXES, "--on", "slurm")
    assert phases(cli, root) == ["queued"] * 2
    cli("-C", root, "sweep", "cancel", "latest", "2")
    wait_for(lambda: phases(cli, root) == ["queued", "cancelled"])
    cli("-C", root, "sweep", "cancel", "latest")
    wait_for(lambda: phases(cli, root) == ["cancelled"] * 2)
    assert root not in cluster.ask("squeue", "-h", "-t", "pending", "-o", "%Z")
    assert list_runs(place.runs) == ()
    cli("-C", root, "sweep", "go")
    cli("-C", root, *AXES, "--on", "slurm")
    assert phases(cli, root) == ["queued", "cancelled"]  # one was cancelled by its number
    cli("-C", root, "sweep", "cancel", "latest")


def test_row_29_a_sweep_that_slurm_refuses_or_does_not_answer_for(made: Made, cluster: Cluster, cli: Cli) -> None:
    place = made('partition = "nowhere"\n')
    root = str(place.root)
    told = cli("-C", root, *AXES, "--on", "slurm", code=2).err
    assert "invalid partition specified: nowhere" in told
    assert phases(cli, root) == ["waiting"] * 2
    settings = place.root / "lorakit.toml"
    settings.write_text(settings.read_text().replace('partition = "nowhere"', LATER))
    cli("-C", root, *AXES, "--on", "slurm")
    cluster.freeze()
    try:
        told = cli("-C", root, *AXES, "--on", "slurm", code=2).err
        assert "nobody knows which trials are queued" in told
    finally:
        cluster.thaw()
    cli("-C", root, "sweep", "cancel", "latest")
