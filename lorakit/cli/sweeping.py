"""`lorakit sweep run`: a grid of bakes, typed on one line."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorakit.cli.batching import On, refuse_place
from lorakit.cli.options import Json, TrainerKind, complete_preset, workspace

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console
    from rich.text import Text

    from lorakit.archive.run import Run
    from lorakit.sweep.definition import Definition
    from lorakit.sweep.folder import Folder, Planned
    from lorakit.sweep.pack_memory import PackPlan
    from lorakit.sweep.scheduler import Outcome, Slot
    from lorakit.sweep.trials import Sweep
    from lorakit.workspace import Workspace

__all__ = ["ended_text", "hand_out", "outcome_json", "run"]


def run(
    preset: Annotated[
        str | None,
        typer.Argument(
            metavar="PRESET",
            autocompletion=complete_preset,
            help="A preset, or a file that describes a sweep; presets/default.toml or the latest run's preset if not given.",
        ),
    ] = None,
    *,
    unet_lr: Annotated[
        str | None, typer.Option(metavar="RATES", help='Rates of the UNet: 1e-4,2.5e-4 or "1e-5..1e-3 log 5"')
    ] = None,
    te_lr: Annotated[
        str | None, typer.Option(metavar="RATES", help="Rates of the text encoders: 1.5e-5,5e-5 or pairs 5e-5/2e-5")
    ] = None,
    dim: Annotated[str | None, typer.Option(metavar="DIMS", help="Ranks: 16,32")] = None,
    alpha: Annotated[str | None, typer.Option(metavar="ALPHAS", help="Alphas: 8,16 or dim/2,dim")] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=V1,V2", help="Values of any key; may be repeated.")
    ] = None,
    seed: Annotated[str | None, typer.Option(metavar="SEEDS", help="Seeds: 1,2,3")] = None,
    seeds: Annotated[
        int | None, typer.Option(metavar="N", help="Bake each point N times, with seeds that follow the preset's.")
    ] = None,
    where: Annotated[
        list[str] | None, typer.Option(metavar="CONDITION", help="Leave out other trials: 'te_lr <= unet_lr/2'")
    ] = None,
    zips: Annotated[
        list[str] | None, typer.Option("--zip", metavar="A,B", help="Let axes go hand in hand: dim,alpha")
    ] = None,
    skip_refused: Annotated[
        bool, typer.Option("--skip-refused", help="Leave out trials that cannot be baked, and bake the others.")
    ] = False,
    trainer: TrainerKind = None,
    jobs: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Bake so many at once; one for each GPU if not given.")
    ] = None,
    pack: Annotated[
        str | None,
        typer.Option(metavar="K|auto", help="Train so many trials in one process (built-in trainer); auto: what fits."),
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="With --pack: by turns, so that each has the same bits as alone.")
    ] = False,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="End the sweep when a trial fails.")] = False,
    on: On = None,
    width: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="With --on slurm: so many at once; slurm.width if not given.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the trials and bake none.")] = False,
    as_json: Json = False,
) -> None:
    """Bake every combination of some values.

    Typed again, it goes on: what is done is skipped. A run that fails does not stop the rest; Ctrl-C stops what is training, with
    what is trained saved, and the sweep. `run` may be left out: lorakit sweep PRESET --unet-lr 1e-4,2.5e-4.
    """
    from lorakit.cli import screen, sweep_packed
    from lorakit.cli.sweep_jobs import submit
    from lorakit.cli.sweep_plan import plan_json, plan_page
    from lorakit.errors import UsageError
    from lorakit.launch.environment import gpus
    from lorakit.sweep import scheduler, trials
    from lorakit.sweep.axes import parse_axes
    from lorakit.sweep.definition import Definition

    place = workspace()
    if on is not None:
        refuse_place(on)
    sweep_packed.refuse_with_pack(pack, jobs, on)
    given = {"--unet-lr": unet_lr, "--te-lr": te_lr, "--dim": dim, "--alpha": alpha, "--seed": seed}
    typed = Definition.of(parse_axes(given, sets or ()), zips=zips or (), where=where or (), seeds=seeds)
    out = screen.console(err=as_json)
    path, asked = _asked(preset, typed, place, out)
    if not asked.axes and asked.seeds is None:
        raise UsageError("a sweep needs values to try", todo="lorakit sweep PRESET --unet-lr 1e-4,2.5e-4")
    # What has one value only is the same in all trials: a change of the preset rather than an axis.
    varying = tuple(axis for axis in asked.axes if len(axis.values) > 1) or asked.axes
    fixed = [str(axis) for axis in asked.axes if axis not in varying]
    fixed += [] if trainer is None else [f"trainer.kind={trainer}"]
    asked = replace(asked, axes=varying, fixed=(*asked.fixed, *fixed))
    with _looking(out) as on_trial:
        found = trials.prepare(path, asked, place, skip_refused=skip_refused, on_trial=on_trial)
    slots = scheduler.slots_for(jobs, [str(card.index) for card in gpus()])
    planned = sweep_packed.planned_pack(found, place, pack, exact=exact)
    if dry_run and as_json:
        screen.print_json({**plan_json(found, place), "pack": sweep_packed.as_json(planned)})
        return
    screen.put(out, plan_page(found, place, screen.fitting(out), at_once=(width or 1) if on else len(slots)))
    if planned is not None:
        out.print(sweep_packed.told(planned, found.trials[0].resolved.preset.length.batch_size))
    if dry_run:
        return
    from lorakit.cli.baking import words_typed
    from lorakit.sweep.folder import create

    folder = create(found, asked.to_json(), place, words_typed())
    if on is not None:
        submit(folder, place, out, width=width, as_json=as_json)
        return
    began = time.monotonic()
    outcomes = hand_out(folder, place, out, slots, fail_fast=fail_fast, packs=planned)
    if as_json:
        screen.print_json({"sweep": found.id, "trials": [outcome_json(one) for one in outcomes]})
    else:
        screen.put(out, _report(found, outcomes, time.monotonic() - began, screen.fitting(out)))
    raise typer.Exit(scheduler.exit_code(outcomes))


def hand_out(
    folder: Folder,
    workspace: Workspace,
    out: Console,
    slots: Sequence[Slot],
    *,
    fail_fast: bool,
    retry: bool = True,
    packs: PackPlan | None = None,
) -> list[Outcome]:
    """Bake what is not done yet, and show how it goes: one run in its live view, several in a table.

    With ``packs`` each slot is one for several trials. A trial that was cancelled, and brought back meanwhile, has one outcome, the later one.
    """
    from lorakit.cli import screen
    from lorakit.cli.sweep_packed import seats
    from lorakit.cli.sweep_view import baked_side_by_side
    from lorakit.sweep import scheduler

    stop = scheduler.Stop()
    if packs is not None and packs.trials > 1:
        slots = seats(slots, packs)
    if len(slots) > 1:
        outcomes = baked_side_by_side(
            folder, workspace, out, slots, stop, fail_fast=fail_fast, retry=retry, packs=packs
        )
    else:

        def bake(trial: Planned, lineage: dict[str, Any], slot: Slot) -> Run:
            return _bake(trial, lineage, slot, workspace, out)

        outcomes = list(
            scheduler.run(folder, workspace, bake, slots=slots, fail_fast=fail_fast, retry=retry, stop=stop)
        )
    if stop.why and stop.why != "stopped":
        out.print(screen.text(("ended early  ", "fail"), stop.why))
    return list({one.trial.identity: one for one in outcomes}.values())


def _asked(named: str | None, typed: Definition, workspace: Workspace, out: Console) -> tuple[Path, Definition]:
    """The preset, and the sweep: that of a file, if one is named, with what is typed besides."""
    from lorakit.cli import screen
    from lorakit.preset.files import find_preset
    from lorakit.sweep.definition import is_sweep_file, read_definition
    from lorakit.sweep.trials import default_preset

    if named is not None:
        path = find_preset(named, workspace.presets)
        if not is_sweep_file(path):
            return path, typed
        typed = read_definition(path) | typed
        if typed.preset is not None:
            return find_preset(typed.preset, workspace.presets), typed
    path, why = default_preset(workspace)
    out.print(screen.text(("preset  ", "same"), why))
    return path, typed


@contextmanager
def _looking(out: Console) -> Iterator[Callable[[int, int], None] | None]:
    """A line that says how many trials are checked and planned, where somebody can see it."""
    from lorakit.cli import screen

    if not out.is_terminal:
        yield None
        return
    with out.status(screen.text("checking the trials")) as status:
        yield lambda done, total: status.update(screen.text(f"checking the trials  {done}/{total}"))


def _bake(trial: Planned, lineage: dict[str, Any], slot: Slot, workspace: Workspace, out: Console) -> Run:
    from lorakit.archive.records import state
    from lorakit.cli import run_screens, screen
    from lorakit.cli.baking import bake_in_view
    from lorakit.cli.sweep_view import at_slot
    from lorakit.cli.trouble import problem_lines
    from lorakit.errors import LorakitError, Problem

    if lineage["kind"] == "queue":
        out.print(screen.text((f"queue {lineage['index']}  ", "same"), trial.name, "  ", _told(trial.point.items())))
    else:
        out.print(screen.text((f"trial {lineage['index']}/{lineage['of']}  ", "same"), _told(trial.point.items())))
    try:
        made = bake_in_view(at_slot(trial, slot), workspace, out, lineage=lineage)
    except LorakitError as error:
        problems = error.problems or (Problem(error.what, error.why, error.todo),)
        screen.put(out, problem_lines(problems))
        raise
    out.print(run_screens.headline(state(made)))
    return made


def _told(point: Iterable[tuple[str, str]]) -> str:
    from lorakit.sweep.axes import label

    return "  ".join(f"{label(key)} {value}" for key, value in point)


def _report(sweep: Sweep, outcomes: Sequence[Outcome], seconds: float, width: int | None) -> list[Text]:
    from lorakit.archive.records import state
    from lorakit.cli import run_screens, screen
    from lorakit.cli.sweep_plan import heads, seed_told, shape

    done = [one for one in outcomes if one.ended in {"baked", "done before"}]
    skipped = sum(one.ended == "done before" for one in outcomes)
    told = f"{len(done)} of {len(outcomes)} done" + (f", {skipped} of them before" if skipped else "")
    lines = [
        screen.text(""),
        screen.text(
            (f"sweep {sweep.id}", "strong"),
            f" · {shape(sweep)} · {told} · {screen.duration(seconds)}{seed_told(sweep)}",
        ),
    ]
    head = ["run", *heads(sweep), "outcome", "steps", "loss", "validation", "time"]
    table: list[list[str | Text]] = [[screen.text((word, "same")) for word in head]]
    for one in outcomes:
        row: list[str | Text] = [
            one.run.short if one.run else "–",
            *one.trial.point.values(),
            ended_text(one),
        ]
        if one.run is not None:
            found = state(one.run)
            row += run_screens.results(found)
        table.append(row)
    lines += screen.columns(table, gap=3, width=width)
    lines += [
        screen.text((f"✗ trial {one.trial.index}  ", "fail"), f"{_told(one.trial.point.items())}: {one.error.what}")
        for one in outcomes
        if one.run is None and one.error is not None
    ]
    runs = [one.run.short for one in done if one.run is not None]
    if len(runs) > 1:
        lines.append(
            screen.text(("next: ", "same"), f"lorakit sweep report {sweep.id} · lorakit compare {' '.join(runs)}")
        )
    elif any(one.ended in {"failed", "stopped"} for one in outcomes):
        lines.append(screen.text(("next: ", "same"), "lorakit ls tells why; typed again, the sweep goes on"))
    return lines


def ended_text(outcome: Outcome) -> Text:
    """What became of a trial, in its colour."""
    from lorakit.cli import screen

    mark, meaning = {
        "baked": ("✓", "done"),
        "done before": ("✓", "done"),
        "failed": ("✗", "fail"),
        "stopped": ("■", "look"),
        "cancelled": ("–", "same"),
        "not started": ("–", "same"),
    }[outcome.ended.value]
    return screen.text((f"{mark} {outcome.ended.value}", meaning))


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    """Plain values."""
    from lorakit.archive.records import state

    trial = outcome.trial
    return {
        "name": trial.name,
        "point": dict(trial.point),
        "trial": trial.identity,
        "trainer": trial.trainer,
        "seed": trial.seed,
        "outcome": outcome.ended.value,
        "error": outcome.error.what if outcome.error else None,
        "run": state(outcome.run).to_json() if outcome.run else None,
    }
