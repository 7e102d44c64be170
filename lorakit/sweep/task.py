"""The program of a sweep's job array: ``python -m lorakit.sweep.task FOLDER SETTINGS`` bakes the one trial that its task's number names."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from lorakit.archive.diagnose_log import Status
from lorakit.archive.run import Run
from lorakit.atomic import dump_json, write_once
from lorakit.bake.batch import job_of
from lorakit.bake.job import become, own_job
from lorakit.errors import LorakitError, UsageError
from lorakit.sweep.contents import refuse_changed
from lorakit.sweep.folder import Folder, Planned
from lorakit.sweep.scheduler import claim
from lorakit.sweep.standing import UNDER_WAY, counted, runs_by_trial
from lorakit.workspace import Workspace, find_workspace


def main() -> None:
    """Go on with the run that this task began before it was started again, or prepare the trial's run, and become its keeper."""
    if len(sys.argv) != 3:
        sys.exit("usage: python -m lorakit.sweep.task FOLDER SETTINGS")
    folder = Folder(Path(sys.argv[1]))
    try:
        number = int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))
        trial = next((one for one in folder.trials() if one.index == number), None)
        if trial is None:
            raise UsageError(f"{folder.id} has no trial {number}")
        _bake(folder, trial, find_workspace(folder.path))
    except LorakitError as error:
        print(f"lorakit  {'; '.join(part for part in (error.what, error.why, error.todo) if part)}", flush=True)
        sys.exit(error.exit_code)


def _bake(folder: Folder, trial: Planned, workspace: Workspace) -> None:
    job = own_job(os.environ)
    with claim(workspace, trial.identity) as mine:
        runs = runs_by_trial(workspace.runs).get(trial.identity, [])
        ours = [run for run in runs if job and job_of(run.last_attempt) == job]
        if ours:
            become(ours[-1])
        before = counted(runs)
        orders = folder.orders()
        if not mine or (before is not None and before.status in UNDER_WAY):
            return _leave(trial, "somebody else bakes it")
        if before is not None and before.status is Status.OK:
            return _leave(trial, f"done before: {before.run.id}")
        if orders.paused or orders.leave_out(trial.identity):
            return _leave(trial, "paused" if orders.paused else "cancelled")
        run = _prepared(folder, trial, workspace, job)
        become(run)
    return None


def _prepared(folder: Folder, trial: Planned, workspace: Workspace, job: str) -> Run:
    from lorakit.bake.prepare import prepare

    refuse_changed(trial, workspace)
    lineage = folder.lineage(trial, len(folder.trials()))
    run = prepare(trial.resolved(), workspace, lineage=lineage, argv=folder.record.get("argv", ()))
    record = {**json.loads(sys.argv[2]), "job": job, "time": time.time()}
    write_once(run.attempt(1).job, dump_json(record))
    return run


def _leave(trial: Planned, why: str) -> None:
    print(f"lorakit  trial {trial.index} {trial.name} is left: {why}", flush=True)


if __name__ == "__main__":
    main()
