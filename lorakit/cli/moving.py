"""`lorakit export` and `lorakit import-run`: runs as one file, out of an archive and into another."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from lorakit.cli.keeping import Runs, named
from lorakit.cli.options import Json, workspace
from lorakit.errors import UsageError

__all__ = ["export", "import_run"]


def export(
    runs: Runs,
    *,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="Where to: a .zip or a .tar.zst.")
    ] = None,
    strip: Annotated[
        bool, typer.Option("--strip", help="Without absolute paths, and the names of user and machine.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE when it exists.")] = False,
    as_json: Json = False,
) -> None:
    """Write runs into one file, to import or bake again."""
    from lorakit.archive import export as exporting
    from lorakit.cli import screen

    chosen = named(workspace().runs, runs)
    target = Path(output or f"{chosen[0].name}_{chosen[0].short}.zip").absolute()
    if not target.parent.is_dir():
        raise UsageError(f"there is no folder {target.parent}", todo="make it first, or choose another")
    with _counting("exported", quiet=as_json) as progress:
        done = exporting.export(chosen, target, strip=strip, force=force, progress=progress)
    if as_json:
        values = {
            "path": str(done.path),
            "bytes": done.size,
            "runs": list(done.bundle.runs),
            "files": done.bundle.count,
        }
        screen.print_json({**values, "stripped": strip, "left_out": list(done.left_out)})
        return
    out = screen.console()
    told = f"  {screen.count(len(chosen), 'run')}, {done.bundle.count} files, {screen.size(done.size)}"
    out.print(screen.text(("✓ ", "done"), (str(done.path), "strong"), told))
    for name in done.left_out:
        out.print(screen.text(("  left out  ", "same"), name))
    out.print(
        screen.text(
            ("  models and pictures are named by hash, not copied; ", "same"), f"lorakit import-run {target.name}"
        )
    )


def import_run(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A .zip or .tar.zst that lorakit export wrote.")],
    *,
    as_json: Json = False,
) -> None:
    """Put exported runs into the archive, all of them or none."""
    from lorakit.archive.unpack import import_runs
    from lorakit.cli import screen

    source = Path(file).absolute()
    if not source.is_file():
        raise UsageError(f"there is no file {file}")
    with _counting("checked", quiet=as_json) as progress:
        runs = import_runs(source, workspace().runs, progress=progress)
    if as_json:
        screen.print_json([{"id": run.id, "path": str(run.path)} for run in runs])
        return
    out = screen.console()
    for run in runs:
        out.print(
            screen.text(("✓ ", "done"), (f"{run.name}_{run.short}", "strong"), "  is here, every file as it was sealed")
        )
    out.print(screen.text(("  look  ", "same"), f"lorakit show {runs[0].short}"))


@contextlib.contextmanager
def _counting(what: str, *, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """Progress on one line of a terminal's stderr; nothing elsewhere."""
    from lorakit.cli import screen

    if quiet or not sys.stderr.isatty():
        yield None
        return

    def show(done: int, total: int) -> None:
        sys.stderr.write(f"\r{what} {screen.size(done)} of {screen.size(total)} \x1b[K")
        sys.stderr.flush()

    try:
        yield show
    finally:
        sys.stderr.write("\r\x1b[K")
