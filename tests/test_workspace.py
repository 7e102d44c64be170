"""A workspace is any folder; commands find it from below."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorakit.errors import WorkspaceError
from lorakit.workspace import MARKER, Workspace, find_workspace


def test_found_from_a_sub_folder(tmp_path: Path) -> None:
    (tmp_path / MARKER).write_text("[sd_scripts]\npath = 'x'\n")
    deep = tmp_path / "presets" / "a b" / "ü"
    deep.mkdir(parents=True)
    workspace = find_workspace(deep)
    assert workspace.root == tmp_path
    assert workspace.settings == {"sd_scripts": {"path": "x"}}
    assert workspace.runs == tmp_path / "runs"


def test_without_a_marker_the_folder_itself(tmp_path: Path) -> None:
    assert find_workspace(tmp_path).root == tmp_path


def test_relative_paths_count_from_the_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    workspace = find_workspace(tmp_path)
    assert workspace.resolve("models/a.safetensors") == tmp_path / "models" / "a.safetensors"
    assert workspace.resolve("/abs") == Path("/abs")
    assert workspace.resolve("~/m") == tmp_path / "home" / "m"


@pytest.mark.parametrize("content", [b"not = [toml", b"\xff\xfe"])
def test_a_broken_marker_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / MARKER).write_bytes(content)
    with pytest.raises(WorkspaceError) as caught:
        find_workspace(tmp_path)
    assert MARKER in caught.value.what
    assert caught.value.todo


def test_a_tilde_before_nobodys_name_is_a_name(tmp_path: Path) -> None:
    assert Workspace(tmp_path).resolve("~nobody-of-this-name") == tmp_path / "~nobody-of-this-name"
    assert Workspace(tmp_path).resolve("~/x") == Path.home() / "x"
