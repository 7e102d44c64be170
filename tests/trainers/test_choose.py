"""The choice of a trainer: what is asked, what is installed, what the workspace says."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from lorakit.errors import TrainerError
from lorakit.trainers.choose import PROBE, choose
from lorakit.workspace import Workspace
from tests.trainers.presets import shipped


def install(folder: Path, *, python: bool = True, script: bool = True) -> Path:
    """A folder that looks like sd-scripts with an environment of its own."""
    folder.mkdir(parents=True)
    if script:
        (folder / "sdxl_train_network.py").touch()
    if python:
        (folder / ".venv" / "bin").mkdir(parents=True)
        (folder / ".venv" / "bin" / "python").symlink_to(sys.executable)
    return folder


def choice(workspace: Workspace, kind: str = "auto", *overrides: str) -> Any:
    return choose(shipped("quickstart", f"trainer.kind={kind}", *overrides), workspace)


def test_auto_takes_the_built_in_trainer_where_nothing_else_is(tmp_path: Path) -> None:
    found = choice(Workspace(tmp_path))
    assert found.kind == "builtin"
    assert (found.python, found.program) == (Path(sys.executable), ("-m", "lorakit.trainers.builtin"))
    assert found.why == "sd-scripts is not installed in this workspace"


def test_auto_takes_sd_scripts_from_vendor(tmp_path: Path) -> None:
    folder = install(tmp_path / "vendor" / "sd-scripts")
    found = choice(Workspace(tmp_path))
    assert found.kind == "sd-scripts"
    assert found.program == (str(PROBE), str(folder / "sdxl_train_network.py"))
    assert found.probe
    # Not the interpreter that the link points at: that one would not see the environment's packages.
    assert found.python == folder / ".venv" / "bin" / "python"
    assert "vendor/sd-scripts" in found.why


def test_lorakit_toml_says_where_sd_scripts_is(tmp_path: Path) -> None:
    folder = install(tmp_path / "elsewhere", python=False)
    settings = {"sd_scripts": {"path": "elsewhere", "python": sys.executable}}
    found = choice(Workspace(tmp_path / "ws", settings | {"other": 1}), "builtin")
    assert found.kind == "builtin"
    found = choice(Workspace(tmp_path, settings))
    assert (found.kind, found.python) == ("sd-scripts", Path(sys.executable))
    assert found.program == (str(PROBE), str(folder / "sdxl_train_network.py"))


def test_without_the_probe_it_is_the_bare_script(tmp_path: Path) -> None:
    folder = install(tmp_path / "vendor" / "sd-scripts")
    found = choice(Workspace(tmp_path), "auto", "trainer.probe=false")
    assert found.program == (str(folder / "sdxl_train_network.py"),)
    assert not found.probe
    assert PROBE.is_file()


@pytest.mark.parametrize(
    ("kind", "message"), [("sd-scripts", "sdxl_train_network.py"), ("auto", "sdxl_train_network.py")]
)
def test_half_an_installation_is_named_not_passed_over(tmp_path: Path, kind: str, message: str) -> None:
    install(tmp_path / "vendor" / "sd-scripts", script=False)
    with pytest.raises(TrainerError, match=message):
        choice(Workspace(tmp_path), kind)


def test_sd_scripts_needs_an_interpreter(tmp_path: Path) -> None:
    install(tmp_path / "vendor" / "sd-scripts", python=False)
    with pytest.raises(TrainerError, match="interpreter") as error:
        choice(Workspace(tmp_path), "sd-scripts")
    assert "lorakit.toml" in error.value.todo


def test_sd_scripts_that_is_not_there_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match="does not exist"):
        choice(Workspace(tmp_path), "sd-scripts")


@pytest.mark.parametrize(
    "settings", [{"sd_scripts": "x"}, {"sd_scripts": {"path": 3}}, {"sd_scripts": {"python": ["a"]}}]
)
def test_settings_of_another_type_are_told(tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(TrainerError, match=r"lorakit\.toml"):
        choice(Workspace(tmp_path, settings))


def test_the_built_in_trainer_names_the_extra_that_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "diffusers" else find(name))
    with pytest.raises(TrainerError, match="diffusers") as error:
        choice(Workspace(tmp_path), "builtin")
    assert "pip install 'lorakit[builtin]'" in error.value.todo


def test_choosing_imports_no_trainer() -> None:
    import subprocess

    program = (
        "import sys; from pathlib import Path; from lorakit.preset.files import load_preset;"
        "from lorakit.trainers.choose import choose; from lorakit.trainers import preflight;"
        "from lorakit.workspace import Workspace; root = Path(sys.argv[1]);"
        "choose(load_preset(root / 'presets' / 'quickstart.toml').preset, Workspace(root));"
        "print(sorted({'torch', 'diffusers', 'transformers', 'accelerate'} & set(sys.modules)))"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", program, root], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
