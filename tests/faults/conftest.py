"""The quick launcher where it is not the launcher that is tested, and a C compiler where a fault needs one."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

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
