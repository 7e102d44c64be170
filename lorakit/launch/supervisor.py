"""Starts programs and watches over a training until nothing of it is left (the only Popen of lorakit)."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lorakit.errors import TrainerError
from lorakit.launch.processes import COOKIE_ENV, ProcessId, kill_all, processes_with_cookie, require_linux, wait_gone
from lorakit.protocol import PROGRESS_ENV, SPIKES_ENV, STOP_ENV

__all__ = ["Launch", "Outcome", "RankExit", "StopLevel", "spawn_detached", "supervise", "training_env"]

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36

#: Seconds between two looks at the stop files.
TICK: Final = 0.1
#: Seconds a trainer may take to die of TERM before it is killed.
TERM_GRACE: Final = 15.0
#: Seconds a killed launcher may take to be gone; one that the kernel holds on to is left behind, and named.
KILL_GRACE: Final = 10.0
#: Seconds the ranks may take to end by themselves once the launcher is gone.
ORPHAN_GRACE: Final = 8.0
#: Seconds that other processes of the training may take once every rank has ended.
STRAY_GRACE: Final = 0.5

#: What a parent launch or a user's own default would leak into the training.
_FOREIGN: Final = ("ACCELERATE_", "FSDP_", "TORCHELASTIC_", "TORCH_ELASTIC_", "MEGATRON_LM_", "PARALLELISM_CONFIG_")
_FOREIGN_NAMES: Final = frozenset({
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_NAME",
    "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS", "KMP_AFFINITY", "KMP_BLOCKTIME",
})  # fmt: skip


class StopLevel:
    """How urgently a run is asked to end."""

    NONE: Final = 0
    GRACEFUL: Final = 1  # finish the step, save, end
    TERMINATE: Final = 2  # TERM now, KILL after a while
    KILL: Final = 3  # KILL now


@dataclass(frozen=True)
class Launch:
    """What to start: the launch line, its whole environment, the attempt's folder, and the cookie in the environment."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    folder: Path
    cookie: str


@dataclass(frozen=True)
class RankExit:
    """How one rank ended: ``code`` or ``signal`` is set; ``ended`` in unix seconds, ``ticked`` by a clock that nobody sets."""

    rank: int
    code: int | None
    signal: int | None
    ended: float
    ticked: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether it ended other than with exit code 0."""
        return self.code != 0

    def to_json(self) -> dict[str, Any]:
        """Plain values for a record."""
        return {"rank": self.rank, "code": self.code, "signal": self.signal, "ended": self.ended}


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    ``launcher`` is accelerate's own exit code (negative: the signal that ended it; None: not even KILL did); ``ranks`` the truth about each rank that
    recorded its end; ``unreported`` the ranks that started and could not; ``stop_level`` the highest stop that was asked
    for; ``survivors`` the pids that not even KILL ended; ``seconds`` the wall time.
    """

    launcher: int | None
    ranks: tuple[RankExit, ...]
    unreported: tuple[int, ...]
    stop_level: int
    survivors: tuple[int, ...]
    seconds: float

    @property
    def first_failure(self) -> RankExit | None:
        """The rank that failed first: the others were ended because of it."""
        failed = sorted((rank for rank in self.ranks if rank.failed), key=lambda rank: (rank.ticked, rank.ended))
        return failed[0] if failed else None

    @property
    def ok(self) -> bool:
        """Whether every rank that started ended with exit code 0, and at least one did."""
        return bool(self.ranks) and not self.unreported and self.first_failure is None


