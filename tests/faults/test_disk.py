"""Faults 11 to 14, 16 and 25: full disks, cut checkpoints, half-written states, damaged event files, inputs that changed."""

from __future__ import annotations

import os
import resource
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lorakit.archive.events import EventFollower
from lorakit.archive.records import state
from lorakit.archive.run import Run
from lorakit.archive.states import checkpoints, training_states, whole_checkpoints
from lorakit.atomic import TEMP_MARK
from lorakit.bake.bake import request_stop
from lorakit.bake.rerun import rerun
from lorakit.bake.resume import pick_state, resume
from lorakit.errors import ArchiveError, LorakitError
from lorakit.workspace import Workspace
from tests.archive.made import born, safetensors
from tests.faults.places import QUICK, ROOT, bake_steady, place

SMALL_DISK = """
import os, subprocess, sys
from pathlib import Path
root, size = Path(sys.argv[1]), sys.argv[2]
runs = root / "runs"
runs.mkdir()
subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", runs], check=True)
from lorakit.workspace import Workspace
from lorakit.archive.records import state
from lorakit.archive.seal import verify
from lorakit.archive.states import checkpoints
from lorakit.errors import LorakitError
from tests.faults.places import bake_steady
workspace = Workspace(root, {"sd_scripts": {"path": str(root / "checkout"), "python": sys.executable}})
filler = runs / "filler"
def fill(run, records):
    if any(record.get("step") == 4 for record in records):
        with open(filler, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"x" * 4096)
            except OSError:
                pass
try:
    from lorakit.bake import prepare
    prepare.check_disk = lambda *_: None  # what it would find too little for is tried all the same
    if sys.argv[3] == "before":
        fill(None, [{"step": 4}])
    run = bake_steady(workspace, on_update=fill)
except LorakitError as error:
    print(error.exit_code, error.what, error.why, sorted(path.name for path in runs.iterdir()))
else:
    found = state(run)
    print(found.status, found.reason, found.sealed, len(verify(run)), [e["path"] for e in checkpoints(run) if "fault" not in e])
    print(found.message)
"""


@pytest.fixture(scope="module")
def workspace_of(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return place(tmp_path_factory.mktemp("disk"))


def on_small_disk(workspace: Workspace, size: str, when: str) -> list[str]:
    if subprocess.run(["unshare", "-Urm", "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("no user namespaces here: a small disk cannot be made")
    line = ["unshare", "-Urm", sys.executable, "-c", SMALL_DISK, str(workspace.root), size, when]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(QUICK), str(ROOT)))}
    done = subprocess.run(line, env=env, capture_output=True, text=True, check=False, timeout=120)
    (workspace.root / "runs").rmdir()
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_row_11_a_full_disk_leaves_no_run_and_says_where(workspace_of: Workspace) -> None:
    (told,) = on_small_disk(workspace_of, "64k", "before")
    assert told.startswith(f"11 no run can be written in {workspace_of.root}/runs No space left on device; 0.0 GB free")
    assert told.endswith("['filler']")


def test_row_12_a_disk_that_fills_up_while_it_trains(workspace_of: Workspace) -> None:
    first, message = on_small_disk(workspace_of, "2m", "while")
    assert first.startswith("failed disk-full True 0 ['weights/steady-step00000003.safetensors'")
    assert "the disk is full" in message


def limited() -> None:
    """Files may grow to 300 bytes: what is written beyond is an error with half a file left."""
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))


def test_row_12_a_file_that_may_not_grow_stays_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "tags.json"
    target.write_text("old")
    program = "import sys; from pathlib import Path; from lorakit import atomic; atomic.write_bytes(Path(sys.argv[1]), b'x' * 999)"
    line = [sys.executable, "-c", program, str(target)]
    done = subprocess.run(line, preexec_fn=limited, capture_output=True, text=True, check=False)
    assert "File too large" in done.stderr
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir() if TEMP_MARK in path.name] == []


