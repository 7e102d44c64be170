"""kill -9 at every step of every write path: afterwards old or new, never empty, no half run, repair converges, verify is clean.

Each path runs in a process that forks at step k and dies there by its own hand (LORAKIT_CRASH_AT), for every k until it gets through.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import tempfile
import traceback
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lorakit import atomic
from lorakit.archive import words
from lorakit.archive.birth import STAGING, birth
from lorakit.archive.bundle import MANIFEST
from lorakit.archive.export import export
from lorakit.archive.records import state
from lorakit.archive.repair import repair_archive, repair_run
from lorakit.archive.reserve import Reserve
from lorakit.archive.run import Run, list_runs, read_record
from lorakit.archive.seal import manifests, seal, verify
from lorakit.archive.states import settle
from lorakit.archive.trash import purge_all, remove, restore, trash_of
from lorakit.archive.unpack import import_runs
from lorakit.atomic import TEMP_MARK
from lorakit.bake.resume import _staged
from tests.archive.made import born, ended, fact
from tests.archive.test_repair import GONE, dead


def crashes(path: Path, make: Callable[[Path], object], work: Callable[[Path], object]) -> Iterator[Path]:
    """Folders that ``make`` laid out and in which ``work`` was killed at step 1, 2, 3, …; the last one got through."""
    for number in range(1, 1000):
        folder = path / str(number)
        folder.mkdir(parents=True)
        make(folder)
        child = os.fork()
        if child == 0:
            atomic._CRASH_NUMBER, atomic._crossed = (
                str(number),
                itertools.count(1),
            )  # as the environment would set it
            try:
                work(folder)
            except BaseException:  # noqa: BLE001 (nothing of pytest may go on in this process)
                traceback.print_exc()
                os._exit(2)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in {0, -signal.SIGKILL}, status
        yield folder
        if status == 0:
            assert number > 1, "this path has no crash points"
            return


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """In memory: hundreds of crashes with an fsync at every step would wait for the disk."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        yield Path(folder)


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if TEMP_MARK in path.name or path.name.startswith(STAGING)]


def assert_repaired(runs: Path) -> None:
    """Repair converges: everything sealed and clean, nothing left over, nothing left to do."""
    age(runs)
    repair_archive(runs)
    for run in list_runs(runs):
        assert state(run).sealed, state(run)
        assert verify(run) == ()
    assert leftovers(runs) == []
    assert [action for action in repair_archive(runs) if action.done] == []


def age(runs: Path) -> None:
    """Time goes by: an empty birth is no young one any more."""
    for path in runs.glob(f"{STAGING}*"):
        os.utime(path, (0, 0))


def test_the_variable_kills(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from lorakit import atomic; atomic.write_text(Path(sys.argv[1]), 'new')"
    )
    target = tmp_path / "a"
    codes = []
    for value in ("1", "write:1", "write:2", "once:1", ""):
        env = {**os.environ, atomic.CRASH_ENV: value}
        target.write_text("old")
        codes.append(subprocess.run([sys.executable, "-c", program, str(target)], env=env, check=False).returncode)
        codes.append(target.read_text() == "new")
    assert codes == [-9, False, -9, False, -9, True, 0, True, 0, True]


def test_a_file_is_old_or_new(tmp_path: Path) -> None:
    def work(folder: Path) -> None:
        atomic.write_text(folder / "a", "the new text")

    found = [(folder / "a").read_text() for folder in crashes(tmp_path, lambda f: (f / "a").write_text("old"), work)]
    assert set(found) == {"old", "the new text"}
    assert found == sorted(found), "once new it stays new"


