"""`lorakit cache ls`, `cache clean`: latents and texts that runs keep on disk for each other."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Final

import typer

from lorakit.cli.options import Json, workspace
from lorakit.errors import UsageError

if TYPE_CHECKING:
    from rich.text import Text

    from lorakit.bake.cache_store import Entry

__all__ = ["HELP", "clean", "ls"]

HELP: Final = "Cached latents and text-encoder outputs that runs share."


def ls(*, as_json: Json = False) -> None:
    """List the caches on disk, the last used first."""
    from lorakit.bake.cache_store import cache_root, entries, limit_of
    from lorakit.cli import screen

    place = workspace()
    found = entries(cache_root(place))[::-1]
    limit = limit_of(place)
    if as_json:
        rows = [{**asdict(entry), "folder": str(entry.folder)} for entry in found]
        screen.print_json({"root": str(cache_root(place)), "limit": limit, "caches": rows})
        return
    out = screen.console()
    if not found:
        out.print(screen.text("there are no caches on disk; memory.cache_latents_to_disk = true in a preset makes one"))
        return
    total = sum(entry.bytes for entry in found)
    head = f"{screen.count(len(found), 'cache')}, {screen.size(total)} of at most {screen.size(limit)}"
    screen.put(out, [screen.text(head), *_table(found), screen.text(("next: ", "same"), "lorakit cache clean")])


def _table(found: tuple[Entry, ...]) -> list[Text]:
    from lorakit.cli import screen

    now = time.time()
    rows: list[list[str | Text]] = [
        [
            entry.key[:8],
            entry.kind,
            screen.count(entry.files, "file"),
            screen.size(entry.bytes),
            "in use" if entry.in_use else screen.moment(entry.used or None, now=now),
        ]
        for entry in found
    ]
    return screen.columns(rows, right=(2, 3), gap=3)


def clean(
    key: Annotated[
        str | None,
        typer.Argument(metavar="KEY", help="The beginning of a key that cache ls shows; all caches if not given."),
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Remove caches that no run uses; the next run that wants one makes it anew."""
    from lorakit.bake.cache_store import cache_root, entries, remove
    from lorakit.cli import screen

    known = entries(cache_root(workspace()))
    asked = [entry for entry in known if entry.key.startswith(key or "")]
    if key is not None and not asked:
        raise UsageError(f"no cache has a key that begins with {key!r}", todo="lorakit cache ls shows them all")
    removed = [entry for entry in asked if remove(entry)]
    kept = [entry for entry in asked if entry not in removed]
    if as_json:
        screen.print_json({"removed": [one.key for one in removed], "in_use": [one.key for one in kept]})
        return
    freed = sum(entry.bytes for entry in removed)
    told = f"{screen.count(len(removed), 'cache')} removed, {screen.size(freed)} freed"
    busy = f"; {screen.count(len(kept), 'cache')} in use, left as they are" if kept else ""
    screen.console().print(screen.text(("✓ ", "done"), told + busy))
