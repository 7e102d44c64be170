"""Repair: dead runs are ended and sealed, what is left over goes, what lives is left alone, and twice is once."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lorakit.archive.birth import STAGING, birth
from lorakit.archive.diagnose_log import Reason, Status
from lorakit.archive.records import started_record, state
from lorakit.archive.repair import Action, repair_archive, repair_run
from lorakit.archive.run import Run, list_runs, read_record
from lorakit.archive.seal import seal, verify
from lorakit.archive.states import checkpoints, training_states, whole_checkpoints
from lorakit.atomic import TEMP_MARK, dump_json, write_once
from lorakit.launch.processes import hold_lock
from tests.archive.made import born, ended, fact, safetensors

GONE = {"pid": 1, "ticks": 1, "boot_id": "an earlier boot", "host": os.uname().nodename}


def dead(runs: Path) -> Run:
    """A run whose keeper is gone, with half of what it was writing."""
    run = born(runs)
    fact(run.attempt(1).started, time=1000.0, keeper=GONE)
    run.attempt(1).progress.write_text(
        '{"type": "start", "total_steps": 9}\n{"type": "step", "step": 4, "epoch": 1, "loss": 0.5}\n{"type": "st'
    )
    run.attempt(1).log.write_text("steps: 4\nlast words\n")
    safetensors(run.weights / "a-000001.safetensors")
    safetensors(run.weights / "a-000002.safetensors", cut=5)
    (run.weights / "a-000001-state").mkdir()
    (run.attempt(1).path / f".ended.json{TEMP_MARK}99999999-abcdef12").write_bytes(b"x" * 100)
    (run.weights / f".b-state{TEMP_MARK}99999999-abcdef12").mkdir()
    (run.attempt(1).ranks / f".exit-0{TEMP_MARK}99999999").write_bytes(b"")  # the shim's
    return run


def kinds(actions: tuple[Action, ...]) -> list[str]:
    return sorted(action.kind for action in actions)


def test_a_dead_run_is_ended_honestly_and_sealed(tmp_path: Path) -> None:
    run = dead(tmp_path)
    assert state(run).status is Status.INTERRUPTED
    actions = repair_run(run)
    assert kinds(actions) == ["ended", "half-written", "sealed", "settled", "swept", "swept", "swept", "torn"]
    found = state(run)
    assert (found.status, found.reason, found.steps, found.sealed) == (Status.INTERRUPTED, Reason.KEEPER_LOST, 4, True)
    record = read_record(run.attempt(1).ended) or {}
    assert record["log_tail"] == ["steps: 4", "last words"]
    assert "lived before this machine's last start" in record["evidence"]
    assert verify(run) == ()
    assert not [path for path in run.path.rglob("*") if TEMP_MARK in path.name]


def test_twice_is_once(tmp_path: Path) -> None:
    run = dead(tmp_path)
    repair_archive(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    again = repair_archive(tmp_path)
    assert [action for action in again if action.done] == []
    assert kinds(again) == ["half-written", "torn"]
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == before


def test_a_run_that_ended_without_its_seal_gets_it(tmp_path: Path) -> None:
    run = ended(born(tmp_path))
    assert kinds(repair_run(run)) == ["sealed"]
    assert verify(run) == ()


def test_a_run_that_never_started(tmp_path: Path) -> None:
    run = born(tmp_path, now=time.time() - 3600)
    repair_run(run)
    assert (state(run).status, state(run).reason) == (Status.INTERRUPTED, Reason.NEVER_STARTED)
    assert state(run).sealed


def test_what_lives_is_left_alone(tmp_path: Path) -> None:
    young, running = born(tmp_path), born(tmp_path)
    handle = hold_lock(running.attempt(1).alive)
    try:
        # The kernel tells another process whether this one holds the lock, not itself.
        write_once(running.attempt(1).started, dump_json(started_record(running, running.attempt(1))))
        temp = running.attempt(1).path / f".ended.json{TEMP_MARK}99999999-abcdef12"
        temp.write_bytes(b"reserve")
        program = (
            "import sys; from pathlib import Path; from lorakit.archive.repair import repair_archive\n"
            "print([action.kind for action in repair_archive(Path(sys.argv[1]))])"
        )
        line = [sys.executable, "-c", program, str(tmp_path)]
        done = subprocess.run(line, capture_output=True, text=True, check=True)
    finally:
        os.close(handle)
    assert done.stdout == "[]\n"
    assert temp.exists()
    assert not young.attempt(1).ended.exists()


def test_a_birth_under_way_is_left_alone_and_a_dead_one_swept(tmp_path: Path) -> None:
    left = tmp_path / f"{STAGING}abcd"
    left.mkdir()
    (left / "request.json").write_text("{")
    with birth(tmp_path, "alive") as new:
        new.write(new.run.request, "{}")
        program = (
            "import sys; from pathlib import Path; from lorakit.archive.repair import repair_archive\n"
            "print([action.what for action in repair_archive(Path(sys.argv[1]))])"
        )
        line = [sys.executable, "-c", program, str(tmp_path)]
        done = subprocess.run(line, capture_output=True, text=True, check=True)
        assert done.stdout == f"[{str(left)!r}]\n"
    assert [run.name for run in list_runs(tmp_path)] == ["alive"]


def test_a_temporary_of_a_living_process_stays(tmp_path: Path) -> None:
    run = ended(born(tmp_path))
    seal(run, 1)
    ours = run.path / f".notes.md{TEMP_MARK}{os.getpid()}-abcdef12"
    theirs = run.path / f".notes.md{TEMP_MARK}99999999-000000-abcdef12"  # of another machine
    for path in (ours, theirs):
        path.write_bytes(b"half")
    assert repair_run(run) == ()
    assert ours.exists()
    os.utime(theirs, (0, 0))
    assert kinds(repair_run(run)) == ["swept"]
    assert not theirs.exists()


def test_another_machines_run_is_left_alone(tmp_path: Path) -> None:
    run = born(tmp_path)
    fact(run.attempt(1).started, time=1000.0, keeper={**GONE, "host": "elsewhere"})
    assert repair_run(run) == ()
    assert not run.attempt(1).ended.exists()


@pytest.mark.parametrize("content", [b"", b"\0" * 300, b'{"status": "ok"', b"[]"])
def test_a_record_that_cannot_be_read_is_told(tmp_path: Path, content: bytes) -> None:
    run = ended(born(tmp_path))
    run.attempt(1).ended.write_bytes(content)
    damaged = [action for action in repair_run(run) if action.kind == "damaged"]
    assert [action.what.partition(":")[0] for action in damaged] == ["attempts/01/ended.json"]
    assert run.attempt(1).ended.read_bytes() == content
    assert state(run).status is Status.DAMAGED


def test_torn_files_are_never_offered(tmp_path: Path) -> None:
    run = dead(tmp_path)
    assert [entry.get("fault") is None for entry in checkpoints(run)] == [True, False]
    assert [path.name for path in whole_checkpoints(run)] == ["a-000001.safetensors"]
    assert [one.whole for one in training_states(run)] == [False]
