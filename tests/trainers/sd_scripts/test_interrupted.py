"""An installation that is killed at any moment goes on when it is typed again."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trainers.sd_scripts.conftest import Bench
from tests.trainers.sd_scripts.made import commit, git

#: Installs, and kills itself with KILL at the moment that is named: a step's begin or end, the n-th line of a program or
#: the n-th time that a folder is put in its place.
PROGRAM = """
import os, pathlib, signal, sys
from lorakit.trainers.sd_scripts.install import install
from lorakit.workspace import Workspace

root, python, moment = sys.argv[1:]
kind, _, number = moment.partition(" ")
seen = 0

def at(event):
    global seen
    if event == moment:
        os.kill(os.getpid(), signal.SIGKILL)
    if event == kind and number.isdigit():
        seen += 1
        if seen == int(number):
            os.kill(os.getpid(), signal.SIGKILL)

class Watcher:
    def step(self, name, done=""): at(f"{name} {'ends' if done else 'begins'}")
    def line(self, text): at("line")
    def warn(self, text): pass

rename = pathlib.Path.rename
def renamed(self, target):
    at("rename")
    return rename(self, target)
pathlib.Path.rename = renamed
install(Workspace(pathlib.Path(root)), Watcher(), python=python)
"""


def killed(bench: Bench, moment: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(bench.workspace.root), str(bench.python), moment],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr


def is_whole(bench: Bench) -> None:
    receipt, _ = bench.install()
    assert receipt.complete
    assert receipt.commit == git(bench.folder, "rev-parse", "HEAD")
    assert git(bench.folder, "status", "--porcelain", "--untracked-files=no") == ""
    left = {path.name for path in bench.workspace.vendor.iterdir()}
    assert left == {
        "sd-scripts", "sd-scripts.toml", "sd-scripts.receipt.json", "sd-scripts.flags.json", "sd-scripts.log", "tokenizers",
        ".sd-scripts.lock",
    }  # fmt: skip


#: The moments at which something is half done come always, those between two steps with the slow tests.
@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("checkout begins", marks=pytest.mark.slow),
        "line 2",
        "rename 1",
        pytest.param("checkout ends", marks=pytest.mark.slow),
        "environment ends",
        "rename 2",
        pytest.param("parser begins", marks=pytest.mark.slow),
        "parser ends",
    ],
)
def test_a_first_installation(bench: Bench, moment: str) -> None:
    killed(bench, moment)
    is_whole(bench)


@pytest.mark.parametrize("moment", ["rename 1", "rename 2", "rename 3"])
def test_a_new_version_over_an_old_one(bench: Bench, moment: str) -> None:
    bench.install()
    (bench.folder / ".venv" / "kept").touch()
    (bench.source / "library" / "new.py").touch()
    bench.pin(commit(bench.source))
    killed(bench, moment)
    is_whole(bench)
    assert (bench.folder / "library" / "new.py").exists()
    assert (bench.folder / ".venv" / "kept").exists()


def test_an_environment_that_was_not_finished_is_made_from_nothing(bench: Bench) -> None:
    bench.install()
    (bench.folder / ".venv" / "lorakit.json").unlink()
    (bench.folder / ".venv" / "half").touch()
    is_whole(bench)
    assert not (bench.folder / ".venv" / "half").exists()


def test_git_left_locks_behind(bench: Bench) -> None:
    new: Path = bench.workspace.vendor / ".sd-scripts-new"
    (new / ".git").mkdir(parents=True)
    (new / ".git" / "index.lock").touch()
    is_whole(bench)
