"""What commands do about runs that Slurm trains: `bake --on slurm`, and their part of `stop`, `show` and `repair`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from lorakit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console
    from rich.text import Text

    from lorakit.archive.records import RunState
    from lorakit.archive.repair import Action
    from lorakit.archive.run import Run
    from lorakit.launch.slurm import JobState
    from lorakit.preset.files import ResolvedPreset
    from lorakit.workspace import Workspace

__all__ = ["On", "bake_in_job", "end_lost", "job_json", "job_lines", "refuse_place", "stopped"]

On = Annotated[str | None, typer.Option("--on", metavar="slurm", help="Hand it to Slurm, and return at once.")]
#: Seconds that Slurm may take to answer where its word is only one line of a screen.
_BRIEFLY: Final = 3.0


def refuse_place(place: str) -> None:
    """Raise UsageError for a place to train at that there is not."""
    if place != "slurm":
        raise UsageError(f"--on {place} cannot be meant", todo="write --on slurm, or leave it out to train here")


def bake_in_job(resolved: ResolvedPreset, workspace: Workspace, out: Console, *, as_json: bool) -> None:
    """Hand a run to Slurm and say where it is."""
    from lorakit.archive.records import state
    from lorakit.bake.batch import bake_in_job as hand_over
    from lorakit.cli import screen
    from lorakit.cli.baking import words_typed

    run, job = hand_over(resolved, workspace, argv=words_typed())
    if as_json:
        screen.print_json({**state(run).to_json(), "job": {"id": job}})
        return
    out.print(screen.text(("· ", "strong"), (f"{run.name}_{run.short}", "strong"), f"  Slurm has it: job {job}"))
    rows = (("run", str(run.path)), ("look", f"lorakit show {run.short}"), ("stop", f"lorakit stop {run.short}"))
    for label, value in rows:
        out.print(screen.text("  ", (f"{label:<8}", "same"), value))


def _job(found: RunState) -> tuple[str, JobState | None] | None:
    """A run's job and where it stands (None: Slurm did not answer); None where no scheduler has a say in the run any more."""
    from lorakit.archive.diagnose_log import Reason, Status
    from lorakit.bake.batch import job_of
    from lorakit.launch.slurm import job_states

    job = job_of(found.run.last_attempt)
    again = found.reason in {Reason.PREEMPTED, Reason.TIMED_OUT, Reason.KEEPER_LOST, Reason.OTHER_HOST}
    if not job or not (again or found.status in {Status.QUEUED, Status.RUNNING}):
        return None
    states = job_states([job], _BRIEFLY)
    return job, None if states is None else states[job]


def job_json(found: RunState) -> dict[str, Any]:
    """What `show --json` adds: the job, Slurm's word for it; ``state`` is null when Slurm does not answer."""
    asked = _job(found)
    if asked is None:
        return {}
    job, now = asked
    return {"job": {"id": job, "state": None if now is None else now.word, "why": None if now is None else now.why}}


def job_lines(found: RunState) -> list[Text]:
    """What `show` adds for a run that a job trains, or will."""
    from lorakit.archive.diagnose_log import Status
    from lorakit.cli import screen

    asked = _job(found)
    if asked is None:
        return []
    job, now = asked
    if now is None:
        told = f"job {job}: Slurm does not answer, so nobody knows"
    elif now.is_over and found.status is Status.QUEUED:
        told = f"job {job}: {now.told}; it left the queue without starting the run. lorakit repair {found.run.short} ends it"
    elif now.is_over and found.status is Status.UNKNOWN:
        told = f"job {job}: {now.told}; it ended without a word. lorakit repair {found.run.short} ends the run"
    elif now.waits and found.is_final:
        told = f"job {job}: {now.told}; it goes on when Slurm starts it again"
    else:
        told = f"job {job}: {now.told}"
    return [screen.text("  ", (f"{'slurm':<12}", "same"), told)]


def stopped(run: Run, level: int, within: float, out: Console, *, as_json: bool) -> bool:
    """Stop a run whose job waits, or trains it on another machine. False where that is for this machine to do."""
    from lorakit.archive.diagnose_log import Status
    from lorakit.archive.records import state
    from lorakit.bake.batch import cancel_waiting, end_lost, job_of, stop_far
    from lorakit.cli import run_screens, screen

    found, job = state(run), job_of(run.last_attempt)
    if not job or found.status in {Status.RUNNING, Status.OK}:
        return False
    if found.is_final and _job(found) is None:
        return False
    note = ""
    if cancel_waiting(run):
        note = f"job {job} cancelled: it does not start again" if found.is_final else ""
    elif found.status is Status.UNKNOWN:
        stop_far(run, level, within=within)
    elif found.is_final or not end_lost(run):
        return False  # it has just been started
    now = state(run)
    if as_json:
        screen.print_json({**now.to_json(), "level": level, "survivors": []})
        return True
    screen.put(out, [run_screens.headline(now)])
    if note:
        out.print(screen.text(note))
    return True


def end_lost(runs: Iterable[Run]) -> list[Action]:
    """End runs whose jobs are over without a word, before a repair looks at the rest; nothing where Slurm does not answer."""
    from lorakit.bake.batch import end_lost as ended
    from lorakit.bake.batch import job_of
    from lorakit.launch.slurm import job_states

    waiting = {job: run for run in runs if not run.last_attempt.ended.exists() and (job := job_of(run.last_attempt))}
    states = job_states(waiting) if waiting else {}
    return [action for job, now in (states or {}).items() if now.is_over for action in ended(waiting[job])]
