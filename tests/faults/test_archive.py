"""Faults of an archive's files: damaged records and event files, a newer lorakit, several processes at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit.archive.events import EventFollower, read_scalars
from lorakit.archive.run import list_runs
from lorakit.archive.seal import verify
from lorakit.archive.trash import remove, restore, trash_of
from lorakit.archive.words import change_tags
from lorakit.cli.main import main
from lorakit.errors import ArchiveError
from lorakit.launch.processes import hold_lock
from tests.archive.test_events import VERSION, event, write
from tests.faults.places import run_of

REPO = Path(__file__).parents[2]


DAMAGE: list[Callable[[bytes], bytes]] = [
    lambda data: b"",
    lambda data: data[: len(data) // 2],
    lambda data: b"\0" * len(data),
    lambda data: b"\xff\xfe" + data,
    lambda data: b"[" * 100_000,
    lambda data: b'{"schema": "one", "status": 3, "time": "soon", "steps": [], "keeper": 7, "tags": 1}',
]


@pytest.mark.parametrize("damage", range(len(DAMAGE)))
def test_row_15_a_damaged_record_costs_that_record_alone(
    damage: int, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every record of a run in turn: empty, torn, zeros, no text, endless brackets, other types."""
    run = run_of(work)
    records = [path for path in run.path.rglob("*") if path.suffix in {".json", ".toml", ".jsonl"}]
    assert len(records) > 8
    for path in records:
        before = path.read_bytes()
        path.write_bytes(DAMAGE[damage](before))
        for line in (["ls"], ["show", "aaaa"], ["verify", "aaaa"]):
            code = main(line)
            told = capsys.readouterr()
            assert "Traceback" not in told.err, f"{path.name}: {told.err}"
            assert "mistake of lorakit" not in told.err, f"{path.name}: {line}: {told.err}"
            assert code == 0 or line[0] in {"verify", "show"}, f"{path.name}: {line}: {told.err}"
            assert line[0] != "ls" or "bbbb" in told.out
            assert line[0] != "ls" or "aaaa" in told.out
            assert line[0] != "verify" or code or path.name == "tags.json", f"verify does not name {path.name}"
        path.write_bytes(before)
    assert not verify(run)


def test_row_16_a_damaged_event_file_gives_all_that_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "events"
    ends = write(path, VERSION, *(event(step, loss=step / 10) for step in range(1, 201)))
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[ends[99] + 20] ^= 0x10  # inside the payload of step 100
    path.write_bytes(flipped)
    follower = EventFollower(path)
    assert [scalar.step for scalar in follower.poll()] == [step for step in range(1, 201) if step != 100]
    assert (follower.damaged, follower.broken) == (1, False)
    path.write_bytes(whole[: ends[150] + 7] + b"\0" * 5000)  # a tail of zeros, as after a power loss
    follower = EventFollower(path)
    assert len(follower.poll()) == 150
    assert follower.damaged == 1
    path.write_bytes(whole[: ends[120] - 3])  # cut off within a record, which then is written to its end
    follower = EventFollower(path)
    assert len(follower.poll()) == 119
    path.write_bytes(whole)
    assert len(follower.poll()) == 81
    assert follower.damaged == 0


@settings(max_examples=40)
@given(st.binary(max_size=300))
def test_row_16_anything_may_stand_in_an_event_file(data: bytes) -> None:
    path = Path(os.environ.get("TMPDIR", "/tmp"), f"lorakit-events-{os.getpid()}")
    path.write_bytes(data)
    read_scalars(path)
    path.unlink()


def test_row_17_a_run_of_a_newer_lorakit_is_shown_and_never_changed(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(work)
    for path in (run.request, run.attempt(1).ended):
        record = json.loads(path.read_text())
        path.write_text(json.dumps({**record, "schema": 99, "of the future": {"x": 1}}))
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    assert main(["ls"]) == 0
    told = capsys.readouterr().out
    assert "aaaa" in told
    assert "newer lorakit" in told
    assert main(["show", "aaaa"]) == 0
    assert "newer lorakit" in capsys.readouterr().out
    for line in (["note", "aaaa", "x"], ["tag", "aaaa", "x"], ["rm", "aaaa"]):
        assert main(line) == ArchiveError.exit_code
        assert "newer lorakit" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


def test_row_19_a_run_in_training_is_never_removed(work: Path) -> None:
    run = run_of(work)
    lock = hold_lock(run.attempt(1).alive)
    holder = os.fork()
    if holder == 0:  # somebody else, who holds the same lock
        signal.pause()
        os._exit(0)
    os.close(lock)
    try:
        with pytest.raises(ArchiveError, match="is running"):
            remove(run)
        assert run.path.is_dir()
    finally:
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
    run.attempt(1).alive.unlink()  # made after the seal
    moved = remove(run)
    assert not run.path.exists()
    assert not verify(moved)
    assert restore(moved) == run
    assert not verify(run)


SHUFFLE = """
import sys, random
from pathlib import Path
from lorakit.archive.run import list_runs
from lorakit.archive.trash import remove, restore, trash_of
from lorakit.errors import ArchiveError
folder, rng = Path(sys.argv[1]), random.Random(int(sys.argv[2]))
moved = 0
for turn in range(40):
    for source, move in ((folder, remove), (trash_of(folder), restore)):
        for run in list_runs(source):
            try:
                move(run)
                moved += 1
            except ArchiveError:
                pass
print(moved)
"""
LIST = """
import sys, time
from pathlib import Path
from lorakit.archive.index import open_index
end = time.monotonic() + 1.5
while time.monotonic() < end:
    with open_index(Path(sys.argv[1]), Path(sys.argv[2])) as index:
        for found in index.states(index.numbers):
            assert found.name.startswith("run"), found
        index.column("network.dim")
"""


def test_row_19_lists_stay_right_while_runs_come_and_go(work: Path) -> None:
    runs = work / "runs"
    movers = [[sys.executable, "-c", SHUFFLE, str(runs), str(seed)] for seed in range(2)]
    readers = [[sys.executable, "-c", LIST, str(runs), str(work / ".lorakit" / "index.sqlite")] for _ in range(2)]
    started = [subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for line in (*movers, *readers)]
    told = [process.communicate(timeout=60) for process in started]
    assert [process.returncode for process in started] == [0] * 4, told
    assert sum(int(out) for out, _ in told[:2]) > 10
    everywhere = [*list_runs(runs), *list_runs(trash_of(runs))]
    assert sorted(run.short for run in everywhere) == ["aaaa", "bbbb", "cccc"]
    assert not any(verify(run) for run in everywhere)


TAG = """
import sys
from pathlib import Path
from lorakit.archive.run import Run
from lorakit.archive.words import add_note, change_tags
for turn in range(15):
    change_tags(Run(Path(sys.argv[1])), add=[f"t{sys.argv[2]}.{turn}"])
    add_note(Run(Path(sys.argv[1])), f"n{sys.argv[2]}.{turn}")
"""


def test_row_19_no_tag_and_no_note_of_two_at_once_is_lost(work: Path) -> None:
    run = run_of(work)
    started = [subprocess.Popen([sys.executable, "-c", TAG, str(run.path), str(n)]) for n in range(2)]
    assert [process.wait(timeout=60) for process in started] == [0, 0]
    expected = {f"{n}.{turn}" for n in range(2) for turn in range(15)}
    assert {tag[1:] for tag in change_tags(run)} == expected
    assert {line[1:] for line in run.notes.read_text().splitlines()} == expected
