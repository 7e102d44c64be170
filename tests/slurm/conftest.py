"""One real Slurm for all tests here, and workspaces whose small trainer it runs; a loud skip where there can be none."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lorakit.archive.run import Run
from lorakit.bake.batch import bake_in_job
from lorakit.preset.files import load_text
from lorakit.workspace import Workspace, find_workspace
from tests.cli.running import Cli
from tests.faults.places import PRESET, QUICK, place
from tests.slurm import cluster as clusters

SLURM = '\n[slurm]\ntime = "10m"\ngrace = 55\nmem = "16M"\n'


@pytest.fixture(scope="session")
def cluster() -> Iterator[clusters.Cluster]:
    """The Slurm; only what asks for it is skipped where there is none."""
    if why := clusters.missing():
        warnings.warn(pytest.PytestWarning(f"NO SLURM HERE, its tests are skipped: {why}"), stacklevel=1)
        pytest.skip(f"no Slurm: {why}")
    folder = Path(tempfile.mkdtemp(prefix="lks", dir="/tmp"))
    before = os.environ.get("SLURM_CONF")
    try:
        with clusters.running(folder / "s", cpus=6) as made:
            os.environ.update(made.env)
            yield made
    finally:
        os.environ.pop("SLURM_CONF", None)
        if before is not None:
            os.environ["SLURM_CONF"] = before
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace to copy: with a small trainer, two pictures, and a space in its name."""
    root = tmp_path_factory.mktemp("template") / "work space"
    place(root)
    (root / "presets").mkdir()
    (root / "presets" / "steady.toml").write_text(PRESET, encoding="utf-8")
    return root


@pytest.fixture(scope="session")
def short(template: Path, cluster: clusters.Cluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, str]:
    """A run that a job of one minute is too short for, under way from early on: Slurm looks at its limits every half minute."""
    del cluster
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(QUICK))
        patch.setenv("SOAK_SECONDS", "0.2")
        place = copied(template, tmp_path_factory.mktemp("short") / "work space", SLURM.replace("10m", "1m"))
        return bake(place, "length.steps=2000", "save.every_n_steps=50")


@pytest.fixture
def made(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Workspace]:
    """Makes workspaces; jobs inherit the quick launcher and the trainer's pace from this environment."""
    monkeypatch.setenv("PYTHONPATH", str(QUICK))
    monkeypatch.setenv("SOAK_SECONDS", "0.02")

    def make(more: str = "", name: str = "work space") -> Workspace:
        return copied(template, tmp_path / name, SLURM + more)

    return make


def copied(template: Path, root: Path, table: str) -> Workspace:
    """A copy of the template with its own settings."""
    shutil.copytree(template, root, symlinks=True)
    settings = f"[sd_scripts]\npath = {str(root / 'checkout')!r}\npython = {sys.executable!r}\n{table}"
    (root / "lorakit.toml").write_text(settings, encoding="utf-8")
    return find_workspace(root)


@pytest.fixture
def workspace(made: Callable[..., Workspace], cluster: clusters.Cluster) -> Workspace:
    """One workspace on the real Slurm."""
    del cluster
    return made()


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """The command line, in this process."""
    return Cli(capsys)


def bake(workspace: Workspace, *overrides: str) -> tuple[Run, str]:
    """A run of the steady preset, handed to Slurm, and its job."""
    return bake_in_job(load_text(PRESET, workspace.presets / "steady.toml", overrides), workspace)
