"""Trials are handed out: what fails does not stop the rest, what is stopped does, nothing is baked twice at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorakit.archive.run import Run, list_runs
from lorakit.errors import DiskError, Stopped, UsageError
from lorakit.sweep import scheduler
from lorakit.sweep.folder import Folder, Planned
from lorakit.sweep.scheduler import Ended, Outcome, Slot, exit_code, slots_for
from lorakit.sweep.standing import Phase, standing
from lorakit.workspace import Workspace
from tests.cli.made_runs import OUT_OF_MEMORY, make_run
from tests.sweep.folders import add, made

STOPPED = {"status": "stopped", "reason": "stopped-by-user", "message": "stopped by the user"}
Baking = Callable[[Planned, dict[str, Any], Slot], Run]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "_TICK", 0.01)


def baking(workspace: Workspace, *what: Any) -> Baking:
    """Bakes each trial to the next of these ends; an exception is raised."""
    asked = iter(what)

    def bake(trial: Planned, lineage: dict[str, Any], slot: Slot) -> Run:
        del slot
        assert lineage["trial"] == trial.identity
        one = next(asked)
        if isinstance(one, BaseException):
            raise one
        return make_run(workspace.runs, ended=one, lineage=lineage, sealed=False)

    return bake


def ends(tmp_path: Path, *what: Any, **more: Any) -> list[Outcome]:
    folder, workspace = made(tmp_path, len(what))
    return list(scheduler.run(folder, workspace, baking(workspace, *what), **more))


def test_row_22_a_failed_trial_does_not_stop_the_rest(tmp_path: Path) -> None:
    outcomes = ends(tmp_path, {}, OUT_OF_MEMORY, DiskError("full"), {})
    assert [one.ended for one in outcomes] == [Ended.BAKED, Ended.FAILED, Ended.FAILED, Ended.BAKED]
    assert outcomes[1].run is not None
    assert outcomes[2].run is None
    assert outcomes[2].error is not None
    assert exit_code(outcomes) == 10


def test_row_22_with_fail_fast_it_does(tmp_path: Path) -> None:
    outcomes = ends(tmp_path, {}, OUT_OF_MEMORY, {}, {}, fail_fast=True)
    assert [one.ended for one in outcomes] == [Ended.BAKED, Ended.FAILED, Ended.NOT_STARTED, Ended.NOT_STARTED]
    assert exit_code(outcomes) == 10


def test_row_22_a_burst_of_instant_failures_ends_the_sweep(tmp_path: Path) -> None:
    stop = scheduler.Stop()
    bad = OUT_OF_MEMORY
    outcomes = ends(tmp_path, bad, bad, {}, bad, bad, bad, {}, stop=stop)
    assert [one.ended for one in outcomes][-2:] == [Ended.FAILED, Ended.NOT_STARTED]
    assert "3 trials in a row" in stop.why


def test_failures_after_a_while_are_no_burst(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "_INSTANT_SECONDS", -1.0)
    outcomes = ends(tmp_path, *([OUT_OF_MEMORY] * 5))
    assert [one.ended for one in outcomes] == [Ended.FAILED] * 5


def test_row_21_typed_again_done_trials_are_skipped_and_failed_ones_tried_again(tmp_path: Path) -> None:
    folder, workspace = made(tmp_path, 3)
    list(scheduler.run(folder, workspace, baking(workspace, {}, OUT_OF_MEMORY, {})))
    again = list(scheduler.run(folder, workspace, baking(workspace, {})))
    assert {one.trial.identity: one.ended for one in again} == {
        "trial-0": Ended.SKIPPED,
        "trial-1": Ended.BAKED,
        "trial-2": Ended.SKIPPED,
    }
    assert exit_code(again) == 0
    assert standing(folder, workspace.runs).is_over


@pytest.mark.parametrize("stop", [STOPPED, KeyboardInterrupt(), Stopped("enough")])
def test_a_stop_ends_the_sweep(stop: Any, tmp_path: Path) -> None:
    outcomes = ends(tmp_path, {}, stop, {}, {})
    assert [one.ended for one in outcomes] == [Ended.BAKED, Ended.STOPPED, Ended.NOT_STARTED, Ended.NOT_STARTED]
    assert exit_code(outcomes) == 130


def test_an_error_that_nobody_foresaw_is_not_swallowed(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        ends(tmp_path, ZeroDivisionError())


def test_several_slots_bake_side_by_side(tmp_path: Path) -> None:
    folder, workspace = made(tmp_path, 6)
    barrier = threading.Barrier(3, timeout=30)
    lock, gpus = threading.Lock(), set()

    def bake(trial: Planned, lineage: dict[str, Any], slot: Slot) -> Run:
        barrier.wait()  # passes only when three are at it at once
        with lock:
            gpus.add(slot.gpu)
            return make_run(workspace.runs, name=trial.name, lineage=lineage, sealed=False)

    outcomes = list(scheduler.run(folder, workspace, bake, slots=slots_for(None, ["0", "1", "2"])))
    assert sorted(one.trial.index for one in outcomes) == [1, 2, 3, 4, 5, 6]
    assert {one.ended for one in outcomes} == {Ended.BAKED}
    assert gpus == {"0", "1", "2"}


def test_orders_are_heard_while_it_runs(tmp_path: Path) -> None:
    folder, workspace = made(tmp_path, 3)
    seen: list[str] = []

    def bake(trial: Planned, lineage: dict[str, Any], slot: Slot) -> Run:
        del slot
        seen.append(trial.identity)
        if len(seen) == 1:
            folder.order("cancel", ["trial-1"])
            add(folder, ["later"])
            folder.order("pause")
            threading.Timer(0.2, folder.order, ("go",)).start()
        else:
            assert not folder.orders().paused
        return make_run(workspace.runs, lineage=lineage, sealed=False)

    outcomes = list(scheduler.run(folder, workspace, bake))
    assert seen == ["trial-0", "trial-2", "trial-later"]
    ended = {one.trial.identity: one.ended for one in outcomes}
    assert ended["trial-1"] is Ended.CANCELLED
    assert ended["trial-later"] is Ended.BAKED


def test_a_sweep_has_one_dispatcher(tmp_path: Path) -> None:
    folder, workspace = made(tmp_path, 1)
    with folder.dispatching():
        assert folder.is_dispatched
        with pytest.raises(UsageError, match="is running already"):
            list(scheduler.run(folder, workspace, baking(workspace, {})))
    assert not folder.is_dispatched


def test_row_21_two_sweeps_do_not_bake_the_same_trial_twice(tmp_path: Path) -> None:
    one, workspace = made(tmp_path, 2)
    other, _ = made(tmp_path, 2, name="2")
    began, finish = threading.Event(), threading.Event()

    def slow(trial: Planned, lineage: dict[str, Any], slot: Slot) -> Run:
        del slot
        began.set()
        assert finish.wait(30)
        return make_run(workspace.runs, name=trial.name, lineage=lineage, sealed=False)

    outcomes: list[Outcome] = []
    first = threading.Thread(target=lambda: outcomes.extend(scheduler.run(one, workspace, slow)))
    first.start()
    assert began.wait(30)
    threading.Timer(0.2, finish.set).start()
    second = list(scheduler.run(other, workspace, slow))
    first.join(30)
    assert len(list_runs(workspace.runs)) == 2
    assert {item.ended for item in (*outcomes, *second)} <= {Ended.BAKED, Ended.SKIPPED}


WORKER = """
import sys, time
from pathlib import Path
from lorakit.sweep import scheduler
from lorakit.sweep.folder import Folder
from lorakit.workspace import Workspace
folder, root = Folder(Path(sys.argv[1])), Path(sys.argv[2])
def bake(trial, lineage, slot):
    print("claimed", flush=True)
    time.sleep(600)
