"""Which base model a run or a LoRA file was made for, and where it is now."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from lorakit.archive.run import Run, read_record
from lorakit.errors import ArchiveError, ModelFileError
from lorakit.workspace import Workspace

__all__ = ["base_of", "base_sha256", "settings_of"]


def settings_of(run: Run) -> dict[str, Any]:
    """The run's resolved preset as tables. Raises ArchiveError when it cannot be read."""
    try:
        return tomllib.loads(run.preset.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArchiveError(f"{run.short}: its preset cannot be read", why=str(error)) from error


def base_of(run: Run, workspace: Workspace) -> Path:
    """Where the base model of a run is: as its preset says, else as it was when the run was made. Raises ModelFileError."""
    named = settings_of(run).get("base", {}).get("model")
    places = [workspace.resolve(named)] if named else []
    places += [Path(entry["path"]) for entry in _recorded(run)]
    for place in places:
        if place.exists():
            return place
    raise ModelFileError(
        f"{run.short}: its base model {named or '(none named)'} is not there",
        todo="put it back, or say where it is with --base FILE",
    )


def base_sha256(run: Run) -> str | None:
    """What the run recorded of its base model's content; None for a folder or where nothing is recorded."""
    recorded = _recorded(run)
    return str(recorded[0]["sha256"]) if len(recorded) == 1 and recorded[0].get("sha256") else None


def _recorded(run: Run) -> list[dict[str, Any]]:
    models = (read_record(run.dataset) or {}).get("models")
    entries = models.get("base.model") if isinstance(models, dict) else None
    return [one for one in entries or [] if isinstance(one, dict) and "path" in one]
