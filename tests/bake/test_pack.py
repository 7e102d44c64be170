"""Runs of a pack: one process trains them, and each is a run of its own: started, told, stopped, ended, sealed."""

from __future__ import annotations

import signal

import pytest

from lorakit.archive.diagnose_log import Reason, Status
from lorakit.archive.records import state
from lorakit.archive.run import Run, read_record
from lorakit.archive.seal import verify
from lorakit.bake.bake import request_stop
from lorakit.bake.pack import Pack, start_pack
from lorakit.bake.prepare import prepare
from lorakit.launch.processes import processes_with_cookie
from lorakit.preset.files import load_preset
from lorakit.workspace import Workspace
from tests.bake.runs import keeper_of, rank_of, wait_for, wait_sealed

#: Seconds; a process that starts torch on a busy machine takes a while.
PATIENCE = 240.0


def under_way(run: Run) -> None:
    wait_for(lambda: state(run).steps or state(run).is_final, PATIENCE)
    assert not state(run).is_final


def prepared(workspace: Workspace, *changes: str) -> Run:
    return prepare(load_preset(workspace.presets / "small.toml", changes), workspace)


def packed(workspace: Workspace, *changes: tuple[str, ...]) -> tuple[list[Run], Pack]:
    runs = [prepared(workspace, *change) for change in changes]
    return runs, start_pack(runs, workspace.private / "packs", rows=64)


def test_each_run_ends_for_itself(workspace: Workspace) -> None:
    """One well, one with NaN, one that cannot be built, one stopped while the others go on."""
    runs, pack = packed(
        workspace,
        ("optim.unet_lr=1e-4",),
        ("optim.unet_lr=1e30", "optim.te_lr=0", "length.steps=40"),
        ("optim.args.nonsense=1",),
        ("length.steps=2000",),
    )
    under_way(runs[3])
    request_stop(runs[3])
    ends = [wait_sealed(run, PATIENCE) for run in runs]
    told = [(end.status, end.reason) for end in ends]
    assert told == [
        (Status.OK, Reason.OK),
        (Status.FAILED, Reason.NAN),
        (Status.FAILED, Reason.ERROR),
        (Status.STOPPED, Reason.STOPPED_BY_USER),
    ], [end.message for end in ends]
    assert ends[0].steps == 3
    assert "rejects its arguments" in ends[2].message
    assert 0 < ends[3].steps < 2000
    assert ends[3].checkpoints == 1
    for run in runs:
        assert verify(run) == ()
        assert (read_record(run.attempt(1).started) or {})["pack"]["folder"] == str(pack.path)
    assert pack.keeper_log.read_text() == ""
    assert "step 3/3" in runs[0].attempt(1).log.read_text()


@pytest.mark.slow
def test_a_killed_keeper_interrupts_all_of_its_runs(workspace: Workspace) -> None:
    runs, _ = packed(workspace, ("length.steps=5000",), ("length.steps=5000", "seed=8"))
    for run in runs:
        under_way(run)
    cookie = (read_record(runs[0].attempt(1).started) or {})["cookie"]
    keeper_of(runs[0]).kill(signal.SIGKILL)
    wait_for(lambda: not processes_with_cookie(cookie))
    for run in runs:
        found = state(run)
        assert (found.status, found.reason) == (Status.INTERRUPTED, Reason.KEEPER_LOST)
        assert found.steps > 0


@pytest.mark.slow
def test_a_killed_process_is_told_by_every_run_that_trained_in_it(workspace: Workspace) -> None:
    runs, pack = packed(workspace, ("length.steps=1",), ("length.steps=5000", "seed=8"), ("length.steps=5000",))
    assert wait_sealed(runs[0], PATIENCE).status is Status.OK
    under_way(runs[1])
    rank_of(runs[1]).kill(signal.SIGKILL)
    for run in runs[1:]:
        end = wait_sealed(run, PATIENCE)
        assert (end.status, end.reason) == (Status.FAILED, Reason.SIGNALLED), end.message
        assert verify(run) == ()
    assert [member.run for member in pack.members()] == runs


@pytest.mark.slow
def test_all_stopped_at_once_and_for_good(workspace: Workspace) -> None:
    runs, _ = packed(workspace, ("length.steps=5000",), ("length.steps=5000", "seed=8"))
    under_way(runs[0])
    for run in runs:
        request_stop(run, 3)
    for run in runs:
        end = wait_sealed(run, PATIENCE)
        assert (end.status, end.reason) == (Status.STOPPED, Reason.STOPPED_BY_USER), end.message
        assert "killed" in end.message
