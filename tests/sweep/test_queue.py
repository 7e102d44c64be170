"""The queue: what is queued is frozen, kept over crashes, baked once; after a crash nothing starts by itself."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lorakit.archive.run import Run, list_runs
from lorakit.errors import PresetError, RuleError, UsageError
from lorakit.sweep import queue, scheduler
from lorakit.sweep.folder import Planned
from lorakit.sweep.queue import Added, Life
from lorakit.sweep.scheduler import Ended, Outcome, Slot
from lorakit.sweep.standing import Phase
from lorakit.workspace import Workspace
from tests.cli.made_runs import OUT_OF_MEMORY, make_run
from tests.sweep.test_trials import workspace as _workspace

workspace = _workspace


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "_TICK", 0.01)


def queued(workspace: Workspace, *overrides: str, first: bool = False, times: int = 1) -> tuple[queue.Entry, ...]:
    paths = [workspace.presets / "quickstart.toml"] * times
    return queue.add(queue.planned(paths, overrides, workspace), workspace, first=first)


def started(workspace: Workspace, *ends: Any, seen: list[Planned] | None = None) -> list[Outcome]:
    """What a start bakes, each to the next of these ends, else well."""
    asked = list(ends)

    def bake(trial: Planned, lineage: dict[str, Any], slot: Slot) -> Run:
        del slot
        assert lineage["kind"] == "queue"
        if seen is not None:
            seen.append(trial)
        return make_run(
            workspace.runs, trial.name, ended=asked.pop(0) if asked else None, lineage=lineage, sealed=False
        )

    return list(scheduler.run(queue.open_queue(workspace), workspace, bake, retry=False))


def names(workspace: Workspace) -> list[str]:
    return [one.phase.value for one in queue.queue_now(workspace).trials]


def test_looking_at_a_queue_that_is_not_there_writes_nothing(workspace: Workspace) -> None:
    now = queue.queue_now(workspace)
    assert now.trials == ()
    assert queue.life(now) is Life.IDLE
    assert not (workspace.root / "sweeps").exists()


def test_presets_are_baked_in_the_order_they_were_added(workspace: Workspace) -> None:
    queued(workspace, "network.dim=2")
    queued(workspace, "network.dim=4")
    (entry,) = queued(workspace, "network.dim=8", first=True)
    assert entry.added is Added.NEW
    assert dict(entry.trial.trial.point) == {"network.dim": "8"}
    seen: list[Planned] = []
    assert [one.ended for one in started(workspace, seen=seen)] == [Ended.BAKED] * 3
    assert [one.resolved().preset.network.dim for one in seen] == [8, 2, 4]
    assert queue.waiting(queue.queue_now(workspace)) == ()


def test_the_same_bake_is_queued_once_and_a_preset_without_a_seed_any_number_of_times(workspace: Workspace) -> None:
    assert [one.added for one in queued(workspace, times=2)] == [Added.NEW]
    assert [one.added for one in queued(workspace)] == [Added.THERE]
    unlike = [queued(workspace, "seed=")[0].trial.trial for _ in range(2)]
    assert unlike[0].seed != unlike[1].seed
    assert len(names(workspace)) == 3
    started(workspace)
    (done,) = queued(workspace)
    assert done.added is Added.DONE
    assert done.trial.run is not None


def test_all_presets_are_queued_or_none(workspace: Workspace) -> None:
    bad = workspace.presets / "bad.toml"
    bad.write_text("dim = 4\n")
    with pytest.raises(PresetError):
        queue.planned([workspace.presets / "quickstart.toml", bad], (), workspace)
    with pytest.raises(RuleError):
        queued(workspace, "memory.cache_text_encoder_outputs=true")
    (workspace.presets / "grid.toml").write_text('preset = "quickstart"\n[axes]\ndim = [2, 4]\n')
    with pytest.raises(UsageError, match="is a sweep"):
        queue.planned([workspace.presets / "grid.toml"], (), workspace)
    assert names(workspace) == []


def test_what_was_queued_is_what_runs_though_the_preset_was_edited_or_is_gone(workspace: Workspace) -> None:
    preset = workspace.presets / "quickstart.toml"
    queued(workspace)
    preset.write_text(preset.read_text().replace("dim = 8", "dim = 16"))
    seen: list[Planned] = []
    queued(workspace)
    preset.unlink()
    assert [one.ended for one in started(workspace, seen=seen)] == [Ended.BAKED, Ended.BAKED]
    assert [one.resolved().preset.network.dim for one in seen] == [8, 16]


def test_a_data_set_that_changed_since_is_refused_by_name_and_the_rest_goes_on(workspace: Workspace) -> None:
    queued(workspace)
    shutil.copytree(workspace.root / "datasets/demo/zorp", workspace.root / "datasets/other")
    queued(workspace, "dataset.path=datasets/other", "network.dim=4")
    caption = next((workspace.root / "datasets/demo/zorp").rglob("*.txt"))
    before = caption.read_text()
    caption.write_text("something else")
    refused, baked = started(workspace)
    assert refused.ended is Ended.FAILED
    assert refused.error is not None
    assert "the images or captions changed since" in refused.error.what
    assert baked.ended is Ended.BAKED
    caption.write_text(before)
    assert {one.trial.index: one.ended for one in started(workspace)} == {1: Ended.BAKED, 2: Ended.SKIPPED}


def test_what_failed_is_left_alone_until_it_is_brought_back(workspace: Workspace) -> None:
    queued(workspace)
    queued(workspace, "network.dim=4")
    started(workspace, OUT_OF_MEMORY)
    assert names(workspace) == ["failed", "done"]
    assert [one.ended for one in started(workspace)] == [Ended.SKIPPED]
    now = queue.queue_now(workspace)
    queue.start_over(now, queue.numbered(now, [1]))
    assert len(list_runs(workspace.runs)) == 2
    with pytest.raises(UsageError, match="is done"):
        queue.start_over(now, queue.numbered(now, [2]))
    with pytest.raises(UsageError, match="no entry 9"):
        queue.numbered(now, [9])


def test_entries_are_taken_out_and_brought_back(workspace: Workspace) -> None:
    queued(workspace)
    now = queue.queue_now(workspace)
    queue.withdraw(now, now.trials)
    assert names(workspace) == ["cancelled"]
    with pytest.raises(UsageError, match="does not wait: it is cancelled"):
        queue.withdraw(queue.queue_now(workspace), queue.queue_now(workspace).trials)
    assert [one.ended for one in started(workspace)] == [Ended.CANCELLED]
    assert [one.added for one in queued(workspace)] == [Added.AGAIN]
    assert names(workspace) == ["waiting"]
    assert [one.ended for one in started(workspace)] == [Ended.BAKED]


RUNNER = """
import sys, time
from pathlib import Path
from lorakit.sweep import queue, scheduler
from lorakit.workspace import Workspace
from tests.cli.made_runs import make_run
place = Workspace(Path(sys.argv[1]))
def bake(trial, lineage, slot):
    print(trial.index, flush=True)
    sys.stdin.readline()
    return make_run(place.runs, trial.name, lineage=lineage, sealed=False)
