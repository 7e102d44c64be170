"""A workspace to work in, and the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorakit.cli.init import lay_out
from lorakit.workspace import Workspace, find_workspace
from tests.cli.running import Cli


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """The command line, in this process."""
    return Cli(capsys)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """What `lorakit init` lays out, as the current folder; no base model is in it."""
    folder = tmp_path / "work"
    lay_out(folder)
    monkeypatch.chdir(folder)
    return find_workspace(folder)
