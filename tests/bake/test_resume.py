"""A run goes on from its last whole state as a further attempt; what is sealed never changes; without a state it says so."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from lorakit import protocol
from lorakit.archive.diagnose_log import Reason, Status
from lorakit.archive.records import state
from lorakit.archive.run import Run, read_record
from lorakit.archive.seal import verify
from lorakit.archive.states import checkpoints, training_states, whole_checkpoints
from lorakit.bake.bake import request_stop
from lorakit.bake.rerun import rerun
from lorakit.bake.resume import pick_state, resume, resumed_arguments
from lorakit.errors import ArchiveError
from lorakit.launch.processes import ProcessId
from lorakit.workspace import Workspace
from tests.faults.places import QUICK, bake_steady, place, value_after


@pytest.fixture
def steady(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    made = place(tmp_path / "work space")
    monkeypatch.setenv("PYTHONPATH", str(QUICK))  # only now: the base model is written with the real accelerate about
    return made


def at_step(number: int, do: Callable[[Run], None]) -> Callable[[Run, Sequence[dict[str, Any]]], None]:
    done: list[int] = []

    def watch(run: Run, records: Sequence[dict[str, Any]]) -> None:
        if not done and any(record["type"] == "step" and record["step"] >= number for record in records):
            done.append(number)
            do(run)

    return watch


def kill_keeper(run: Run) -> None:
    keeper = ProcessId.from_json((read_record(run.last_attempt.started) or {})["keeper"])
    assert keeper is not None
    keeper.kill(signal.SIGKILL)


def contents(run: Run) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file() and path.parent != run.path}


def test_stop_then_resume_counts_on(steady: Workspace) -> None:
    run = bake_steady(steady, on_update=at_step(4, lambda run: request_stop(run, 1)))
    stopped = state(run)
    assert stopped.status is Status.STOPPED
    before = contents(run)
    seal = run.manifest(1).read_bytes()
    resume(run, steady, argv=["lorakit", "resume"])
    found = state(run)
    assert (found.status, found.attempt, found.steps, found.sealed) == (Status.OK, 2, 12, True)
    assert verify(run) == ()
    # The losses of the whole training, 1/step, and the time of both attempts.
    assert found.loss_first == (1 + 1 / 2) / 2
    assert found.loss_last == pytest.approx((1 / 11 + 1 / 12) / 2)
    assert found.loss_average == pytest.approx(sum(1 / step for step in range(1, 13)) / 12)
    each = [(read_record(run.attempt(number).ended) or {})["seconds"] for number in (1, 2)]
    assert found.seconds == sum(each)
    assert stopped.seconds == each[0]
    assert {path: path.read_bytes() for path in before} == before
    assert run.manifest(1).read_bytes() == seal
    assert (read_record(run.attempt(2).resumed) or {})["step"] == stopped.steps
    records = protocol.read(run.attempt(2).progress)
    assert [record["step"] for record in records if record["type"] == "step"] == [*range(stopped.steps + 1, 13)]
    # None lost, none done twice; the same names as in one go, the newest of each.
    assert (run.path / "weights/02/steady.safetensors").read_bytes()[-64:] == value_after(12)
    assert [Path(entry["path"]).name for entry in checkpoints(run)] == [
        *(f"steady-step{step:08d}.safetensors" for step in (3, 6, 9, 12)),
        "steady.safetensors",
    ]
    assert checkpoints(run)[-1]["path"] == "weights/02/steady.safetensors"
    command = read_record(run.attempt(2).command) or {}
    assert command["arguments"][-2:] == ["--resume", str(run.state / "steady-state")]
    with pytest.raises(ArchiveError, match="has finished"):
        resume(run, steady)


def test_kill_then_resume_passes_over_what_is_half_written(steady: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOAK_SECONDS", "0.2")  # slow enough for the kill to come before the end
    run = bake_steady(steady, on_update=at_step(10, kill_keeper))
    assert (state(run).status, state(run).reason) == (Status.INTERRUPTED, Reason.KEEPER_LOST)
    newest = training_states(run)[0]
    assert newest.step == 9
    os.truncate(newest.path / "optimizer.bin", 10)
    os.truncate(run.weights / "steady-step00000006.safetensors", 20)
    told: list[Any] = []
    resume(run, steady, on_picked=told.append)
    assert [(one.path.name, one.fault) for one in told[0].passed_over] == [
        ("steady-step00000009-state", "optimizer.bin has 10 of 1000 bytes")
    ]
    assert told[0].state.step == 6
    assert (state(run).status, state(run).steps, verify(run)) == (Status.OK, 12, ())
    ended = read_record(run.attempt(1).ended) or {}
    assert (ended["status"], ended["reason"], ended["repaired"]) == ("interrupted", "keeper-lost", True)
    assert ended["evidence"]
    found = state(run)
    assert found.loss_first == (1 + 1 / 2) / 2
    assert found.loss_average == pytest.approx(sum(1 / step for step in range(1, 13)) / 12)
    each = [(read_record(run.attempt(number).ended) or {})["seconds"] for number in (1, 2)]
    assert each[0] > 0, "as far as its progress tells"
    assert found.seconds == sum(each)
    assert (run.path / "weights/02/steady.safetensors").read_bytes()[-64:] == value_after(12)
    torn = [entry for entry in checkpoints(run) if "fault" in entry]
    assert [entry["path"] for entry in torn] == ["weights/steady-step00000006.safetensors"]
    assert all(path.name != "steady-step00000006.safetensors" for path in whole_checkpoints(run))


def test_without_a_state_it_says_so_and_starts_nothing(steady: Workspace) -> None:
    run = bake_steady(steady, "save.state=false", on_update=at_step(4, lambda run: request_stop(run, 1)))
    with pytest.raises(ArchiveError, match="no training state") as caught:
        resume(run, steady)
    assert "lorakit rerun" in caught.value.todo
    assert "save.state is off" in caught.value.why
    assert run.last_attempt.number == 1


def test_all_states_half_written(steady: Workspace) -> None:
    run = bake_steady(steady, on_update=at_step(4, lambda run: request_stop(run, 1)))
    for one in training_states(run):
        (one.path / "train_state.json").write_bytes(b"")
    with pytest.raises(ArchiveError, match="no whole training state") as caught:
        pick_state(run)
    assert "not JSON" in caught.value.why


def test_what_changed_is_named_before_anything_starts(steady: Workspace) -> None:
    run = bake_steady(steady, on_update=at_step(4, lambda run: request_stop(run, 1)))
    pictures = steady.root / "things" / "1_thing"
    (pictures / "0.txt").write_text("another caption", encoding="utf-8")
    with open(steady.root / "base.safetensors", "r+b") as file:
        file.seek(-1, 2)
        file.write(b"\7")
    for go in (resume, rerun):
        with pytest.raises(ArchiveError, match="as it was") as caught:
            go(run, steady)
        assert "dataset: 1 captioned in another way (0.png)" in caught.value.why
        assert "base.model: base.safetensors has another content" in caught.value.why
    assert run.last_attempt.number == 1
    again = rerun(run, steady, anyway=True)
    lineage = json.loads(again.request.read_text())["lineage"]
    assert (lineage["kind"], lineage["of"], len(lineage["differences"])) == ("rerun", run.id, 2)
    assert state(again).status is Status.OK
    assert again.source.read_bytes() == run.source.read_bytes()


def test_a_running_run_is_left_alone(steady: Workspace) -> None:
    refused: list[str] = []

    def try_it(run: Run) -> None:
        try:
            resume(run, steady)
        except ArchiveError as error:
            refused.append(error.what)

    bake_steady(steady, on_update=at_step(2, try_it))
    assert [text.partition(" is ")[2] for text in refused] == ["running"]


def test_arguments_of_a_further_attempt(tmp_path: Path) -> None:
    line = ["--output_dir", "/old/run/weights", "--logging_dir", "/old/run/attempts/01/events", "--sample_at_first",
            "--network_args", "a=1", "b=2", "--noise=-1", "--train_data_dir", "/old/run/dataset/view", "--resume", "x",
            "--seed", "7"]  # fmt: skip
    run = Run(tmp_path / "2026-01-01_0000_a_abcd")
    found = resumed_arguments(line, output=Path("/w"), events=Path("/e"), state=Path("/s"), run=run)
    assert found == ["--output_dir", "/w", "--logging_dir", "/e", "--network_args", "a=1", "b=2", "--noise=-1",
                     "--train_data_dir", f"{run.path}/dataset/view", "--seed", "7", "--resume", "/s"]  # fmt: skip