@pytest.mark.parametrize("size", [0, 4, 8, 40, 120])
def test_row_13_a_cut_checkpoint_is_listed_as_torn_and_never_offered(tmp_path: Path, size: int) -> None:
    run = born(tmp_path)
    safetensors(run.weights / "a-000001.safetensors")
    os.truncate(safetensors(run.weights / "a.safetensors"), size)
    listed = {entry["path"]: entry.get("fault") for entry in checkpoints(run)}
    assert listed["weights/a-000001.safetensors"] is None
    assert listed["weights/a.safetensors"]
    assert [path.name for path in whole_checkpoints(run)] == ["a-000001.safetensors"]


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Run, Workspace]:
    workspace = place(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(QUICK))

    def stop(run: Run, records: Sequence[dict[str, Any]]) -> None:
        if any(record.get("step") == 7 and record["type"] == "step" for record in records):
            request_stop(run, 1)

    return bake_steady(workspace, on_update=stop), workspace


def test_row_14_a_half_written_state_is_passed_over_and_named(stopped: tuple[Run, Workspace]) -> None:
    run, _ = stopped
    newest, *others = training_states(run)
    for damage in (
        lambda: os.truncate(newest.path / "optimizer.bin", 0),
        (newest.path / "optimizer.bin").unlink,
        lambda: (newest.path / "train_state.json").write_bytes(b'{"current_st'),
        (newest.path / "train_state.json").unlink,
    ):
        damage()
        picked = pick_state(run)
        assert picked.state.path == others[0].path
        (passed,) = picked.passed_over
        assert passed.path == newest.path
        assert passed.fault


def test_row_25_inputs_that_changed_are_named_and_nothing_is_trained(stopped: tuple[Run, Workspace]) -> None:
    run, workspace = stopped
    runs = sorted(path.name for path in workspace.runs.iterdir())
    picture = workspace.root / "things" / "1_thing" / "1.png"
    picture.rename(workspace.root / "1.png")
    for go in (resume, rerun):
        with pytest.raises(ArchiveError, match="as it was") as caught:
            go(run, workspace)
        assert caught.value.why == "dataset: 1 gone (1.png)"
    (workspace.root / "1.png").rename(picture)
    base = workspace.root / "base.safetensors"
    base.rename(workspace.root / "elsewhere.safetensors")
    for go in (resume, rerun):
        with pytest.raises(LorakitError, match="missing"):
            go(run, workspace)
    (workspace.root / "elsewhere.safetensors").rename(base)
    assert sorted(path.name for path in workspace.runs.iterdir()) == runs
    assert run.last_attempt.number == 1
    resume(run, workspace)
    assert state(run).status == "ok"


def scalar(step: int, value: float) -> bytes:
    """An event record of TensorBoard, made by hand: length, its CRC (unchecked here), event, CRC."""
    tag = b"loss/current"
    simple = b"\x0a" + bytes([len(tag)]) + tag + b"\x15" + struct.pack("<f", value)
    summary = b"\x0a" + bytes([len(simple)]) + simple
    event = (
        b"\x09" + struct.pack("<d", 1000.0 + step) + b"\x10" + bytes([step]) + b"\x2a" + bytes([len(summary)]) + summary
    )
    return struct.pack("<Q", len(event)) + crc(struct.pack("<Q", len(event))) + event + crc(event)


def crc(data: bytes) -> bytes:
    """The masked CRC-32C of TFRecord."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
    value ^= 0xFFFFFFFF
    return struct.pack("<I", (((value >> 15) | (value << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def test_row_16_a_damaged_event_file_gives_what_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "events.out.tfevents.1"
    records = [scalar(step, step / 8) for step in range(1, 9)]
    whole = b"".join(records)
    path.write_bytes(whole)
    assert [one.step for one in EventFollower(path).poll()] == [1, 2, 3, 4, 5, 6, 7, 8]
    path.write_bytes(whole[:-5])  # cut off, and later grown to its end
    follower = EventFollower(path)
    assert [one.step for one in follower.poll()] == [1, 2, 3, 4, 5, 6, 7]
    path.write_bytes(whole)
    assert [one.step for one in follower.poll()] == [8]
    for tail in (b"\0" * 64, b"\xff" * 64):
        path.write_bytes(whole + tail)
        assert len(EventFollower(path).poll()) >= 8
    flipped = bytearray(whole)
    flipped[len(records[0]) * 3 + 20] ^= 0x10
    path.write_bytes(flipped)
    steps = [one.step for one in EventFollower(path).poll()]
    assert {1, 2, 3, 5, 6, 7, 8} <= set(steps)
