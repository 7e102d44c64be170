"""`lorakit check`, `plan`, `render`: a preset before its bake."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from lorakit.cli.options import Json, PresetName, Set, TrainerKind, workspace
from lorakit.errors import LorakitError, Problem, RuleError, TrainerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.text import Text

    from lorakit.preset.files import ResolvedPreset
    from lorakit.preset.rules import Finding
    from lorakit.preset.rules import TrainerKind as TrainerKindName
    from lorakit.workspace import Workspace

__all__ = ["PATIENCE_SECONDS", "Baker", "baker_of", "check", "load", "missing_lines", "plan", "render", "trainer_name"]

#: What is done sooner than this shows no progress.
PATIENCE_SECONDS = 1.0


def check(preset: PresetName, *, sets: Set = None, trainer: TrainerKind = None, as_json: Json = False) -> None:
    """Check a preset's rules without training."""
    from lorakit.bake.checks import check_files, check_rules
    from lorakit.cli import screen
    from lorakit.cli.plan_screen import finding_lines
    from lorakit.cli.trouble import problem_lines
    from lorakit.trainers.preflight import preflight

    place = workspace()
    resolved = load(preset, sets, place, trainer)
    baker = baker_of(resolved, place)
    findings = preflight(resolved.preset, place, baker.kind)
    stops = any(finding.level == "error" for finding in findings)
    if as_json:
        rows = [finding_json(finding) for finding in findings]
        screen.print_json({"preset": resolved.preset.name, "trainer": baker.kind, "findings": rows})
        if stops:
            raise typer.Exit(RuleError.exit_code)
        return
    out = screen.console()
    warnings = [finding for finding in findings if finding.level != "error"]
    lines = finding_lines(warnings) + missing_lines(baker)
    try:
        check_files(resolved.preset, place)
    except LorakitError as error:  # rules look at no file: on this machine it may be missing for a reason
        lines += problem_lines([Problem(error.what, error.why, error.todo)], label="warn", meaning="look")
    screen.put(out, lines)
    check_rules(resolved, baker.kind, allow_warnings=True, workspace=place)
    well = "can be baked; look at the above" if lines else "keeps all rules"
    out.print(screen.text(("✓ ", "done"), (resolved.preset.name, "strong"), f"  {well} · {baker.told}"))


def plan(
    preset: PresetName,
    *,
    why: Annotated[bool, typer.Option("--why", help="Every value of the preset and where it comes from.")] = False,
    others: Annotated[
        str | None,
        typer.Option(
            "--as", metavar="TRAINERS", help="What other trainers would do with it: all, or kohya-gui,legacy-ps1,…"
        ),
    ] = None,
    sets: Set = None,
    trainer: TrainerKind = None,
    as_json: Json = False,
) -> None:
    """Show the exact numbers of a bake before it starts."""
    from lorakit.cli import screen

    place = workspace()
    resolved = load(preset, sets, place, trainer)
    if why:
        _why(resolved, as_json=as_json)
        return
    from lorakit.bake.cache_keys import found_caches
    from lorakit.plan import plan as plan_of
    from lorakit.sweep.estimate import forecast, shape_of
    from lorakit.trainers.preflight import preflight

    baker = baker_of(resolved, place)
    with scan_bar() as progress:
        planned = plan_of(resolved.preset, place, progress=progress)
    if others is not None:
        from lorakit.cli.side_by_side import print_table

        print_table(resolved.preset, planned, others, asked=preset, as_json=as_json)
        return
    findings = preflight(resolved.preset, place, baker.kind)
    caches = found_caches(resolved.preset, planned, place)
    times = forecast([(shape_of(resolved.preset, planned, baker.kind), planned.total_steps)], place)
    if as_json:
        screen.print_json(
            {
                **planned.to_json(),
                "trainer": baker.kind,
                "findings": [finding_json(one) for one in findings],
                "caches": [asdict(one) for one in caches],
                "stray_caches": planned.data.stray_caches,
                "seconds": times.total,
                "measured_on": list(times.runs),
            }
        )
        return
    from lorakit.cli.plan_screen import plan_page
    from lorakit.cli.sweep_plan import forecast_told

    out = screen.console()
    page = plan_page(
        resolved.preset,
        planned,
        baker=baker,
        findings=findings,
        asked=preset,
        width=screen.fitting(out),
        caches=caches,
        time=forecast_told(times),
    )
    screen.put(out, page)


