"""Where a workspace's sd-scripts is: what lorakit.toml says, else vendor/sd-scripts with an environment of its own."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lorakit.errors import TrainerError
from lorakit.trainers.sd_scripts.checkout import SCRIPT, VENV

if TYPE_CHECKING:
    from lorakit.workspace import Workspace

__all__ = ["TABLE", "Place", "find", "settings_of", "venv_python"]

#: The table of lorakit.toml.
TABLE: Final = "sd_scripts"


@dataclass(frozen=True)
class Place:
    """A checkout, its interpreter, the script that is run, and whether lorakit.toml names it (else it is vendor/'s)."""

    folder: Path
    python: Path
    script: Path
    named: bool

    @property
    def told(self) -> str:
        """How lorakit knows of it."""
        return "lorakit.toml says where sd-scripts is" if self.named else "sd-scripts is installed in vendor/sd-scripts"


def find(workspace: Workspace) -> Place:
    """Where sd-scripts is or would be; nothing need be there. Raises TrainerError when lorakit.toml cannot be meant."""
    settings = settings_of(workspace)
    named = bool(settings.get("path"))
    folder = workspace.resolve(settings["path"]) if named else workspace.vendor / "sd-scripts"
    python = workspace.resolve(settings["python"]) if settings.get("python") else venv_python(folder / VENV)
    script = workspace.resolve(settings["script"]) if settings.get("script") else folder / SCRIPT
    return Place(folder, python, script, named)


def settings_of(workspace: Workspace) -> dict[str, Any]:
    """The table [sd_scripts] of lorakit.toml: path, python, script, all of them optional. Raises TrainerError."""
    settings = workspace.settings.get(TABLE, {})
    if not isinstance(settings, dict):
        raise TrainerError(
            "sd_scripts in lorakit.toml is not a table", todo='write [sd_scripts] and under it path = "…"'
        )
    for key in ("path", "python", "script"):
        if not isinstance(settings.get(key, ""), str):
            raise TrainerError(
                f"sd_scripts.{key} in lorakit.toml is {settings[key]!r}", why="it is a path", todo="write it in quotes"
            )
    return settings


def venv_python(venv: Path) -> Path:
    """The interpreter of a virtual environment."""
    return venv / "Scripts" / "python.exe" if sys.platform == "win32" else venv / "bin" / "python"
