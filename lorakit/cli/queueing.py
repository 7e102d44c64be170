"""`lorakit queue add`, `start`, `pause`, `ls`, `watch`, `rm`, `first`, `retry`: bakes that wait for their turn."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from lorakit.cli.options import Json, Set, TrainerKind, complete_preset, workspace

if TYPE_CHECKING:
    from pathlib import Path

    from rich.text import Text

    from lorakit.sweep.estimate import Forecast
    from lorakit.sweep.folder import Folder
    from lorakit.sweep.scheduler import Outcome
    from lorakit.sweep.standing import Standing, TrialStanding
    from lorakit.workspace import Workspace

__all__ = ["HELP", "add", "first", "ls", "pause", "retry", "rm", "start", "watch"]

HELP: Final = "Line up bakes and let them run one after another."
#: Entries that ended, of which `ls` shows the latest.
_ENDED_SHOWN: Final = 8
#: What is waiting for a detached process that says it has begun.
_START_SECONDS: Final = 20.0

Numbers = Annotated[
    list[int], typer.Argument(metavar="N...", help="Entries by number, as lorakit queue ls shows them.")
]


def add(
    presets: Annotated[
        list[str],
        typer.Argument(metavar="PRESET...", autocompletion=complete_preset, help="Preset files, or names in presets/."),
    ],
    *,
    sets: Set = None,
    trainer: TrainerKind = None,
    front: Annotated[bool, typer.Option("--first", help="Before all that wait.")] = False,
    as_json: Json = False,
) -> None:
    """Put presets into the queue, all or none.

    They are checked and planned now and frozen: a preset that is edited later changes nothing of what was queued.
    """
    from lorakit.cli import screen
    from lorakit.preset.files import find_preset
    from lorakit.sweep import queue

    place = workspace()
    overrides = [*(sets or ()), *([] if trainer is None else [f"trainer.kind={trainer}"])]
    paths = [find_preset(name, place.presets) for name in presets]
    entries = queue.add(queue.planned(paths, overrides, place), place, first=front)
    if as_json:
        screen.print_json([{**_json(one.trial), "added": one.added.value} for one in entries])
        return
    out = screen.console()
    for entry in entries:
        one = entry.trial
        done = (
            f": {one.run.short}; to bake it again: lorakit rerun {one.run.short}"
            if one.run and entry.added is queue.Added.DONE
            else ""
        )
        told = queue.changed(one.trial)
        size = screen.size(one.trial.bytes)
        facts = "" if done else f"  {screen.count(one.trial.steps, 'step')}, {size}"
        mark = ("✓ ", "done") if entry.added in {queue.Added.NEW, queue.Added.AGAIN} else ("· ", "same")
        changes = f"  {told}" if told else ""
        out.print(
            screen.text(
                mark,
                (f"{one.trial.index}  {one.trial.name}", "strong"),
                changes,
                f"  {entry.added.value}{done}",
                (facts, "same"),
            )
        )
    now = queue.queue_now(place)
    if now.dispatched:
        out.print(screen.text(("next: ", "same"), "lorakit queue watch"))
    else:
        out.print(screen.text(("next: ", "same"), "lorakit queue start"))


def start(
    *,
    jobs: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Bake so many at once; one for each GPU if not given.")
    ] = None,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop when a run fails.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Return once it has started; it goes on by itself.")] = False,
    as_json: Json = False,
) -> None:
    """Bake what waits, one after another, until nothing waits any more.

    What is added meanwhile is baked too. A run that fails does not stop the rest. After a crash or a pause this goes on.
    """
    from lorakit.cli import screen
    from lorakit.cli.sweep_plan import forecast_told
    from lorakit.cli.sweeping import hand_out
    from lorakit.launch.environment import gpus
    from lorakit.sweep import queue, scheduler
    from lorakit.sweep.estimate import forecast_of

    place = workspace()
    folder = queue.open_queue(place)
    out = screen.console(err=as_json)
    now = queue.queue_now(place)
    if now.paused:
        folder.order("go")
    if now.dispatched:
        if as_json:
            screen.print_json(_all_json(queue.queue_now(place)))
        else:
            told = "goes on" if now.paused else "is under way already"
            out.print(screen.text(("queue", "strong"), f"  {told}"))
            out.print(screen.text(("next: ", "same"), "lorakit queue watch"))
        return
    if not queue.waiting(now) and not any(one.phase.value == "running" for one in now.trials):
        if as_json:
            screen.print_json([])
        else:
            out.print(screen.text(("queue", "strong"), "  nothing waits"))
            out.print(screen.text(("next: ", "same"), "lorakit queue add PRESET"))
        return
    if detach:
        _detached(place, folder, jobs, fail_fast=fail_fast)
        if as_json:
            screen.print_json(_all_json(queue.queue_now(place)))
        else:
            out.print(screen.text(("queue", "strong"), "  has started and goes on by itself"))
            out.print(screen.text(("next: ", "same"), "lorakit queue watch · lorakit queue pause"))
        return
    before = {one.trial.identity for one in now.trials if one.phase.value in {"done", "cancelled"}}
    slots = scheduler.slots_for(jobs, [str(card.index) for card in gpus()])
    screen.put(out, [screen.text(("time  ", "same"), forecast_told(forecast_of(now, place), len(slots)))])
    began = time.monotonic()
    outcomes = hand_out(folder, place, out, slots, fail_fast=fail_fast, retry=False)
    outcomes = [
        one
        for one in outcomes
        if one.trial.identity not in before or one.ended.value not in {"done before", "cancelled"}
    ]
    if as_json:
        from lorakit.cli.sweeping import outcome_json

        screen.print_json([outcome_json(one) for one in outcomes])
    else:
        screen.put(out, _report(outcomes, time.monotonic() - began, screen.fitting(out)))
    raise typer.Exit(scheduler.exit_code(outcomes))


def pause() -> None:
    """Start nothing more from the queue; what trains goes on."""
    from lorakit.cli import screen
    from lorakit.sweep import queue

    queue.open_queue(workspace()).order("pause")
    out = screen.console()
    out.print(screen.text(("queue", "strong"), "  paused: what trains goes on, nothing more is started"))
    out.print(screen.text(("next: ", "same"), "lorakit queue start"))


def ls(
    *,
    everything: Annotated[bool, typer.Option("--all", help="Also all that ended, long ago too.")] = False,
    as_json: Json = False,
) -> None:
    """Show what waits, what trains and what ended lately."""
    from lorakit.cli import screen
    from lorakit.sweep import queue
    from lorakit.sweep.estimate import forecast_of

    now = queue.queue_now(workspace())
    if as_json:
        screen.print_json(_all_json(now, forecast_of(now, workspace())))
        return
    out = screen.console()
    screen.put(out, _page(now, screen.fitting(out), everything=everything, times=forecast_of(now, workspace())))


def watch() -> None:
    """Look on while the queue trains; Ctrl-C looks away."""
    from lorakit.cli import screen
    from lorakit.cli.sweep_view import watch as looked_on
    from lorakit.sweep import queue

    place = workspace()
    out = screen.console()
    looked_on(queue.open_queue(place), place, out, draw=lambda now, width: _page(now, width, everything=False))
    screen.put(out, _page(queue.queue_now(place), screen.fitting(out), everything=False))


def rm(numbers: Numbers) -> None:
    """Take entries out of the queue; their numbers and their runs stay."""
    from lorakit.sweep import queue

    now = queue.queue_now(workspace())
    chosen = queue.numbered(now, numbers)
    queue.withdraw(now, chosen)
    _tell(chosen, "taken out", "lorakit queue ls")


def first(numbers: Numbers) -> None:
    """Move entries to the front, in the order given."""
    from lorakit.sweep import queue

    now = queue.queue_now(workspace())
    chosen = queue.numbered(now, numbers)
    now.folder.order("first", [one.trial.identity for one in chosen])
    _tell(chosen, "comes first" if len(chosen) == 1 else "come first", "lorakit queue ls")


def retry(numbers: Numbers) -> None:
    """Queue again what failed, was stopped or taken out."""
    from lorakit.sweep import queue

    now = queue.queue_now(workspace())
    chosen = queue.numbered(now, numbers)
    queue.start_over(now, chosen)
    _tell(
        chosen,
        "waits again" if len(chosen) == 1 else "wait again",
        "lorakit queue ls" if now.dispatched else "lorakit queue start",
    )


def _tell(chosen: Sequence[TrialStanding], told: str, following: str) -> None:
    from lorakit.cli import screen

    out = screen.console()
    names = ", ".join(f"{one.trial.index} {one.trial.name}" for one in chosen)
    out.print(screen.text((names, "strong"), f"  {told}"))
    out.print(screen.text(("next: ", "same"), following))


def _detached(place: Workspace, folder: Folder, jobs: int | None, *, fail_fast: bool) -> None:
    """A process of its own that starts the queue. Raises RunFailed when it ends before it has begun, with what it said."""
    import subprocess
    import sys

    from lorakit.errors import RunFailed

    words = ["-C", str(place.root), "queue", "start", *(["--jobs", str(jobs)] if jobs else [])]
    words += ["--fail-fast"] if fail_fast else []
    path: Path = folder.path / "start.log"
    with path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "lorakit", *words],
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    until = time.monotonic() + _START_SECONDS
    while not folder.is_dispatched and time.monotonic() < until:
        if process.poll() is not None:
            if process.returncode == 0:
                return  # it was done as soon as it began
            said = path.read_text("utf-8", errors="replace").strip().splitlines()
            raise RunFailed("the queue did not start", why=said[-1] if said else "", todo=f"see {path}")
        time.sleep(0.05)


def _page(now: Standing, width: int | None, *, everything: bool, times: Forecast | None = None) -> list[Text]:
    from lorakit.cli import screen
    from lorakit.cli.sweep_plan import forecast_told
    from lorakit.cli.sweep_view import mark
    from lorakit.sweep import queue
    from lorakit.sweep.estimate import left_of

    ended = [one for one in now.trials if one.phase.value in {"done", "failed", "stopped", "cancelled"}]
    ended.sort(key=lambda one: (one.state.ended or one.state.created or 0.0) if one.state else 0.0)
    if not everything:
        ended = [one for one in ended if one.phase.value != "cancelled"][-_ENDED_SHOWN:]
    open_ones = [one for one in now.trials if one.phase.value not in {"done", "failed", "stopped", "cancelled"}]
    open_ones.sort(key=lambda one: one.phase.value != "running")
    lines: list[Text] = []
    seconds = dict(zip((one.trial.identity for one in left_of(now)), times.seconds if times else (), strict=False))
    if ended or open_ones:
        head = ["#", "preset", "changed", "", "run", "steps", "loss", "validation", "time"]
        table: list[list[str | Text]] = [[screen.text((word, "same")) for word in head]]
        table += [
            [str(one.trial.index), one.trial.name, queue.changed(one.trial), *_run_cells(one, mark(one.phase), seconds)]
            for one in (*ended, *open_ones)
        ]
        lines = screen.columns(table, gap=3, width=width, flexible=(1, 2))
    hidden = len(now.trials) - len(ended) - len(open_ones)
    if hidden:
        lines.append(screen.text((f"… {hidden} more that ended or were taken out: lorakit queue ls --all", "same")))
    lines.append(_summary(now))
    if times is not None and times.seconds:
        lines.append(screen.text(("time   ", "same"), forecast_told(times)))
    return [*lines, *_following(now)]


def _run_cells(one: TrialStanding, mark: Text, seconds: Mapping[str, float | None]) -> list[str | Text]:
    from lorakit.cli import run_screens, screen

    if one.state is None:
        known = seconds.get(one.trial.identity)
        expected = "" if known is None else f"~{screen.duration(known)}"
        return [mark, "", screen.text((str(one.trial.steps), "same")), "", "", screen.text((expected, "same"))]
    return [mark, one.state.run.short, *run_screens.results(one.state)]


def _summary(now: Standing) -> Text:
    from lorakit.cli import screen
    from lorakit.sweep import queue

    life = queue.life(now)
    waiting = queue.waiting(now)
    told = [f"{len(waiting)} waiting" if waiting else "nothing waits"]
    running = sum(one.phase.value == "running" for one in now.trials)
    told += [f"{running} training"] if running else []
    if waiting or running or life is not queue.Life.IDLE:
        told.append(life.value)
    return screen.text(("queue", "strong"), "  ", " · ".join(told))


def _following(now: Standing) -> list[Text]:
    from lorakit.cli import screen
    from lorakit.sweep import queue

    match queue.life(now):
        case queue.Life.STARTED:
            word = "lorakit queue watch · lorakit queue pause"
        case _ if queue.waiting(now) or now.paused:
            word = "lorakit queue start"
        case _:
            word = "lorakit queue add PRESET"
    return [screen.text(("next: ", "same"), word)]


def _report(outcomes: Sequence[Outcome], seconds: float, width: int | None) -> list[Text]:
    from lorakit.archive.records import state
    from lorakit.cli import run_screens, screen
    from lorakit.cli.sweeping import ended_text
    from lorakit.sweep import queue

    done = sum(one.ended.value in {"baked", "done before"} for one in outcomes)
    lines = [
        screen.text(""),
        screen.text(("queue", "strong"), f" · {done} of {len(outcomes)} done · {screen.duration(seconds)}"),
    ]
    head = ["#", "preset", "changed", "outcome", "run", "steps", "loss", "validation", "time"]
    table: list[list[str | Text]] = [[screen.text((word, "same")) for word in head]]
    for one in outcomes:
        row: list[str | Text] = [str(one.trial.index), one.trial.name, queue.changed(one.trial), ended_text(one)]
        if one.run is not None:
            row += [one.run.short, *run_screens.results(state(one.run))]
        table.append(row)
    lines += screen.columns(table, gap=3, width=width, flexible=(1, 2))
    for one in outcomes:
        if one.run is None and one.error is not None:
            lines.append(screen.text((f"✗ {one.trial.index} {one.trial.name}  ", "fail"), one.error.what))
            lines += [screen.text(f"  {one.error.todo}")] if one.error.todo else []
    runs = [one.run.short for one in outcomes if one.run is not None and one.ended.value == "baked"]
    if len(runs) > 1:
        lines.append(screen.text(("next: ", "same"), f"lorakit compare {' '.join(runs[:8])}"))
    elif any(one.ended.value in {"failed", "stopped"} for one in outcomes):
        lines.append(
            screen.text(("next: ", "same"), "lorakit queue retry N, or lorakit queue start for what still waits")
        )
    elif runs:
        lines.append(screen.text(("next: ", "same"), f"lorakit show {runs[0]}"))
    return lines


def _json(one: TrialStanding) -> dict[str, Any]:
    return {
        "index": one.trial.index,
        "name": one.trial.name,
        "changed": dict(one.trial.point),
        "trial": one.trial.identity,
        "trainer": one.trial.trainer,
        "seed": one.trial.seed,
        "phase": one.phase.value,
        "run": one.state.to_json() if one.state else None,
    }


def _all_json(now: Standing, times: Forecast | None = None) -> dict[str, Any]:
    from lorakit.sweep import queue

    told = (
        {}
        if times is None
        else {"seconds": times.total, "seconds_unknown": times.unknown, "measured_on": list(times.runs)}
    )
    return {
        **told,
        "path": str(now.folder.path),
        "state": queue.life(now).name.lower(),
        "entries": [_json(one) for one in now.trials],
    }
