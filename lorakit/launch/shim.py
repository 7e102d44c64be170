"""Runs one rank of a training and records how it really ended (one file, stdlib only: it runs in any trainer's Python).

accelerate turns every bad end into exit code 1 and leaves its child alive when it is killed itself. This small program
stands between the two: ``accelerate launch … shim.py PROGRAM…`` where PROGRAM is ``script.py args…`` or ``-m module
args…``. It starts the trainer as its child, passes signals on, waits, writes the true wait status, and then ends the
same way. When its parent dies it ends the trainer; when it is killed, the kernel kills the trainer.

From the environment: LORAKIT_ATTEMPT, the folder for ``ranks/`` and ``alive.lock``; RANK, from torch; LORAKIT_KEEPER, the
pid of the process that adopts orphans. Without LORAKIT_ATTEMPT nothing is recorded. Linux only.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import resource
import signal
import socket
import struct
import sys
import time

SCHEMA = 1
#: Bytes kept for the record of the end, so that a full disk cannot swallow it.
RESERVE = 1024
#: Seconds a trainer may take to end after its launcher died, before it is killed.
ORPHAN_GRACE = 5.0
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
PR_SET_PDEATHSIG = 1

libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Start the program given on the command line, wait for it, record its end, end the same way."""
    program = sys.argv[1:]
    if not program:
        sys.exit("usage: shim.py script.py [argument…] | -m module [argument…]")
    parent = os.getppid()
    set_death_signal(signal.SIGTERM)
    rank = int(os.environ.get("RANK", "0"))
    attempt = os.environ.get("LORAKIT_ATTEMPT")
    lock = hold_lock(os.path.join(attempt, "alive.lock")) if attempt else None
    waited = {*FORWARDED, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, waited)
    started = time.time()
    clock = time.monotonic()
    shim = os.getpid()
    child = os.fork()
    if child == 0:
        run(program, shim, lock, before)
    record = {"schema": SCHEMA, "rank": rank, "started": started, **identity(child), "shim": shim}
    reserve = None
    if attempt:
        ranks = os.path.join(attempt, "ranks")
        os.makedirs(ranks, exist_ok=True)
        write(os.path.join(ranks, f"rank-{rank}.json"), record)
        reserve = make_reserve(os.path.join(ranks, f".exit-{rank}.lorakit-tmp-{shim}"))
    if os.getppid() != parent or parent == int(os.environ.get("LORAKIT_KEEPER", "1")):
        os.kill(child, signal.SIGTERM)  # the launcher died before the death signal was set
    status = wait(child, parent, waited)
    kill_rest(child)
    if attempt and reserve:
        how = {"code": os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else None}
        how["signal"] = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        now = time.monotonic()  # one clock for all ranks of a machine: who ended first does not hang on the time of day
        end = {"ended": time.time(), "ticked": round(now, 6), "seconds": round(now - clock, 3), **how}
        use_reserve(reserve, os.path.join(attempt, "ranks", f"exit-{rank}.json"), {**record, **end})
    end_like(status)


def run(program: list[str], shim: int, lock: int | None, mask: set[signal.Signals] | set[int]) -> None:
    """In the child: own process group, killed with the shim, then become the trainer. Never returns."""
    try:
        os.setpgid(0, 0)  # signals to the launcher's group reach the trainer once, through the shim
        set_death_signal(signal.SIGKILL)
        if os.getppid() != shim:
            os._exit(143)
        if lock is not None:
            os.set_inheritable(lock, True)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.execv(sys.executable, [sys.executable, *program])  # noqa: S606 (an argument list, not a shell)
    except OSError as error:
        print(f"{sys.executable} cannot be started: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(127)


def wait(child: int, parent: int, waited: set[signal.Signals]) -> int:
    """The child's wait status; passes signals on meanwhile, TERM only once, and ends an orphan."""
    termed = False
    deadline = None
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid == child:
            return status
        if os.getppid() != parent and deadline is None:
            deadline = time.monotonic() + ORPHAN_GRACE
        if deadline is not None and time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
        info = signal.sigtimedwait(waited, 1.0)
        if info is None or info.si_signo == signal.SIGCHLD:
            continue
        if info.si_signo == signal.SIGTERM:
            if termed:  # the launcher's TERM and the death signal both arrive: one is enough
                continue
            termed = True
        os.kill(child, info.si_signo)


def kill_rest(group: int) -> None:
    """Kill what the trainer left behind in its process group, such as data loader workers."""
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def end_like(status: int) -> None:
    """End with the child's exit code, or by the child's signal (without a second core dump)."""
    if os.WIFSIGNALED(status):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        number = os.WTERMSIG(status)
        if number not in {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        os.kill(os.getpid(), number)
        time.sleep(1)
        os._exit(128 + number)
    os._exit(os.waitstatus_to_exitcode(status))


def set_death_signal(number: int) -> None:
    """Ask the kernel for a signal when the parent dies."""
    if libc.prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")


def hold_lock(path: str) -> int:
    """A descriptor that holds a shared lock on ``path`` for as long as any process has it open, where there are locks."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    with contextlib.suppress(OSError):
        fcntl.fcntl(handle, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0))
    return handle


def identity(pid: int) -> dict[str, object]:
    """What tells a process from a later one with the same pid: start ticks, boot id, host."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        ticks = int(file.read().rpartition(b")")[2].split()[19])
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        boot = file.read().strip()
    return {"pid": pid, "ticks": ticks, "boot_id": boot, "host": socket.gethostname()}


def write(path: str, value: dict[str, object]) -> None:
    """Write JSON whole or not at all."""
    use_reserve(make_reserve(f"{path}.lorakit-tmp-{os.getpid()}"), path, value)


def make_reserve(path: str) -> str:
    """A file of RESERVE bytes on disk, to be overwritten in place later."""
    with open(path, "wb") as file:
        file.write(b" " * RESERVE)
        file.flush()
        os.fsync(file.fileno())
    return path


def use_reserve(reserve: str, path: str, value: dict[str, object]) -> None:
    """Overwrite the reserve with JSON, flush it, and rename it to ``path``."""
    data = (json.dumps(value, indent=2) + "\n").encode()
    with open(reserve, "r+b") as file:
        file.write(data)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())
    os.replace(reserve, path)


if __name__ == "__main__":
    main()
