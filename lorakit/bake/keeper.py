"""The process that keeps one run: starts its training, watches it, records how it ended, seals it.

``python -m lorakit.bake.keeper RUN_DIR ATTEMPT``. It has a session of its own and survives the terminal and the command that
started it; when it is killed, the training dies with it. Light imports only: it must start at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import shutil
import sys
import time
import traceback
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lorakit.archive.diagnose_log import Evidence, Reason, Status, Verdict, diagnose, log_tail
from lorakit.archive.masked import mask_attempt
from lorakit.archive.progress import Progress, progress_from_log, read_attempts, read_progress
from lorakit.archive.records import results, started_record
from lorakit.archive.reserve import Reserve
from lorakit.archive.run import SCHEMA, Attempt, Run, read_record
from lorakit.archive.seal import seal
from lorakit.archive.states import checkpoints, settle
from lorakit.archive.tensors import weights_fault
from lorakit.atomic import dump_json, write_once
from lorakit.bake.afterwards import write_page
from lorakit.bake.guard import Guard, Limits
from lorakit.bake.held_caches import HeldCaches
from lorakit.bake.relay import Relay
from lorakit.bake.wishes import Circumstances, Wishes
from lorakit.errors import LorakitError, Stopped
from lorakit.launch.accelerate import SHIM, free_port, launch_argv, port_is_free
from lorakit.launch.masking import Masks
from lorakit.launch.memory import free_memory
from lorakit.launch.processes import ProcessId, hold_lock, this_host
from lorakit.launch.slurm import multi_node
from lorakit.launch.supervisor import Launch, Outcome, StopLevel, supervise, training_env

#: Bytes of free space below which nothing can be written any more.
_NO_SPACE = 64 << 10
#: Lines of the log that are looked at for the cause of a failure, and that are kept in the record.
_READ_LINES, _KEPT_LINES = 400, 20
#: Trainers that do not write the run protocol of their own accord.
_SILENT = frozenset({"sd-scripts"})
#: How the protocol calls what the archive calls a status.
_END_REASONS = MappingProxyType({Status.OK.value: "ok", Status.STOPPED.value: "stopped"})


def main() -> None:
    """Fork into the background, tell the caller by exit code 0 that the run has started, keep it to its end."""
    if len(sys.argv) != 3:
        sys.exit("usage: python -m lorakit.bake.keeper RUN_DIR ATTEMPT")
    run = Run(Path(sys.argv[1]))
    attempt = run.attempt(int(sys.argv[2]))
    ours, theirs = os.pipe()
    if os.fork():  # the caller waits for this process only until the run has started
        os.close(theirs)
        os._exit(0 if os.read(ours, 1) == b"1" else 1)
    os.close(ours)
    try:
        keep(run, attempt, started=theirs)
    except BaseException:  # noqa: BLE001 (the last frame of this process: keeper.log is all that can be told)
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def keep(run: Run, attempt: Attempt, *, started: int | None = None, grace: float | None = None) -> None:
    """Run an attempt to its end. A byte is written to the descriptor ``started`` once it cannot be lost any more.

    With ``grace``, seconds, a first TERM is a batch system's warning and means a graceful stop (see Wishes).
    """
    hold_lock(attempt.alive)
    command = json.loads(run.command_of(attempt.number).read_bytes().decode("utf-8", "surrogateescape"))
    wishes = Wishes(attempt, _relay(attempt, command), grace=grace)
    launch, facts = _launch(run, attempt, command)
    reserve = Reserve.keep(attempt.ended)
    try:
        write_once(attempt.started, dump_json(started_record(run, attempt, **facts)))
    except FileExistsError:
        reserve.path.unlink()
        sys.exit(f"{attempt.path} was started before")
    if started is not None:
        os.write(started, b"1")
        os.close(started)
    began = time.monotonic()
    kills = oom_kills()
    fault: Exception | None = None
    outcome = None
    caches = HeldCaches(run, attempt, command)

    def stop_level() -> int:
        caches.poll()
        return wishes.level()

    try:
        caches.acquire(stop=lambda: wishes.level() > StopLevel.NONE)
        wishes.guard = Guard(attempt, Limits.of(read_record(run.request)))
        outcome = supervise(launch, stop_level=stop_level, on_started=lambda who: _record_launcher(attempt, who))
    except (LorakitError, OSError) as error:  # recorded below: a run that could not start still ends with a reason
        traceback.print_exc()
        fault = error
    caches.release()
    wishes.relay(lambda relay: relay.finish())
    met = wishes.met(oom_kills=oom_kills() - kills)
    record = end_record(run, attempt, command, outcome=outcome, fault=fault, met=met)
    reason = _END_REASONS.get(record["status"], "error")
    wishes.relay(lambda relay: relay.end(reason, record["steps"], record["message"]))
    write_end(run, attempt, reserve, {**record, "seconds": round(time.monotonic() - began, 3)})
    if record["steps"]:
        write_page(run)


def _relay(attempt: Attempt, command: dict[str, Any]) -> Relay | None:
    """Who tells the protocol for a trainer that may not do it itself."""
    trainer = command["trainer"]
    if trainer["kind"] not in _SILENT:
        return None
    return Relay(attempt, command["arguments"], probed=bool(trainer.get("probe")))


def _launch(run: Run, attempt: Attempt, command: dict[str, Any]) -> tuple[Launch, dict[str, Any]]:
    """The launch line with the shim in it, and what started.json says about it."""
    shape = command["shape"]
    port = shape["port"]
    another = free_port() if port is not None and not port_is_free(port) else None
    argv = launch_argv(
        command["trainer"]["python"],
        run.accelerate,
        [*command["trainer"]["program"], *command["arguments"]],
        threads=shape["threads"],
        shim=SHIM,
        port=another,
    )
    cookie = f"{run.id}:{attempt.number}:{secrets.token_hex(8)}"
    if (nodes := int((read_record(attempt.job) or {}).get("nodes") or 1)) > 1:
        # A job on several nodes: Slurm starts one launcher on each, and this one, on the first, watches over all of them.
        argv = multi_node(argv, nodes=nodes, processes=shape["processes"], host=this_host(), port=free_port())
    env, changes = training_env(
        os.environ,
        folder=attempt.path,
        cookie=cookie,
        keeper=os.getpid(),
        cpu=shape["cpu"],
        gpu_ids=shape["gpu_ids"],
        spikes=Limits.of(read_record(run.request)).spikes,
    )
    facts = {"cookie": cookie, "argv": list(argv), "environment": changes, "memory": free_memory()}
    return Launch(argv, env, attempt.path, cookie), facts


def _record_launcher(attempt: Attempt, who: ProcessId) -> None:
    attempt.ranks.mkdir(exist_ok=True)
    write_once(attempt.path / "launcher.json", dump_json({"schema": SCHEMA, **who.to_json()}))


def end_record(
    run: Run,
    attempt: Attempt,
    command: dict[str, Any],
    *,
    outcome: Outcome | None,
    fault: Exception | None,
    met: Circumstances,
) -> dict[str, Any]:
    """The content of ended.json, but for ``seconds``; what the training left is put in order, and secrets are hidden first."""
    settle(run)
    _hide_secrets(attempt)
    progress = read_progress(attempt.progress)
    log = log_tail(attempt.log, _READ_LINES)
    if not progress.steps:
        told = progress_from_log("\n".join(log))
        progress = dataclasses.replace(
            progress,
            steps=told.steps,
            total_steps=progress.total_steps or told.total_steps,
            loss_average=told.loss_average,
            nan_since=told.nan_since,
        )
    if isinstance(fault, Stopped):
        verdict = Verdict(Status.STOPPED, Reason.STOPPED_BY_USER, fault.what)
    elif outcome is None:
        verdict = Verdict(Status.FAILED, Reason.NEVER_STARTED, f"never started: {_describe(fault)}", "keeper.log")
    else:
        verdict = _told_by_disk(run, diagnose(_evidence(outcome, progress, log, _result(run, command), met)))
        if outcome.survivors:
            pids = ", ".join(map(str, outcome.survivors))
            verdict = dataclasses.replace(verdict, message=f"{verdict.message}; could not kill pid {pids}")
    return {
        "schema": SCHEMA,
        "run": run.id,
        "attempt": attempt.number,
        "time": time.time(),
        "status": verdict.status.value,
        "reason": verdict.reason.value,
        "message": verdict.message,
        "evidence": verdict.evidence,
        **results(progress if attempt.number == 1 else read_attempts(run, attempt.number)),
        "stop_level": outcome.stop_level if outcome else met.stop_level,
        "launcher": outcome.launcher if outcome else None,
        "launcher_seconds": round(outcome.seconds, 3) if outcome else None,
        "ranks": [rank.to_json() for rank in outcome.ranks] if outcome else [],
        "unreported": list(outcome.unreported) if outcome else [],
        "survivors": list(outcome.survivors) if outcome else [],
        "checkpoints": checkpoints(run),
        "log_dropped": met.log_dropped,
        "warnings": list(progress.warnings[:20]),
        "log_tail": list(log[-_KEPT_LINES:]),
    }


def _hide_secrets(attempt: Attempt) -> None:
    """Go once more through what the trainer printed and told, before records and seal are made of it."""
    for error in mask_attempt(attempt, Masks.of(os.environ)):  # the run still ends, and keeper.log tells
        traceback.print_exception(error)


def _told_by_disk(run: Run, verdict: Verdict) -> Verdict:
    """A failure without a cause, on a disk without space: the disk that killed the training swallowed its last words too."""
    free = shutil.disk_usage(run.path).free
    if verdict.reason is not Reason.ERROR or free >= _NO_SPACE:
        return verdict
    evidence = f"{free >> 10} KiB free in {run.path}"
    return dataclasses.replace(
        verdict, reason=Reason.DISK_FULL, message=f"{verdict.message}; the disk is full", evidence=evidence
    )


def _describe(fault: Exception | None) -> str:
    if isinstance(fault, LorakitError):
        return f"{fault.what} ({fault.why})" if fault.why else fault.what
    return str(fault)


def _evidence(outcome: Outcome, progress: Progress, log: tuple[str, ...], result: str, met: Circumstances) -> Evidence:
    failure = outcome.first_failure
    return Evidence(
        started=bool(outcome.ranks or outcome.unreported),
        rank=failure.rank if failure else 0,
        code=failure.code if failure else 0,
        signal=failure.signal if failure else None,
        unreported=outcome.unreported,
        oom_kills=met.oom_kills,
        keeper_signalled=met.signalled,
        batch_job=met.batch_job,
        batch_time_up=met.batch_time_up,
        stalled=met.stalled,
        after_checkpoint=met.after_checkpoint,
        launcher=outcome.launcher or 0,
        stop_level=outcome.stop_level,
        end_reason=progress.end_reason,
        end_message=progress.end_message,
        nan_since=progress.nan_since,
        steps=progress.steps,
        total_steps=progress.total_steps,
        result=result,
        log=log,
    )


def _result(run: Run, command: dict[str, Any]) -> str:
    path = run.path / command["result"]
    if not path.is_file():
        return "missing"
    return "torn" if weights_fault(path) else "whole"


def write_end(run: Run, attempt: Attempt, reserve: Reserve, record: dict[str, Any]) -> None:
    """The last facts of an attempt: how it ended, and the seal."""
    data = dump_json(record)
    if len(data) > reserve.size:  # more than was kept free: the log is the part that can be read elsewhere
        data = dump_json({**record, "log_tail": [], "warnings": []})
    reserve.write_once(data)
    seal(run, attempt.number)


def oom_kills() -> int:
    """How often this machine's kernel has killed a process for want of memory."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/vmstat").read_text(encoding="ascii").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


if __name__ == "__main__":
    main()
