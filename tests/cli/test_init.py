"""`lorakit init`: everything is there, nothing is overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorakit.cli import init
from lorakit.errors import LorakitError
from lorakit.workspace import find_workspace
from tests.cli.running import Cli

REPO = Path(__file__).parents[2]


def test_a_workspace_has_everything(tmp_path: Path, cli: Cli) -> None:
    done = cli("init", str(tmp_path / "a b"))
    folder = tmp_path / "a b"
    for name in ("lorakit.toml", "presets/quickstart.toml", "runs/README.md", "vendor/README.md"):
        assert (folder / name).is_file()
    assert list(folder.glob("datasets/demo/*/*_*/*.png"))
    assert find_workspace(folder / "datasets" / "demo").root == folder
    assert f"cd '{folder}' && lorakit plan quickstart" in done.out


def test_every_shipped_preset_is_laid_out_as_it_is(tmp_path: Path, cli: Cli) -> None:
    cli("init", str(tmp_path))
    for preset in (REPO / "presets").rglob("*.toml"):
        assert (tmp_path / preset.relative_to(REPO)).read_bytes() == preset.read_bytes()


def test_nothing_is_overwritten(tmp_path: Path, cli: Cli) -> None:
    cli("init", str(tmp_path))
    preset = tmp_path / "presets" / "quickstart.toml"
    preset.write_text("mine")
    (tmp_path / "runs" / "README.md").unlink()
    done = cli("init", str(tmp_path), "--json")
    assert done.json["made"] == ["runs/README.md"]
    assert "presets/quickstart.toml" in done.json["kept"]
    assert preset.read_text() == "mine"


def test_the_current_folder_is_the_default(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "cd " not in cli("init").out
    assert (tmp_path / "lorakit.toml").is_file()


def test_a_folder_that_cannot_be_written(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "file").write_text("")
    done = cli("init", str(tmp_path / "file" / "inside"), code=11)
    assert "cannot become a workspace" in done.err


def test_a_folder_in_the_way_of_a_page(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "presets").write_text("a file where a folder belongs")
    assert "presets" in cli("init", str(tmp_path), code=11).err


def test_the_repository_is_a_workspace_with_the_same_pages() -> None:
    for name, page in init.PAGES.items():
        assert (REPO / name).read_text(encoding="utf-8") == page


def test_an_installation_without_presets_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(init, "__file__", str(tmp_path / "lorakit" / "cli" / "init.py"))
    with pytest.raises(LorakitError, match="presets that ship"):
        init.lay_out(tmp_path / "new")


def test_a_wheel_carries_the_files_inside_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shipped = tmp_path / "lorakit" / "shipped"
    (shipped / "presets").mkdir(parents=True)
    (shipped / "presets" / "one.toml").write_text("x")
    (shipped / "presets" / ".hidden").write_text("x")
    (shipped / "datasets" / "demo" / "1_a").mkdir(parents=True)
    (shipped / "datasets" / "demo" / "1_a" / "a.txt").write_text("x")
    monkeypatch.setattr(init, "__file__", str(tmp_path / "lorakit" / "cli" / "init.py"))
    made = init.lay_out(tmp_path / "new").made
    assert set(made) == {*init.PAGES, "presets/one.toml", "datasets/demo/1_a/a.txt"}
