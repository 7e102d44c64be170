"""`lorakit show`, `logs`, `verify`: one run of the archive."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from lorakit.cli.batching import job_json, job_lines
from lorakit.cli.options import Json, RunName, workspace
from lorakit.errors import ArchiveError

__all__ = ["logs", "show", "start_of_last", "verify"]

_LOG_POLL_SECONDS = 0.2


def show(run: RunName = "latest", *, as_json: Json = False) -> None:
    """Show one run: how it ended, with what, what it left."""
    from lorakit.archive.records import state
    from lorakit.archive.run import open_run
    from lorakit.cli import run_screens, screen
    from lorakit.verdict.settings import settings

    found = state(open_run(workspace().runs, run))
    if as_json:
        screen.print_json({**found.to_json(), "settings": settings(found.run), **job_json(found)})
        return
    out = screen.console()
    *told, following = run_screens.shown(found)
    screen.put(out, [*told, *job_lines(found), following])


def logs(
    run: RunName = "latest",
    *,
    tail: Annotated[int | None, typer.Option("--tail", "-n", min=0, metavar="N", help="Only the last N lines.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it grows, until the run ends.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Every byte as it was written, overwritten bars too.")] = False,
) -> None:
    """Print what a run's training printed.

    It is shown as a terminal would, a bar as its last state. With -f on a terminal the live view stands below the lines, as in `lorakit watch`. Ctrl-C looks away.
    """
    from lorakit.archive.records import state
    from lorakit.archive.run import open_run
    from lorakit.archive.trainer_log import log_parts
    from lorakit.cli.baking import follow_in_view

    found = open_run(workspace().runs, run)
    path = found.last_attempt.log
    if not path.exists():
        raise ArchiveError(f"{found.id} has no log yet", todo=f"lorakit show {found.short} says how it stands")
    if follow and not raw and sys.stdout.isatty() and not state(found).is_final:
        follow_in_view(found, tail)
        return
    parts = log_parts(path)[:-1] if tail is None else ()  # what was cut off comes first
    for part in parts:
        _print_log(part, 0, lambda: True, raw=raw)
    offset = 0
    if tail is not None:
        with open(path, "rb") as file:
            offset = start_of_last(file, tail)
    _print_log(path, offset, lambda: not follow or state(found).is_final, raw=raw)


def _print_log(path: Path, offset: int, over: Callable[[], bool], *, raw: bool) -> None:
    """Write a log to stdout until it is ``over``: its bytes, or its lines as a terminal would show them."""
    from lorakit.archive.trainer_log import LogFollower

    out = sys.stdout.buffer
    follower = LogFollower(path, offset=offset)
    while True:
        last = over()  # asked before reading: what comes in between is read below
        if raw:
            for block in follower.blocks():
                out.write(block)
        else:
            for line in follower.poll(complete=last):
                out.write(line.encode("utf-8", "surrogateescape") + b"\n")
        out.flush()
        if last:
            return
        time.sleep(_LOG_POLL_SECONDS)


def start_of_last(file: BinaryIO, count: int, *, block: int = 1 << 16) -> int:
    """Where the last ``count`` lines of a file begin, read from its end; an unfinished last line counts as one."""
    position = end = file.seek(0, os.SEEK_END)
    wanted = count
    while position > 0 and count > 0:
        size = min(block, position)
        position = file.seek(position - size)
        data = file.read(size)
        at = size
        while (at := data.rfind(b"\n", 0, at)) >= 0:
            if position + at + 1 == end:
                continue  # the line end of the last line begins no line
            wanted -= 1
            if wanted == 0:
                return position + at + 1
    return 0 if count > 0 else end


def verify(run: RunName = "latest", *, as_json: Json = False) -> None:
    """Check a run against its seal.

    Exit code 9 when anything differs.
    """
    from lorakit.archive.run import open_run, read_record
    from lorakit.archive.seal import manifests
    from lorakit.archive.seal import verify as differences_of
    from lorakit.cli import screen

    found = open_run(workspace().runs, run)
    differences = differences_of(found)
    if as_json:
        screen.print_json(
            {"id": found.id, "whole": not differences, "differences": [one.to_json() for one in differences]}
        )
        if differences:
            raise typer.Exit(ArchiveError.exit_code)
        return
    if not differences:
        records = [read_record(path) or {} for path in manifests(found)]
        sizes = [entry["size"] for record in records for entry in record["files"].values()]
        told = f"{len(sizes)} files, {screen.size(sum(sizes))}, all as they were sealed"
        screen.console().print(screen.text(("✓ ", "done"), (f"{found.name}_{found.short}", "strong"), f"  {told}"))
        return
    raise ArchiveError(
        f"{found.id} differs from its seal in {len(differences)} file{'s' if len(differences) > 1 else ''}",
        why="\n".join(screen.plain(f"{one.kind:<10} {one.path}  {one.detail}".rstrip()) for one in differences),
        todo="what is missing or changed came about after the bake; the run's own numbers may not be relied on",
    )
