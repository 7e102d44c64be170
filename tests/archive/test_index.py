"""The index is a cache: whatever becomes of it, and whatever happens behind its back, lists are those of the folders."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lorakit.archive import index as indexing
from lorakit.archive import rows
from lorakit.archive.facts import facts
from lorakit.archive.index import index_path, open_index
from lorakit.archive.records import RunState, state
from lorakit.archive.run import Run, list_runs
from tests.cli.made_runs import OUT_OF_MEMORY, THEN, make_run

LONG_AGO = 1_700_000_000_000_000_000


def settle(run: Run) -> None:
    """Let everything of a run be as old as that of a run that ended long ago."""
    for path in (*run.path.rglob("*"), run.path):
        if not path.is_symlink():
            os.utime(path, ns=(LONG_AGO, LONG_AGO))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four runs of long ago, made once."""
    runs = tmp_path_factory.mktemp("made") / "runs"
    for number in range(3):
        settle(make_run(runs, f"run{number}", now=THEN + 60 * number, tags=["good"] if number else []))
    settle(make_run(runs, "failed", now=THEN + 600, ended=OUT_OF_MEMORY))
    return runs


@pytest.fixture
def archive(made: Path, tmp_path: Path) -> Path:
    """An archive of one's own."""
    return Path(shutil.copytree(made, tmp_path / "runs", symlinks=True))


def path_of(runs: Path) -> Path:
    return index_path(runs.parent / ".lorakit")


def listed(runs: Path, path: Path | None) -> tuple[list[RunState], list[dict[str, Any]]]:
    """Everything an index says, and beside it what the folders say."""
    with open_index(runs, path) as index:
        states = index.states(index.numbers)
        found = [
            {key: column[number] for key in index.known_keys() if number in (column := index.column(key))}
            for number in index.numbers
        ]
        assert [found.id for found in map(index.run, index.numbers)] == [run.id for run in list_runs(runs)]
    assert states == [state(run) for run in list_runs(runs)]
    assert found == [facts(run, state(run)) for run in list_runs(runs)]
    return states, found


def test_it_says_what_the_folders_say_and_reads_them_once(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = listed(archive, path_of(archive))
    read = watched(monkeypatch)
    assert listed(archive, path_of(archive)) == first
    assert not read
    path_of(archive).unlink()
    assert listed(archive, path_of(archive)) == first
    assert len(read) == 4
    assert listed(archive, None) == first


@pytest.mark.parametrize(
    "damage", [b"", b"no database", b"SQLite format 3\x00" + b"\xff" * 5000], ids=["empty", "text", "torn"]
)
def test_a_damaged_index_changes_nothing(damage: bytes, archive: Path) -> None:
    path = path_of(archive)
    path.parent.mkdir()
    path.write_bytes(damage)
    listed(archive, path)
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT count(*) FROM runs").fetchone() == (4,)


def test_flipped_bytes_anywhere_never_end_a_command(archive: Path) -> None:
    path = path_of(archive)
    listed(archive, path)
    whole = path.read_bytes()
    for at in range(0, len(whole), len(whole) // 40):
        path.write_bytes(whole[:at] + bytes(255 - byte for byte in whole[at : at + 64]) + whole[at + 64 :])
        with open_index(archive, path) as index:
            assert len(index.numbers) == 4
            index.states(index.numbers)
            index.column("network.dim")


def watched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the runs that are read from now on."""
    read: list[str] = []

    def look(run: Run) -> RunState:
        read.append(run.id)
        return state(run)

    monkeypatch.setattr(rows, "state", look)
    return read


def tagged(runs: Path) -> list[Any]:
    with open_index(runs, path_of(runs)) as index:
        return [index.column("tag").get(number) for number in index.numbers]


def test_what_changes_behind_its_back_is_noticed(archive: Path) -> None:
    listed(archive, path_of(archive))
    first, second, third, failed = list_runs(archive)
    third.tags.write_text('{"tags": ["other"]}')  # in place, as an editor does: the folder's own time stays
    os.utime(third.path, ns=(LONG_AGO, LONG_AGO))
    assert tagged(archive) == [None, ["good"], ["other"], None]
    first.attempt(1).ended.write_text("{torn")  # in place
    os.utime(first.path, ns=(LONG_AGO, LONG_AGO))
    shutil.rmtree(second.path)
    failed.path.rename(archive.parent / "elsewhere")
    make_run(archive, "new", now=THEN + 900)
    with open_index(archive, path_of(archive)) as index:
        assert [found.status.value for found in index.states(index.numbers)] == ["damaged", "ok", "ok"]
    listed(archive, path_of(archive))


def test_a_run_that_is_not_over_is_looked_at_each_time(archive: Path) -> None:
    run = make_run(archive, "open", sealed=False, now=THEN + 900)
    facts_of_end = run.attempt(1).ended.read_bytes()
    run.attempt(1).ended.unlink()
    settle(run)
    assert listed(archive, path_of(archive))[0][-1].status.value != "ok"
    run.attempt(1).ended.write_bytes(facts_of_end)
    os.utime(run.path, ns=(LONG_AGO, LONG_AGO))
    assert listed(archive, path_of(archive))[0][-1].status.value == "ok"


def test_rows_of_another_lorakit_are_not_read(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed(archive, path_of(archive))
    monkeypatch.setattr(indexing, "_VERSION", "another")
    read = watched(monkeypatch)
    listed(archive, path_of(archive))
    assert len(read) == 4


def test_an_index_that_cannot_be_written_is_done_without(archive: Path) -> None:
    (archive.parent / ".lorakit").write_text("a file where the folder should be")
    listed(archive, path_of(archive))


MANY = """
import sys
from pathlib import Path
from lorakit.archive.index import open_index
for turn in range(12):
    if turn % 4 == int(sys.argv[3]):
        Path(sys.argv[2]).unlink(missing_ok=True)
    with open_index(Path(sys.argv[1]), Path(sys.argv[2])) as index:
        assert len(index.states(index.numbers)) == 4, turn
        assert len(index.column("network.dim")) == 4, turn
"""


def test_several_processes_use_it_at_once_while_it_is_deleted(archive: Path) -> None:
    command = [sys.executable, "-c", MANY, str(archive), str(path_of(archive))]
    workers = [subprocess.Popen([*command, str(number)], stderr=subprocess.PIPE) for number in range(4)]
    told = [worker.communicate(timeout=60)[1].decode() for worker in workers]
    assert told == [""] * 4
    listed(archive, path_of(archive))


def test_names_and_values_that_are_no_text(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    run = make_run(runs, "x")
    run.notes.write_bytes(b"\xff\xfe eyes")
    run.tags.write_text('{"tags": ["\\ud800", 3, null]}')
    shutil.copytree(run.path, runs / os.fsdecode(b"2025-11-21_1429_\xff\xfe_abcd"), symlinks=True)
    with open_index(runs, path_of(runs)) as index:
        assert len(index.states(index.numbers)) == 2
        assert len(index.column("tag")) == 2
    with open_index(runs, path_of(runs)) as index:
        assert len(index.states(index.numbers)) == 2
