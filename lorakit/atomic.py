"""Writing files so that a reader, or a machine that loses power, sees the old file or the new one, never half of one.

Every step of every write path is a crash point (see docs/reliability.md): with ``LORAKIT_CRASH_AT=k`` a process kills itself with
SIGKILL at the k-th of them, with ``LORAKIT_CRASH_AT=once:k`` at the k-th whose name begins with ``once``. Tests loop over all k.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import hashlib
import itertools
import json
import os
import secrets
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

__all__ = [
    "CRASH_ENV",
    "TEMP_MARK",
    "claimed",
    "crash_point",
    "dump_json",
    "fsync_dir",
    "move",
    "remove_tree",
    "replacing",
    "staging",
    "sweep_beside",
    "temp_beside",
    "write_bytes",
    "write_json",
    "write_once",
    "write_text",
]

#: Every temporary name holds this mark, so that readers ignore such files and a sweep finds them.
TEMP_MARK = ".lorakit-tmp-"

CRASH_ENV: Final = "LORAKIT_CRASH_AT"
#: Of renameat2(2).
_AT_FDCWD: Final = -100
_RENAME_NOREPLACE: Final = 1

_CRASH_PREFIX, _, _CRASH_NUMBER = os.environ.get(CRASH_ENV, "").rpartition(":")
_crossed = itertools.count(1)


def crash_point(name: str) -> None:
    """A step of a write path: the process dies here when ``LORAKIT_CRASH_AT`` says so, as it would of ``kill -9``."""
    if not _CRASH_NUMBER or not name.startswith(_CRASH_PREFIX):
        return
    if next(_crossed) == int(_CRASH_NUMBER):
        os.kill(os.getpid(), signal.SIGKILL)


def temp_beside(path: Path) -> Path:
    """A new temporary name in the same folder: hidden, marked, and telling which process of which host writes it."""
    return path.with_name(f".{path.name[:80]}{TEMP_MARK}{os.getpid()}-{_host_mark()}-{secrets.token_hex(4)}")


def sweep_beside(path: Path) -> None:
    """Remove the temporaries beside ``path`` that were to become it and whose writer, of this machine, is gone."""
    for left in path.parent.glob(f".{glob.escape(path.name[:80])}{TEMP_MARK}*"):
        pid, _, rest = left.name.rpartition(TEMP_MARK)[2].partition("-")
        if rest.partition("-")[0] not in {"", _host_mark()} or not pid.isdigit() or Path("/proc", pid).exists():
            continue
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _host_mark() -> str:
    return hashlib.sha256(socket.gethostname().encode("utf-8", "surrogateescape")).hexdigest()[:6]


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` whole to a unique temporary beside ``path``, flush it to disk, and rename it into place."""
    temp = _write_temp(path, data)
    try:
        crash_point("write:before replace")
        os.replace(temp, path)
    except BaseException:
        temp.unlink(missing_ok=True)
        raise
    crash_point("write:replaced")
    fsync_dir(path.parent)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file to write to: it takes its name when the block ends well, whole and on disk; otherwise nothing is left of it."""
    temp = temp_beside(path)
    try:
        with open(temp, "xb") as file:
            crash_point("temp:created")
            yield file
            file.flush()
            crash_point("temp:written")
            os.fsync(file.fileno())
        crash_point("write:before replace")
        os.replace(temp, path)
    except BaseException:
        temp.unlink(missing_ok=True)
        raise
    crash_point("write:replaced")
    fsync_dir(path.parent)


def write_once(path: Path, data: bytes) -> None:
    """Like :func:`write_bytes`, but raises ``FileExistsError`` when ``path`` exists: a fact is written once."""
    temp = _write_temp(path, data)
    try:
        crash_point("once:before link")
        try:
            os.link(temp, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            _rename_to_new(temp, path)
        crash_point("once:linked")
    finally:
        temp.unlink(missing_ok=True)
    crash_point("once:temporary gone")
    fsync_dir(path.parent)


def _rename_to_new(temp: Path, path: Path) -> None:
    """Rename to a name that nobody has; where the kernel cannot promise that, the name is claimed by an empty file first."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # not Linux, or an old libc
        failure = errno.ENOSYS
    else:
        if renameat2(_AT_FDCWD, os.fsencode(temp), _AT_FDCWD, os.fsencode(path), _RENAME_NOREPLACE) == 0:
            return
        failure = ctypes.get_errno()
    if failure == errno.EEXIST:
        raise FileExistsError(failure, os.strerror(failure), str(path))
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    os.replace(temp, path)


def write_text(path: Path, text: str) -> None:
    """:func:`write_bytes` of UTF-8 text."""
    write_bytes(path, text.encode("utf-8", "surrogateescape"))


def dump_json(value: Any) -> bytes:
    """Stable, readable JSON: two-space indent, final newline, unicode kept."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "surrogateescape")


def write_json(path: Path, value: Any) -> None:
    """:func:`write_bytes` of :func:`dump_json`."""
    write_bytes(path, dump_json(value))


def move(source: Path, target: Path) -> None:
    """Rename a file or folder within a file system, and put both folders' entries on disk.

    A folder never replaces one that is not empty. Raises OSError.
    """
    crash_point("move:before")
    os.rename(source, target)
    crash_point("move:renamed")
    fsync_dir(target.parent)
    if source.parent != target.parent:
        fsync_dir(source.parent)
    crash_point("move:on disk")


def remove_tree(path: Path) -> None:
    """Remove a folder so that nobody ever sees half of it: it is renamed to a temporary first. Raises OSError."""
    hidden = temp_beside(path) if TEMP_MARK not in path.name else path
    if hidden != path:
        move(path, hidden)
    crash_point("remove:hidden")
    shutil.rmtree(hidden)
    crash_point("remove:gone")


@contextlib.contextmanager
def staging(beside: Path) -> Iterator[Path]:
    """A hidden folder to prepare something in, held against sweeps; what is still in it at the end is removed."""
    folder = temp_beside(beside)
    folder.mkdir(parents=True)
    try:
        with claimed(folder):
            crash_point("staging:made")
            yield folder
            crash_point("staging:used")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Hold a folder that is being prepared, so that a sweep beside it leaves it alone; gives whether it could be held.

    The kernel lets go when the process dies, however it dies. On a file system without locks everybody holds.
    """
    try:
        import fcntl
    except ImportError:  # another system: trainings run on Linux only
        yield True
        return
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        held = True
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held = False
        except OSError:  # no locks here
            held = True
        with contextlib.suppress(OSError):
            held = held and os.path.samestat(os.fstat(handle), os.stat(folder))
        yield held
    finally:
        os.close(handle)


def fsync_dir(path: Path) -> None:
    """Flush a folder's entries to disk; silently nothing where the platform cannot open folders."""
    if os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_temp(path: Path, data: bytes) -> Path:
    temp = temp_beside(path)
    handle = os.open(temp, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    try:
        with os.fdopen(handle, "wb") as file:
            crash_point("temp:created")
            half = len(data) // 2 if _CRASH_NUMBER else 0  # so that a crash can leave a torn one
            file.write(data[:half])
            if half:
                file.flush()
                crash_point("temp:half written")
            file.write(data[half:])
            file.flush()
            crash_point("temp:written")
            os.fsync(file.fileno())
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temp.unlink()
        raise
    return temp
