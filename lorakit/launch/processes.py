"""What Linux knows about processes: who one is, whether it lives, which belong to a run, and locks that die with them."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import socket
import struct
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from lorakit.errors import TrainerError

__all__ = [
    "COOKIE_ENV",
    "ProcessId",
    "hold_lock",
    "is_locked",
    "processes_with_cookie",
    "require_linux",
    "take_lock",
    "this_host",
]

#: Every process of a training carries the run's cookie in this variable.
COOKIE_ENV: Final = "LORAKIT_RUN"

# struct flock: l_type, l_whence, l_start, l_len, l_pid; all zero ranges mean the whole file.
_FLOCK: Final = "hhqqi4x"
#: How a file system says that it has no locks.
_NO_LOCKS: Final = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})


def require_linux() -> None:
    """Raise TrainerError where a training cannot be supervised."""
    if sys.platform != "linux":
        raise TrainerError(
            f"a training cannot be started on {sys.platform}",
            why="lorakit watches over a run with death signals, /proc and open-file locks, which only Linux has",
            todo="bake on Linux (WSL works on Windows); planning, rendering, listing and comparing work here",
        )


def this_host() -> str:
    """The name of this machine."""
    return socket.gethostname()


@functools.cache
def boot_id() -> str:
    """The kernel's id of this boot; empty where there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def boot_seconds() -> float:
    """Seconds since this machine started, suspension included: a clock that nobody can set."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


@dataclass(frozen=True)
class ProcessId:
    """A process that cannot be mistaken for a later one with the same pid.

    ``ticks`` is the start time in clock ticks since boot; ``boot_id`` names the boot; ``host`` the machine.
    """

    pid: int
    ticks: int
    boot_id: str
    host: str

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        """The identity of a living process. Raises ProcessLookupError when there is none."""
        stat = _stat(pid)
        if stat is None:
            raise ProcessLookupError(pid)
        return cls(pid, stat[1], boot_id(), this_host())

    @classmethod
    def current(cls) -> ProcessId:
        """The identity of this process."""
        return cls.of(os.getpid())

    @classmethod
    def from_json(cls, value: Any) -> ProcessId | None:
        """Read what :meth:`to_json` wrote (further keys are ignored); None when it is not that."""
        if not isinstance(value, Mapping):
            return None
        pid, ticks = value.get("pid"), value.get("ticks")
        boot, host = value.get("boot_id"), value.get("host")
        if isinstance(pid, int) and isinstance(ticks, int) and isinstance(boot, str) and isinstance(host, str):
            return cls(pid, ticks, boot, host)
        return None

    def to_json(self) -> dict[str, Any]:
        """Plain values for a record."""
        return asdict(self)

    @property
    def is_here(self) -> bool:
        """Whether it ran on this machine, so that :meth:`is_alive` can tell."""
        return self.host == this_host()

    def is_alive(self) -> bool:
        """Whether exactly this process lives on this machine and boot; a zombie is dead."""
        if not self.is_here or self.boot_id != boot_id():
            return False
        stat = _stat(self.pid)
        return stat is not None and stat[1] == self.ticks and stat[0] not in {"Z", "X"}

    def kill(self, number: int) -> bool:
        """Send a signal when it is still this process; False when it is gone."""
        if not self.is_alive():
            return False
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True


def _stat(pid: int) -> tuple[str, int] | None:
    """State letter and start ticks of a process, or None."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return fields[0].decode(), int(fields[19])


def processes_with_cookie(cookie: str) -> tuple[ProcessId, ...]:
    """Living processes of this machine that were started with ``LORAKIT_RUN=cookie``, this one left out."""
    wanted = f"{COOKIE_ENV}={cookie}".encode()
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = Path(entry.path, "environ").read_bytes()
            if wanted in environment.split(b"\0"):
                found.append(ProcessId.of(int(entry.name)))
        except OSError:  # gone meanwhile, or another user's
            continue
    return tuple(found)


def hold_lock(path: Path) -> int:
    """A descriptor with a shared lock on ``path``, released by the kernel when the last process that has it is gone.

    On a file system without locks it holds none: liveness is then told by who the keeper is.
    """
    import fcntl

    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    with contextlib.suppress(OSError):
        fcntl.fcntl(handle, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0))
    return handle


def take_lock(handle: int, *, exclusive: bool) -> bool:
    """Lock an open file, or change the lock it has in one step, without waiting; False when others are in the way.

    The lock ends when the last process that has the descriptor closes it or dies. On a file system without locks nobody is in
    the way. Raises TrainerError on other systems than Linux.
    """
    require_linux()
    import fcntl

    kind = fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK
    try:
        fcntl.fcntl(handle, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, kind, os.SEEK_SET, 0, 0, 0))
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


def is_locked(path: Path) -> bool:
    """Whether any process holds the lock on ``path``. Asks without taking it; False where nobody can tell."""
    if sys.platform != "linux":
        return False
    import fcntl

    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        question = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = struct.unpack(_FLOCK, fcntl.fcntl(handle, fcntl.F_OFD_GETLK, question))
    except OSError:
        return False
    finally:
        os.close(handle)
    return bool(answer[0] != fcntl.F_UNLCK)


def kill_all(processes: tuple[ProcessId, ...], number: int) -> None:
    """Send a signal to each that still lives; those of other users are left alone."""
    for process in processes:
        with contextlib.suppress(PermissionError):
            process.kill(number)


def wait_gone(processes: tuple[ProcessId, ...], seconds: float) -> tuple[ProcessId, ...]:
    """Wait up to ``seconds`` for processes to end; those still alive."""
    deadline = time.monotonic() + seconds
    while alive := tuple(process for process in processes if process.is_alive()):
        if time.monotonic() >= deadline:
            break
        time.sleep(0.02)
    return alive