list(scheduler.run(queue.open_queue(place), place, bake, retry=False))
"""


def runner(workspace: Workspace) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", RUNNER, str(workspace.root)]
    return subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )


def test_after_a_kill_it_comes_back_paused_and_goes_on_when_it_is_started(workspace: Workspace) -> None:
    queued(workspace)
    queued(workspace, "network.dim=4")
    with runner(workspace) as first:
        assert first.stdin is not None
        assert first.stdout is not None
        assert first.stdout.readline() == "1\n"
        assert queue.life(queue.queue_now(workspace)) is Life.STARTED
        first.stdin.write("\n")
        first.stdin.flush()
        assert first.stdout.readline() == "2\n"  # the first one is baked, the second one claimed
        os.kill(first.pid, signal.SIGKILL)
    now = queue.queue_now(workspace)
    assert queue.life(now) is Life.KILLED
    assert [one.phase for one in now.trials] == [Phase.DONE, Phase.WAITING]
    queued(workspace, "network.dim=16")  # adding starts nothing
    assert queue.life(queue.queue_now(workspace)) is Life.KILLED
    with runner(workspace) as second:
        told, _ = second.communicate("\n\n", timeout=60)
    assert told.split() == ["2", "3"]
    assert second.returncode == 0
    now = queue.queue_now(workspace)
    assert queue.life(now) is Life.IDLE
    assert len(list_runs(workspace.runs)) == 3
