"""The workspace: the folder that holds presets/, datasets/, runs/, vendor/ and lorakit.toml."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from lorakit.errors import WorkspaceError

__all__ = ["MARKER", "Workspace", "find_workspace"]

#: A folder with this file is a workspace.
MARKER: Final = "lorakit.toml"


@dataclass(frozen=True)
class Workspace:
    """A folder and what its lorakit.toml says; relative paths in presets count from ``root``."""

    root: Path
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def presets(self) -> Path:
        """Where ``lorakit bake NAME`` looks for NAME.toml."""
        return self.root / "presets"

    @property
    def datasets(self) -> Path:
        """Where datasets are kept."""
        return self.root / "datasets"

    @property
    def runs(self) -> Path:
        """The archive."""
        return self.root / "runs"

    @property
    def vendor(self) -> Path:
        """Trainers that live apart from lorakit."""
        return self.root / "vendor"

    @property
    def private(self) -> Path:
        """Caches and rendered launch configs; may be deleted at any time."""
        return self.root / ".lorakit"

    def resolve(self, path: str) -> Path:
        """An absolute path: ``~`` expanded, relative ones counted from the workspace."""
        # Path.expanduser fails at a ~ before nobody's name, which may be the name of a file.
        return (self.root / os.path.expanduser(path)).absolute()


def find_workspace(start: Path | None = None) -> Workspace:
    """The nearest folder upwards from ``start`` with a lorakit.toml, else ``start`` itself.

    Raises WorkspaceError when lorakit.toml cannot be read.
    """
    here = (start or Path.cwd()).absolute()
    for folder in (here, *here.parents):
        marker = folder / MARKER
        if marker.is_file():
            return Workspace(folder, _settings(marker))
    return Workspace(here)


def _settings(marker: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(marker.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise WorkspaceError(
            f"{marker} cannot be read", why=str(error), todo="mend the file, or delete it to use the defaults"
        ) from error
