"""`lorakit trainer …` and `lorakit doctor`, as typed."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from lorakit.trainers.choose import missing_of_builtin
from lorakit.workspace import Workspace
from tests.cli.running import Cli
from tests.trainers.sd_scripts.made import make_python, make_source, make_workspace

PAGE = (Path(__file__).parents[2] / "docs" / "trainers.md").read_text(encoding="utf-8")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    make_source(folder)
    return folder


@pytest.fixture
def pinned(source: Path, workspace: Workspace) -> Workspace:
    """The workspace, with the source as its pin."""
    head = (source / ".git" / "refs" / "heads" / "main").read_text().strip()
    return make_workspace(workspace.root, source, head)


def test_installing_and_looking(pinned: Workspace, tmp_path: Path, cli: Cli) -> None:
    python = make_python(tmp_path / "quick-python")
    done = cli("trainer", "install", "--python", str(python))
    for word in ("checkout", "environment", "tokenizers", "parser", "196 options, v0.10.1", "is ready"):
        assert word in done.out
    receipt = cli("trainer", "install", "--python", str(python), "--json").json
    assert (receipt["complete"], receipt["how"]) == (True, "install")
    done = cli("trainer", "status", code=8)
    assert "✗  packages" in done.out
    assert "→ install them into" in done.out
    states = {line["name"]: line["state"] for line in cli("trainer", "status", "--json", code=8).json}
    assert (states["checkout"], states["packages"]) == ("ok", "problem")
    done = cli("trainer", "catalogue", "--json")
    assert (done.json["options"], done.json["missing"], done.json["unknown"]) == (196, [], [])
    assert Path(done.json["path"]).is_file()
    assert pinned.vendor.is_dir()


def test_adopting(pinned: Workspace, source: Path, cli: Cli) -> None:
    done = cli("trainer", "install", "--adopt", str(source), "--python", sys.executable)
    assert f"sd-scripts in {source} is ready" in done.out
    assert "[sd_scripts]" in (pinned.root / "lorakit.toml").read_text()
    assert "196 options" in cli("trainer", "catalogue").out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--adopt", "x"), "--adopt needs --python"),
        (("--adopt", "x", "--python", "y", "--torch", "cpu"), "installs nothing"),
        (("--torch", "a b"), "no build of torch"),
    ],
)
def test_a_line_that_cannot_be_meant(pinned: Workspace, words: tuple[str, ...], said: str, cli: Cli) -> None:
    assert said in cli("trainer", "install", *words, code=2).err
    assert pinned.vendor.is_dir()


def test_nothing_is_there(workspace: Workspace, cli: Cli) -> None:
    assert "lorakit trainer install" in cli("trainer", "status", code=8).out
    assert "lorakit trainer install" in cli("trainer", "catalogue", code=8).err
    assert not (workspace.vendor / "sd-scripts").exists()


def test_the_doctor(workspace: Workspace, cli: Cli) -> None:
    found = {line["name"]: line for line in cli("doctor", "--json", code=8 if missing_of_builtin() else 0).json}
    assert found["workspace"]["found"] == str(workspace.root)
    assert found["sd-scripts"] == {
        "name": "sd-scripts",
        "state": "note",
        "found": "not installed in this workspace",
        "todo": "lorakit trainer install",
    }
    assert set(found) >= {"lorakit", "git", "GPU", "built-in", "disk"}


def test_the_doctor_without_any_trainer(workspace: Workspace, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from lorakit.trainers import choose

    monkeypatch.setattr(choose, "_BUILTIN_NEEDS", ("no_such_package",))
    done = cli("doctor", code=8)
    assert "✗  built-in    cannot train without no_such_package" in done.out
    assert workspace.root.is_dir()


def test_the_pin_is_laid_out(workspace: Workspace) -> None:
    ours = Path(__file__).parents[2] / "vendor" / "sd-scripts.toml"
    assert (workspace.vendor / "sd-scripts.toml").read_bytes() == ours.read_bytes()


def test_the_page_has_every_option() -> None:
    from lorakit.cli.app import command

    for name, found in command().commands["trainer"].commands.items():
        assert f"lorakit trainer {name}" in PAGE
        options = {spelling for param in found.params for spelling in param.opts if spelling.startswith("--")}
        assert options <= set(re.findall(r"`(--[\w-]+)", PAGE))
