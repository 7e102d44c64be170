"""Runs that a batch system trains: handed over, looked for in its queue, and ended."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from lorakit.archive.diagnose_log import Reason, Status, Verdict
from lorakit.archive.records import is_alive, require_writable, state
from lorakit.archive.repair import Action, repair_run
from lorakit.archive.run import Attempt, Run, read_record
from lorakit.atomic import dump_json, write_once
from lorakit.bake.bake import request_stop
from lorakit.bake.job import job_record
from lorakit.errors import ArchiveError
from lorakit.launch import slurm
from lorakit.launch.processes import require_linux
from lorakit.launch.supervisor import StopLevel, module_argv

if TYPE_CHECKING:
    from lorakit.bake.prepare import OnPrepare
    from lorakit.preset.files import ResolvedPreset
    from lorakit.workspace import Workspace

__all__ = ["bake_in_job", "cancel_waiting", "end_lost", "job_of", "settings_of", "stop_far", "submit_run"]

#: Where a job's own output goes: into the run folder, not under its seal, for the scheduler may write to it later.
OUTPUT: Final = "slurm.log"
#: Seconds that a cancelled job may take to leave the queue.
_LEAVING: Final = 10.0
#: Seconds that a job which was cancelled while it ran may take to end and seal its run.
_ENDING: Final = 90.0
_TICK: Final = 0.3


def settings_of(workspace: Workspace) -> slurm.SlurmSettings:
    """The ``[slurm]`` table of a workspace. Raises WorkspaceError where it cannot be meant."""
    return slurm.SlurmSettings.of(workspace.settings.get(slurm.TABLE, {}))


def bake_in_job(
    resolved: ResolvedPreset, workspace: Workspace, *, argv: Sequence[str] = (), on_prepare: OnPrepare | None = None
) -> tuple[Run, str]:
    """Prepare a run and hand it to Slurm; returns it and its job's id at once. Where Slurm refuses, nothing of it is left.

    Raises what ``bake.prepare`` raises, WorkspaceError for a bad ``[slurm]``, UsageError when Slurm does not take it.
    """
    from lorakit.bake.prepare import prepare

    require_linux()
    settings = settings_of(workspace)
    run = prepare(resolved, workspace, argv=argv, on_prepare=on_prepare)
    return run, submit_run(run, settings)


def submit_run(run: Run, settings: slurm.SlurmSettings) -> str:
    """Hand a prepared run to Slurm; the job's id. Raises UsageError when Slurm does not take it; the run is then gone."""
    attempt = run.last_attempt
    path = attempt.path / "job.sh"
    text = slurm.script(settings, f"lorakit-{run.name}_{run.short}", module_argv("lorakit.bake.job", str(run.path)))
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    try:
        job = slurm.submit(path, folder=run.path, output=OUTPUT)
    except BaseException:
        shutil.rmtree(run.path)  # it was born for this job alone, and nothing of it was ever started
        raise
    with contextlib.suppress(FileExistsError):  # the job was started, and gave up waiting for this
        write_once(attempt.job, dump_json(job_record(job, settings)))
    return job


def job_of(attempt: Attempt) -> str:
    """The job that an attempt waits for or runs in; empty where there is none."""
    record: dict[str, Any] = read_record(attempt.job) or {}
    return str(record.get("job") or "")


def cancel_waiting(run: Run) -> bool:
    """Take a run's job out of the queue, and end the run if it never started. False when the job does not wait (any more).

    Raises ArchiveError when Slurm does not answer or does not take the order: nothing is known then.
    """
    attempt = run.last_attempt
    job = job_of(attempt)
    now = _asked(job, run)
    if not now.waits:
        return False
    require_writable(run)
    if not slurm.cancel([job]):
        raise ArchiveError(f"job {job} of {run.id} was not cancelled", why="scancel failed", todo=f"scancel {job}")
    deadline = time.monotonic() + _LEAVING
    while not _asked(job, run).is_over and time.monotonic() < deadline:
        time.sleep(_TICK)
    if attempt.started.exists():
        return attempt.ended.exists()  # it began at that very moment, or had ended and waited for another start
    repair_run(
        run, over=Verdict(Status.STOPPED, Reason.STOPPED_BY_USER, "cancelled before it started", f"scancel {job}")
    )
    return True


def end_lost(run: Run) -> tuple[Action, ...]:
    """End a run honestly whose job is over without having told so; what was done. Nothing when it is not lost, or nobody can tell.

    Jobs that Slurm has forgotten count as over: squeue answered, and did not list them.
    """
    attempt = run.last_attempt
    job = job_of(attempt)
    if not job or state(run).status not in {Status.QUEUED, Status.UNKNOWN}:
        return ()
    states = slurm.job_states([job])
    if states is None or not states[job].is_over or is_alive(attempt) or attempt.ended.exists():
        return ()
    evidence = f"job {job}: {states[job].told}"
    if attempt.started.exists():
        over = Verdict(Status.INTERRUPTED, Reason.KEEPER_LOST, "interrupted: its job ended without a word", evidence)
    else:
        over = Verdict(Status.INTERRUPTED, Reason.NEVER_STARTED, "its job left the queue without starting it", evidence)
    return repair_run(run, over=over)


def stop_far(run: Run, level: int, *, within: float) -> bool:
    """End a run that trains in a job on another machine: asked first, the job cancelled when it will not. Whether it is over."""
    attempt = run.last_attempt
    job = job_of(attempt)
    request_stop(run, level, within=within)
    patience = within if level == StopLevel.GRACEFUL else 0.0
    if not _ended_within(attempt, patience + _LEAVING):
        slurm.cancel([job])
        _ended_within(attempt, _ENDING)
    return attempt.ended.exists() or bool(end_lost(run))


def _ended_within(attempt: Attempt, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not attempt.ended.exists() and time.monotonic() < deadline:
        time.sleep(_TICK)
    return attempt.ended.exists()


def _asked(job: str, run: Run) -> slurm.JobState:
    states = slurm.job_states([job], slurm.PATIENCE)
    if states is None:
        raise ArchiveError(
            f"nobody knows how job {job} of {run.id} stands",
            why=f"Slurm did not answer within {slurm.PATIENCE:.0f} s",
            todo=f"try again when squeue -j {job} works",
        )
    return states[job]