def training_env(
    base: Mapping[str, str],
    *,
    folder: Path,
    cookie: str,
    keeper: int,
    cpu: bool,
    gpu_ids: str = "all",
    spikes: str = "",
) -> tuple[dict[str, str], dict[str, Any]]:
    """The environment of a training, and a record of how it differs from ``base`` (names of what went, values of what came).

    A launch inside another launch, or a user's accelerate variables, must not change a run; the Hugging Face hub is
    not asked unless the user decided otherwise.
    """
    env = {key: value for key, value in base.items() if not _foreign(key)}
    removed = sorted(set(base) - set(env))
    added = {
        COOKIE_ENV: cookie,
        "LORAKIT_ATTEMPT": str(folder),
        "LORAKIT_KEEPER": str(keeper),
        PROGRESS_ENV: str(folder / "progress.jsonl"),
        STOP_ENV: str(folder / "stop"),
        "PYTHONUNBUFFERED": "1",
        "PYTHONIOENCODING": "utf-8:backslashreplace",
        "COLUMNS": "200",
        "TERM": "dumb",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    if spikes:
        added[SPIKES_ENV] = spikes
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        added[name] = base.get(name, "1")
    if cpu:
        added["ACCELERATE_USE_CPU"] = "true"  # accelerate's launcher for several processes does not pass it on
    elif gpu_ids != "all":
        added["CUDA_VISIBLE_DEVICES"] = gpu_ids
    env.update(added)
    return env, {"removed": removed, "set": added}


def _foreign(name: str) -> bool:
    return name in _FOREIGN_NAMES or name.startswith(_FOREIGN)


def supervise(
    launch: Launch,
    *,
    stop_level: Callable[[], int],
    on_started: Callable[[ProcessId], None] = lambda _: None,
    term_grace: float = TERM_GRACE,
) -> Outcome:
    """Run a launch line to its end and leave nothing of it behind.

    ``stop_level`` is asked ten times a second (see StopLevel); ``on_started`` is told who the launcher is. Must run in the
    main thread of a process of its own: it adopts and reaps every orphan below it, and the launcher dies with it.
    Raises TrainerError when the launcher cannot be started, or on another system than Linux.
    """
    require_linux()
    began = time.monotonic()
    _adopt_orphans()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    process = _start(launch)
    try:
        on_started(ProcessId.of(process.pid))
        status, level, deadline = _watch(process.pid, launch, stop_level, term_grace)
    except BaseException:  # whatever goes wrong in here, the training must not go on without its supervisor
        _kill_everything(process.pid, launch.cookie)
        process.wait()
        raise
    process.returncode = None if status is None else os.waitstatus_to_exitcode(status)
    survivors = _end_rest(launch, stop_level, level, deadline)
    ranks, unreported = read_ranks(launch.folder / "ranks")
    return Outcome(
        launcher=process.returncode,
        ranks=ranks,
        unreported=unreported,
        stop_level=max(level, stop_level()),
        survivors=tuple(survivor.pid for survivor in survivors),
        seconds=time.monotonic() - began,
    )


def _watch(
    launcher: int, launch: Launch, stop_level: Callable[[], int], term_grace: float
) -> tuple[int | None, int, float]:
    """Wait for the launcher and stop it when asked: its wait status (None: it outlived KILL), the level reached, and when patience ends."""
    level, deadline, lost = StopLevel.NONE, float("inf"), float("inf")
    while (status := _reap(launcher)) is None and time.monotonic() < lost:
        wanted = max(level, stop_level())
        if time.monotonic() > deadline:
            wanted = StopLevel.KILL
        if wanted > level:
            level = wanted
            if level == StopLevel.TERMINATE:
                _signal_group(launcher, signal.SIGTERM)
                deadline = time.monotonic() + term_grace
            elif level == StopLevel.KILL:
                _kill_everything(launcher, launch.cookie)
                lost = time.monotonic() + KILL_GRACE
        signal.sigtimedwait({signal.SIGCHLD}, TICK)
    return status, max(level, stop_level()), deadline


def _kill_everything(launcher: int, cookie: str) -> None:
    _signal_group(launcher, signal.SIGKILL)
    kill_all(processes_with_cookie(cookie), signal.SIGKILL)


def _start(launch: Launch) -> subprocess.Popen[bytes]:
    """The launcher in a session of its own, output appended to a plain file: a pipe would kill it with its reader."""
    keeper = os.getpid()
    libc = ctypes.CDLL(None, use_errno=True)

    def die_with_keeper() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != keeper:
            os._exit(143)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    with open(launch.folder / "trainer.log", "ab", buffering=0) as log:
        try:
            return subprocess.Popen(
                launch.argv,
                cwd=launch.folder,
                env=dict(launch.env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_keeper,  # noqa: PLW1509 (this process has one thread)
            )
        except OSError as error:
            raise TrainerError(
                f"{launch.argv[0]} cannot be started",
                why=error.strerror or str(error),
                todo="check trainer.python of the preset, or install the trainer again",
            ) from error


def _adopt_orphans() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


def _reap(launcher: int) -> int | None:
    """Reap every dead child, adopted ones too; the launcher's wait status once it is among them."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return None
        if pid == 0:
            return None
        if pid == launcher:
            return status


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _end_rest(launch: Launch, stop_level: Callable[[], int], level: int, deadline: float) -> tuple[ProcessId, ...]:
    """End whatever of the training outlived its launcher; those that even KILL did not end.

    Ranks that lost their launcher get time to end and to record it; what is left after all ranks have, hardly any.
    """
    began = time.monotonic()
    while rest := processes_with_cookie(launch.cookie):
        grace = ORPHAN_GRACE if read_ranks(launch.folder / "ranks")[1] else STRAY_GRACE
        if max(level, stop_level()) >= StopLevel.KILL or time.monotonic() > min(began + grace, deadline):
            break
        wait_gone(rest, TICK)
        _reap(0)
    rounds = 0
    while rest and rounds < 3:  # whoever forks while being killed is found in the next round
        kill_all(rest, signal.SIGKILL)
        wait_gone(rest, 2.0)
        _reap(0)
        rest = processes_with_cookie(launch.cookie)
        rounds += 1
    return rest


def read_ranks(folder: Path) -> tuple[tuple[RankExit, ...], tuple[int, ...]]:
    """What the shims recorded: the ends of ranks, and the ranks that started and recorded no end."""
    started, exits = set(), {}
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        try:
            value = json.loads(path.read_bytes())
            rank = int(value["rank"])
            started.add(rank)
            if path.name.startswith("exit-"):
                ticked = float(value.get("ticked", 0.0))
                exits[rank] = RankExit(rank, value["code"], value["signal"], float(value["ended"]), ticked)
        except (ValueError, KeyError, TypeError):  # torn: counts as started without an end
            with contextlib.suppress(ValueError):
                started.add(int(path.stem.rpartition("-")[2]))
    return tuple(exits[rank] for rank in sorted(exits)), tuple(sorted(started - set(exits)))


def spawn_detached(argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], output: Path) -> subprocess.Popen[bytes]:
    """Start a program that outlives this one and its terminal: own session, no stdin, output appended to a file."""
    require_linux()
    with open(output, "ab", buffering=0) as log:
        return subprocess.Popen(
            argv,
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def run_briefly(argv: Sequence[str], *, seconds: float, cwd: Path | None = None) -> str | None:
    """The standard output of a short helper program; None when it is missing, fails, or takes too long."""
    try:
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=True,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def module_argv(module: str, *arguments: str) -> tuple[str, ...]:
    """This Python running one of lorakit's modules, with nothing of the current folder on its path."""
    return (sys.executable, "-P", "-m", module, *arguments)
