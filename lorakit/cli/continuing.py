"""`lorakit resume`, `rerun`, `repair`: go on with a run, do one again, put the archive right after a crash."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorakit.cli.batching import end_lost
from lorakit.cli.options import Json, RunName, complete_run, workspace

if TYPE_CHECKING:
    from rich.console import Console

    from lorakit.archive.repair import Action
    from lorakit.archive.run import Run
    from lorakit.bake.resume import Resumption

__all__ = ["repair", "rerun", "resume"]

Anyway = Annotated[
    bool,
    typer.Option("--anyway", help="Also where dataset, base model or trainer differ; the difference is recorded."),
]
Detach = Annotated[bool, typer.Option("--detach", help="Return once it has started; it goes on by itself.")]


def resume(run: RunName = "latest", *, anyway: Anyway = False, detach: Detach = False, as_json: Json = False) -> None:
    """Go on with a run from its last whole training state.

    For runs that were stopped or cut short. It becomes a further attempt of the same run: steps, rates, file names and curves count on where the state stands, and nothing that
    is sealed changes. A run without a state is never started anew in silence: that is what `lorakit rerun` is for.
    """
    from lorakit.archive.run import open_run
    from lorakit.bake.resume import resume as resume_of
    from lorakit.cli import screen
    from lorakit.cli.baking import in_view, tell_end, words_typed

    place = workspace()
    found = open_run(place.runs, run)
    out = screen.console(err=as_json)

    def on_picked(picked: Resumption) -> None:
        screen.put(out, _picked(found, picked))

    def work(**watching: Any) -> Run:
        return resume_of(
            found, place, anyway=anyway, detach=detach, on_picked=on_picked, argv=words_typed(), **watching
        )

    tell_end(in_view(found.name, out, work), out, detach=detach, as_json=as_json)


def _picked(run: Run, picked: Resumption) -> list[Any]:
    from lorakit.cli import screen

    state = picked.state
    of = f" of {state.total_steps}" if state.total_steps else ""
    where = state.path.relative_to(run.path).as_posix()
    lines = [screen.text(("going on ", "strong"), f"after step {state.step}{of}", (f"  {where}", "same"))]
    for one in picked.passed_over:
        name = one.path.relative_to(run.path).as_posix()
        lines.append(screen.text(("passed over ", "look"), f"{name}: half written, {one.fault}"))
    return lines


Places = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=PATH",
        help="Where a file or folder is by now: base.model, dataset.path, …; may be repeated.",
    ),
]


def rerun(
    run: RunName = "latest",
    *,
    places: Places = None,
    anyway: Anyway = False,
    detach: Detach = False,
    as_json: Json = False,
) -> None:
    """Bake a run's archived request once more, as a new run.

    Every value and the seed are the archived ones, whatever became of the preset file. It refuses, saying what, where dataset, base
    model or trainer are no longer what that run had. Where they are may be said anew: what counts is what is in them.
    """
    from lorakit.archive.run import open_run
    from lorakit.bake.rerun import rerun as rerun_of
    from lorakit.cli import screen
    from lorakit.cli.baking import in_view, tell_end, words_typed

    place = workspace()
    found = open_run(place.runs, run)
    out = screen.console(err=as_json)

    def work(**watching: Any) -> Run:
        return rerun_of(
            found, place, anyway=anyway, detach=detach, overrides=places or (), argv=words_typed(), **watching
        )

    tell_end(in_view(found.name, out, work), out, detach=detach, as_json=as_json)


def repair(
    run: Annotated[
        str | None,
        typer.Argument(metavar="RUN", autocompletion=complete_run, help="Only this run; all of them if none is given."),
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Put the archive right after a crash.

    Ends and seals dead runs, sweeps up what is left over, rebuilds the index. Safe beside runs that train, and as often as wanted. Says what it did, and what it found torn or damaged and left alone.
    """
    from lorakit.archive.repair import repair_archive, repair_run
    from lorakit.archive.run import list_runs, open_run
    from lorakit.cli import screen

    place = workspace()
    if run is None:
        actions = [*end_lost(list_runs(place.runs)), *repair_archive(place.runs, private=place.private)]
    else:
        found = open_run(place.runs, run)
        actions = [*(end_lost([found]) or repair_run(found))]
    if as_json:
        screen.print_json({"actions": [action.to_json() for action in actions]})
        return
    _tell_actions(actions, screen.console())


#: In which order, in which colour, and what is said of several.
_TOLD = {
    "ended": ("done", "ended"),
    "settled": ("done", "moved into place"),
    "swept": ("done", "left-over removed"),
    "sealed": ("done", "sealed"),
    "indexed": ("done", "index rebuilt"),
    "torn": ("fail", "torn, never offered for anything"),
    "half-written": ("look", "half written, never resumed from"),
    "damaged": ("fail", "unreadable record"),
}


def _tell_actions(actions: list[Action], out: Console) -> None:
    from lorakit.cli import screen

    if not [action for action in actions if action.kind != "indexed"]:
        out.print(screen.text(("✓ ", "done"), "nothing to repair"))
        return
    for action in actions:
        name = f"{action.run[-4:]}  " if action.run else ""
        screen.put(out, [screen.text((f"{action.kind:<13}", _TOLD[action.kind][0]), name, action.what)])
    counted = Counter(action.kind for action in actions)
    out.print(screen.text(" · ".join(f"{counted[kind]} {_TOLD[kind][1]}" for kind in _TOLD if counted[kind])))
