"""The write-once facts of a run, and the state computed from them (stdlib only; nothing stored can go stale)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

from lorakit.archive.diagnose_log import Reason, Status
from lorakit.archive.progress import Progress, read_attempts, read_progress
from lorakit.archive.run import SCHEMA, Attempt, Run, read_record
from lorakit.errors import ArchiveError
from lorakit.launch.processes import ProcessId, boot_id, boot_seconds, is_locked, this_host

__all__ = ["RunState", "Status", "is_alive", "is_newer", "require_writable", "state"]

#: Seconds between the birth of a run and the moment its keeper must have written that it started.
BIRTH_GRACE: Final = 30.0


@dataclass(frozen=True)
class RunState:
    """Everything a list of runs shows about one, computed from its facts at one moment.

    ``status`` is prepared, queued (for a batch job), running, ok, failed, stopped, interrupted, unknown (another machine's) or damaged; ``reason`` a
    stable word for why; ``message`` one line for the reader, ``evidence`` one line of what shows it. Losses as in Progress, over all
    attempts. Times in unix seconds, those of the last attempt; ``seconds`` is how long all attempts went on, without the time
    between them, memory in bytes. ``problems`` names records that cannot be read; ``read_only`` says that a newer lorakit
    wrote some of them, so that this one shows the run and never writes to it.
    """

    run: Run
    status: Status
    reason: Reason = Reason.NONE
    message: str = ""
    evidence: str = ""
    attempt: int = 1
    name: str = ""
    phase: str = ""
    steps: int = 0
    total_steps: int | None = None
    epoch: int = 0
    epochs: int | None = None
    loss_first: float | None = None
    loss_last: float | None = None
    loss_average: float | None = None
    validation: float | None = None
    steps_per_second: float | None = None
    created: float | None = None
    started: float | None = None
    ended: float | None = None
    seconds: float | None = None
    checkpoints: int = 0
    samples: int = 0
    rss: int | None = None
    vram: int | None = None
    sealed: bool = False
    log_tail: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    problems: tuple[str, ...] = field(default=())
    read_only: bool = False

    @property
    def is_final(self) -> bool:
        """Whether it will not change by itself any more."""
        return self.status not in {Status.RUNNING, Status.PREPARED, Status.QUEUED, Status.UNKNOWN}

    def to_json(self) -> dict[str, Any]:
        """Plain values, ids and path of the run included."""
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "run"}
        identity = {"schema": SCHEMA, "id": self.run.id, "short": self.run.short, "path": str(self.run.path)}
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
        return {**identity, **plain, "status": self.status.value, "reason": self.reason.value}


#: What ended.json holds of the progress, under the same names as RunState.
RESULTS: Final = (
    "steps", "total_steps", "epoch", "epochs", "loss_first", "loss_last", "loss_average", "validation",
    "steps_per_second", "samples", "rss", "vram",
)  # fmt: skip


def results(progress: Progress) -> dict[str, Any]:
    """The part of a progress that ended.json keeps, so that a list of runs need not read progress files."""
    return {name: getattr(progress, name) for name in RESULTS}


def state(run: Run) -> RunState:
    """Where a run stands now, from its facts, its progress and whether anything of it lives. Never raises for damage."""
    attempt = run.last_attempt
    records = {
        "request.json": read_record(run.request),
        "started.json": read_record(attempt.started),
        "ended.json": read_record(attempt.ended),
    }
    problems = tuple(f"{name}: {value['damaged']}" for name, value in records.items() if value and "damaged" in value)
    newer = tuple(f"{name}: {_newer(value)}" for name, value in records.items() if value and is_newer(value))
    request, started, ended = (None if value is None or "damaged" in value else value for value in records.values())
    if records["request.json"] is None:
        problems += ("request.json: missing",)
    asked = (read_record(attempt.resumed) if attempt.number > 1 else None) or request or {}
    common: dict[str, Any] = {
        "run": run,
        "attempt": attempt.number,
        "name": str((request or {}).get("name") or run.name),
        "created": _number(asked.get("time")),
        "asked_on": str(asked.get("host") or ""),
        "started": _number((started or {}).get("time")),
        "sealed": run.manifest(attempt.number).is_file(),
        "tags": _tags(run.tags),
        "problems": problems,
    }
    if ended is not None:
        found = _ended(common, ended)
    else:
        found = _unended(common, attempt, started, broken=records["ended.json"] is not None)
    return replace(found, problems=(*found.problems, *newer), read_only=True) if newer else found


def is_newer(record: Mapping[str, Any]) -> bool:
    """Whether a record has a schema that this lorakit does not know yet."""
    schema = record.get("schema")
    return isinstance(schema, int) and schema > SCHEMA


def _newer(record: Mapping[str, Any]) -> str:
    return f"written by a newer lorakit (schema {record['schema']}): shown as far as it is understood, never changed"


def require_writable(run: Run) -> None:
    """Raise ArchiveError when a newer lorakit wrote this run: what is not understood is not written to."""
    attempt = run.last_attempt
    for path in (run.request, run.command_json, attempt.started, attempt.ended, run.manifest(attempt.number)):
        record = read_record(path)
        if record is not None and is_newer(record):
            raise ArchiveError(
                f"{run.id} is of a newer lorakit, and this one does not change it",
                why=f"{path.name} has schema {record['schema']}; this lorakit knows {SCHEMA}",
                todo="install the newer lorakit; lorakit show works",
            )


def _shown(common: Mapping[str, Any]) -> dict[str, Any]:
    """What RunState has of it."""
    return {name: value for name, value in common.items() if name != "asked_on"}


def _ended(common: dict[str, Any], ended: Mapping[str, Any]) -> RunState:
    try:
        status, reason = Status(ended["status"]), Reason(ended.get("reason", ""))
    except (KeyError, ValueError):
        status, reason = (Status.UNKNOWN if is_newer(ended) else Status.DAMAGED), Reason.RECORDS
    if common["problems"] and status is Status.OK:
        status, reason = Status.DAMAGED, Reason.RECORDS
        common = {**common, "message": "; ".join(common["problems"])}
    values: dict[str, Any] = {name: ended[name] for name in RESULTS if ended.get(name) is not None}
    checkpoints = ended.get("checkpoints")
    tail = ended.get("log_tail")
    return RunState(
        **{"message": str(ended.get("message", "")), "evidence": str(ended.get("evidence", "")), **_shown(common)},
        **values,
        status=status,
        reason=reason,
        ended=_number(ended.get("time")),
        seconds=_together(common, _number(ended.get("seconds"))),
        checkpoints=len(checkpoints) if isinstance(checkpoints, list) else 0,
        log_tail=tuple(str(line) for line in tail) if isinstance(tail, list) else (),
    )


def _unended(common: dict[str, Any], attempt: Attempt, started: Mapping[str, Any] | None, *, broken: bool) -> RunState:
    """No readable ended.json: the run goes on, or was cut short."""
    progress = read_attempts(common["run"], common["attempt"])
    values: dict[str, Any] = results(progress)
    values["phase"] = progress.phase
    values["checkpoints"] = sum(saved.kind != "state" for saved in progress.saved)
    status, reason, message = _life(common, attempt, started, broken=broken)
    evidence = _evidence_of(reason, started)
    if common["started"] is not None and status is Status.RUNNING:
        values["seconds"] = _together(common, _running_for(started or {}, common["started"]))
    elif started is not None:
        values["seconds"] = _together(common, read_progress(attempt.progress).seconds)
    if status is Status.INTERRUPTED and values["steps"]:
        of = f" of {progress.total_steps}" if progress.total_steps else ""
        message = f"{message} at step {progress.steps}{of}"
    return RunState(**_shown(common), **values, status=status, reason=reason, message=message, evidence=evidence)


def _together(common: Mapping[str, Any], seconds: float | None) -> float | None:
    """Seconds of this attempt and of those before it; None where nobody knows."""
    run: Run = common["run"]
    before = [attempt_seconds(run.attempt(number)) for number in range(1, common["attempt"])]
    return seconds if not before else sum(before) + (seconds or 0.0)


def attempt_seconds(attempt: Attempt) -> float:
    """How long an attempt that is over went on: as its end says, or as far as its progress tells."""
    told = _number((read_record(attempt.ended) or {}).get("seconds"))
    return read_progress(attempt.progress).seconds if told is None else told


def _running_for(started: Mapping[str, Any], since: float) -> float:
    """Seconds since a run on this machine began: by the clock that nobody can set, where it was recorded in this boot."""
    keeper, began = ProcessId.from_json(started.get("keeper")), _number(started.get("boot_seconds"))
    if keeper is not None and began is not None and keeper.boot_id == boot_id() and keeper.is_here:
        return max(0.0, boot_seconds() - began)
    return max(0.0, time.time() - since)


def _evidence_of(reason: Reason, started: Mapping[str, Any] | None) -> str:
    """What shows that a run without an end is not running."""
    keeper = ProcessId.from_json((started or {}).get("keeper"))
    if reason is Reason.NEVER_STARTED:
        return "no started.json, and nobody holds alive.lock"
    if reason is not Reason.KEEPER_LOST or keeper is None:
        return ""
    if keeper.boot_id != boot_id():
        return f"its keeper, pid {keeper.pid}, lived before this machine's last start; there is no ended.json"
    return f"its keeper, pid {keeper.pid}, is gone, and nobody holds alive.lock; there is no ended.json"


def _life(
    common: Mapping[str, Any], attempt: Attempt, started: Mapping[str, Any] | None, *, broken: bool
) -> tuple[Status, Reason, str]:
    keeper = ProcessId.from_json((started or {}).get("keeper"))
    if broken:
        return Status.DAMAGED, Reason.RECORDS, "ended.json cannot be read"
    if is_alive(attempt, keeper):
        return Status.RUNNING, Reason.NONE, "" if started else "starting"
    if keeper is not None and keeper.host != this_host():
        return Status.UNKNOWN, Reason.OTHER_HOST, f"it was started on {keeper.host}; only that machine can tell"
    if started is not None:
        return Status.INTERRUPTED, Reason.KEEPER_LOST, "interrupted: its keeper died (killed, or the machine went down)"
    if any("started.json" in problem for problem in common["problems"]):
        return Status.DAMAGED, Reason.RECORDS, "started.json cannot be read"
    if common["problems"]:
        return Status.DAMAGED, Reason.RECORDS, "; ".join(common["problems"])
    if (job := read_record(attempt.job)) is not None:
        return (
            Status.QUEUED,
            Reason.NONE,
            f"queued as job {job.get('job', '?')}, as far as its folder tells",
        )
    if common["asked_on"] not in {"", this_host()}:
        where = common["asked_on"]  # its started.json may only show late here
        return Status.UNKNOWN, Reason.OTHER_HOST, f"it was prepared on {where}; only that machine can tell"
    created = common["created"]
    if created is not None and abs(time.time() - created) < BIRTH_GRACE:
        return Status.PREPARED, Reason.NONE, "about to start"
    return Status.INTERRUPTED, Reason.NEVER_STARTED, "it was prepared and never started"


def is_alive(attempt: Attempt, keeper: ProcessId | None = None) -> bool:
    """Whether anything of an attempt lives on this machine: its lock is held, or its keeper is there.

    ``keeper`` saves reading started.json when it is known.
    """
    if is_locked(attempt.alive):
        return True
    if keeper is None:
        keeper = ProcessId.from_json((read_record(attempt.started) or {}).get("keeper"))
    return keeper is not None and keeper.is_alive()


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _tags(path: Path) -> tuple[str, ...]:
    """The user's tags: ``{"tags": […]}`` or a plain list; anything else is no tags."""
    record = read_record(path)
    tags = record.get("tags") if record else None
    return tuple(str(tag) for tag in tags) if isinstance(tags, list) else ()


def started_record(run: Run, attempt: Attempt, **facts: Any) -> dict[str, Any]:
    """The content of started.json: which attempt, when, and who keeps it."""
    keeper = asdict(ProcessId.current())
    now = {"time": time.time(), "boot_seconds": round(boot_seconds(), 3)}
    return {"schema": SCHEMA, "run": run.id, "attempt": attempt.number, **now, "keeper": keeper, **facts}
