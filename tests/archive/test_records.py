"""State is a function of facts: every combination of missing, whole and damaged records, living and dead."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from lorakit.archive.diagnose_log import Reason, Status
from lorakit.archive.records import state
from lorakit.archive.run import Run
from lorakit.launch.processes import ProcessId, hold_lock
from tests.archive.made import born, ended, fact


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return born(tmp_path)


def progress(run: Run, *records: dict[str, object], torn: bool = False) -> None:
    text = "".join(json.dumps({"v": 1, "t": 1.0, **record}) + "\n" for record in records)
    run.attempt(1).progress.write_text(text[:-5] if torn else text)


def step(number: int, loss: object = 0.5) -> dict[str, object]:
    return {"type": "step", "step": number, "epoch": 1, "loss": loss, "seconds": 0.5, "rss": 100 + number}


START: dict[str, object] = {"type": "start", "total_steps": 10, "epochs": 2, "first_step": 0}


def test_a_run_that_was_just_prepared(run: Run) -> None:
    found = state(run)
    assert (found.status, found.reason, found.tags) == (Status.PREPARED, Reason.NONE, ("good",))
    assert not found.is_final


def test_a_run_that_was_prepared_long_ago(tmp_path: Path) -> None:
    found = state(born(tmp_path, now=1000.0))
    assert (found.status, found.reason) == (Status.INTERRUPTED, Reason.NEVER_STARTED)


def test_a_locked_run_is_running(run: Run) -> None:
    handle = hold_lock(run.attempt(1).alive)
    fact(run.attempt(1).started, time=time.time(), keeper=ProcessId.current().to_json())
    progress(run, START, step(1), step(2, 0.25), torn=False)
    found = state(run)
    assert (found.status, found.steps, found.total_steps, found.epochs) == (Status.RUNNING, 2, 10, 2)
    assert found.seconds is not None
    assert found.seconds >= 0
    os.close(handle)


def test_a_living_keeper_is_enough(run: Run) -> None:
    """Where locks do not work, the keeper's identity tells."""
    fact(run.attempt(1).started, time=time.time(), keeper=ProcessId.current().to_json())
    assert state(run).status is Status.RUNNING


def test_a_dead_keeper_without_an_end_is_an_interruption(run: Run) -> None:
    who = {**ProcessId.current().to_json(), "boot_id": "before the power went"}
    fact(run.attempt(1).started, time=1.0, keeper=who)
    progress(run, START, step(1), step(2), step(3), torn=True)
    found = state(run)
    assert (found.status, found.reason, found.steps) == (Status.INTERRUPTED, Reason.KEEPER_LOST, 2)
    assert "at step 2 of 10" in found.message
    assert found.is_final


def test_a_reused_pid_is_not_our_keeper(run: Run) -> None:
    who = {**ProcessId.current().to_json(), "ticks": 1}
    fact(run.attempt(1).started, time=1.0, keeper=who)
    assert state(run).status is Status.INTERRUPTED


def test_another_machines_run_is_not_judged(run: Run) -> None:
    fact(run.attempt(1).started, time=1.0, keeper={**ProcessId.current().to_json(), "host": "node7"})
    found = state(run)
    assert (found.status, found.reason) == (Status.UNKNOWN, Reason.OTHER_HOST)
    assert "node7" in found.message


def test_an_ended_run_is_what_its_end_says(run: Run) -> None:
    ended(run, loss_first=0.14, loss_last=0.1, checkpoints=[{"path": "a"}], log_tail=["x"], epochs=2)
    found = state(run)
    assert (found.status, found.loss_first, found.loss_last, found.checkpoints) == (Status.OK, 0.14, 0.1, 1)
    assert (found.seconds, found.log_tail, found.sealed) == (10.0, ("x",), False)
    fact(run.manifest(1), files={})
    assert state(run).sealed


@pytest.mark.parametrize("content", [b"", b"{", b"\0" * 100, b"[]"])
@pytest.mark.parametrize("record", ["ended.json", "started.json", "request.json"])
def test_a_damaged_record_is_named_and_raises_nothing(run: Run, record: str, content: bytes) -> None:
    ended(run)
    path = run.request if record == "request.json" else run.attempt(1).path / record
    path.write_bytes(content)
    found = state(run)
    assert found.status is Status.DAMAGED
    assert record in " ".join(found.problems)
    assert record in found.message
    json.dumps(found.to_json())


def test_an_end_of_another_shape(run: Run) -> None:
    fact(run.attempt(1).ended, status="marvellous")
    assert state(run).status is Status.DAMAGED
    fact(run.attempt(1).ended, time="soon")
    assert state(run).status is Status.DAMAGED


def test_a_missing_request(run: Run) -> None:
    run.request.unlink()
    assert state(run).status is Status.DAMAGED


def test_an_empty_folder(tmp_path: Path) -> None:
    empty = Run(tmp_path / "2026-11-22_0701_x_abcd")
    empty.path.mkdir()
    assert state(empty).status is Status.DAMAGED
    assert state(Run(tmp_path / "2026-11-22_0701_gone_abce")).status is Status.DAMAGED, "vanished between list and look"


def test_a_newer_lorakit_is_noticed(run: Run) -> None:
    ended(run)
    fact(run.attempt(1).ended, schema=2, status="ok", steps=4)
    assert "newer lorakit" in " ".join(state(run).problems)


def test_nan_losses_do_not_spoil_the_sums(run: Run) -> None:
    progress(run, START, step(1, 1.0), step(2, "nan"), step(3, 0.5))
    found = state(run)
    assert (found.loss_first, found.loss_last, found.loss_average, found.steps) == (1.0, 0.5, 0.75, 3)


def test_a_thousand_runs_are_known_in_a_moment(tmp_path: Path) -> None:
    runs = [ended(born(tmp_path, f"r{index}")) for index in range(20)]
    began = time.process_time()
    for _ in range(50):
        for each in runs:
            assert state(each).status is Status.OK
    assert time.process_time() - began < 5.0