def _why(resolved: ResolvedPreset, *, as_json: bool) -> None:
    from lorakit.cli import screen
    from lorakit.cli.plan_screen import flat, why_page

    if as_json:
        values = dict(flat(resolved.preset.model_dump(mode="json")))
        origins = resolved.provenance
        rows = {
            key: {"value": value, "from": origins[key].to_json() if key in origins else None}
            for key, value in values.items()
        }
        screen.print_json(rows)
        return
    out = screen.console()
    screen.put(out, why_page(resolved, width=screen.fitting(out)))


def render(preset: PresetName, *, sets: Set = None, trainer: TrainerKind = None, as_json: Json = False) -> None:
    """Print the trainer's command line, ready to paste."""
    from lorakit import api
    from lorakit.cli import screen
    from lorakit.preset.files import with_seed
    from lorakit.trainers.render import shell_line

    place = workspace()
    asked = load(preset, sets, place, trainer)
    resolved = with_seed(asked)
    argv = api.render(resolved, workspace=place)
    if as_json:
        screen.print_json(list(argv))
        return
    if asked.preset.seed is None:
        note = f"seed {resolved.preset.seed} was drawn for this line; write it into the preset to keep it"
        screen.console(err=True).print(screen.text(("look  ", "look"), note))
    sys.stdout.write(shell_line(argv) + "\n")


def load(preset: str, sets: Sequence[str] | None, workspace: Workspace, trainer: str | None = None) -> ResolvedPreset:
    """The preset that a command line means: a path or a name, with its ``--set`` and ``--trainer`` applied."""
    from lorakit.preset.files import find_preset, load_preset

    overrides = [*(sets or ()), *([f"trainer.kind={trainer}"] if trainer is not None else ())]
    return load_preset(find_preset(preset, workspace.presets), overrides)


@dataclass(frozen=True)
class Baker:
    """Who would train: ``kind`` as the rules know it, ``told`` in words, ``missing`` what keeps it from training here."""

    kind: TrainerKindName
    told: str
    missing: Problem | None = None


def baker_of(resolved: ResolvedPreset, workspace: Workspace) -> Baker:
    """Who would train; plans and checks need nobody to be installed."""
    from lorakit.trainers.choose import choose

    try:
        kind = choose(resolved.preset, workspace).kind
    except TrainerError as error:
        kind = "sd-scripts" if resolved.preset.trainer.kind == "sd-scripts" else "builtin"
        missing = Problem(error.what, error.why, error.todo)
        return Baker(kind, f"{trainer_name(kind)}, not installed", missing)
    return Baker(kind, trainer_name(kind))


def trainer_name(kind: str) -> str:
    """A trainer in words."""
    return "built-in trainer" if kind == "builtin" else f"trainer {kind}"


def missing_lines(baker: Baker) -> list[Text]:
    """What keeps the trainer from training here, as a warning."""
    from lorakit.cli.trouble import problem_lines

    return problem_lines([baker.missing] if baker.missing else [], label="warn", meaning="look")


def finding_json(finding: Finding) -> dict[str, str]:
    """A finding as JSON."""
    return {name: getattr(finding, name) for name in ("code", "level", "key", "what", "why", "todo")}


@contextmanager
def scan_bar() -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar for a scan that takes its time; None where nobody would see it."""
    from lorakit.cli import screen

    out = screen.console(err=True)
    if not out.is_terminal:
        yield None
        return
    from rich.live import Live

    began = time.monotonic()
    with Live(console=out, transient=True, auto_refresh=False) as live:

        def show(done: int, total: int) -> None:
            if time.monotonic() - began > PATIENCE_SECONDS and total:
                live.update(
                    screen.text(f"reading the dataset  {done}/{total}  ", screen.progress_bar(done / total, 30)),
                    refresh=True,
                )

        yield show
