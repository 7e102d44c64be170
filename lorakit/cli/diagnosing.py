"""`lorakit diagnose`: what a run's evidence says, and the preset to try next."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from lorakit.cli.options import Json, complete_run, workspace

if TYPE_CHECKING:
    from rich.text import Text

    from lorakit.verdict.diagnose.diagnosis import Diagnosis
    from lorakit.verdict.diagnose.next_preset import NextPreset
    from lorakit.verdict.diagnose.sweeps import SweepDiagnosis
    from lorakit.verdict.diagnose.targets import Target

__all__ = ["diagnose", "page", "sweep_page"]

_MEANING: Final = {"sure": "fail", "likely": "look", "possible": "same"}
_NAMES: Final = {"unet": "UNet", "te1": "TE1", "te2": "TE2"}


def diagnose(
    target: Annotated[
        str,
        typer.Argument(
            metavar="RUN|SWEEP|FILE|DIR",
            autocompletion=complete_run,
            help="A run, a sweep, a LoRA file, or a folder of TensorBoard logs.",
        ),
    ] = "latest",
    *,
    write: Annotated[
        str | None,
        typer.Option("--write", metavar="FILE", help="Save the next preset: the run's, with what is advised."),
    ] = None,
    then: Annotated[
        str | None,
        typer.Option("--then", metavar="ROAD", help="With --write: go on by refine-unet, refine-te or anneal."),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option("--from", metavar="CHECKPOINT", help="With --then: from this one; else the advised or the last."),
    ] = None,
    saw: Annotated[
        list[str] | None,
        typer.Option(
            "--saw", metavar="WORD", help="What the pictures show, which no program sees; a wrong word lists them all."
        ),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Another threshold, e.g. unet.moved_much=0.4; may be repeated."
        ),
    ] = None,
    no_embeddings: Annotated[
        bool, typer.Option("--no-embeddings", help="Do not measure the text encoders where that was not done yet.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say what went wrong in a run, and what to try next."""
    from lorakit.cli import screen
    from lorakit.errors import UsageError
    from lorakit.verdict.diagnose.diagnosis import diagnose as diagnosed
    from lorakit.verdict.diagnose.findings import ROADS, SEEN
    from lorakit.verdict.diagnose.targets import facts_of, find_target
    from lorakit.verdict.diagnose.thresholds import settle

    place = workspace()
    for word in saw or ():
        if word not in SEEN:
            raise UsageError(
                f"--saw {word}", why="words are " + "; ".join(f"{one} ({told})" for one, told in SEEN.items())
            )
    road = next((one for one in ROADS if one == then), None)
    if then is not None and road is None:
        raise UsageError(f"--then {then}", why=f"roads are {', '.join(ROADS)}")
    if (then or start) and not write:
        raise UsageError("--then and --from say what is written", todo="add --write FILE")
    table = place.settings.get("diagnose")
    if table is not None and not isinstance(table, dict):
        raise UsageError("lorakit.toml: diagnose is a table", todo="[diagnose]")
    settle("sdxl", table, sets or ())  # a wrong word is told before anything is measured
    found_target = find_target(target, place)
    out = screen.console(err=as_json)
    if found_target.sweep is not None:
        if write or saw:
            raise UsageError(
                "a sweep is many runs", why="--write and --saw are about one", todo="lorakit diagnose RUN --write FILE"
            )
        _sweep(found_target, table, sets or [], as_json=as_json)
        return
    with out.status(screen.text("looking")) if out.is_terminal else nullcontext():
        facts = facts_of(found_target, place, embeddings=not no_embeddings, seen=saw or ())
    found = diagnosed(facts, settle(facts.scale, table, sets or ()))
    told = _keep(found, found_target)
    planned = _write(found, found_target, write, road, start) if write else None
    if as_json:
        screen.print_json({**found.to_json(), **_written_json(planned)})
        return
    lines = page(found, found_target.run.short if found_target.run else None, planned)
    screen.put(out, [*lines, *(screen.text((one, "look")) for one in told)])


def _keep(found: Diagnosis, target: Target) -> list[str]:
    """Keep it in the run; where that cannot be, say so: a diagnosis is worth printing all the same."""
    from lorakit.errors import ArchiveError, DiskError
    from lorakit.verdict.diagnose.diagnosis import keep

    if target.run is None:
        return []
    try:
        keep(found, target.run)
    except (DiskError, ArchiveError) as error:
        return [f"not kept in the run: {error}"]
    return []


def _write(found: Diagnosis, target: Target, path: str, road: Any, start: str | None) -> NextPreset:
    from lorakit.errors import UsageError
    from lorakit.verdict.diagnose.next_preset import plan_next, write_next

    if target.run is None:
        raise UsageError(
            "only a run has a preset that the next one can extend",
            todo="lorakit import FILE makes a preset of a LoRA's metadata",
        )
    file = Path(path if path.endswith(".toml") else f"{path}.toml")
    planned = plan_next(found, target.run, workspace(), file, road=road, start=start)
    write_next(planned)
    return planned


