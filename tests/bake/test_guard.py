"""The guard: a limit on standing still, memory told, logs cut; on files, with a clock that is moved by hand, and in a real run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lorakit.archive.diagnose_log import Evidence, Reason, Status, diagnose
from lorakit.archive.progress import read_progress
from lorakit.archive.records import state
from lorakit.archive.run import Attempt
from lorakit.bake.bake import follow, start
from lorakit.bake.guard import Guard, Limits, LogCap, duration_text
from lorakit.bake.wishes import BatchJob
from lorakit.launch.memory import free_memory, gpu_memory, resident
from lorakit.protocol import Writer, read
from tests.bake.runs import left_over, make_run, reaped

QUICK = Path(__file__).with_name("quick")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def attempt(tmp_path: Path) -> Attempt:
    path = tmp_path / "01"
    (path / "ranks").mkdir(parents=True)
    return Attempt(path)


def test_limits_are_read_and_nonsense_is_the_default() -> None:
    assert Limits.of({"limits": {"no_progress_seconds": 60, "log_bytes": 5000}}) == Limits(60.0, 5000)
    for request in (None, {}, {"limits": 3}, {"limits": {"no_progress_seconds": -1, "log_bytes": "x"}}):
        assert Limits.of(request) == Limits()
    assert Limits().no_progress_seconds is None, "off by default"


def test_standing_still_is_noticed_and_only_after_the_limit(attempt: Attempt) -> None:
    clock, writer = Clock(), Writer(attempt.progress)
    guard = Guard(attempt, Limits(no_progress_seconds=60), clock=clock)

    def after(seconds: float) -> str:
        clock.now += seconds
        guard.poll()
        return guard.stalled

    attempt.log.write_text("loading")
    assert not after(50)
    attempt.log.write_text("loading more")  # before the first step a growing log is progress
    assert not after(50)
    writer.write("step", step=1)
    assert not after(50)
    writer.write("memory", rss=1)
    writer.write("warn", message="x")
    attempt.log.write_text("chatter that is no step")
    assert not after(50)
    assert after(30) == "1 min"
    writer.write("step", step=2)
    assert after(1) == "1 min", "what was once found stays"
    writer.close()


def test_without_a_limit_nothing_is_ever_found(attempt: Attempt) -> None:
    clock = Clock()
    guard = Guard(attempt, Limits(), clock=clock)
    clock.now += 1e6
    guard.poll()
    assert guard.stalled == ""


def test_a_log_is_cut_and_its_ends_are_kept(tmp_path: Path) -> None:
    log = tmp_path / "trainer.log"
    cap = LogCap(log, 1000)
    assert not cap.poll()
    with open(log, "ab", buffering=0) as trainer:  # it keeps its file open all the time
        for _ in range(3):
            trainer.writelines(b"%048d\n" % number for number in range(30))
            cap.poll()
        trainer.write(b"after\n")
    first, before = (log.with_name(f"trainer.log.{word}").read_bytes() for word in ("first", "before"))
    assert (len(first), len(before)) == (250, 250)
    assert first.startswith(b"%048d\n" % 0)
    assert before.endswith(b"%048d\n" % 29)
    assert log.read_bytes().endswith(b"bytes of it are not kept]\nafter\n")
    assert log.stat().st_size < 1000
    assert cap.dropped > 2000


def test_memory_is_told_for_each_rank_with_its_children(attempt: Attempt) -> None:
    program = (
        "import os, subprocess, sys, time; x = bytearray(30_000_000); os.fork(); print(1, flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, start_new_session=True, bufsize=0)
    try:
        assert child.stdout is not None
        child.stdout.read(4)
        (attempt.ranks / "rank-0.json").write_text(json.dumps({"rank": 0, "pid": child.pid}))
        clock = Clock()
        guard = Guard(attempt, Limits(), clock=clock)
        for _ in range(4):  # the first look finds the ranks, later ones tell
            guard.poll()
            clock.now += 3
        told = [record for record in read(attempt.progress) if record["type"] == "memory"]
        assert len(told) == 2
        assert told[0]["rss"] == told[0]["ranks"]["0"] > 50_000_000, "both processes of the group"
        assert resident([child.pid])[child.pid] > 50_000_000
        assert read_progress(attempt.progress).rss == max(record["rss"] for record in told)
    finally:
        os.killpg(child.pid, 9)
        child.communicate()
    assert resident([child.pid]) == {}


def test_without_a_driver_there_are_no_gpus_to_tell_of() -> None:
    if not Path("/dev/nvidiactl").exists():
        assert gpu_memory([1]) == ()
        assert free_memory()["gpus"] == []
    available = free_memory()["available"]
    assert available is None or available > 0


def test_a_training_that_stands_still_is_ended_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(QUICK))
    with reaped(make_run(tmp_path, "--fault", "hang", no_progress_seconds=2.5)) as run:
        start(run)
        follow(run)
        found = state(run)
        assert (found.status, found.reason, found.sealed) == (Status.FAILED, Reason.TIMED_OUT, True)
        assert "made no progress for 2.5 s" in found.message
        assert "no_progress_timeout" in found.evidence
        assert found.rss is not None
        assert found.rss > 1 << 20, "memory was told meanwhile, more than the trainer itself says"
        assert found.to_json()["evidence"] == found.evidence
        assert left_over(run) == ()


@pytest.mark.parametrize(
    ("environment", "now", "expected"),
    [
        ({}, 0.0, None),
        ({"SLURM_JOB_ID": "7"}, 50.0, (Reason.PREEMPTED, "job 7")),
        ({"SLURM_JOB_ID": "7", "SLURM_JOB_START_TIME": "0", "SLURM_JOB_END_TIME": "36000"}, 3e4, (Reason.PREEMPTED, "job 7")),
        ({"SLURM_JOB_ID": "7", "SLURM_JOB_START_TIME": "0", "SLURM_JOB_END_TIME": "36000"}, 35990.0, (Reason.TIMED_OUT, "job 7")),
        ({"SLURM_JOB_ID": "7", "SLURM_JOB_END_TIME": "600"}, 10.0, (Reason.TIMED_OUT, "job 7")),
    ],
)  # fmt: skip
def test_a_batch_systems_signal_is_preemption_or_the_end_of_its_time(
    environment: dict[str, str], now: float, expected: tuple[Reason, str] | None
) -> None:
    job = BatchJob.of(environment)
    if expected is None:
        assert job is None
        return
    assert job is not None
    evidence = Evidence(
        stop_level=2, keeper_signalled=True, batch_job=job.id, batch_time_up=job.time_is_up(now), result="missing"
    )
    verdict = diagnose(evidence)
    assert (verdict.status, verdict.reason) == (Status.STOPPED, expected[0])
    assert expected[1] in verdict.evidence


def test_durations_are_said_in_their_largest_whole_unit() -> None:
    assert [duration_text(seconds) for seconds in (2.5, 90, 60, 1800, 7200)] == [
        "2.5 s",
        "90 s",
        "1 min",
        "30 min",
        "2 h",
    ]
