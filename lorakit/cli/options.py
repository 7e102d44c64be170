"""Arguments and options that several commands share, and what they stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lorakit.errors import WorkspaceError
from lorakit.workspace import Workspace, find_workspace

__all__ = [
    "Json",
    "PresetName",
    "RunName",
    "Set",
    "TrainerKind",
    "Where",
    "complete_preset",
    "complete_run",
    "workspace_of",
]


def _from_group(ctx: typer.Context, value: str | None) -> str | None:
    # `lorakit -C DIR plan x` and `lorakit plan x -C DIR` mean the same; the nearer one wins.
    parent = ctx.parent.params.get("workspace") if ctx.parent is not None else None
    return value if value is not None else parent


def complete_preset(ctx: typer.Context, incomplete: str) -> list[str]:
    """What the shell offers for PRESET: the names in presets/."""
    folder = workspace_of(ctx.params.get("workspace")).presets
    names = sorted(path.stem for path in folder.glob("*.toml"))
    return [name for name in names if name.startswith(incomplete)]


def complete_run(ctx: typer.Context, incomplete: str) -> list[str]:
    """What the shell offers for RUN: the ids in runs/, newest first."""
    folder = workspace_of(ctx.params.get("workspace")).runs
    if not folder.is_dir():
        return []
    names = sorted((entry.name for entry in folder.iterdir() if (entry / "request.json").is_file()), reverse=True)
    return [name for name in ("latest", *names) if name.startswith(incomplete)]


Where = Annotated[
    str | None,
    typer.Option(
        "--workspace",
        "-C",
        metavar="DIR",
        callback=_from_group,
        help="Work in this folder's workspace instead of the current one.",
    ),
]
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


def workspace_of(folder: str | None) -> Workspace:
    """The workspace of a folder, or of the current one. Raises WorkspaceError when the folder does not exist."""
    if folder is None:
        return find_workspace()
    if not Path(folder).is_dir():
        raise WorkspaceError(f"there is no folder {folder}", todo=f"lorakit init {folder}")
    return find_workspace(Path(folder))
