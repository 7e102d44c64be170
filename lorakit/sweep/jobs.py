"""A sweep on Slurm: its trials as one job array, each task a trial by its number; where they stand is squeue's word beside the folder's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from lorakit.archive.run import read_record
from lorakit.atomic import write_once
from lorakit.bake.batch import end_lost
from lorakit.bake.job import job_record
from lorakit.errors import UsageError
from lorakit.launch import slurm
from lorakit.launch.supervisor import module_argv
from lorakit.sweep.folder import write_next
from lorakit.sweep.standing import Phase, Standing, TrialStanding, standing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lorakit.sweep.folder import Folder, Planned
    from lorakit.workspace import Workspace

__all__ = ["cancel", "merged", "submit", "task_states"]

#: Where the output of a task goes, in the folder ``jobs`` of the sweep.
OUTPUT: Final = "slurm-%A_%a.log"


def _tasks(folder: Folder) -> dict[str, str]:
    """The latest task that was submitted for each trial, by its identity."""
    found: dict[str, str] = {}
    for path in sorted((folder.path / "jobs").glob("*.json")):
        record = read_record(path) or {}
        for identity, number in (record.get("tasks") or {}).items():
            found[identity] = f"{record.get('job')}_{number}"
    return found


def task_states(folder: Folder, seconds: float = slurm.PATIENCE) -> dict[str, slurm.JobState] | None:
    """Where Slurm says that the trials which were submitted are, by identity. None when it does not answer in time."""
    tasks = _tasks(folder)
    states = slurm.job_states(tasks.values(), seconds)
    return None if states is None else {identity: states[task] for identity, task in tasks.items()}


def submit(folder: Folder, workspace: Workspace, settings: slurm.SlurmSettings) -> tuple[str, Sequence[Planned]]:
    """Submit, as one array, the trials that are neither done nor cancelled nor in the queue already; the job and those trials.

    The job is empty where there is nothing to submit. Raises UsageError when Slurm does not answer, for then nobody knows what is
    queued, when it refuses, and when another process hands out the trials of this sweep.
    """
    with folder.dispatching():
        states = task_states(folder)
        if states is None:
            raise UsageError(
                "Slurm does not answer, so nobody knows which trials are queued",
                why="nothing was submitted",
                todo="type it again when squeue works",
            )
        for one in standing(folder, workspace.runs).trials:
            if one.run is not None and one.phase in {Phase.RUNNING, Phase.INTERRUPTED}:
                end_lost(one.run)
        now = merged(standing(folder, workspace.runs), states)
        busy = {Phase.DONE, Phase.RUNNING, Phase.QUEUED, Phase.CANCELLED}
        wanted = [one.trial for one in now.trials if one.phase not in busy]
        if not wanted:
            return "", ()
        return _submitted(folder, settings, wanted), wanted


def _submitted(folder: Folder, settings: slurm.SlurmSettings, wanted: Sequence[Planned]) -> str:
    place = folder.path / "jobs"
    place.mkdir(exist_ok=True)
    given = json.dumps(job_record("", settings))
    argv = module_argv("lorakit.sweep.task", str(folder.path), given)
    tasks = slurm.indices(trial.index for trial in wanted)
    text = slurm.script(settings, f"lorakit-sweep-{folder.id}", argv, array=tasks)
    path = place / f"{len(list(place.glob('*.sh'))) + 1:04d}.sh"
    write_once(path, text.encode("utf-8", "surrogateescape"))
    try:
        job = slurm.submit(path, folder=place, output=OUTPUT)
    except BaseException:
        path.unlink()
        raise
    write_next(place, {**job_record(job, settings), "tasks": {trial.identity: trial.index for trial in wanted}})
    return job


def merged(now: Standing, states: Mapping[str, slurm.JobState]) -> Standing:
    """A standing with Slurm's word on what the folders cannot tell: trials that are queued, or about to start."""
    return replace(now, trials=tuple(_merged(one, states.get(one.trial.identity)) for one in now.trials))


def _merged(one: TrialStanding, state: slurm.JobState | None) -> TrialStanding:
    if state is None or state.is_over or one.phase in {Phase.DONE, Phase.RUNNING}:
        return one
    return replace(one, phase=Phase.QUEUED if state.waits else Phase.RUNNING)


def cancel(folder: Folder, trials: frozenset[str] | None = None) -> int | None:
    """Take trials that wait, all or these, out of Slurm's queue; how many. None when Slurm does not answer or obey."""
    states = task_states(folder)
    if states is None:
        return None
    tasks = _tasks(folder)
    waiting = [
        tasks[identity] for identity, now in states.items() if now.waits and (trials is None or identity in trials)
    ]
    return len(waiting) if slurm.cancel(waiting) else None
