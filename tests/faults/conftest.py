"""The quick launcher where it is not the launcher that is tested, and a C compiler where a fault needs one."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.made_runs import THEN, make_run

QUICK = Path(__file__).parents[1] / "bake" / "quick"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A launcher without torch; it starts several ranks in sessions of their own, as torch's does."""
    monkeypatch.setenv("PYTHONPATH", str(QUICK))


@pytest.fixture(params=["quick", pytest.param("accelerate", marks=pytest.mark.slow)])
def launcher(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The quick launcher, and in the long suite the real one."""
    if request.param == "quick":
        monkeypatch.setenv("PYTHONPATH", str(QUICK))
    return str(request.param)


@pytest.fixture
def library(tmp_path: Path) -> Callable[[str, str], Path]:
    """Compiles C into a shared library of a name."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler here")

    def compile_(name: str, source: str) -> Path:
        folder = tmp_path / "lib"
        folder.mkdir(exist_ok=True)
        (folder / "source.c").write_text(source)
        command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(folder / name), str(folder / "source.c"), "-ldl"]
        subprocess.run(command, check=True)
        return folder / name

    return compile_


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with three sealed runs, made once."""
    folder = tmp_path_factory.mktemp("made") / "work"
    for number, short in enumerate(("aaaa", "bbbb", "cccc")):
        make_run(folder / "runs", f"run{number}", now=THEN + 60 * number, short=short)
    (folder / "lorakit.toml").touch()
    for path in (folder, *folder.rglob("*")):  # long ago: what has just changed is not remembered yet
        os.utime(path, (THEN, THEN), follow_symlinks=False)
    return folder


@pytest.fixture
def work(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as the current folder."""
    folder = Path(shutil.copytree(made, tmp_path / "work", symlinks=True))
    monkeypatch.chdir(folder)
    return folder
