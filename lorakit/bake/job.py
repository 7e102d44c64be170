"""The program of a batch job: ``python -m lorakit.bake.job RUN_DIR`` keeps a run in the foreground, and goes on with it when started again.

The batch shell becomes this process, so that the scheduler's warning reaches it: a TERM is then a graceful stop, with everything
saved and sealed before the job is killed. Started again after a requeue, it goes on from the last whole state as a further
attempt; where there is none it says so and ends.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from lorakit.archive.diagnose_log import Reason, Status, Verdict
from lorakit.archive.records import RunState, is_alive, state
from lorakit.archive.run import SCHEMA, Attempt, Run, read_record
from lorakit.atomic import dump_json, write_once
from lorakit.errors import LorakitError, RunFailed, Stopped
from lorakit.launch import slurm
from lorakit.launch.processes import this_host
from lorakit.launch.supervisor import module_argv

__all__ = ["become", "job_record", "own_job"]

#: Seconds that whoever submitted a job may take to write that down.
_SUBMITTING: Final = 10.0
#: Seconds that the attempt before may take to be sealed, when a job is started again at once.
_SEALING: Final = 120.0


def own_job(environment: Mapping[str, str]) -> str:
    """The job that this process runs in, as squeue and scancel know it (``12``, ``12_3`` of an array); empty outside of jobs."""
    array, task = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else environment.get("SLURM_JOB_ID", "")


def job_record(job: str, settings: slurm.SlurmSettings) -> dict[str, Any]:
    """The content of job.json: what the job may do is kept with the run, whatever becomes of lorakit.toml."""
    kept = {"grace": settings.grace, "requeue": settings.requeue, "nodes": settings.nodes}
    return {"schema": SCHEMA, "scheduler": "slurm", "job": job, "time": time.time(), **kept}


def become(run: Run, attempt: int | None = None) -> None:
    """Become the program that keeps a run in this job. Never returns: the pid stays, and with it who gets the signals."""
    argv = module_argv("lorakit.bake.job", str(run.path), *([] if attempt is None else [str(attempt)]))
    sys.stdout.flush()
    os.execv(argv[0], argv)  # noqa: S606 (an argument list, not a shell)


def main() -> None:
    """Keep the attempt that is prepared, or prepare a further one first and begin anew as its keeper."""
    if len(sys.argv) not in {2, 3}:
        sys.exit("usage: python -m lorakit.bake.job RUN_DIR [ATTEMPT]")
    run = Run(Path(sys.argv[1]))
    try:
        if len(sys.argv) == 3:
            _keep(run, run.attempt(int(sys.argv[2])))
        waiting = run.last_attempt
        if waiting.started.exists() or waiting.ended.exists():
            become(run, _go_on(run))
        _keep(run, waiting)
    except LorakitError as error:
        _say("; ".join(part for part in (error.what, error.why, error.todo) if part))
        sys.exit(error.exit_code)


def _say(text: str) -> None:
    """A line for the job's output."""
    print(f"lorakit {time.strftime('%F %T')}  {text}", flush=True)


def _go_on(run: Run) -> int:
    """Prepare the next attempt of a run whose job was started again; its number. Ends the process where nothing is left to do."""
    from lorakit.bake.resume import Resumption, next_attempt
    from lorakit.workspace import find_workspace

    before, job = run.last_attempt, own_job(os.environ)
    deadline = time.monotonic() + _SEALING
    while is_alive(before) and time.monotonic() < deadline:
        time.sleep(0.2)
    found = state(run)
    if found.status is Status.OK or found.reason is Reason.STOPPED_BY_USER:
        _say(f"{run.id}: {found.message}; there is nothing to go on with")
        sys.exit(0)
    record = read_record(before.job) or {}
    over = None
    if job and record.get("job") == job:  # the scheduler never runs a job twice at once
        evidence = f"Slurm started job {job} again on {this_host()}"
        over = Verdict(Status.INTERRUPTED, Reason.KEEPER_LOST, "interrupted: its node or its keeper was lost", evidence)

    def on_picked(picked: Resumption) -> None:
        for one in picked.passed_over:
            _say(f"passed over {one.path.name}: half written, {one.fault}")
        _say(f"{run.id} goes on after step {picked.state.step}, from {picked.state.path.name}")

    place = find_workspace(run.path.parent)
    number = next_attempt(run, place, over=over, on_picked=on_picked, argv=list(sys.argv))
    kept = {**record, "schema": SCHEMA, "scheduler": "slurm", "job": job, "time": time.time()}
    write_once(run.attempt(number).job, dump_json(kept))
    return number


def _keep(run: Run, attempt: Attempt) -> None:
    """Keep an attempt to its end, ask for another start where the time was too short, and end as it ended. Never returns."""
    from lorakit.bake.keeper import keep

    job = own_job(os.environ)
    if job and "SLURM_JOB_END_TIME" not in os.environ:  # older versions of Slurm do not set it
        os.environ.update(slurm.times_of(job))
    record = _record(attempt, job)
    grace = float(record.get("grace") or slurm.SlurmSettings().grace)
    _say(f"{run.id} attempt {attempt.number} in job {job or 'none'} on {this_host()}")
    keep(run, attempt, grace=grace)
    found = state(run)
    _say(f"{found.status.value}: {found.message}")
    if job and record.get("requeue") and _is_worth_another(run, found):
        done = slurm.requeue(os.environ["SLURM_JOB_ID"])
        _say(f"job {job} is queued again" if done else f"Slurm did not take the order to queue job {job} again")
    sys.exit(_exit_code(found))


def _record(attempt: Attempt, job: str) -> dict[str, Any]:
    """The attempt's job.json. A quick scheduler starts a job before whoever submitted it has written that down."""
    deadline = time.monotonic() + _SUBMITTING
    while job and not attempt.job.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    if job:
        with contextlib.suppress(FileExistsError):
            write_once(attempt.job, dump_json(job_record(job, slurm.SlurmSettings())))
    return read_record(attempt.job) or {}


def _is_worth_another(run: Run, found: RunState) -> bool:
    """Whether a run that its job's time cut short has a state to go on from, and got further this time than it stood before."""
    from lorakit.bake.resume import pick_state

    if (found.status, found.reason) != (Status.STOPPED, Reason.TIMED_OUT):
        return False
    began = int((read_record(run.last_attempt.resumed) or {}).get("step") or 0)
    try:
        picked = pick_state(run).state
    except LorakitError as error:
        _say(f"not queued again: {error.what}")
        return False
    if (picked.step or 0) <= began:
        _say(f"not queued again: it got no further than step {began}; give [slurm] more time")
        return False
    return True


def _exit_code(found: RunState) -> int:
    if found.status is Status.OK or found.reason is Reason.STOPPED_BY_USER:
        return 0
    return Stopped.exit_code if found.status is Status.STOPPED else RunFailed.exit_code


if __name__ == "__main__":
    main()
