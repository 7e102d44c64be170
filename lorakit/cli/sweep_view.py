"""How a sweep looks: its table, live while several trials bake at once, and still when it is asked for."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from lorakit.cli import screen

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from lorakit.archive.run import Run
    from lorakit.preset.files import ResolvedPreset
    from lorakit.sweep.folder import Folder, Planned
    from lorakit.sweep.pack_memory import PackPlan
    from lorakit.sweep.scheduler import Outcome, Slot, Stop
    from lorakit.sweep.standing import Phase, Standing, TrialStanding
    from lorakit.workspace import Workspace

    #: Draws where a sweep stands, within a width.
    Draw = Callable[[Standing, int | None], Sequence[Text]]

__all__ = ["at_slot", "baked_side_by_side", "mark", "table", "watch"]

_MARKS: Final = {
    "waiting": ("·", "same"),
    "queued": ("·", "strong"),
    "running": ("▸", "look"),
    "done": ("✓", "done"),
    "failed": ("✗", "fail"),
    "stopped": ("■", "look"),
    "interrupted": ("✗", "fail"),
    "cancelled": ("–", "same"),
}
#: Trials that a screen shows: those under way, the newest that ended, the next that wait.
_ROWS: Final = 24
_REDRAW_SECONDS: Final = 1.0


def at_slot(trial: Planned, slot: Slot) -> ResolvedPreset:
    """The trial's preset, on the GPU of its slot, if it has one and the preset names none."""
    from lorakit.preset.provenance import Provenance

    resolved = trial.resolved()
    launch = resolved.preset.launch
    if slot.gpu is None or launch.gpu_ids or launch.cpu or launch.processes > 1:
        return resolved
    preset = resolved.preset.model_copy(update={"launch": launch.model_copy(update={"gpu_ids": slot.gpu})})
    told = Provenance("derived", text="the GPU of this worker of the sweep")
    return replace(resolved, preset=preset, provenance={**resolved.provenance, "launch.gpu_ids": told})


def baked_side_by_side(
    folder: Folder,
    workspace: Workspace,
    out: Console,
    slots: Sequence[Slot],
    stop: Stop,
    *,
    fail_fast: bool,
    retry: bool,
    packs: PackPlan | None = None,
) -> list[Outcome]:
    """Bake several trials at once and show the table. Ctrl-C stops what trains, saved; again faster, once more kills."""
    from lorakit.bake.bake import bake as bake_alone
    from lorakit.bake.bake import interrupts
    from lorakit.cli.baking import words_typed
    from lorakit.sweep import scheduler

    training: dict[str, Run] = {}
    interrupted: list[int] = []
    bake_of: Callable[..., Run] = bake_alone
    if packs is not None and packs.trials > 1:
        from lorakit.sweep.packs import Packer

        bake_of = Packer(folder.path / "packs", packs, lambda: stop.why == "stopped").bake

    def bake(trial: Planned, lineage: dict[str, Any], slot: Slot) -> Run:
        def on_update(run: Run, records: Sequence[dict[str, Any]]) -> None:
            del records
            if training.setdefault(trial.identity, run) is run and interrupted:
                _ask(run, 1)  # born after somebody wanted all of it to end

        try:
            return bake_of(at_slot(trial, slot), workspace, lineage=lineage, argv=words_typed(), on_update=on_update)
        finally:
            training.pop(trial.identity, None)

    def on_interrupt(level: int) -> None:
        interrupted.append(level)
        stop.ask("stopped")
        for run in list(training.values()):
            _ask(run, level)

    outcomes: list[Outcome] = []
    with interrupts(on_interrupt), _shown(folder, workspace, out):
        for outcome in scheduler.run(folder, workspace, bake, slots=slots, fail_fast=fail_fast, retry=retry, stop=stop):
            outcomes.append(outcome)
            if not out.is_terminal:
                screen.put(out, [_line(outcome)])
    return outcomes


def _line(outcome: Outcome) -> Text:
    from lorakit.archive.records import state
    from lorakit.cli import run_screens

    if outcome.run is not None:
        return run_screens.headline(state(outcome.run))
    why = f": {outcome.error.what}" if outcome.error else ""
    return screen.text((outcome.trial.name, "strong"), f"  {outcome.ended.value}{why}")


def _ask(run: Run, level: int) -> None:
    from lorakit.bake.bake import request_stop
    from lorakit.errors import ArchiveError

    with contextlib.suppress(ArchiveError):  # it ended by itself meanwhile
        request_stop(run, level)


