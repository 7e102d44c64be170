"""`lorakit sweep report`, `noise`: what a sweep came to, and how much of it is noise."""

from __future__ import annotations

import contextlib
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from lorakit.cli.options import Json
from lorakit.cli.sweeps import SweepName, standing_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from rich.console import Console
    from rich.text import Text

    from lorakit.archive.records import RunState
    from lorakit.sweep.noise import Noise
    from lorakit.sweep.report import Cell, Measure
    from lorakit.sweep.standing import Standing

__all__ = ["noise", "report"]

#: More cells than this are compared with the best one only.
_MATRIX: Final = 8
_ALIKE: Final = "≈"

By = Annotated[
    str | None,
    typer.Option(
        "--by", metavar="MEASURE", help="validation, loss.last, loss.average, grad, weights, seconds, speed, …"
    ),
]


def report(
    sweep: SweepName = "latest",
    *,
    by: By = None,
    rows: Annotated[
        str | None, typer.Option("--rows", metavar="AXIS", help="The axis that goes down the grid.")
    ] = None,
    columns: Annotated[
        str | None, typer.Option("--columns", metavar="AXIS", help="The axis that goes across the grid.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what a sweep came to: the best, the grid over two axes, and what failed why."""
    from lorakit.cli import screen
    from lorakit.errors import UsageError
    from lorakit.sweep.axes import SEED, key_of
    from lorakit.sweep.report import cells

    now = standing_of(sweep)
    measure = _measure(by, now)
    axes = [key for key in now.folder.axes if key != SEED]
    for named in (rows, columns):
        if named is not None and key_of(named) not in axes:
            raise UsageError(f"{named} is no axis of this sweep", why=f"it has {', '.join(axes) or 'none'}")
    chosen = [key_of(name) for name in (rows, columns) if name is not None]
    chosen += [key for key in axes if key not in chosen]
    out = screen.console(err=as_json)
    with _measuring(out):
        found = cells(now, measure)
        floor, lacking = _floor(measure, found)
        evidence = {id(cell): _evidence(cell) for cell in found}
    if as_json:
        told = [
            {**cell.to_json(), **evidence[id(cell)], "best_or_alike": _is_alike(cell, found, measure, floor)}
            for cell in found
        ]
        noise_told = None if floor is None else {"sd": floor.sd, "df": floor.df, "interval": [floor.low, floor.high]}
        screen.print_json({"measure": measure.name, "noise": noise_told, "cells": told, **now.to_json()})
        return
    sheet = _Sheet(now, measure, found, chosen, floor, lacking, evidence)
    screen.put(out, _page(sheet, screen.fitting(out)))


@dataclass(frozen=True)
class _Sheet:
    """What a report is drawn from: the cells by a measure, the axes in the order chosen, the noise or what to say in its place."""

    now: Standing
    measure: Measure
    cells: Sequence[Cell]
    axes: Sequence[str]
    floor: Noise | None
    lacking: str
    evidence: Mapping[int, dict[str, Any]]


def _measure(by: str | None, now: Standing) -> Measure:
    from lorakit.errors import UsageError
    from lorakit.sweep.report import MEASURES, default_measure

    if by is not None and by not in MEASURES:
        raise UsageError(f"there is no measure {by}", todo=f"--by {', '.join(MEASURES)}")
    return MEASURES[by] if by else default_measure(now)


@contextlib.contextmanager
def _measuring(out: Console) -> Iterator[None]:
    """A line that says that weights are being measured, where somebody can see it: the first time takes a while."""
    from lorakit.cli import screen

    with out.status(screen.text("reading the runs")) if out.is_terminal else contextlib.nullcontext():
        yield


def _floor(measure: Measure, found: Sequence[Cell]) -> tuple[Noise | None, str]:
    """The noise of a measure, and what to say where there is none."""
    from lorakit.errors import UsageError
    from lorakit.sweep.noise import noise_of

    if sum(bool(cell.values) for cell in found) < 2:
        return None, ""
    try:
        floor = noise_of(measure, found)
    except UsageError as error:
        return None, f"{error.what}: nothing says which differences are noise ({error.todo})"
    return (
        floor,
        "" if floor else "no replicates: nothing says which differences are noise",
    )


def _is_alike(cell: Cell, found: Sequence[Cell], measure: Measure, floor: Noise | None) -> bool | None:
    """Whether a cell is the best or cannot be told from it; None where nobody knows."""
    from lorakit.sweep.report import best_of

    best = best_of(found, measure)
    if best is None or cell.mean is None:
        return None
    return True if cell is best else None if floor is None else not floor.counts(best, cell)


def _evidence(cell: Cell) -> dict[str, Any]:
    """Means over the cell's runs that are done: losses, gradient and weight norms by part, seconds."""
    from lorakit.sweep.report import gradients, weight_norms
    from lorakit.sweep.standing import Phase

    states = [one.state for one in cell.trials if one.phase is Phase.DONE and one.state is not None]

    def mean(value: Callable[[RunState], float | None]) -> float | None:
        known = [found for state in states if (found := value(state)) is not None]
        return statistics.fmean(known) if known else None

    def parts(value: Callable[[RunState], dict[str, float]]) -> dict[str, float]:
        known = [value(state) for state in states]
        names = dict.fromkeys(part for one in known for part in one)
        return {part: statistics.fmean([one[part] for one in known if part in one]) for part in names}

    return {
        "loss.last": mean(lambda state: state.loss_last),
        "loss.average": mean(lambda state: state.loss_average),
        "validation": mean(lambda state: state.validation),
        "grad": parts(gradients),
        "weights": parts(weight_norms),
        "seconds": mean(lambda state: state.seconds),
    }


def _page(sheet: _Sheet, width: int | None) -> list[Text]:
    from lorakit.cli import screen
    from lorakit.cli.sweep_view import summary
    from lorakit.sweep.report import best_of

    now, measure, found, axes, floor = sheet.now, sheet.measure, sheet.cells, sheet.axes, sheet.floor
    lines = [summary(now), screen.text((f"{measure.what}, by {measure.name}", "same")), screen.text("")]
    best = best_of(found, measure)
    if best is None:
        return [*lines[:1], screen.text("nothing is measured yet"), *_failed(now)]
    if len(axes) >= 2:
        lines += [*_heat_map(found, measure, axes, width, floor), screen.text("")]
    lines += _cell_table(sheet, width)
    lines += _legend(best, found, floor, sheet.lacking)
    return [*lines, *_failed(now), screen.text(("next: ", "same"), _following(now, best, floor))]


def _cell_table(sheet: _Sheet, width: int | None) -> list[Text]:
    """The cells in the order of the measure, with what else is known of them; columns that nobody has are left out."""
    from lorakit.cli import screen
    from lorakit.sweep.axes import label
    from lorakit.sweep.report import rank

    measure, found, axes, floor, evidence = sheet.measure, sheet.cells, sheet.axes, sheet.floor, sheet.evidence
    further: dict[str, Callable[[dict[str, Any]], str]] = {
        "validation": lambda one: screen.loss(one["validation"]),
        "last loss": lambda one: screen.loss(one["loss.last"]),
        "average": lambda one: screen.loss(one["loss.average"]),
        "grad": lambda one: _parts(one["grad"]),
        "‖ΔW‖": lambda one: _parts(one["weights"]),
        "time": lambda one: screen.duration(one["seconds"]),
    }
    same = {"validation": "validation", "loss.last": "last loss", "loss.average": "average", "seconds": "time"}
    shown = {
        head: told
        for head, told in further.items()
        if head != same.get(measure.name) and any(told(one) != "–" for one in evidence.values())
    }
    head = [*(label(key) for key in axes), measure.name, *(["", "spread"] if floor else []), *shown, "runs"]
    table: list[list[str | Text]] = [[screen.text((word, "same")) for word in head]]
    for cell in sorted(found, key=lambda cell: rank(cell, measure)):
        point = dict(cell.point)
        alike = _is_alike(cell, found, measure, floor)
        mean = screen.text((spell(cell.mean, measure), "done" if alike else "")) if cell.mean is not None else "–"
        row: list[str | Text] = [*(point.get(key, "") for key in axes), mean]
        if floor:
            spread = f"± {_spread(cell.spread, measure)} of {len(cell.values)}" if cell.spread is not None else ""
            row += [_mark(cell, found, measure, floor), spread]
        row += [told(evidence[id(cell)]) for told in shown.values()]
        table.append([*row, " ".join(one.run.short for one in cell.trials if one.run is not None)])
    return screen.columns(table, gap=2, width=width, flexible=(len(head) - 1,))


def _mark(cell: Cell, found: Sequence[Cell], measure: Measure, floor: Noise) -> Text:
    from lorakit.cli import screen
    from lorakit.sweep.report import best_of

    if cell is best_of(found, measure):
        return screen.text(("best", "done"))
    return screen.text((_ALIKE, "done")) if _is_alike(cell, found, measure, floor) else screen.text("")


def _parts(values: dict[str, float]) -> str:
    """Norms of UNet, TE1, TE2: ``12.1/3/1.1``; what has one name for all is told alone."""
    return "/".join(f"{value:.3g}" for value in values.values()) or "–"


def _legend(best: Cell, found: Sequence[Cell], floor: Noise | None, lacking: str) -> list[Text]:
    from lorakit.cli import screen

    if floor is None:
        return [screen.text((lacking, "same"))] if lacking else []
    alike = sum(cell is not best and cell.mean is not None and not floor.counts(best, cell) for cell in found)
    told = f"{_ALIKE} {alike} cannot be told from the best" if alike else "the best stands out from all others"
    sure = f"noise ±{_spread(floor.sd, floor.measure)} between replicates ({_freedom(floor)}), Tukey-Kramer at 5 %"
    return [screen.text((f"{told}: {sure}", "same"))]


def _freedom(floor: Noise) -> str:
    from lorakit.cli import screen

    return screen.count(floor.df, "degree of freedom", "degrees of freedom")


def _failed(now: Standing) -> list[Text]:
    """What failed, and why."""
    from lorakit.cli import screen
    from lorakit.sweep.axes import label

    lines = []
    for one in now.trials:
        if one.phase.value in ("failed", "interrupted", "stopped") and one.state is not None:
            told = " ".join(f"{label(key)} {value}" for key, value in one.trial.point.items())
            lines.append(screen.text((f"✗ {one.state.run.short}  ", "fail"), f"{told}: {one.state.message}"))
    return lines


def _following(now: Standing, best: Cell, floor: Noise | None) -> str:
    runs = [one.run.short for one in best.trials if one.run is not None]
    show = f"lorakit show {runs[0]}" if runs else f"lorakit sweep status {now.folder.id}"
    further = f"lorakit sweep noise {now.folder.id}" if floor else f"lorakit sweep add {now.folder.id} --seeds 3"
    return f"{show} · {further}"


def _heat_map(
    found: Sequence[Cell], measure: Measure, axes: Sequence[str], width: int | None, floor: Noise | None
) -> list[Text]:
    """The grid over the first two axes; where there are more, the best of what falls together."""
    from lorakit.cli import screen
    from lorakit.sweep.axes import label
    from lorakit.sweep.report import best_of, grid

    down, across, placed = grid(found, axes[0], axes[1])
    means = [cell.mean for cell in found if cell.mean is not None]
    low, high = min(means, default=0.0), max(means, default=0.0)
    table: list[list[str | Text]] = [["", *(screen.text((f"{label(axes[1])} {value}", "same")) for value in across)]]
    for row in down:
        line: list[str | Text] = [screen.text((f"{label(axes[0])} {row}", "same"))]
        for column in across:
            best = best_of(placed.get((row, column), ()), measure)
            if best is None or best.mean is None:
                line.append(screen.text(("–", "same")))
                continue
            share = (best.mean - low) / (high - low) if high > low else 0.0
            heat = "█▇▆▅▄▃▂▁"[min(7, int((share if measure.less_is_better else 1 - share) * 8))]
            alike = _is_alike(best, found, measure, floor)
            mark = f" {_mark(best, found, measure, floor).plain}" if floor and alike else ""
            spread = f" ± {_spread(best.spread, measure)}" if best.spread is not None else ""
            told = screen.text(
                (f"{heat} ", "done" if alike else ""), f"{spell(best.mean, measure)}{spread}", (mark, "done")
            )
            line.append(told)
        table.append(line)
    made = screen.columns(table, gap=3, width=width)
    if len(axes) > 2:
        others = ", ".join(label(key) for key in axes[2:])
        made.append(screen.text((f"each the best over {others}", "same")))
    return made


def spell(value: float | None, measure: Measure) -> str:
    """A measure's value with its unit."""
    from lorakit.cli import screen

    if value is None:
        return "–"
    match measure.unit:
        case "seconds":
            return screen.duration(value)
        case "bytes":
            return screen.size(value)
        case "loss" | "norm":
            return f"{value:.4g}"  # a digit more than elsewhere: trials are often that close
        case _:
            return f"{value:.3g} {measure.unit}"


def _spread(value: float, measure: Measure) -> str:
    """A spread, which is itself known to a digit or two."""
    return f"{value:.2g}" if measure.unit in {"loss", "norm"} else spell(value, measure)


def noise(sweep: SweepName = "latest", *, by: By = None, as_json: Json = False) -> None:
    """Show how far replicates lie apart, and which differences between cells are no more than that.

    Replicates are trials that differ in their seed alone: lorakit sweep PRESET … --seeds 3 makes them.
    """
    from lorakit.cli import screen
    from lorakit.errors import UsageError
    from lorakit.sweep.noise import noise_of, require_scipy
    from lorakit.sweep.report import MEASURES, cells

    require_scipy()
    now = standing_of(sweep)
    chosen = _measure(by, now)
    out = screen.console(err=as_json)
    with _measuring(out):
        every = [floor for measure in MEASURES.values() if (floor := noise_of(measure, cells(now, measure)))]
    if not every:
        raise UsageError(
            f"sweep {now.folder.id} has no replicates that are done",
            why="noise is what differs between bakes of one cell with different seeds",
            todo=f"lorakit sweep add {now.folder.id} --seeds 3",
        )
    if as_json:
        screen.print_json({"sweep": now.folder.id, "measures": [floor.to_json() for floor in every]})
        return
    screen.put(out, _noise_page(now, every, chosen, screen.fitting(out)))


def _noise_page(now: Standing, every: Sequence[Noise], chosen: Measure, width: int | None) -> list[Text]:
    from lorakit.cli import screen

    first = next((floor for floor in every if floor.measure.name == chosen.name), every[0])
    lines = [screen.text((f"sweep {now.folder.id}", "strong"), f" · {_shape_told(first)}"), screen.text("")]
    head = ["measure", "between replicates", "95 % interval", "counts from", "pairs that differ"]
    table: list[list[str | Text]] = [[screen.text((word, "same")) for word in head]]
    for floor in every:
        if floor.sd == 0 and floor is not first:
            continue  # the same in every run: nothing to compare
        pairs = floor.pairs()
        count = sum(floor.counts(*pair) for pair in pairs)
        least = sorted(floor.least(*pair) for pair in pairs)
        ends = list(dict.fromkeys(_spread(value, floor.measure) for value in least[:: max(1, len(least) - 1)]))
        told = " to ".join(ends) or "–"
        interval = f"{_spread(floor.low, floor.measure)} to {_spread(floor.high, floor.measure)}"
        row: list[str | Text] = [floor.measure.name, f"± {_spread(floor.sd, floor.measure)}", interval, told]
        table.append([*row, f"{count} of {len(pairs)}" if pairs else "–"])
    lines += screen.columns(table, gap=3, width=width)
    lines += [screen.text(""), *_differences(first, width)]
    uneven = [floor.measure.name for floor in every if floor.is_uneven]
    if uneven:
        told = f"cells differ in their spread by {', '.join(uneven)}: one number for all of them is too kind to some"
        lines.append(screen.text(("look  ", "look"), told))
    said = f"{_freedom(first)}, pooled over cells; pairs by Tukey-Kramer, 5 % for all of them together"
    lines.append(screen.text((said, "same")))
    lines.append(screen.text(("next: ", "same"), f"lorakit sweep report {now.folder.id} --by {first.measure.name}"))
    return lines


def _shape_told(floor: Noise) -> str:
    from lorakit.cli import screen

    counts = sorted({len(cell.values) for cell in floor.cells})
    replicates = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{screen.count(len(floor.cells), 'cell')}, {replicates} replicates of each"


def _differences(floor: Noise, width: int | None) -> list[Text]:
    """Every two cells side by side; where there are many, each beside the best."""
    from lorakit.cli import screen
    from lorakit.sweep.axes import label
    from lorakit.sweep.report import rank

    ordered = sorted(floor.cells, key=lambda cell: rank(cell, floor.measure))
    matrix = ordered[1:] if len(ordered) <= _MATRIX else []
    names = [" ".join(f"{label(key)} {value}" for key, value in cell.point) or "all" for cell in ordered]
    if len(ordered) == 1:
        return [screen.text(f"one cell alone: {names[0]}, mean {spell(ordered[0].mean, floor.measure)}")]
    head = ["", "cell", floor.measure.name, "from the best"]
    head += [f"from {at}" for at in range(2, len(matrix) + 1)]
    table: list[list[str | Text]] = [[screen.text((word, "same")) for word in head]]
    for at, cell in enumerate(ordered):
        row: list[str | Text] = [str(at + 1), names[at], spell(cell.mean, floor.measure)]
        for other in ordered[:at] if matrix else ordered[: min(at, 1)]:
            pair = floor.compare(other, cell)
            told = f"{_spread(abs(pair.difference), floor.measure)} "
            sure = f"p {pair.p:.2g}" if pair.counts else _ALIKE
            row.append(screen.text((told, "" if pair.counts else "same"), (sure, "" if pair.counts else "look")))
        table.append(row)
    lines = screen.columns(table, gap=3, width=width, flexible=(1,))
    lines.append(screen.text((f"{_ALIKE} no more than noise", "look")))
    return lines
