"""The program of a job where the batch system is played: its variables are set, and no Slurm is asked."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lorakit.archive.diagnose_log import Reason, Status
from lorakit.archive.records import state
from lorakit.archive.run import Run, read_record
from lorakit.archive.seal import verify
from lorakit.atomic import dump_json, write_once
from lorakit.bake.job import job_record, own_job
from lorakit.bake.prepare import prepare
from lorakit.launch.slurm import SlurmSettings
from lorakit.launch.supervisor import module_argv
from lorakit.preset.files import load_text
from lorakit.workspace import Workspace
from tests.bake.runs import wait_for, wait_for_steps, wait_sealed
from tests.faults.places import PRESET, value_after

Made = Callable[..., Workspace]


def prepared(place: Workspace, *overrides: str, job: str = "77") -> Run:
    """A run that waits for a job."""
    run = prepare(load_text(PRESET, place.presets / "steady.toml", overrides), place)
    write_once(run.attempt(1).job, dump_json(job_record(job, SlurmSettings())))
    assert state(run).status is Status.QUEUED
    return run


def begin(run: Run, folder: Path, job: str = "77") -> subprocess.Popen[bytes]:
    """Its job's program, as Slurm would start it; on a machine without Slurm's own."""
    environment = {**os.environ, "SLURM_JOB_ID": job, "PATH": str(folder)}
    with open(run.path / "slurm.log", "ab") as log:
        return subprocess.Popen(module_argv("lorakit.bake.job", str(run.path)), env=environment, stdout=log, stderr=log)


def test_a_job_whose_node_died_goes_on_elsewhere(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOAK_SECONDS", "0.2")
    run = prepared(made())
    first = begin(run, tmp_path)
    wait_for_steps(run, 4)
    first.send_signal(signal.SIGKILL)
    first.wait()
    wait_for(lambda: state(run).status is not Status.RUNNING)
    started = read_record(run.attempt(1).started) or {}
    started["keeper"]["host"] = "another-node"  # as if it had been there
    run.attempt(1).started.write_bytes(dump_json(started))
    assert state(run).status is Status.UNKNOWN
    stranger = begin(run, tmp_path, job="78")  # nothing says that job 77 is over
    assert stranger.wait(60) == 9
    assert run.last_attempt.number == 1
    again = begin(run, tmp_path)
    assert again.wait(60) == 0
    found = state(run)
    assert (found.status, found.attempt, found.steps) == (Status.OK, 2, 12)
    assert (run.path / "weights/02/steady.safetensors").read_bytes()[-64:] == value_after(12)
    ended = read_record(run.attempt(1).ended) or {}
    assert (ended["reason"], ended["evidence"].partition(" on ")[0]) == ("keeper-lost", "Slurm started job 77 again")
    assert verify(run) == ()


def test_a_warning_is_a_graceful_stop_and_its_reason_the_jobs(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOAK_SECONDS", "0.2")
    run = prepared(made(), "length.steps=2000")
    program = begin(run, tmp_path)
    wait_for_steps(run, 2)
    program.send_signal(signal.SIGTERM)
    assert program.wait(60) == 130
    found = wait_sealed(run)
    assert (found.status, found.reason) == (Status.STOPPED, Reason.PREEMPTED)
    assert (read_record(run.attempt(1).stop(1)) or {})["signal"] == "TERM"
    assert (run.state / "steady-state").is_dir()  # it ended by itself, saving what it had


def test_the_name_of_ones_own_job() -> None:
    assert own_job({"SLURM_JOB_ID": "9"}) == "9"
    assert own_job({"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}) == "7_2"
    assert own_job({}) == ""
