"""`lorakit compare`: runs side by side."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from lorakit.cli.options import Json, complete_run, workspace

if TYPE_CHECKING:
    from rich.text import Text

    from lorakit.verdict.compare import Comparison, Row

__all__ = ["compare", "page"]

#: How the results are called, and which function of ``screen`` writes them.
_RESULTS: Final = {
    "state": ("state", "plain"),
    "steps": ("steps", "plain"),
    "loss_first": ("loss, first epoch", "loss"),
    "loss_last": ("loss, last epoch", "loss"),
    "loss_average": ("loss, average", "loss"),
    "validation": ("validation", "loss"),
    "steps_per_second": ("speed", "speed"),
    "seconds": ("time", "duration"),
    "peak_vram": ("peak VRAM", "size"),
    "peak_rss": ("peak RAM", "size"),
}


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN RUN...", autocompletion=complete_run, help="Two or more runs, as show takes them."),
    ],
    *,
    as_json: Json = False,
) -> None:
    """Put runs side by side: what differed, and what came of it."""
    from lorakit.archive.run import open_run
    from lorakit.cli import screen
    from lorakit.verdict.compare import compare as compared

    place = workspace()
    found = compared([open_run(place.runs, run) for run in runs])
    if as_json:
        screen.print_json(found.to_json())
        return
    out = screen.console()
    screen.put(out, page(found, width=screen.fitting(out)))


def page(found: Comparison, *, width: int | None) -> list[Text]:
    """The whole page: what differs, a line on what does not, results."""
    from lorakit.cli import screen

    count = len(found.runs)
    table: list[list[str | Text]] = [["", *(screen.text((state.run.short, "strong")) for state in found.runs)]]
    if len({state.name for state in found.runs}) > 1:
        table.append(["", *(screen.text((state.name, "same")) for state in found.runs)])
    table += [[screen.text(row.key), *row.shown] for row in (*found.settings, *found.inputs)]
    if len(table) <= 2:
        table.append([screen.text(("nothing differs", "same"))])
    divider = len(table)
    table += [_result(row) for row in found.results if any(value is not None for value in row.values)]
    lines = screen.columns(table, gap=3, width=width, flexible=tuple(range(count + 1)))
    same = ", ".join([f"{screen.count(found.same, 'other value')}", *_same_inputs(found)])
    lines.insert(divider, screen.text((f"── same: {same}", "same")))
    return lines


def _same_inputs(found: Comparison) -> list[str]:
    """The inputs that are equal, those of the environment under one name."""
    parts = {"lorakit", "python", "implementation", "platform", "machine", "GPU", "packages"}
    names = [name for name in found.same_inputs if name not in parts]
    rest = parts & set(found.same_inputs)
    if rest:
        names.append("environment" if rest == parts else "the rest of the environment")
    return names


def _result(row: Row) -> list[str | Text]:
    from lorakit.cli import screen

    title, writer = _RESULTS[row.key]
    write: Callable[[Any], str] = getattr(screen, writer)
    best = _lowest(row)
    cells: list[str | Text] = [title]
    for value in row.values:
        shown = "–" if value is None else write(value)
        cells.append(screen.text((shown, "strong")) if value is not None and value == best else shown)
    return cells


def _lowest(row: Row) -> float | None:
    # The lowest validation loss is worth an eye; training losses of different data or noise are not to be ranked.
    numbers = [value for value in row.values if isinstance(value, float) and math.isfinite(value)]
    return min(numbers) if row.key == "validation" and len(set(numbers)) > 1 else None
