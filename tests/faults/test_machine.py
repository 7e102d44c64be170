"""Rows 8, 10, 17 and 18: the power goes, the clock jumps, a newer lorakit was here, two start in the same second."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lorakit.archive.birth import birth, moment_of_birth
from lorakit.archive.diagnose_log import Reason, Status
from lorakit.archive.records import state
from lorakit.archive.run import Run, list_runs, open_run
from lorakit.bake.bake import follow, request_stop, start
from lorakit.bake.ending import living
from lorakit.errors import ArchiveError
from lorakit.launch.processes import ProcessId
from lorakit.protocol import read
from tests.bake.runs import keeper_of, left_over, make_run, reaped, wait_for, wait_for_steps, wait_sealed

ROOT = Path(__file__).parents[2]


@pytest.mark.usefixtures("quick")
def test_row_08_after_a_power_loss_nothing_runs_and_no_file_is_empty(tmp_path: Path) -> None:
    with reaped(make_run(tmp_path, "--steps", "2000", "--seconds", "0.02")) as run:
        start(run)
        wait_for_steps(run, 3)
        everything = (keeper_of(run), *left_over(run))
        for process in everything:
            process.kill(signal.SIGKILL)
        wait_for(lambda: not living(run.attempt(1)))
    # After the machine's next start a stranger has the keeper's pid and start time: only the boot tells them apart.
    facts = json.loads(run.attempt(1).started.read_text())
    facts["keeper"] = {**ProcessId.current().to_json(), "boot_id": "the boot before"}
    run.attempt(1).started.write_text(json.dumps(facts))
    found = state(run)
    assert (found.status, found.reason, found.sealed) == (Status.INTERRUPTED, Reason.KEEPER_LOST, False)
    assert "before this machine's last start" in found.evidence
    assert found.steps >= 3
    assert living(run.attempt(1)) == ()
    records = [path for path in run.path.rglob("*.json") if not path.name.startswith(".")]
    assert len(records) > 3
    for path in records:
        assert isinstance(json.loads(path.read_bytes()), dict), path
    with pytest.raises(ArchiveError, match="has ended"):
        request_stop(run)


ATOMIC = """
import sys
from pathlib import Path
from lorakit import atomic
from lorakit.archive.reserve import Reserve
folder = Path(sys.argv[1])
reserve = Reserve.keep(folder / "reserved.json")
atomic.write_text(folder / "replaced.json", "{}")
atomic.write_once(folder / "once.json", b"{}")
reserve.write_once(b"{}")
"""


def test_row_08_what_gets_its_name_is_on_disk_before(tmp_path: Path) -> None:
    """The order of system calls: every new name comes after the flush of the file, and before that of its folder."""
    strace = shutil.which("strace")
    if strace is None or subprocess.run([strace, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no strace here")
    trace = tmp_path / "trace"
    calls = "trace=openat,fsync,fdatasync,rename,renameat,renameat2,link,linkat"
    command = [strace, "-f", "-y", "-o", str(trace), "-e", calls, sys.executable, "-c", ATOMIC, str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True)
    lines = [line for line in trace.read_text().splitlines() if str(tmp_path) in line and "= -1" not in line]
    named = [at for at, line in enumerate(lines) if re.search(r"\b(?:rename|link)\w*\(", line)]
    assert len(named) >= 3
    for at in named:
        source = re.findall(r'"([^"]+)"', lines[at])[0]
        assert any(f"<{source}>" in line and "sync(" in line for line in lines[:at]), lines[at]
        assert any(f"<{tmp_path}>" in line and "sync(" in line for line in lines[at:]), lines[at]


#: time(), gettimeofday() and clock_gettime(CLOCK_REALTIME) with the seconds added that a file holds.
JUMPING = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static long jump(void) {
    char text[32] = {0};
    const char *name = getenv("CLOCK_JUMP");
    int file = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return 0;
    if (read(file, text, 31) < 0) text[0] = 0;
    close(file);
    return atol(text);
}
int clock_gettime(clockid_t id, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, id, now);
    if (!failed && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) now->tv_sec += jump();
    return failed;
}
int gettimeofday(struct timeval *now, void *zone) {
    struct timespec exact;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &exact)) return -1;
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
"""