@contextlib.contextmanager
def _shown(folder: Folder, workspace: Workspace, out: Console, draw: Draw | None = None) -> Iterator[None]:
    """The table, redrawn until the block ends; nothing where nothing can be redrawn."""
    if not out.is_terminal:
        yield
        return
    over = threading.Event()
    drawer = threading.Thread(target=_draw, args=(folder, workspace, out, over, draw or _table), daemon=True)
    drawer.start()
    try:
        yield
    finally:
        over.set()
        drawer.join()


def _draw(folder: Folder, workspace: Workspace, out: Console, over: threading.Event, draw: Draw) -> None:
    from rich.console import Group
    from rich.live import Live

    from lorakit.cli.sweep_jobs import Asker
    from lorakit.sweep.standing import standing

    known: dict[str, str | None] = {}
    with Asker(folder) as asker, Live(console=out, auto_refresh=False, transient=True) as live:
        while not over.is_set():
            now = asker.merged(standing(folder, workspace.runs, known=known))
            live.update(Group(*draw(now, screen.fitting(out))), refresh=True)
            over.wait(_REDRAW_SECONDS)


def _table(now: Standing, width: int | None) -> list[Text]:
    return table(now, width=width)


def watch(folder: Folder, workspace: Workspace, out: Console, draw: Draw | None = None) -> None:
    """The live table until the sweep is over, or nobody bakes it; Ctrl-C looks away."""
    from lorakit.cli.sweep_jobs import ASK_SECONDS, asked
    from lorakit.sweep.standing import Phase, standing

    known: dict[str, str | None] = {}
    with contextlib.suppress(KeyboardInterrupt), _shown(folder, workspace, out, draw):
        while True:
            now, silent = asked(standing(folder, workspace.runs, known=known))
            if now.is_over or not (now.dispatched or silent or now.count(Phase.RUNNING, Phase.QUEUED)):
                break
            time.sleep(ASK_SECONDS if (folder.path / "jobs").is_dir() else _REDRAW_SECONDS)


def table(now: Standing, *, width: int | None, rows: int | None = _ROWS) -> list[Text]:
    """The sweep in a table: a line for each trial (the most interesting ones, when there are many), then where all of it stands."""
    from lorakit.sweep.axes import label

    axes = list(now.folder.axes)
    head = ["trial", *(label(key) for key in axes), "", "run", "steps", "loss", "validation", "time"]
    lines: list[list[str | Text]] = [[screen.text((word, "same")) for word in head]]
    shown = _interesting(now.trials, rows)
    lines += [_row(one, axes) for one in shown]
    made = screen.columns(lines, gap=3, width=width)
    if len(shown) < len(now.trials):
        made.append(screen.text((f"… {len(now.trials) - len(shown)} more", "same")))
    return [*made, summary(now)]


def _interesting(trials: Sequence[TrialStanding], rows: int | None) -> list[TrialStanding]:
    if rows is None or len(trials) <= rows:
        return list(trials)
    waiting = [one for one in trials if one.phase.value == "waiting"][: rows // 4]
    other = [one for one in trials if one.phase.value != "waiting"]
    chosen = {id(one) for one in (*other[-(rows - len(waiting)) :], *waiting)}
    return [one for one in trials if id(one) in chosen]


def mark(phase: Phase) -> Text:
    """A phase in its colour."""
    sign, meaning = _MARKS[phase.value]
    return screen.text((f"{sign} {phase.value}", meaning))


def _row(one: TrialStanding, keys: Sequence[str]) -> list[str | Text]:
    from lorakit.cli import run_screens

    row: list[str | Text] = [str(one.trial.index), *(one.trial.point.get(key, "") for key in keys), mark(one.phase)]
    if one.state is None:
        return row
    return [*row, one.state.run.short, *run_screens.results(one.state)]


def summary(now: Standing) -> Text:
    """One line: how many of each, and how long it will take."""
    counts = [(phase, sum(one.phase.value == phase for one in now.trials)) for phase in _MARKS]
    told = [f"{count} {phase}" for phase, count in counts if count]
    if now.seconds_left and not now.is_over:
        told.append(f"about {screen.duration(now.seconds_left)} of training left")
    if not now.is_over:
        queued = any(one.phase.value == "queued" for one in now.trials)
        shift = now.folder.last_shift
        killed = shift is not None and not shift.ended and not now.dispatched
        nobody = "what handed out its trials was killed" if killed else "nobody hands out its trials"
        by = "Slurm hands out its trials" if queued else nobody
        told.append("paused" if now.paused else "under way" if now.dispatched else by)
    return screen.text((f"sweep {now.folder.id}", "strong"), " · ", " · ".join(told))
