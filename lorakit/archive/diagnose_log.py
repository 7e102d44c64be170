"""Why a training ended the way it did, in one line, from the facts and the log (pure)."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from lorakit.archive.trainer_log import log_tail

__all__ = ["Evidence", "Reason", "Status", "Verdict", "diagnose", "log_tail"]


class Status(StrEnum):
    """Where a run stands."""

    PREPARED = "prepared"
    QUEUED = "queued"
    RUNNING = "running"
    OK = "ok"
    FAILED = "failed"
    STOPPED = "stopped"
    INTERRUPTED = "interrupted"
    UNKNOWN = "unknown"
    DAMAGED = "damaged"


class Reason(StrEnum):
    """Why it stands there."""

    NONE = ""
    OK = "ok"
    STOPPED_BY_USER = "stopped-by-user"
    TERMINATED = "terminated"
    PREEMPTED = "preempted"
    TIMED_OUT = "timed-out"
    OOM_CUDA = "oom-cuda"
    OOM_KILLED = "oom-killed"
    NAN = "nan"
    SPIKE = "spike"
    DISK_FULL = "disk-full"
    MISSING_FILE = "missing-file"
    NO_DATA = "no-data"
    NO_RESULT = "no-result"
    TORN_RESULT = "torn-result"
    BAD_ARGUMENTS = "bad-arguments"
    MISSING_MODULE = "missing-module"
    PORT_IN_USE = "port-in-use"
    SIGNALLED = "signalled"
    ERROR = "error"
    NEVER_STARTED = "never-started"
    LAUNCHER_LOST = "launcher-lost"
    KEEPER_LOST = "keeper-lost"
    OTHER_HOST = "other-host"
    RECORDS = "records"


@dataclass(frozen=True)
class Evidence:
    """What is known about an ended training.

    ``code``/``signal`` are of the rank that failed first (or 0/None); ``started`` whether any rank started;
    ``unreported`` the ranks that could not record an end; ``oom_kills`` how often the kernel killed for memory meanwhile;
    ``launcher`` accelerate's exit code; ``stop_level`` the stop that was asked for, ``keeper_signalled`` whether by a signal
    to the keeper rather than by the user's word, ``batch_job`` the batch system's job that this happened in and ``batch_time_up``
    whether its time was over; ``stalled`` says for how long nothing moved when that ended it;
    ``after_checkpoint`` whether its next checkpoint was waited for; ``nan_since`` the step from which on
    every loss was NaN or infinite; ``result`` is "whole", "torn" or "missing": the final LoRA file.
    """

    started: bool = True
    rank: int = 0
    code: int | None = 0
    signal: int | None = None
    unreported: tuple[int, ...] = ()
    oom_kills: int = 0
    launcher: int = 0
    stop_level: int = 0
    keeper_signalled: bool = False
    batch_job: str = ""
    batch_time_up: bool = False
    stalled: str = ""
    after_checkpoint: bool = False
    end_reason: str | None = None
    end_message: str = ""
    nan_since: int | None = None
    steps: int = 0
    total_steps: int | None = None
    result: str = "whole"
    log: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """Status, reason, one line for the reader, and one line of evidence: which record or log line shows it."""

    status: Status
    reason: Reason
    message: str
    evidence: str = field(default="", compare=False)


def diagnose(evidence: Evidence) -> Verdict:
    """How a training ended and why.

    Success needs all of: exit code 0 of every rank and a whole final LoRA file. What the user asked for comes before what the
    log says, what the log says before what the exit code says.
    """
    if evidence.stalled:
        at = f"failed at {_steps(evidence)}" if evidence.started else "never started"
        message = f"{at}: it made no progress for {evidence.stalled} and was ended"
        seen = f"progress.jsonl: no step, file or sample for {evidence.stalled}, as long as launch.no_progress_timeout allows"
        return Verdict(Status.FAILED, Reason.TIMED_OUT, message, seen)
    if evidence.stop_level > 0:
        return _stopped(evidence)
    failed = evidence.code != 0 or evidence.unreported or (evidence.launcher != 0 and not evidence.started)
    if failed:
        return _failed(evidence)
    if evidence.end_reason in _FAULTS or evidence.nan_since is not None:
        return _failed(evidence)
    if evidence.end_reason == "stopped":
        return _stopped(evidence)
    if not evidence.started:
        message = _with_log("the training never started", evidence.log)
        return Verdict(Status.FAILED, Reason.NEVER_STARTED, message, "ranks/: no rank recorded that it began")
    if evidence.result != "whole":
        return _without_result(evidence)
    if evidence.launcher != 0:
        return Verdict(
            Status.OK,
            Reason.OK,
            f"{_steps(evidence)} (accelerate itself ended with {_how(evidence.launcher)} afterwards)",
            _WELL,
        )
    return Verdict(Status.OK, Reason.OK, _steps(evidence), _WELL)


#: Ends that a trainer itself calls a failure.
_FAULTS: Final = frozenset({"nan", "spike", "error"})
#: What shows that all is well.
_WELL: Final = "every rank ended with exit code 0, and the final LoRA file is whole"


def _stopped(evidence: Evidence) -> Verdict:
    kept = "what was trained is saved" if evidence.result == "whole" else "what was saved before is kept"
    ways = {0: "stopped", 1: "stopped", 2: "terminated", 3: "killed"}
    message = f"{ways[min(3, evidence.stop_level)]} by the user at {_steps(evidence)}; {kept}"
    if (
        evidence.end_reason in {None, "ok"}
        and evidence.code == 0
        and evidence.result == "whole"
        and _complete(evidence)
    ):
        return Verdict(Status.OK, Reason.OK, _steps(evidence), _WELL)
    if evidence.keeper_signalled and evidence.batch_job and evidence.signal in {signal.SIGTERM, signal.SIGKILL}:
        return _terminated(evidence, "what was saved before is kept")  # the batch system signalled the ranks as well
    if evidence.stop_level == 1 and (evidence.code != 0 or evidence.end_reason in _FAULTS):
        found = _failed(evidence)  # it was asked to stop, but ended by a fault of its own
        return Verdict(Status.FAILED, found.reason, found.message, found.evidence)
    if evidence.after_checkpoint and evidence.stop_level == 2:
        message = f"stopped by the user at {_steps(evidence)}, right after a checkpoint"
    if evidence.keeper_signalled:
        return _terminated(evidence, kept)
    asked = "stop" if evidence.stop_level <= 1 else f"stop-{evidence.stop_level}"
    said = "" if evidence.end_reason is None else f"; the trainer's last word: {evidence.end_reason}"
    return Verdict(
        Status.STOPPED, Reason.STOPPED_BY_USER, message, f"{asked}: the request is in the attempt's folder{said}"
    )


def _terminated(evidence: Evidence, kept: str) -> Verdict:
    """The keeper got a TERM: a batch system's, or the machine's own."""
    at = _steps(evidence)
    if not evidence.batch_job:
        message = f"ended by a signal to its keeper at {at}, as when a machine goes down; {kept}"
        return Verdict(Status.STOPPED, Reason.TERMINATED, message, "SIGTERM to the keeper")
    if evidence.batch_time_up:
        message = f"ended at {at} because the time of job {evidence.batch_job} was over; {kept}"
        return Verdict(
            Status.STOPPED, Reason.TIMED_OUT, message, f"SIGTERM to the keeper at the end of job {evidence.batch_job}"
        )
    message = f"preempted at {at}: job {evidence.batch_job} was ended before its time; {kept}"
    return Verdict(Status.STOPPED, Reason.PREEMPTED, message, f"SIGTERM to the keeper within job {evidence.batch_job}")


def _complete(evidence: Evidence) -> bool:
    return evidence.total_steps is not None and evidence.steps >= evidence.total_steps


def _without_result(evidence: Evidence) -> Verdict:
    text = "\n".join(evidence.log)
    if "No data found" in text:
        return Verdict(
            Status.FAILED,
            Reason.NO_DATA,
            "the trainer found no images to train on (it ended with exit code 0)",
            "trainer.log: No data found",
        )
    if evidence.result == "torn":
        return Verdict(
            Status.FAILED,
            Reason.TORN_RESULT,
            "the final LoRA file is incomplete",
            "its size is not what its header promises",
        )
    return Verdict(
        Status.FAILED,
        Reason.NO_RESULT,
        _with_log("the trainer ended with exit code 0 but wrote no final LoRA file", evidence.log),
        "weights/: the file is not there",
    )


def _failed(evidence: Evidence) -> Verdict:
    at = f"failed at step {evidence.steps}" + (f" of {evidence.total_steps}" if evidence.total_steps else "")
    if not evidence.started and evidence.steps == 0:
        at = "never started"
    reason, why, seen = _why(evidence)
    if reason is Reason.ERROR and not evidence.started:
        reason = Reason.NEVER_STARTED
    return Verdict(Status.FAILED, reason, f"{at}: {why}", seen)


def _why(evidence: Evidence) -> tuple[Reason, str, str]:
    """Reason, cause in words, and what shows it."""
    lines = without_launcher(evidence.log)
    exception = last_exception(lines)
    # What ended it is the last exception; only what no exception may tell is looked for in the whole log.
    for text, causes in ((exception or "", _CAUSES), ("\n".join(lines), _CAUSES[:_ANYWHERE])):
        for pattern, reason, explain in causes:
            if found := list(pattern.finditer(text)):
                return reason, explain(found[-1]), _logged(found[-1].group(0).splitlines()[0])
    if evidence.end_reason == "nan" or evidence.nan_since is not None:
        since = "" if evidence.nan_since is None else f" at step {evidence.nan_since} and stayed so"
        said = evidence.end_message or f"the loss became NaN or infinite{since}"
        seen = (
            f"no finite loss from step {evidence.nan_since} on"
            if evidence.nan_since is not None
            else "the end says nan"
        )
        return Reason.NAN, said, f"progress.jsonl: {seen}"
    if evidence.end_reason == "spike":
        kept = "; the LoRA as it was then is saved" if evidence.result == "whole" else ""
        return Reason.SPIKE, f"{evidence.end_message}{kept}", "progress.jsonl: the trainer's own end says spike"
    if evidence.launcher == -signal.SIGKILL and evidence.signal in {None, signal.SIGTERM, signal.SIGKILL}:
        said = "its launcher was killed by signal 9 (SIGKILL), and the training ended with it"
        return Reason.LAUNCHER_LOST, said, "launcher.json: that process ended by signal 9 (SIGKILL)"
    if evidence.signal is not None:
        return _signalled(evidence, evidence.signal)
    if evidence.unreported:
        ranks = ", ".join(str(rank) for rank in evidence.unreported)
        said = f"rank {ranks} was killed before it could say how it ended"
        return Reason.SIGNALLED, said, f"ranks/: no exit record of rank {ranks}"
    if evidence.code == 2 and (usage := _last(lines, re.compile(r"error: (.+)"))):
        return Reason.BAD_ARGUMENTS, f"the trainer refused its arguments: {usage}", _logged(f"error: {usage}")
    if evidence.end_reason == "error" and evidence.end_message:
        return Reason.ERROR, evidence.end_message.splitlines()[0], "progress.jsonl: the trainer's own end says error"
    if exception is not None:
        return Reason.ERROR, exception, _logged(exception)
    code = evidence.code if evidence.code not in {None, 0} else evidence.launcher
    who = f"rank {evidence.rank} " if evidence.rank else ""
    record = f"ranks/exit-{evidence.rank}.json" if evidence.code not in {None, 0} else "accelerate's launcher"
    seen = f"{record}: {_how(code or 0)}"
    return Reason.ERROR, _with_log(f"{who}ended with {_how(code or 0)}", lines), seen


def _logged(line: str) -> str:
    return f"trainer.log: {line.strip()[:200]}"


def _signalled(evidence: Evidence, number: int) -> tuple[Reason, str, str]:
    how = f"signal {number} ({_signal_name(number)})"
    seen = f"ranks/exit-{evidence.rank}.json: {how}"
    if number == signal.SIGKILL and evidence.oom_kills:
        said = f"the machine ran out of memory and the kernel killed rank {evidence.rank}"
        return Reason.OOM_KILLED, said, f"{seen}; the kernel counts {evidence.oom_kills} more kills for want of memory"
    return Reason.SIGNALLED, f"rank {evidence.rank} was killed by {how}", seen


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


def _how(code: int) -> str:
    return f"signal {-code} ({_signal_name(-code)})" if code < 0 else f"exit code {code}"


def _cuda(found: re.Match[str]) -> str:
    text = found.group(0)
    tried = re.search(r"[Tt]ried to allocate ([\d.]+ ?[KMGT]?i?B)", text)
    free = re.search(r"([\d.]+ ?[KMGT]?i?B)(?: is)? free", text)
    total = re.search(r"total capacity of ([\d.]+ ?[KMGT]?i?B)|([\d.]+ ?[KMGT]?i?B) total capacity", text)
    facts = [f"tried {tried.group(1)}"] if tried else []
    if free:
        of = f" of {next(group for group in total.groups() if group)}" if total else ""
        facts.append(f"{free.group(1)} free{of}")
    return "CUDA out of memory" + (f" ({', '.join(facts)})" if facts else "")


def _missing(found: re.Match[str]) -> str:
    return f"missing file: {found.group('path')}"


_CAUSES: Final = (
    (
        re.compile(r"(?:CUDA out of memory|CUDA error: out of memory|OutOfMemoryError)[^\n]*(?:\n[^\n]*){0,2}"),
        Reason.OOM_CUDA,
        _cuda,
    ),
    (
        re.compile(
            r"No space left on device|\[Errno 28\]|Disk quota exceeded|\[Errno 122\]|File too large|\[Errno 27\]"
        ),
        Reason.DISK_FULL,
        lambda found: f"the disk is full ({found.group(0).strip('[]')})",
    ),
    (
        re.compile(r"(?i)(?:address already in use|EADDRINUSE|port `?\d+`?, but another process)"),
        Reason.PORT_IN_USE,
        lambda _: "the port where the processes meet is in use",
    ),
    (
        re.compile(
            r"Error while finding module specification for .*?\((?:\w+: )?(?P<what>.+)\)"
            # Not the warnings of a package that does without another one.
            r"|^(?:\w*Error|.*python[\w.]*): (?P<name>No module named .+)"
        ),
        Reason.MISSING_MODULE,
        lambda found: f"the trainer's Python lacks something: {found.group('what') or found.group('name')}",
    ),
    (
        re.compile(r"^FileNotFoundError: \[Errno 2\] No such file or directory: (?P<path>.+)$"),
        Reason.MISSING_FILE,
        _missing,
    ),
    (
        re.compile(r"^ImportError: (?P<what>.+)$"),
        Reason.MISSING_MODULE,
        lambda found: f"the trainer's Python lacks something: {found.group('what')}",
    ),
    (
        re.compile(r"(?i)^(?:RuntimeError|ValueError|Exception|FloatingPointError): .*\bnan\b.*$"),
        Reason.NAN,
        lambda found: f"NaN: {found.group(0).partition(': ')[2]}",
    ),
)
#: So many of the causes are told by their words alone, wherever they stand.
_ANYWHERE: Final = 4

#: What accelerate and torch say about a failed child: never the cause.
_WRAPPERS: Final = (
    "subprocess.CalledProcessError",
    "torch.distributed.elastic.multiprocessing.errors.ChildFailedError",
)


def last_exception(lines: Iterable[str]) -> str | None:
    """The last line of the last Python traceback that is not a launcher reporting its child's end."""
    pattern = re.compile(
        r"(?:\[rank\d+\]: ?)?((?:[A-Za-z_][\w]*\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Exit|Warning|Failed|Stopped))(?:: (.*))?"
    )
    found = None
    inside = False
    for line in lines:
        if "Traceback (most recent call last)" in line:
            inside = True
        elif inside and (match := pattern.fullmatch(line.strip())) and not line.startswith((" ", "\t")):
            inside = False
            if not match.group(1).startswith(_WRAPPERS):
                found = f"{match.group(1).rpartition('.')[2]}: {match.group(2)}" if match.group(2) else match.group(1)
    return found


def _last(lines: tuple[str, ...], pattern: re.Pattern[str]) -> str | None:
    for line in reversed(lines):
        if found := pattern.search(line):
            return found.group(1)
    return None


def _with_log(text: str, lines: tuple[str, ...]) -> str:
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f"{text}; last line: {last[:200]}" if last else text


def _steps(evidence: Evidence) -> str:
    if evidence.total_steps and evidence.steps != evidence.total_steps:
        return f"step {evidence.steps} of {evidence.total_steps}"
    return f"{evidence.steps} steps"


def without_launcher(lines: tuple[str, ...]) -> tuple[str, ...]:
    """A log without what torch's launcher says at its end about a failed rank: that is never the cause."""
    kept = [line for line in lines if "torch/distributed/elastic/" not in line]
    end = next((at for at, line in enumerate(kept) if line.startswith(_WRAPPERS[1])), None)
    if end is None:
        return tuple(kept)
    begin = max((at for at in range(end) if kept[at].startswith("Traceback (most recent call last)")), default=end)
    return tuple(kept[:begin])
