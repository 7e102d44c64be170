"""`lorakit compare`: runs side by side, on the screen, as JSON or CSV, or as a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorakit.cli.options import Json, complete_run, workspace

if TYPE_CHECKING:
    from lorakit.sweep.standing import Standing
    from lorakit.verdict.compare import Comparison
    from lorakit.verdict.sides import Side

__all__ = ["compare"]


def compare(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN RUN...",
            autocompletion=complete_run,
            help="Runs, as show takes them; LoRA files; log folders of another trainer.",
        ),
    ] = None,
    *,
    sweep: Annotated[
        str | None, typer.Option("--sweep", metavar="SWEEP", help="All runs of a sweep too, by its id or `latest`.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page with curves, weights and samples.")
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print a line for each run.")] = False,
    weights: Annotated[
        bool, typer.Option("--weights", help="Measure checkpoints even where together they are larger than 4 GB.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Put runs side by side: what differed, and what came of it.

    Only what differs is shown; defaults are resolved, and files are compared by their contents. LoRA files and log folders that
    lorakit did not make are compared as far as they go.
    """
    from lorakit.cli import compare_screen, screen
    from lorakit.errors import UsageError
    from lorakit.verdict.compare import compare as compared
    from lorakit.verdict.page.plotly import require
    from lorakit.verdict.sides import side_of

    if html is not None:
        require()  # said before anything is measured
    if as_csv and as_json:
        raise UsageError("--csv and --json are two forms of one answer", todo="leave one out")
    place = workspace()
    asked: list[Side] = [side_of(word, place.runs) for word in runs or ()]
    standing = _standing(sweep) if sweep is not None else None
    if standing is not None:
        known = {side.path.resolve() for side in asked}
        ran = [one.run for one in standing.trials if one.run is not None]
        asked += [side_of(str(run.path), place.runs) for run in ran if run.path.resolve() not in known]
    err = screen.console(err=True)
    if err.is_terminal and len(asked) > 1:
        with err.status(screen.text(f"reading {screen.count(len(asked), 'run')}")):
            found = compared(asked, measure=weights or None)
    else:
        found = compared(asked, measure=weights or None)
    if html is not None:
        _write(found, standing, html)
        if not (as_json or as_csv):
            screen.console().print(
                screen.text(("✓ ", "done"), f"{html}  {screen.size(html.stat().st_size)}, one file, no network")
            )
            return
    if as_json:
        screen.print_json(found.to_json())
    elif as_csv:
        compare_screen.print_csv(found)
    else:
        out = screen.console()
        screen.put(out, compare_screen.page(found, width=screen.fitting(out)))
        if html is None:
            words = " ".join([*(runs or ()), *(["--sweep", sweep] if sweep else [])])
            out.print(screen.text(("next: ", "same"), f"lorakit compare {words} --html compare.html"))


def _standing(sweep: str) -> Standing:
    from lorakit.errors import ArchiveError
    from lorakit.sweep.folder import find
    from lorakit.sweep.standing import standing

    place = workspace()
    found = standing(find(place, sweep), place.runs)
    if not any(one.run for one in found.trials):
        raise ArchiveError(f"no trial of {found.folder.id} has run", todo=f"lorakit sweep status {found.folder.id}")
    return found


def _write(found: Comparison, standing: Standing | None, target: Path) -> None:
    from lorakit import atomic
    from lorakit.errors import DiskError
    from lorakit.verdict.page.build import compare_page

    axes = list(standing.folder.axes) if standing is not None else None
    points = {one.run.path.resolve(): dict(one.trial.point) for one in standing.trials if one.run} if standing else {}
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(target, compare_page(found, target.resolve().parent, axes=axes, points=points))
    except OSError as error:
        raise DiskError(f"{target} cannot be written", why=error.strerror or str(error)) from error
