"""`lorakit sweep status`, `watch`, `report`, `pause`, `go`, `cancel`: sweeps that are there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from lorakit.cli.options import Json, workspace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.text import Text

    from lorakit.sweep.report import Cell, Measure
    from lorakit.sweep.standing import Standing

__all__ = ["HELP", "cancel", "go", "pause", "report", "status", "watch"]

HELP: Final = "Bake a grid of values typed on one line; look at it."


def complete_sweep(incomplete: str) -> list[str]:
    """What the shell offers for SWEEP: `latest` and the ids, newest first."""
    from lorakit.sweep.folder import folders

    words = ["latest", *(one.id for one in folders(workspace())[::-1])]
    return [word for word in words if word.startswith(incomplete)]


SweepName = Annotated[
    str,
    typer.Argument(metavar="SWEEP", autocompletion=complete_sweep, help="A beginning of its id or name, or `latest`."),
]


def status(sweep: SweepName = "latest", *, as_json: Json = False) -> None:
    """Show where a sweep stands: every trial, and how long it will take."""
    from lorakit.cli import screen
    from lorakit.cli.sweep_jobs import asked
    from lorakit.cli.sweep_view import table
    from lorakit.sweep.standing import Phase

    now, silent = asked(_standing(sweep))
    if as_json:
        screen.print_json({**now.to_json(), "scheduler_answers": not silent})
        return
    out = screen.console()
    screen.put(out, table(now, width=screen.fitting(out), rows=None))
    if silent:
        out.print(screen.text(("Slurm does not answer: ", "look"), "nobody knows which trials are queued"))
    elif not now.is_over and not now.dispatched and not now.count(Phase.QUEUED, Phase.RUNNING):
        out.print(screen.text(("next: ", "same"), _again(now)))


def watch(sweep: SweepName = "latest") -> None:
    """Look on while a sweep trains; Ctrl-C looks away."""
    from lorakit.cli import screen
    from lorakit.cli.sweep_view import table
    from lorakit.cli.sweep_view import watch as looked_on
    from lorakit.sweep.folder import find

    place = workspace()
    out = screen.console()
    looked_on(find(place, sweep), place, out)
    screen.put(out, table(_standing(sweep), width=screen.fitting(out)))


def pause(sweep: SweepName = "latest") -> None:
    """Start no further trial of a sweep; what trains goes on."""
    _order(sweep, "pause", "paused: what trains goes on, no further trial is started", "lorakit sweep go")


def go(sweep: SweepName = "latest") -> None:
    """Go on with a sweep that was paused or cancelled."""
    from lorakit.cli import screen

    _order(sweep, "go", "not paused", "lorakit sweep watch")
    now = _standing(sweep)
    if not now.is_over and not now.dispatched:
        screen.console().print(screen.text(("nobody hands out its trials: ", "look"), _again(now)))


def cancel(
    sweep: SweepName,
    trials: Annotated[
        list[int] | None, typer.Argument(metavar="TRIAL...", help="Trials by number; all of them if not given.")
    ] = None,
) -> None:
    """Leave out trials of a sweep that have not started yet.

    A trial that trains goes on: lorakit stop RUN stops it.
    """
    from lorakit.cli.sweep_jobs import cancel_tasks
    from lorakit.errors import UsageError
    from lorakit.sweep.folder import find

    folder = find(workspace(), sweep)
    by_number = {trial.index: trial.identity for trial in folder.trials()}
    if unknown := [number for number in trials or () if number not in by_number]:
        raise UsageError(f"{folder.id} has no trial {unknown[0]}", why=f"it has {len(by_number)}")
    folder.order("cancel", [by_number[number] for number in trials or ()])
    cancel_tasks(folder, frozenset(by_number[number] for number in trials) if trials else None)
    told = f"{len(trials)} trials cancelled" if trials else "all trials that wait are cancelled"
    _tell(folder.id, told, f"lorakit sweep status {folder.id}")


def report(
    sweep: SweepName = "latest",
    *,
    by: Annotated[
        str | None,
        typer.Option("--by", metavar="MEASURE", help="validation, loss.last, loss.average, seconds, speed, …"),
    ] = None,
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
    from lorakit.sweep.report import MEASURES, cells, default_measure

    now = _standing(sweep)
    if by is not None and by not in MEASURES:
        raise UsageError(f"there is no measure {by}", todo=f"--by {', '.join(MEASURES)}")
    measure = MEASURES[by] if by else default_measure(now)
    found = cells(now, measure)
    if as_json:
        told: dict[str, Any] = {"measure": measure.name, "cells": [cell.to_json() for cell in found]}
        screen.print_json({**told, **now.to_json()})
        return
    axes = [key for key in now.folder.axes if key != SEED]
    for named in (rows, columns):
        if named is not None and key_of(named) not in axes:
            raise UsageError(f"{named} is no axis of this sweep", why=f"it has {', '.join(axes) or 'none'}")
    chosen = [key_of(name) for name in (rows, columns) if name is not None]
    chosen += [key for key in axes if key not in chosen]
    out = screen.console()
    screen.put(out, _page(now, measure, found, chosen, screen.fitting(out)))


def _page(now: Standing, measure: Measure, found: Sequence[Cell], axes: Sequence[str], width: int | None) -> list[Text]:
    from lorakit.cli import screen
    from lorakit.cli.sweep_view import summary
    from lorakit.sweep.axes import label

    lines = [summary(now), screen.text((f"{measure.what}, by {measure.name}", "same")), screen.text("")]
    best = _best(found, measure)
    if len(axes) >= 2:
        lines += _heat_map(found, measure, axes, width)
        lines.append(screen.text(""))
    head = [*(label(key) for key in axes), measure.name, "spread", "runs"]
    table: list[list[str | Text]] = [[screen.text((word, "same")) for word in head]]
    ordered = sorted(found, key=lambda cell: _rank(cell, measure))
    for cell in ordered:
        point = dict(cell.point)
        runs = " ".join(one.run.short for one in cell.trials if one.run is not None)
        mean = _spell(cell.mean, measure) if cell.mean is not None else "–"
        spread = f"± {_spell(cell.spread, measure)} of {len(cell.values)}" if cell.spread is not None else ""
        row: list[str | Text] = [*(point.get(key, "") for key in axes)]
        table.append([*row, screen.text((mean, "done")) if cell is best else mean, spread, runs])
    lines += screen.columns(table, gap=3, width=width)
    for one in now.trials:
        if one.phase.value in ("failed", "interrupted", "stopped") and one.state is not None:
            told = " ".join(f"{label(key)} {value}" for key, value in one.trial.point.items())
            lines.append(screen.text((f"✗ {one.state.run.short}  ", "fail"), f"{told}: {one.state.message}"))
    return lines


def _best(found: Sequence[Cell], measure: Measure) -> Cell | None:
    measured = [cell for cell in found if cell.mean is not None]
    return min(measured, key=lambda cell: _rank(cell, measure), default=None)


def _rank(cell: Cell, measure: Measure) -> float:
    if cell.mean is None:
        return float("inf")
    return cell.mean if measure.less_is_better else -cell.mean


def _heat_map(found: Sequence[Cell], measure: Measure, axes: Sequence[str], width: int | None) -> list[Text]:
    """The grid over the first two axes; where there are more, the best of what falls together."""
    from lorakit.cli import screen
    from lorakit.sweep.axes import label
    from lorakit.sweep.report import grid

    down, across, placed = grid(found, axes[0], axes[1])
    means = [cell.mean for cell in found if cell.mean is not None]
    low, high = min(means, default=0.0), max(means, default=0.0)
    table: list[list[str | Text]] = [["", *(screen.text((f"{label(axes[1])} {value}", "same")) for value in across)]]
    for row in down:
        line: list[str | Text] = [screen.text((f"{label(axes[0])} {row}", "same"))]
        for column in across:
            best = _best(placed.get((row, column), ()), measure)
            if best is None or best.mean is None:
                line.append(screen.text(("–", "same")))
                continue
            share = (best.mean - low) / (high - low) if high > low else 0.0
            heat = "█▇▆▅▄▃▂▁"[min(7, int((share if measure.less_is_better else 1 - share) * 8))]
            spread = f" ± {_spell(best.spread, measure)}" if best.spread is not None else ""
            line.append(
                screen.text(
                    (f"{heat} ", "done" if share == (0 if measure.less_is_better else 1) else "plain"),
                    f"{_spell(best.mean, measure)}{spread}",
                )
            )
        table.append(line)
    made = screen.columns(table, gap=3, width=width)
    if len(axes) > 2:
        others = ", ".join(label(key) for key in axes[2:])
        made.append(screen.text((f"each the best over {others}", "same")))
    return made


def _spell(value: float | None, measure: Measure) -> str:
    from lorakit.cli import screen

    if value is None:
        return "–"
    match measure.unit:
        case "seconds":
            return screen.duration(value)
        case "bytes":
            return screen.size(value)
        case "loss":
            return f"{value:.4g}"  # a digit more than elsewhere: trials are often that close
        case _:
            return f"{value:.3g} {measure.unit}"


def _standing(word: str) -> Standing:
    from lorakit.sweep.folder import find
    from lorakit.sweep.standing import standing

    place = workspace()
    return standing(find(place, word), place.runs)


def _order(word: str, what: str, told: str, following: str) -> None:
    from lorakit.sweep.folder import find

    folder = find(workspace(), word)
    folder.order(what)
    _tell(folder.id, told, f"{following} {folder.id}")


def _tell(sweep: str, told: str, following: str) -> None:
    from lorakit.cli import screen

    out = screen.console()
    out.print(screen.text((f"sweep {sweep}", "strong"), f"  {told}"))
    out.print(screen.text(("next: ", "same"), following))


def _again(now: Standing) -> str:
    """The line that goes on with a sweep."""
    import shlex

    argv = now.folder.record.get("argv") or ["lorakit", "sweep"]
    return shlex.join(map(str, argv))
