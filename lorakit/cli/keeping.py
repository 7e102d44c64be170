"""`lorakit note`, `tag`, `rm`, `restore`, `purge`: words about runs, and runs that are no longer wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from lorakit.cli.options import Json, RunName, complete_run, workspace
from lorakit.errors import ArchiveError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from lorakit.archive.run import Run

__all__ = ["Runs", "named", "note", "purge", "restore", "rm", "tag"]

Runs = Annotated[
    list[str],
    typer.Argument(metavar="RUN...", autocompletion=complete_run, help="Runs, as for the other commands."),
]
Trashed = Annotated[list[str] | None, typer.Argument(metavar="RUN...", help="Runs of the trash: lorakit ls --trash.")]


def note(
    run: RunName,
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help="A line to add; shows the notes if none.")] = None,
    *,
    replace: Annotated[bool, typer.Option("--replace", help="TEXT takes the place of the notes.")] = False,
    as_json: Json = False,
) -> None:
    """Show the notes of a run, or add a line to them."""
    from lorakit.archive.run import open_run
    from lorakit.archive.words import add_note, read_note, replace_note
    from lorakit.cli import screen

    found = open_run(workspace().runs, run)
    if text is None and replace:
        raise UsageError("--replace needs a text", todo=f'lorakit note {found.short} "" --replace empties the notes')
    after = read_note(found) if text is None else replace_note(found, text) if replace else add_note(found, text)
    if as_json:
        screen.print_json({"id": found.id, "note": after})
        return
    out = screen.console()
    for line in after.splitlines() or ([] if text is not None else ["no notes yet: lorakit note RUN TEXT"]):
        out.print(screen.text(line))


def tag(
    run: RunName,
    tags: Annotated[list[str] | None, typer.Argument(metavar="TAG...", help="Tags to add.")] = None,
    *,
    remove: Annotated[
        list[str] | None, typer.Option("--remove", "-r", metavar="TAG", help="A tag to take away; may be repeated.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the tags of a run, or add and take away some."""
    from lorakit.archive.run import open_run
    from lorakit.archive.words import change_tags, read_tags
    from lorakit.cli import screen

    found = open_run(workspace().runs, run)
    changing = bool(tags or remove)
    after = change_tags(found, add=tags or (), remove=remove or ()) if changing else read_tags(found)
    if as_json:
        screen.print_json({"id": found.id, "tags": after})
        return
    name = (f"{found.name}_{found.short}", "strong")
    screen.console().print(screen.text(name, "  ", " ".join(after) or "no tags"))


def rm(
    runs: Runs,
    *,
    force: Annotated[bool, typer.Option("--force", help="Also runs that another machine may be training.")] = False,
    as_json: Json = False,
) -> None:
    """Move runs to the trash; a run in training is refused."""
    from lorakit.archive.trash import remove
    from lorakit.cli import screen

    moved = [remove(found, force=force) for found in named(workspace().runs, runs)]
    if as_json:
        screen.print_json([{"id": run.id, "path": str(run.path)} for run in moved])
        return
    out = screen.console()
    for run in moved:
        out.print(screen.text((f"{run.name}_{run.short}", "strong"), "  moved to the trash"))
    out.print(screen.text(("back: ", "same"), f"lorakit restore {' '.join(run.short for run in moved)}"))


def restore(runs: Runs, *, as_json: Json = False) -> None:
    """Bring runs back from the trash."""
    from lorakit.archive import trash
    from lorakit.cli import screen

    back = [trash.restore(found) for found in named(trash.trash_of(workspace().runs), runs, empty="the trash is empty")]
    if as_json:
        screen.print_json([{"id": run.id, "path": str(run.path)} for run in back])
        return
    out = screen.console()
    for run in back:
        out.print(screen.text((f"{run.name}_{run.short}", "strong"), "  is back"))


def purge(
    runs: Trashed = None,
    *,
    everything: Annotated[bool, typer.Option("--all", "-a", help="Everything in the trash.")] = False,
    as_json: Json = False,
) -> None:
    """Delete runs of the trash for good."""
    from lorakit.archive import trash
    from lorakit.cli import screen

    folder = workspace().runs
    if bool(runs) == everything:
        raise UsageError("name the runs to delete for good, or --all", todo="lorakit ls --trash shows them")
    if everything:
        count, size = trash.purge_all(folder)
    else:
        found = named(trash.trash_of(folder), runs or [], empty="the trash is empty")
        count, size = len(found), sum(trash.purge(run) for run in found)
    if as_json:
        screen.print_json({"runs": count, "bytes": size})
        return
    screen.console().print(screen.text(f"{screen.count(count, 'run')} deleted for good, {screen.size(size)} free"))


def named(folder: Path, words: list[str], *, empty: str = "") -> list[Run]:
    """The runs that words name, each once, before anything is done to any of them."""
    from lorakit.archive.run import list_runs, open_run

    if empty and not list_runs(folder):
        raise ArchiveError(empty, todo="lorakit rm RUN puts one there")
    return list(dict.fromkeys(open_run(folder, word) for word in words))
