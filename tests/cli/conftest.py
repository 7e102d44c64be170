"""A workspace to work in, and the command line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lorakit.cli.init import lay_out
from lorakit.workspace import Workspace, find_workspace
from tests.cli.running import Cli


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """The command line, in this process."""
    return Cli(capsys)


@pytest.fixture(scope="session")
def laid_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `lorakit init` lays out, made once: it puts every file on disk for certain, which takes its time."""
    folder = tmp_path_factory.mktemp("laid-out") / "work"
    lay_out(folder)
    return folder


@pytest.fixture
def workspace(laid_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace of one's own, as the current folder; no base model is in it."""
    folder = tmp_path / "work"
    shutil.copytree(laid_out, folder)
    monkeypatch.chdir(folder)
    return find_workspace(folder)