@pytest.mark.parametrize("links", [True, False])
def test_a_fact_is_there_whole_or_not_at_all(tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError("no hard links here")

    if not links:
        monkeypatch.setattr(os, "link", no_links)
    for folder in crashes(tmp_path, lambda f: None, lambda f: atomic.write_once(f / "ended.json", b'{"whole": true}')):
        fact = read_record(folder / "ended.json")
        assert fact in (None, {"whole": True})


def test_a_run_is_born_whole_or_not_at_all(tmp_path: Path) -> None:
    def work(runs: Path) -> None:
        born(runs, now=1.0)

    for runs in crashes(tmp_path, lambda f: None, work):
        for run in list_runs(runs):
            assert read_record(run.request) is not None
            assert run.attempt(1).ranks.is_dir()
        assert_repaired(runs)


def test_a_birth_that_fails_midway_is_swept(tmp_path: Path) -> None:
    with birth(tmp_path, "a") as new:
        new.write(new.run.request, "{}")
    assert leftovers(tmp_path) == []


def test_the_end_of_a_run_that_was_reserved(tmp_path: Path) -> None:
    def make(runs: Path) -> None:
        run = born(runs, now=1.0)
        fact(run.attempt(1).started, time=1000.0, keeper=GONE)

    def work(runs: Path) -> None:
        (run,) = list_runs(runs)
        reserve = Reserve.keep(run.attempt(1).ended)
        record = {"schema": 1, "status": "ok", "reason": "ok", "message": "", "steps": 4}
        reserve.write_once(atomic.dump_json(record))
        seal(run, 1)

    for runs in crashes(tmp_path, make, work):
        (run,) = list_runs(runs)
        record = read_record(run.attempt(1).ended)
        assert record is None or record.get("status") == "ok"
        assert_repaired(runs)


def test_a_seal_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    def work(runs: Path) -> None:
        seal(list_runs(runs)[0], 1)

    for runs in crashes(tmp_path, lambda f: ended(born(f)), work):
        for path in manifests(list_runs(runs)[0]):
            assert verify(Run(path.parent)) == ()
        assert_repaired(runs)


def test_settling(tmp_path: Path) -> None:
    def work(runs: Path) -> None:
        settle(list_runs(runs)[0])

    for runs in crashes(tmp_path, dead, work):
        (run,) = list_runs(runs)
        assert (run.weights / "a-000001-state").is_dir() != (run.state / "a-000001-state").is_dir()
        assert_repaired(runs)


@pytest.mark.slow
def test_repair_itself(tmp_path: Path) -> None:
    def make(runs: Path) -> None:
        dead(runs)
        (runs / f"{STAGING}abcd").mkdir()
        (runs / f"{STAGING}abcd" / "request.json").write_text("{")

    def work(runs: Path) -> None:
        repair_archive(runs)

    for runs in crashes(tmp_path, make, work):
        record = read_record(list_runs(runs)[0].attempt(1).ended)
        assert record is None or record["status"] == "interrupted"
        assert_repaired(runs)


def test_a_further_attempt_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    def make(runs: Path) -> None:
        run = dead(runs)
        repair_run(run)

    def work(runs: Path) -> None:
        (run,) = list_runs(runs)
        attempt = run.attempt(2)
        with _staged(attempt) as staging:
            for path in (attempt.resumed, attempt.command):
                (staging / path.name).write_bytes(b'{"schema": 1, "time": 1.0}')
                atomic.crash_point("attempt:file")

    for runs in crashes(tmp_path, make, work):
        (run,) = list_runs(runs)
        if run.last_attempt.number == 2:
            assert read_record(run.attempt(2).resumed) == read_record(run.attempt(2).command)
        assert_repaired(runs)


def test_notes_and_tags(tmp_path: Path) -> None:
    def make(runs: Path) -> None:
        run = ended(born(runs))
        seal(run, 1)

    def work(runs: Path) -> None:
        (run,) = list_runs(runs)
        words.add_note(run, "a new line")
        words.change_tags(run, add=("new",))

    for runs in crashes(tmp_path, make, work):
        (run,) = list_runs(runs)
        assert words.read_note(run).strip() in {"", "a new line"}
        assert set(words.read_tags(run)) in ({"good"}, {"good", "new"})
        assert_repaired(runs)


def test_removing_a_folder(tmp_path: Path) -> None:
    def make(folder: Path) -> None:
        (folder / "a").mkdir()
        for index in range(3):
            (folder / "a" / str(index)).write_text("x")

    for folder in crashes(tmp_path, make, lambda f: atomic.remove_tree(f / "a")):
        assert not (folder / "a").exists() or len(list((folder / "a").iterdir())) == 3


def two_sealed(runs: Path) -> None:
    for name in ("first", "second"):
        seal(ended(born(runs, name)), 1)


def one_sealed(runs: Path) -> None:
    seal(ended(born(runs)), 1)


@pytest.mark.parametrize("strip", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_export_is_there_whole_or_not_at_all(tmp_path: Path, strip: bool) -> None:
    def work(folder: Path) -> None:
        export(list_runs(folder / "runs"), folder / "a.zip", strip=strip, force=True)

    for folder in crashes(tmp_path, lambda f: one_sealed(f / "runs"), work):
        if (folder / "a.zip").exists():
            with zipfile.ZipFile(folder / "a.zip") as packed:
                assert packed.testzip() is None
                assert packed.namelist()[0] == MANIFEST
                assert any(name.endswith("manifest-01.json") for name in packed.namelist())
        assert_repaired(folder / "runs")
        work(folder)  # typed again
        assert sorted(path.name for path in folder.iterdir()) == ["a.zip", "runs"]


def test_a_bundle_that_was_there_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    def make(folder: Path) -> None:
        one_sealed(folder / "runs")
        (folder / "a.zip").write_bytes(b"the old one")

    def work(folder: Path) -> None:
        export(list_runs(folder / "runs"), folder / "a.zip", force=True)

    for folder in crashes(tmp_path, make, work):
        assert (folder / "a.zip").read_bytes() == b"the old one" or zipfile.is_zipfile(folder / "a.zip")


def test_imported_runs_are_there_whole_or_not_at_all(tmp_path: Path) -> None:
    two_sealed(tmp_path / "source")
    bundle = export(list_runs(tmp_path / "source"), tmp_path / "a.zip").path

    def work(runs: Path) -> None:
        import_runs(bundle, runs)

    for runs in crashes(tmp_path / "loop", lambda f: None, work):
        there = list_runs(runs)
        assert [run for run in there if verify(run)] == []
        if len(there) < 2:  # typed again, it brings what is missing
            assert len(import_runs(bundle, runs)) == 2 - len(there)
        assert sorted(run.name for run in list_runs(runs)) == ["first", "second"]
        assert_repaired(runs)


def test_a_run_is_in_the_archive_or_in_the_trash(tmp_path: Path) -> None:
    def make(runs: Path) -> None:
        one_sealed(runs)
        remove(list_runs(runs)[0])

    for start, work in (
        (one_sealed, lambda runs: remove(list_runs(runs)[0])),
        (make, lambda runs: restore(list_runs(trash_of(runs))[0])),
    ):
        for runs in crashes(tmp_path / work.__code__.co_names[0], start, work):
            (run,) = [*list_runs(runs), *list_runs(trash_of(runs))]
            assert state(run).sealed
            assert verify(run) == ()
            assert_repaired(runs)


def test_a_purged_run_is_whole_or_gone(tmp_path: Path) -> None:
    def make(runs: Path) -> None:
        two_sealed(runs)
        for run in list_runs(runs):
            remove(run)

    for again in (purge_all, repair_archive):
        for runs in crashes(tmp_path / again.__name__, make, purge_all):
            for run in list_runs(trash_of(runs)):
                assert verify(run) == ()
            again(runs)
            assert leftovers(runs) == []
            assert again is repair_archive or list(trash_of(runs).iterdir()) == []


def test_repairing_a_run_that_was_repaired(tmp_path: Path) -> None:
    run = dead(tmp_path)
    assert repair_run(run)
    assert [action for action in repair_run(run) if action.done] == []
