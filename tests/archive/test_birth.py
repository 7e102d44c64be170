"""A run is born whole, under a name nobody else has, or not at all."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorakit.archive.birth import STAGING, birth, slug
from lorakit.archive.run import RUN_ID, Run, list_runs
from lorakit.errors import DiskError
from tests.archive.made import born


def test_the_id_tells_when_and_what(tmp_path: Path) -> None:
    run = born(tmp_path / "runs", "Hifumi v2", now=time.mktime((2026, 11, 22, 7, 1, 0, 0, 0, -1)))
    assert re.fullmatch(r"2026-11-22_0701_Hifumi-v2_[a-z][a-z0-9]{3}", run.id)
    assert (run.minute, run.name, run.short) == ("2026-11-22_0701", "Hifumi-v2", run.id[-4:])
    assert run.request.is_file()


def test_nothing_is_seen_before_the_end_and_nothing_is_left_after_a_failure(tmp_path: Path) -> None:
    def prepare() -> None:
        with birth(tmp_path, "a") as new:
            new.write(new.run.request, "{}")
            assert list_runs(tmp_path) == ()
            assert not new.run.path.exists()
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        prepare()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hifumi", "hifumi"),
        ("a b/c\\d", "a-b-c-d"),
        ("../../etc/passwd", "etc-passwd"),
        ("--output_dir", "output-dir"),
        ("'; rm -rf ~ #", "rm-rf"),
        ("new\nline\ttab\0", "new-line-tab"),
        ("Ærøskøbing ß", "AEroskobing-ss"),
        ("日本語", "run"),
        ("", "run"),
        ("...", "run"),
        ("a" * 300, "a" * 40),
    ],
)
def test_hostile_names_become_safe_slugs(name: str, expected: str) -> None:
    assert slug(name) == expected


@given(st.text())
def test_every_name_gives_a_safe_slug(name: str) -> None:
    found = slug(name)
    assert re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,38}[A-Za-z0-9])?", found)
    assert RUN_ID.fullmatch(f"2026-11-22_0701_{found}_k3f9")


def test_births_at_once_are_all_different(tmp_path: Path) -> None:
    """Four processes of ten births each, all in the same minute and of the same name."""
    program = (
        "import sys; from pathlib import Path; from tests.archive.made import born\n"
        "for _ in range(10): print(born(Path(sys.argv[1]), 'same').id)"
    )
    root = Path(__file__).parents[2]
    racers = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], cwd=root, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    ids = [line for racer in racers for line in racer.communicate()[0].split()]
    assert all(racer.returncode == 0 for racer in racers)
    assert len({run_id[-4:] for run_id in ids}) == len(ids) == 40
    assert {run.id for run in list_runs(tmp_path)} == set(ids)
    assert all(run.request.is_file() for run in list_runs(tmp_path))


def test_a_short_id_is_never_given_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter("abbb" + "abbb" + "accc")
    monkeypatch.setattr("secrets.choice", lambda _: next(drawn))
    first, second = born(tmp_path, "one"), born(tmp_path, "two")
    assert (first.short, second.short) == ("abbb", "accc")


def test_a_killed_birth_is_invisible(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from lorakit.archive.birth import birth\n"
        "with birth(Path(sys.argv[1]), 'a') as new:\n"
        "    new.write(new.run.request, '{}'); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert list_runs(tmp_path) == ()
    assert [path.name[: len(STAGING)] for path in tmp_path.iterdir()] == [STAGING]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("")
    with pytest.raises(DiskError, match="not a folder"), birth(target, "a"):
        pass
    with pytest.raises(DiskError, match="no run can be written"), birth(Path("/proc/runs"), "a"):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_rights(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(DiskError, match="no run can be written"), birth(tmp_path, "a"):
        pass


FULL = """
import os, subprocess, sys
from pathlib import Path
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", sys.argv[1]], check=True)
from lorakit.archive.birth import birth
from lorakit.errors import DiskError
try:
    with birth(Path(sys.argv[1]) / "runs", "a") as new:
        new.write(new.run.request, b"x" * 200_000)
except DiskError as error:
    print(error.exit_code, error.why, os.listdir(Path(sys.argv[1]) / "runs"))
"""


def test_a_full_disk_leaves_no_run(tmp_path: Path) -> None:
    if subprocess.run(["unshare", "-Urm", "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("no user namespaces here: a small disk cannot be made")
    command = ["unshare", "-Urm", sys.executable, "-c", FULL, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "11 No space left on device; 0.0 GB free []\n"


def test_threads_may_give_birth_too(tmp_path: Path) -> None:
    runs: list[Run] = []
    threads = [threading.Thread(target=lambda: runs.append(born(tmp_path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({run.short for run in runs}) == 8
