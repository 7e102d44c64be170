"""How a comparison looks on a terminal: a column for each run, or, of many, a line for each; and as CSV."""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from lorakit.cli import screen
from lorakit.verdict.results import RESULTS

if TYPE_CHECKING:
    from rich.text import Text

    from lorakit.verdict.compare import Comparison, Row

__all__ = ["page", "print_csv"]

#: More runs than these are lines, not columns.
_COLUMNS: Final = 6
#: The results that a line has place for.
_SHORT: Final = {
    "state": "state",
    "steps": "steps",
    "loss_last": "loss",
    "validation": "validation",
    "weight_norm.unet": "‖ΔW‖ UNet",
    "weight_norm.te1": "TE1",
    "weight_norm.te2": "TE2",
    "seconds": "time",
}


def page(found: Comparison, *, width: int | None) -> list[Text]:
    """The whole page: what differs, a line on what does not, results, and what must not be read out of them."""
    many = len(found.sides) > _COLUMNS
    lines = _lines(found, width) if many else _columns(found, width)
    return [*lines, *(screen.text(("look  ", "look"), warning) for warning in _few(found.warnings))]


def _few(warnings: Sequence[str], most: int = 12) -> list[str]:
    rest = len(warnings) - most
    return [*warnings[:most], *([f"and {rest} more: --json tells them all"] if rest > 0 else [])]


def _columns(found: Comparison, width: int | None) -> list[Text]:
    count = len(found.sides)
    table: list[list[str | Text]] = [["", *(screen.text((side.label, "strong")) for side in found.sides)]]
    if len({side.name for side in found.sides}) > 1 and any(side.name != side.label for side in found.sides):
        table.append(["", *(screen.text((side.name, "same")) for side in found.sides)])
    table += [[screen.text(row.key), *_cells(row)] for row in (*found.settings, *found.inputs)]
    if not found.settings and not found.inputs:
        table.append([screen.text(("nothing differs", "same"))])
    divider = len(table)
    table += [_result(row) for row in found.results if any(value is not None for value in row.values)]
    lines = screen.columns(table, gap=3, width=width, flexible=tuple(range(count + 1)))
    lines.insert(divider, _same_line(found))
    return lines


def _same_line(found: Comparison) -> Text:
    same = ", ".join([f"{screen.count(found.same, 'other value')}", *_same_inputs(found)])
    return screen.text((f"── same: {same}", "same"))


def _cells(row: Row) -> list[str | Text]:
    """Values; one that nobody asked for is said to be a default."""
    defaults = [origin == "default" for origin in row.origins] or [False] * len(row.shown)
    return [
        screen.text(shown, (" default", "same")) if is_default and shown not in "–?" else shown
        for shown, is_default in zip(row.shown, defaults, strict=True)
    ]


def _lines(found: Comparison, width: int | None) -> list[Text]:
    """A line for each of many runs: what differs, by the last word of its key, then the main results."""
    settings = [*found.settings, *(row for row in found.inputs if not row.key.startswith("package "))]
    results = [row for row in found.results if row.key in _SHORT and any(value is not None for value in row.values)]
    head = ["", "name", *(row.key.rpartition(".")[2] for row in settings), *(_SHORT[row.key] for row in results)]
    table: list[list[str | Text]] = [[screen.text((word, "same")) for word in head]]
    columns = [_result(row)[1:] for row in results]
    for at, side in enumerate(found.sides):
        cells = [*(row.shown[at] for row in settings), *(column[at] for column in columns)]
        table.append([screen.text((side.label, "strong")), side.name, *cells])
    lines = screen.columns(table, gap=2, width=width, flexible=tuple(range(1, len(settings) + 2)))
    packages = [row.key.removeprefix("package ") for row in found.inputs if row.key.startswith("package ")]
    more = [screen.text(("differing packages  ", "same"), ", ".join(packages))] if packages else []
    return [*lines, *more, _same_line(found)]


def _same_inputs(found: Comparison) -> list[str]:
    """The inputs that are equal, those of the environment under one name."""
    parts = {"lorakit", "python", "implementation", "platform", "machine", "GPU", "packages"}
    names = [name for name in found.same_inputs if name not in parts]
    rest = parts & set(found.same_inputs)
    if rest:
        names.append("environment" if rest == parts else "the rest of the environment")
    return names


def _result(row: Row) -> list[str | Text]:
    title, writer = RESULTS[row.key]
    write = WRITERS[writer]
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


def norm(value: float) -> str:
    """A norm to three digits: ``12.1``, ``0.0243``."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


#: What writes the results, by the names that RESULTS gives.
WRITERS: Final[dict[str, Callable[[Any], str]]] = {
    "plain": screen.plain,
    "loss": screen.loss,
    "speed": screen.speed,
    "duration": screen.duration,
    "size": screen.size,
    "norm": norm,
}


def print_csv(found: Comparison) -> None:
    """A line for each run: what differs, then every result."""
    rows = [*found.settings, *found.inputs]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["run", "name", "path", *(row.key for row in rows), *(row.key for row in found.results)])
    for at, side in enumerate(found.sides):
        told = [side.label, side.name, str(side.path), *(row.shown[at] for row in rows)]
        numbers = [row.values[at] for row in found.results]
        writer.writerow([*map(_safe, told), *(_safe(value) if isinstance(value, str) else value for value in numbers)])


def _safe(cell: str) -> str:
    """Text that no spreadsheet takes for a formula; numbers stay numbers."""
    if cell[:1] in set("=+-@\t\r"):
        try:
            float(cell)
        except ValueError:
            return "'" + cell
    return cell.encode("utf-8", "replace").decode("utf-8")
