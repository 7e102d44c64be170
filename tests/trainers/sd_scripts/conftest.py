"""A repository to install from, a Python to install with, and a workspace that pins them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lorakit.trainers.sd_scripts.install import install
from lorakit.trainers.sd_scripts.receipt import Receipt
from lorakit.workspace import Workspace
from tests.trainers.sd_scripts.made import Watched, make_python, make_source, make_workspace


@dataclass
class Bench:
    """A workspace, its source and that one's only commit."""

    root: Path
    source: Path
    commit: str
    python: Path
    workspace: Workspace

    @property
    def folder(self) -> Path:
        return self.workspace.vendor / "sd-scripts"

    def install(self, **options: Any) -> tuple[Receipt, Watched]:
        """Install with the quick Python; what the watcher was told comes along."""
        watched = Watched()
        return install(self.workspace, watched, **{"python": str(self.python), **options}), watched

    def pin(self, commit: str) -> None:
        make_workspace(self.workspace.root, self.source, commit)


@pytest.fixture(scope="session")
def made_source(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("source") / "sd scripts"
    return folder, make_source(folder)


@pytest.fixture
def bench(made_source: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    # Developers have uv or not; tests of the one or the other say so.
    which = shutil.which
    monkeypatch.setattr(
        shutil, "which", lambda name, *rest, **more: None if name == "uv" else which(name, *rest, **more)
    )
    source = tmp_path / "source"
    shutil.copytree(made_source[0], source)
    workspace = make_workspace(tmp_path / "work space", source, made_source[1])
    return Bench(tmp_path, source, made_source[1], make_python(tmp_path / "quick-python"), workspace)
