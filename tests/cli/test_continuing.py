"""What resume, repair and the runs that they touched look like; that they do it is tested in bake and faults."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lorakit.archive.run import Run
from lorakit.atomic import write_json
from tests.archive.test_repair import dead
from tests.cli.made_runs import THEN, WEIGHTS, make_run
from tests.cli.running import Cli, golden

STOPPED = {"status": "stopped", "reason": "stopped-by-user", "message": "stopped by the user at step 98 of 343"}


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TZ", "UTC")
    (tmp_path / "lorakit.toml").touch()
    return tmp_path / "runs"


def test_a_finished_run_is_not_resumed(archive: Path, cli: Cli) -> None:
    make_run(archive, short="k3f9")
    told = cli("-C", str(archive.parent), "resume", code=9).err
    assert "has finished: there is nothing left to train" in told
    assert "lorakit rerun k3f9 trains it once more, as a new run" in told


def test_a_run_without_a_state_is_not_started_anew_in_silence(archive: Path, cli: Cli) -> None:
    make_run(archive, short="k3f9", ended=STOPPED)
    told = cli("-C", str(archive.parent), "resume", code=9).err
    assert "has no training state" in told
    assert "lorakit rerun k3f9" in told


def with_state(run: Run) -> Run:
    folder = run.state / "hifumi-000098-state"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    files = {"model.safetensors": {"bytes": len(WEIGHTS)}}
    (folder / "train_state.json").write_text(json.dumps({"current_step": 98, "total_steps": 343, "files": files}))
    return run


@pytest.mark.parametrize(("reason", "offered"), [("signalled", True), ("nan", False)])
def test_a_run_that_can_go_on_says_so(reason: str, offered: bool, archive: Path, cli: Cli) -> None:
    ended = {"status": "failed", "reason": reason, "message": "failed at step 98 of 343"}
    with_state(make_run(archive, short="k3f9", ended=ended))
    assert ("lorakit resume k3f9" in cli("-C", str(archive.parent), "show").out) == offered


def test_a_resumed_run_with_a_torn_file_and_a_warning(archive: Path, cli: Cli) -> None:
    run = make_run(archive, short="k3f9", weights=WEIGHTS[:700], ended={**STOPPED, "warnings": ["curves have gaps"]})
    second = run.attempt(2)
    second.ranks.mkdir(parents=True)
    differences = ["dataset: 1 captioned in another way (0.png)"]
    write_json(second.resumed, {"schema": 1, "time": THEN, "step": 98, "differences": differences})
    write_json(second.started, json.loads(run.attempt(1).started.read_text()))
    ended = json.loads(run.attempt(1).ended.read_text())
    write_json(second.ended, {**ended, "attempt": 2, "status": "ok", "reason": "ok", "message": "343 steps"})
    out = cli("-C", str(archive.parent), "show").out
    golden("show_resumed.txt", out.replace(str(archive), "RUNS"))


def test_repair_tells_what_it_did_and_what_it_left(archive: Path, cli: Cli) -> None:
    run = dead(archive)
    (run.weights / "torn.safetensors").write_bytes(WEIGHTS[:700])
    out = cli("-C", str(archive.parent), "repair").out
    golden("repair.txt", out.replace(run.short, "k3f9"))
    again = cli("-C", str(archive.parent), "repair", "--json").json["actions"]
    assert {action["kind"] for action in again} == {"torn", "half-written"}, "these are told each time"


def test_nothing_to_repair(archive: Path, cli: Cli) -> None:
    make_run(archive)
    assert cli("-C", str(archive.parent), "repair").out == "✓ nothing to repair\n"