@pytest.mark.usefixtures("quick")
def test_row_10_the_clock_jumps_an_hour_back_and_forth_while_it_trains(
    tmp_path: Path, library: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lorakit.cli.tally import Tally

    jump = tmp_path / "jump"
    jump.write_text("0")
    monkeypatch.setenv("CLOCK_JUMP", str(jump))
    monkeypatch.setenv("LD_PRELOAD", str(library("libjump.so", JUMPING)))
    with reaped(make_run(tmp_path, "--steps", "2000", "--seconds", "0.02", no_progress_seconds=600)) as run:
        start(run)
        for hours in (0, -1, 1, 0):
            jump.write_text(str(hours * 3600))
            wait_for_steps(run, state(run).steps + 5)
            found = state(run)
            assert found.status is Status.RUNNING
            assert found.seconds is not None
            assert 0 <= found.seconds < 300
        request_stop(run)
        found = wait_sealed(run)
        assert found.status is Status.STOPPED
        assert found.seconds is not None
        assert 0 < found.seconds < 300
        ranks = json.loads(run.attempt(1).ended.read_text())
        assert 0 <= ranks["launcher_seconds"] < 300
    records = read(run.attempt(1).progress)
    times = [record["t"] for record in records if record["type"] == "step"]
    assert max(times) - min(times) > 7000, "the clock did jump for the trainer"
    tally = Tally()
    for record in records:
        tally.add(record)
    assert tally.pace is not None
    assert 0 < tally.pace < 10


def test_row_10_later_runs_sort_later_although_the_clock_was_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        before_the_end_of_summer_time = 1792888200.0  # 2026-10-25 02:30 CEST
        real = time.time
        expected = []
        for offset in (0.0, 2400.0, 2400.0 - 3600.0, 2460.0 - 3600.0):  # by the sun; then the clock is set back an hour
            monkeypatch.setattr(time, "time", lambda at=before_the_end_of_summer_time + offset: at)
            now = moment_of_birth(tmp_path)
            with birth(tmp_path, "run", now=now) as new:
                new.write_json(new.run.request, {"schema": 1, "name": "run", "time": now})
            expected.append(new.run)
        monkeypatch.setattr(time, "time", real)
        assert list(list_runs(tmp_path)) == expected
        assert open_run(tmp_path, "latest") == expected[-1]
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()


def content(folder: Path) -> str:
    """One hash over every file below a folder, with its name and time of change."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        data = path.read_bytes() if path.is_file() else b""
        found.update(f"{path} {path.lstat().st_mtime_ns}".encode() + data)
    return found.hexdigest()


@pytest.mark.usefixtures("quick")
def test_row_17_a_run_of_a_newer_lorakit_is_shown_and_left_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from lorakit.cli.main import main

    (tmp_path / "lorakit.toml").touch()
    run = make_run(tmp_path / "runs", "--steps", "3")
    start(run)
    follow(run)
    facts = json.loads(run.attempt(1).ended.read_text())
    future = {
        **facts,
        "schema": 2,
        "status": "levitating",
        "reason": "anti-gravity",
        "message": "it floats",
        "steps": 3,
    }
    run.attempt(1).ended.write_text(json.dumps(future))
    before = content(run.path)
    found = state(run)
    assert (found.status, found.message, found.steps, found.read_only) == (Status.UNKNOWN, "it floats", 3, True)
    assert main(["-C", str(tmp_path), "show", run.short]) == 0
    assert "newer lorakit (schema 2)" in capfd.readouterr().out.replace("\n", " ")
    assert main(["-C", str(tmp_path), "ls"]) == 0
    assert run.short in capfd.readouterr().out
    assert main(["-C", str(tmp_path), "stop", run.short]) == 9
    assert "newer lorakit" in capfd.readouterr().err
    assert content(run.path) == before
    run.attempt(1).ended.write_text(json.dumps({**facts, "schema": 2}))
    assert (state(run).status, state(run).read_only) == (Status.OK, True), "what is understood is shown as it is"


RACER = """
import sys, time
from pathlib import Path
from lorakit.archive.birth import birth
gate = Path(sys.argv[1]) / "gate"
print("ready", flush=True)
while not gate.exists():
    pass
for _ in range(10):
    with birth(Path(sys.argv[1]) / "runs", "sweep") as new:
        new.write(new.run.attempt(1).path / "owner", sys.argv[2])
    print(new.run.id, flush=True)
"""


def test_row_18_runs_born_in_the_same_second_have_ids_and_folders_of_their_own(tmp_path: Path) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(tmp_path), str(number)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        for number in range(6)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    (tmp_path / "gate").touch()
    told = [racer.communicate()[0].split() for racer in racers]
    ids = [name for names in told for name in names]
    assert len(set(ids)) == len(ids) == 60
    assert {run.id for run in list_runs(tmp_path / "runs")} == set(ids)
    assert len({name[-4:] for name in ids}) == 60
    for number, names in enumerate(told):
        for name in names:
            assert (Run(tmp_path / "runs" / name).attempt(1).path / "owner").read_text() == str(number)
    assert not [name for name in os.listdir(tmp_path / "runs") if name.startswith(".")]
