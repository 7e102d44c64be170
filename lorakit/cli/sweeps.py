"""`lorakit sweep status`, `watch`, `pause`, `go`, `cancel`: sweeps that are there."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Final

import typer

from lorakit.cli.options import Json, workspace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lorakit.sweep.folder import Folder
    from lorakit.sweep.standing import Standing

__all__ = ["HELP", "SweepName", "again", "cancel", "go", "pause", "standing_of", "status", "watch"]

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
    from lorakit.sweep.estimate import forecast_of
    from lorakit.sweep.standing import Phase

    now, silent = asked(standing_of(sweep))
    if now.seconds_left is None:
        now = replace(now, seconds_left=forecast_of(now, workspace()).total)
    if as_json:
        screen.print_json({**now.to_json(), "scheduler_answers": not silent})
        return
    out = screen.console()
    screen.put(out, table(now, width=screen.fitting(out), rows=None))
    if silent:
        out.print(screen.text(("Slurm does not answer: ", "look"), "nobody knows which trials are queued"))
    elif not now.is_over and not now.dispatched and not now.count(Phase.QUEUED, Phase.RUNNING):
        out.print(screen.text(("next: ", "same"), again(now.folder)))


def watch(sweep: SweepName = "latest") -> None:
    """Look on while a sweep trains; Ctrl-C looks away."""
    from lorakit.cli import screen
    from lorakit.cli.sweep_jobs import asked
    from lorakit.cli.sweep_view import table
    from lorakit.cli.sweep_view import watch as looked_on
    from lorakit.sweep.folder import find

    place = workspace()
    out = screen.console()
    looked_on(find(place, sweep), place, out)
    now, silent = asked(standing_of(sweep))
    screen.put(out, table(now, width=screen.fitting(out)))
    if silent:
        out.print(screen.text(("Slurm does not answer: ", "look"), "nobody knows which trials are queued"))


def pause(sweep: SweepName = "latest") -> None:
    """Start no further trial of a sweep; what trains goes on."""
    _order(sweep, "pause", "paused: what trains goes on, no further trial is started", "lorakit sweep go")


def go(
    sweep: SweepName = "latest",
    trials: Annotated[
        list[int] | None,
        typer.Argument(metavar="TRIAL...", help="Trials by number that were cancelled; the sweep itself if not given."),
    ] = None,
) -> None:
    """Go on with a sweep that was paused or cancelled, or with some of its trials that were."""
    from lorakit.cli import screen

    if trials:
        folder, chosen = _chosen(sweep, trials)
        folder.order("go", chosen)
        waits = "waits again" if len(trials) == 1 else "wait again"
        _tell(folder.id, f"{screen.count(len(trials), 'trial')} {waits}", f"lorakit sweep status {folder.id}")
    else:
        _order(sweep, "go", "not paused", "lorakit sweep watch")
    now = standing_of(sweep)
    out = screen.console()
    left_out = [one.trial.index for one in now.trials if one.phase.value == "cancelled"]
    if left_out and not trials:
        told = f"{screen.count(len(left_out), 'trial')} {'stays' if len(left_out) == 1 else 'stay'} cancelled: "
        numbers = " ".join(map(str, left_out[:12])) + (" …" if len(left_out) > 12 else "")
        out.print(screen.text((told, "look"), f"lorakit sweep go {now.folder.id} {numbers}"))
    if not now.is_over and not now.dispatched:
        out.print(screen.text(("nobody hands out its trials: ", "look"), again(now.folder)))


def cancel(
    sweep: SweepName,
    trials: Annotated[
        list[int] | None, typer.Argument(metavar="TRIAL...", help="Trials by number; all of them if not given.")
    ] = None,
) -> None:
    """Leave out trials of a sweep that have not started yet.

    A trial that trains goes on: lorakit stop RUN stops it.
    """
    from lorakit.cli import screen
    from lorakit.cli.sweep_jobs import cancel_tasks

    folder, chosen = _chosen(sweep, trials or ())
    folder.order("cancel", chosen)
    cancel_tasks(folder, frozenset(chosen) if trials else None)
    told = f"{screen.count(len(trials), 'trial')} cancelled" if trials else "all trials that wait are cancelled"
    _tell(folder.id, told, f"lorakit sweep status {folder.id}")


def standing_of(word: str) -> Standing:
    """Where the sweep that a word names stands. Raises UsageError."""
    from lorakit.sweep.folder import find
    from lorakit.sweep.standing import standing

    place = workspace()
    return standing(find(place, word), place.runs)


def _chosen(word: str, numbers: Sequence[int]) -> tuple[Folder, list[str]]:
    """A sweep and the identities of some of its trials. Raises UsageError for a number that there is not."""
    from lorakit.errors import UsageError
    from lorakit.sweep.folder import find

    folder = find(workspace(), word)
    by_number = {trial.index: trial.identity for trial in folder.trials()}
    if unknown := [number for number in numbers if number not in by_number]:
        raise UsageError(f"{folder.id} has no trial {unknown[0]}", why=f"it has {len(by_number)}")
    return folder, [by_number[number] for number in numbers]


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


def again(folder: Folder) -> str:
    """The line that goes on with a sweep."""
    import shlex

    argv = folder.record.get("argv") or ["lorakit", "sweep"]
    return shlex.join(map(str, argv))