def _written_json(planned: NextPreset | None) -> dict[str, Any]:
    from lorakit.verdict.diagnose.next_preset import changes_json

    return {} if planned is None else {"written": str(planned.path), "written_changes": changes_json(planned.changes)}


def page(found: Diagnosis, run: str | None, planned: NextPreset | None = None) -> list[Text]:
    """Findings first, then what is healthy, what carries the LoRA, what could not be seen, and the next command."""
    from lorakit.cli import screen

    lines: list[Text] = []
    for one in found.findings:
        lines.append(screen.text((f"{one.code} {one.confidence:<8} ", _MEANING[one.confidence]), (one.title, "strong")))
        lines += [screen.text(f"             {each.text}", (f"  {each.source}", "same")) for each in one.evidence]
        lines += [screen.text(f"             → {each.text}") for each in one.advice]
    if not found.findings:
        lines.append(
            screen.text(("nothing found ", "done"), "of what lorakit knows to look for; samples have the last word")
        )
    for at, told in enumerate(found.healthy):
        lines.append(screen.text(("healthy      " if at == 0 else " " * 13, "done"), told))
    if carried := found.carried:
        shares = ", ".join(f"{_NAMES[part]} {_percent(share)}" for part, share in carried.items())
        lines.append(screen.text(("carried by   ", "same"), f"{shares} of the squared weight norm"))
    scale = "SDXL" if found.facts.scale == "sdxl" else "the bench models"
    lines.append(screen.text(("measured by  ", "same"), f"thresholds for {scale}, of {found.facts.subject}"))
    lines += [screen.text(("not seen     ", "same"), f"{one.what}: {one.why}") for one in found.facts.unseen]
    if planned is not None:
        lines.append(screen.text(("✓ ", "done"), f"{planned.path}"))
        lines += [
            screen.text(f"  {one.key} = {_spelled(one.key, one.value)}", (f"  {one.why}", "same"))
            for one in planned.changes
        ]
        lines.append(screen.text(("next: ", "same"), f"lorakit check {planned.path}"))
    elif run is not None:
        road = "" if any(one.to_json()["changes"] for one in found.findings) else " --then anneal"
        lines.append(screen.text(("next preset: ", "same"), f"lorakit diagnose {run}{road} --write presets/NAME.toml"))
    return lines


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.005 else "under 1 %" if share else "0 %"


def _spelled(key: str, value: Any) -> str:
    from lorakit.preset.dump import spell

    return spell(value, tuple(key.split(".")))


def _sweep(target: Target, table: dict[str, Any] | None, sets: list[str], *, as_json: bool) -> None:
    from lorakit.cli import screen
    from lorakit.sweep.standing import standing
    from lorakit.verdict.diagnose.sweeps import of_sweep
    from lorakit.verdict.diagnose.thresholds import settle

    place = workspace()
    assert target.sweep is not None
    now = standing(target.sweep, place.runs)
    out = screen.console(err=as_json)
    # A terminal is told that it takes a while; anything else gets the answer alone.
    with (
        out.status(screen.text(f"looking at {screen.count(len(now.trials), 'trial')}"))
        if out.is_terminal
        else nullcontext()
    ):
        found = of_sweep(now, place, lambda facts: settle(facts.scale, table, sets))
    if as_json:
        screen.print_json(found.to_json())
        return
    screen.put(out, sweep_page(found, width=screen.fitting(out)))


def sweep_page(found: SweepDiagnosis, *, width: int | None) -> list[Text]:
    """Trials, those with the least findings first; then what the grid says."""
    from lorakit.cli import screen

    total = len(found.trials)
    waiting = f", {found.waiting} not done" if found.waiting else ""
    lines = [screen.text((found.sweep, "strong"), f" · {screen.count(total, 'trial')} looked at{waiting}")]
    axes = list(dict.fromkeys(key for one in found.trials for key in one.point))
    rows: list[list[str | Text]] = [[screen.text((word, "same")) for word in ("run", *axes, "findings")]]
    for one in found.trials:
        told = ", ".join(f"{each.code} {each.title} ({each.confidence})" for each in one.found.findings)
        cells: list[str | Text] = [one.run.short, *(one.point.get(axis, "–") for axis in axes)]
        rows.append([*cells, told or screen.text(("none", "done"))])
    lines += screen.columns(rows, gap=3, width=width, flexible=(len(axes) + 1,))
    for code, title, number in found.shared:
        if 1 < number == total:
            lines.append(screen.text(f"all have {code} {title}: no axis of this sweep mends it"))
    for effect in found.effects:
        means = ", ".join(f"{value}: {mean:g}" for value, mean in effect.means)
        lines.append(
            screen.text(
                f"{effect.axis} moved {effect.evidence}", (f"  {means} ({effect.share:.0%} of what it varies)", "same")
            )
        )
    if found.trials:
        best = found.trials[0].run.short
        lines.append(screen.text(("next: ", "same"), f"lorakit diagnose {best}"))
    return lines
