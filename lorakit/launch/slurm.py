"""Slurm: the ``[slurm]`` table of lorakit.toml, the text of a job (pure), and a thin client that never guesses."""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lorakit.errors import UsageError, WorkspaceError

__all__ = [
    "JobState",
    "SlurmSettings",
    "cancel",
    "indices",
    "job_states",
    "multi_node",
    "script",
    "submit",
    "times_of",
]

TABLE: Final = "slurm"
#: Seconds that Slurm gets to answer where somebody waits for it.
PATIENCE: Final = 5.0
#: Seconds that sbatch gets: a busy controller takes its time, and giving up does not take a job back.
SUBMIT_PATIENCE: Final = 60.0
#: Slurm's own words for a job that may still run.
_WAITING: Final = frozenset({"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT"})
_RUNNING: Final = frozenset({"RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT"})

_WORD: Final = re.compile(r"[^\s\"'\\#$`;]+")
_MEMORY: Final = re.compile(r"\d+[KMGT]?", re.IGNORECASE)
_SLURM_TIME: Final = re.compile(r"\d+-\d+(:\d+){0,2}|\d+:\d+(:\d+)?")
_GPUS: Final = re.compile(r"([A-Za-z][\w.-]*:)?[1-9]\d*")
#: What lorakit itself says of a job.
_OURS: Final = (
    "array",
    "output",
    "error",
    "signal",
    "open-mode",
    "job-name",
    "parsable",
    "chdir",
    "requeue",
    "no-requeue",
    "wrap",
)


@dataclass(frozen=True)
class SlurmSettings:
    """What ``[slurm]`` says: every key is optional.

    ``gpus`` a number or TYPE:NUMBER for each node; ``cpus`` for each process; ``mem`` for each node, like 32G; ``time`` in Slurm's form or
    like 12h; ``grace`` seconds before the time limit in which the training saves and ends; ``requeue`` whether Slurm may start
    a job again; ``width`` how many trials of a sweep run at once; ``setup`` lines of shell before the program, ``extra`` further
    options of sbatch.
    """

    partition: str = ""
    account: str = ""
    qos: str = ""
    gres: str = ""
    gpus: str = ""
    cpus: int | None = None
    mem: str = ""
    time: str = ""
    nodes: int = 1
    constraint: str = ""
    grace: int = 120
    requeue: bool = True
    width: int | None = None
    setup: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()

    @classmethod
    def of(cls, table: Any) -> SlurmSettings:
        """The table as it stands in lorakit.toml. Raises WorkspaceError for a key or value that cannot be meant."""
        if not isinstance(table, Mapping):
            raise _refused("it is not a table", "write [slurm] and its keys below")
        names = [field.name for field in dataclasses.fields(cls)]
        for key in table:
            if key not in names:
                near = difflib.get_close_matches(str(key), names, n=1, cutoff=0.5)
                raise _refused(
                    f"there is no key {key}", f"did you mean {near[0]}?" if near else f"it has {', '.join(names)}"
                )
        return cls(**{key: _CHECKS[key](key, value) for key, value in table.items()})

    @property
    def directives(self) -> tuple[str, ...]:
        """The options of sbatch, without what is of one job."""
        per_node = "" if not self.gpus else f"gpus-per-node={self.gpus}"
        named = [
            f"{name}={value}" for name in ("partition", "account", "qos", "gres") if (value := getattr(self, name))
        ]
        named += [per_node] if per_node else []
        named += [f"cpus-per-task={self.cpus}"] if self.cpus else []
        named += [f"{name}={value}" for name in ("mem", "time", "constraint") if (value := getattr(self, name))]
        named += [f"nodes={self.nodes}", "ntasks-per-node=1"] if self.nodes > 1 else []
        named += [f"signal=B:TERM@{self.grace}", "requeue" if self.requeue else "no-requeue", "open-mode=append"]
        return (*(f"--{word}" for word in named), *self.extra)


def _refused(what: str, todo: str) -> WorkspaceError:
    return WorkspaceError(f"[slurm] of lorakit.toml: {what}", todo=todo)


def _word(key: str, value: Any) -> str:
    if not isinstance(value, str) or not _WORD.fullmatch(value):
        raise _refused(f"{key} = {value!r} cannot be meant", "a word without spaces and quotes")
    return value