list(scheduler.run(folder, Workspace(root), bake))
"""


def test_row_20_a_worker_killed_between_claim_and_start_leaves_the_trial_to_others(tmp_path: Path) -> None:
    folder, workspace = made(tmp_path, 1)
    argv = [sys.executable, "-c", WORKER, str(folder.path), str(tmp_path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "claimed\n"
        assert folder.is_dispatched
        with pytest.raises(UsageError, match="is running already"):
            list(scheduler.run(folder, workspace, baking(workspace, {})))
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
    assert standing(folder, workspace.runs).count(Phase.WAITING) == 1
    outcomes = list(scheduler.run(folder, workspace, baking(workspace, {})))
    assert [one.ended for one in outcomes] == [Ended.BAKED]
    assert len(list_runs(workspace.runs)) == 1


def test_slots() -> None:
    assert slots_for(None, []) == (Slot(0),)
    assert slots_for(2, []) == (Slot(0), Slot(1))
    assert slots_for(None, ["0", "1"]) == (Slot(0, "0"), Slot(1, "1"))
    assert slots_for(1, ["0", "1"]) == (Slot(0, "0"),)


def test_a_standing_tells_what_is_left(tmp_path: Path) -> None:
    folder, workspace = made(tmp_path, 3)
    assert standing(folder, workspace.runs).seconds_left is None
    make_run(workspace.runs, lineage={"trial": "trial-0"}, ended={"steps": 100, "seconds": 50.0})
    now = standing(folder, workspace.runs)
    assert [one.phase for one in now.trials] == [Phase.DONE, Phase.WAITING, Phase.WAITING]
    assert now.seconds_left == pytest.approx(100.0)
    folder.order("cancel")
    now = standing(folder, workspace.runs)
    assert [one.phase for one in now.trials] == [Phase.DONE, Phase.CANCELLED, Phase.CANCELLED]
    assert now.is_over
    folder.order("go")
    assert standing(folder, workspace.runs).count(Phase.WAITING) == 2


def test_a_folder_of_many_writers_loses_nothing(tmp_path: Path) -> None:
    folder, _ = made(tmp_path, 0)
    writers = [threading.Thread(target=add, args=(folder, [f"{at}a", f"{at}b"])) for at in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(folder.trials()) == 16
    assert [trial.index for trial in folder.trials()] == list(range(1, 17))
    again = Folder(folder.path)
    assert {trial.identity for trial in again.trials()} == {trial.identity for trial in folder.trials()}
