"""Which trainer bakes a preset: sd-scripts where it is installed, else the built-in one."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lorakit.errors import TrainerError

if TYPE_CHECKING:
    from lorakit.preset.models import Preset
    from lorakit.trainers.render import TrainerKind
    from lorakit.workspace import Workspace

__all__ = ["TrainerChoice", "choose"]

_SCRIPT: Final = "sdxl_train_network.py"
#: What the extra ``builtin`` brings and the trainer cannot do without.
_BUILTIN_NEEDS: Final = ("torch", "diffusers", "transformers", "accelerate")


@dataclass(frozen=True)
class TrainerChoice:
    """The trainer, why it was taken, its interpreter, and the program: a script, or ``-m`` and a module."""

    kind: TrainerKind
    why: str
    python: Path
    program: tuple[str, ...]


def choose(preset: Preset, workspace: Workspace) -> TrainerChoice:
    """The trainer that ``trainer.kind`` asks for, in this workspace; raises TrainerError where it cannot run.

    sd-scripts is where lorakit.toml says (``[sd_scripts] path = …, python = …``), else vendor/sd-scripts with its own
    .venv. Nothing is imported or started.
    """
    asked = preset.trainer.kind
    if asked == "builtin":
        return _builtin('trainer.kind = "builtin"')
    if asked == "sd-scripts":
        return _sd_scripts(workspace, 'trainer.kind = "sd-scripts"')
    if (where := _sd_scripts_is_here(workspace)) is not None:
        return _sd_scripts(workspace, where)
    return _builtin("sd-scripts is not installed in this workspace")


def _settings(workspace: Workspace) -> dict[str, Any]:
    settings = workspace.settings.get("sd_scripts", {})
    if not isinstance(settings, dict):
        raise TrainerError(
            "sd_scripts in lorakit.toml is not a table", todo='write [sd_scripts] and under it path = "…"'
        )
    for key in ("path", "python"):
        if not isinstance(settings.get(key, ""), str):
            raise TrainerError(
                f"sd_scripts.{key} in lorakit.toml is {settings[key]!r}", why="it is a path", todo="write it in quotes"
            )
    return settings


def _sd_scripts_is_here(workspace: Workspace) -> str | None:
    if _settings(workspace).get("path"):
        return "lorakit.toml says where sd-scripts is"
    if (workspace.vendor / "sd-scripts").is_dir():
        return "sd-scripts is installed in vendor/sd-scripts"
    return None


def _sd_scripts(workspace: Workspace, why: str) -> TrainerChoice:
    settings = _settings(workspace)
    folder = workspace.resolve(settings["path"]) if settings.get("path") else workspace.vendor / "sd-scripts"
    python = workspace.resolve(settings["python"]) if settings.get("python") else _venv_python(folder / ".venv")
    script = folder / _SCRIPT
    instead = 'or set trainer.kind = "builtin"'
    if not script.is_file():
        raise TrainerError(
            f"sd-scripts is not usable: {script} does not exist",
            why=why,
            todo=f"put a checkout of sd-scripts there, or its folder into lorakit.toml ([sd_scripts] path), {instead}",
        )
    if not python.is_file():
        raise TrainerError(
            f"sd-scripts is not usable: its interpreter {python} does not exist",
            why="sd-scripts runs in an environment of its own, apart from lorakit's",
            todo=f"make one there, or put its python into lorakit.toml ([sd_scripts] python), {instead}",
        )
    return TrainerChoice("sd-scripts", why, python, (str(script),))


def _venv_python(venv: Path) -> Path:
    return venv / "Scripts" / "python.exe" if sys.platform == "win32" else venv / "bin" / "python"


def _builtin(why: str) -> TrainerChoice:
    missing = [name for name in _BUILTIN_NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise TrainerError(
            f"the built-in trainer needs {', '.join(missing)}",
            why=f"{why}, and lorakit is installed without the extra that it runs on",
            todo="pip install 'lorakit[builtin]'",
        )
    return TrainerChoice("builtin", why, Path(sys.executable), ("-m", "lorakit.trainers.builtin"))