def _count(key: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 65536:
        raise _refused(f"{key} = {value!r} cannot be meant", "a whole number from 1 on")
    return value


def _grace(key: str, value: Any) -> int:
    found = _span(value) if isinstance(value, str) else value
    if not isinstance(found, int) or isinstance(found, bool) or not 30 <= found < 65536:
        raise _refused(f"{key} = {value!r} cannot be meant", "seconds from 30 on, such as 120, or a time such as 5m")
    return found


def _flag(key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _refused(f"{key} = {value!r} cannot be meant", "true or false")
    return value


def _memory(key: str, value: Any) -> str:
    if not isinstance(value, str) or not _MEMORY.fullmatch(value):
        raise _refused(f"{key} = {value!r} cannot be meant", 'a size such as "32G"')
    return value


def _gpus(key: str, value: Any) -> str:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not _GPUS.fullmatch(text):
        raise _refused(f"{key} = {value!r} cannot be meant", 'a number, or "a100:2"')
    return text


def _time(key: str, value: Any) -> str:
    if isinstance(value, str) and _SLURM_TIME.fullmatch(value):
        return value
    seconds = _span(value) if isinstance(value, str) else None
    if seconds is None:
        raise _refused(
            f"{key} = {value!r} cannot be meant",
            'a time with its unit such as "12h", or "1-12:00:00" as Slurm writes it',
        )
    return str(-(-seconds // 60))  # whole minutes, which is what Slurm counts in


def _span(text: str) -> int | None:
    from lorakit.preset.spans import seconds

    try:
        return seconds(text)
    except ValueError:
        return None


def _lines(key: str, value: Any) -> tuple[str, ...]:
    lines = value.splitlines() if isinstance(value, str) else value
    if not isinstance(lines, Sequence) or not all(isinstance(line, str) and line.isprintable() for line in lines):
        raise _refused(f"{key} = {value!r} cannot be meant", "a list of lines, each a text")
    return tuple(lines)


def _extra(key: str, value: Any) -> tuple[str, ...]:
    lines = tuple(line.removeprefix("#SBATCH").strip() for line in _lines(key, value))
    for line in lines:
        name = line.removeprefix("--").partition("=")[0].partition(" ")[0]
        if not re.fullmatch(r"--[a-z].*|-[A-Za-z]\b.*", line):
            raise _refused(f"extra: {line!r} is no option of sbatch", 'write it as "--mail-type=END"')
        if name in _OURS or re.match(r"-[aoeJD]\b", line):
            raise _refused(
                f"extra: {line!r} is lorakit's own to say", "leave it out; docs/slurm.md lists what lorakit writes"
            )
    return lines


_CHECKS: Final[Mapping[str, Callable[[str, Any], Any]]] = {
    **dict.fromkeys(("partition", "account", "qos", "gres", "constraint"), _word),
    **dict.fromkeys(("cpus", "nodes", "width"), _count),
    "gpus": _gpus, "mem": _memory, "time": _time, "grace": _grace, "requeue": _flag, "setup": _lines, "extra": _extra,
}  # fmt: skip


def script(settings: SlurmSettings, name: str, argv: Sequence[str], *, array: str = "") -> str:
    """The text of a batch script that becomes the program: the batch shell's pid, which Slurm signals, is then the program's.

    ``name`` is the job's; ``array`` the tasks of a job array such as ``1-4,7``, at most ``settings.width`` of them at once. Where the job
    runs and where its output goes are not in it but in :func:`submit`: sbatch would not read every path from a comment.
    """
    options = [f"--job-name={name}", *settings.directives]
    if array:
        options.insert(1, f"--array={array}" + (f"%{settings.width}" if settings.width else ""))
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH {option}" for option in options),
        "",
        *settings.setup,
        f"exec {shlex.join(argv)}",
    ]
    return "\n".join(lines) + "\n"


def indices(numbers: Iterable[int]) -> str:
    """Numbers as sbatch takes them for an array: ``1-3,7``."""
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and parts[-1][-1] == number - 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ",".join("-".join(map(str, part)) for part in parts)


def multi_node(argv: Sequence[str], *, nodes: int, processes: int, host: str, port: int) -> tuple[str, ...]:
    """A launch line of one machine as one launcher for each of a job's nodes, started by srun and dying together.

    ``processes`` is their number on each node; ``host`` the first node, where they meet. Each launcher's rank is its node's,
    which only the node itself knows: hence the shell in between, which takes every word as it is.
    """
    at = list(argv).index("--num_cpu_threads_per_process")
    meeting = ["--num_machines", str(nodes), "--num_processes", str(nodes * processes)]
    meeting += ["--main_process_ip", host, "--main_process_port", str(port)]
    line = shlex.join([*argv[:at], *meeting]) + ' --machine_rank "$SLURM_NODEID" "$@"'
    step = [
        "srun",
        f"--nodes={nodes}",
        f"--ntasks={nodes}",
        "--ntasks-per-node=1",
        "--kill-on-bad-exit=1",
        "--export=ALL",
    ]
    return (*step, "sh", "-c", f"exec {line}", "lorakit", *argv[at:])


def submit(path: Path, *, folder: Path, output: str) -> str:
    """Give a batch script to Slurm; returns the job's id. It will run in ``folder``, its output appended to ``output`` there.

    Raises UsageError when there is no sbatch, when it refuses, or when it does not answer.
    """
    argv = ["sbatch", "--parsable", f"--chdir={folder}", f"--output={output}", str(path)]
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, errors="replace", timeout=SUBMIT_PATIENCE, check=False, stdin=subprocess.DEVNULL,
            env=_clean(os.environ),
        )  # fmt: skip
    except FileNotFoundError:
        raise UsageError("there is no Slurm here", why="sbatch is not installed", todo="leave out --on slurm") from None
    except subprocess.TimeoutExpired:
        raise UsageError(
            "Slurm did not answer",
            why=f"sbatch took over {SUBMIT_PATIENCE:.0f} s",
            todo="squeue --me says whether it took the job",
        ) from None
    if done.returncode != 0:
        raise UsageError("Slurm refused the job", why=_complaint(done.stderr), todo="look at [slurm] of lorakit.toml")
    found = re.match(r"\d+", done.stdout.strip())
    if found is None:
        raise UsageError(
            "Slurm did not say the job's id", why=done.stdout.strip()[:200], todo="squeue --me lists your jobs"
        )
    return found.group()


def _clean(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment for a job of its own: without that of the job this may run in, and options hidden in variables."""
    return {
        key: value
        for key, value in environment.items()
        if not key.startswith(("SLURM_", "SBATCH_")) or key == "SLURM_CONF"
    }


def _complaint(text: str) -> str:
    lines = [line.partition("error: ")[2] or line for line in text.strip().splitlines()]
    return "; ".join(line for line in lines if line) or "it did not say why"


@dataclass(frozen=True)
class JobState:
    """Where Slurm says that a job is: ``word`` is Slurm's own, empty when Slurm no longer knows the job; ``why`` why it waits."""

    word: str
    why: str = ""

    @property
    def waits(self) -> bool:
        """Whether it is in the queue."""
        return self.word in _WAITING

    @property
    def runs(self) -> bool:
        """Whether it has begun and is not over."""
        return self.word in _RUNNING

    @property
    def is_over(self) -> bool:
        """Whether it will not run any more; a job that Slurm has forgotten will not."""
        return not self.waits and not self.runs

    @property
    def told(self) -> str:
        """Its state in a few words."""
        if not self.word:
            return "not known to Slurm any more"
        return f"{self.word.lower()}{f' ({self.why})' if self.why and self.waits else ''}"


def job_states(ids: Iterable[str], seconds: float = PATIENCE) -> dict[str, JobState] | None:
    """Where jobs (``12``, or ``12_3`` of an array) are, by squeue, then by sacct for those that have left the queue.

    None when Slurm does not answer within ``seconds``: nothing is known then, and nothing is guessed. A job that squeue does not list and
    that sacct cannot tell of (there may be no accounting) comes out with an empty word.
    """
    wanted = list(dict.fromkeys(ids))
    if not wanted:
        return {}
    roots = ",".join(dict.fromkeys(one.partition("_")[0] for one in wanted))
    listed = _ask(["squeue", "-h", "-r", "-t", "all", "-o", "%i|%T|%r", "-j", roots], seconds)
    if listed is None:
        return None
    found = {}
    for line in listed.splitlines():
        name, word, why = (*line.split("|", 2), "", "")[:3]
        found[name] = JobState(word, "" if why == "None" else why)
    left = [one for one in wanted if one not in found]
    told = _ask(["sacct", "-n", "-X", "-P", "-o", "JobID,State", "-j", ",".join(left)], seconds) if left else None
    for line in (told or "").splitlines():
        name, _, word = line.partition("|")
        found.setdefault(name, JobState(word.partition(" ")[0]))
    return {one: found.get(one, JobState("")) for one in wanted}


def _ask(argv: Sequence[str], seconds: float) -> str | None:
    """What a command of Slurm prints; None when it did not answer. That it knows no such job is an answer: nothing."""
    try:
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode == 0:
        return done.stdout
    return "" if "Invalid job id" in done.stderr else None


def cancel(ids: Sequence[str], seconds: float = PATIENCE) -> bool:
    """Take jobs out of the queue, or end them; whether Slurm took the order."""
    return not ids or _ask(["scancel", *ids], seconds) is not None


def requeue(job: str, seconds: float = PATIENCE) -> bool:
    """Ask Slurm to start this job again later, which ends it now; whether Slurm took the order."""
    return _ask(["scontrol", "requeue", job], seconds) is not None


def times_of(job: str, seconds: float = PATIENCE) -> dict[str, str]:
    """When a job began and has to end, as the variables that newer versions of Slurm set themselves; empty when unknown."""
    import datetime as dt

    found = _ask(["squeue", "-h", "-j", job, "-o", "%S %e"], seconds) or ""
    named = {}
    for name, text in zip(("START", "END"), found.split(), strict=False):
        try:
            moment = dt.datetime.fromisoformat(text)  # in local time, as Slurm prints it
        except ValueError:  # N/A: no limit
            continue
        named[f"SLURM_JOB_{name}_TIME"] = str(int(moment.timestamp()))
    return named
