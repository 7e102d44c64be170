"""Arguments and options that several commands share, and what they stand for."""

from __future__ import annotations

from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Final

import typer

from lorakit.errors import WorkspaceError
from lorakit.workspace import Workspace, find_workspace

__all__ = [
    "EVERYWHERE",
    "FOLDER",
    "Json",
    "PresetName",
    "RunName",
    "Set",
    "TrainerKind",
    "complete_preset",
    "complete_run",
    "workspace",
]


#: The folder given with -C, which stands outside of the commands: main() takes it off the line.
FOLDER: ContextVar[str | None] = ContextVar("FOLDER", default=None)
#: What every command takes besides its own options.
EVERYWHERE: Final = "Everywhere: -C DIR or --workspace DIR works in that folder's workspace, --debug shows tracebacks."


def complete_preset(incomplete: str) -> list[str]:
    """What the shell offers for PRESET: the names in presets/."""
    names = sorted(path.stem for path in workspace().presets.glob("*.toml"))
    return [name for name in names if name.startswith(incomplete)]


def complete_run(incomplete: str) -> list[str]:
    """What the shell offers for RUN: `latest` and the short ids, newest first; whole ids once one is begun."""
    from lorakit.archive.run import list_runs

    runs = list_runs(workspace().runs)[::-1]
    words = ["latest", *(run.short for run in runs), *(run.id for run in runs if incomplete)]
    return [word for word in words if word.startswith(incomplete)]


PresetName = Annotated[
    str, typer.Argument(metavar="PRESET", autocompletion=complete_preset, help="A preset file, or a name in presets/.")
]
RunName = Annotated[
    str,
    typer.Argument(
        metavar="RUN", autocompletion=complete_run, help="Any unique beginning of a run's id or name, or `latest`."
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change one value of the preset, e.g. network.dim=16; may be repeated."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print machine-readable JSON.")]
TrainerKind = Annotated[
    str | None,
    typer.Option("--trainer", metavar="KIND", help="auto, builtin or sd-scripts; short for --set trainer.kind=KIND."),
]


def workspace() -> Workspace:
    """The workspace of the folder given with -C, or of the current one. Raises WorkspaceError when there is no such folder."""
    folder = FOLDER.get()
    if folder is None:
        return find_workspace()
    if not Path(folder).is_dir():
        raise WorkspaceError(f"there is no folder {folder}", todo=f"lorakit init {folder}")
    return find_workspace(Path(folder))
