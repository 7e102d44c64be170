"""Reading from file systems that several machines share: handles go stale, and what another machine wrote shows late (stdlib only)."""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

__all__ = ["is_shared", "patient", "until_there"]

#: How often a stale handle is opened anew, and the seconds before the second time; each wait is twice the one before.
_TRIES: Final = 5
_FIRST_WAIT: Final = 0.01
#: Seconds within which what another machine wrote should show: longer than it takes to open a folder anew, short for a reader.
LATE: Final = 1.5
_MOUNTS: Final = Path("/proc/self/mountinfo")
_SHARED: Final = frozenset(
    {"nfs", "nfs4", "lustre", "cifs", "smb3", "beegfs", "gpfs", "ceph", "glusterfs", "9p", "afs", "orangefs", "panfs"}
)

T = TypeVar("T")


def patient(read: Callable[[], T]) -> T:
    """What ``read`` gives, tried anew while a file's handle is stale: another machine replaced it. Raises what it raises at last."""
    wait = _FIRST_WAIT
    for _ in range(_TRIES - 1):
        try:
            return read()
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
        time.sleep(wait)
        wait *= 2
    return read()


def until_there(look: Callable[[], T | None], folder: Path) -> T | None:
    """What ``look`` finds; on a shared file system it is asked for a moment before nothing is taken for an answer."""
    found = look()
    if found is None and is_shared(folder):
        deadline = time.monotonic() + LATE
        while found is None and time.monotonic() < deadline:
            time.sleep(LATE / 10)
            found = look()
    return found


def is_shared(folder: Path) -> bool:
    """Whether a folder is on a file system that other machines may write to, by its mount's kind; False where nobody tells."""
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        place = folder.resolve()
    except OSError:
        return False
    kind, depth = "", -1
    for line in lines:
        words, _, rest = line.partition(" - ")
        mount = Path(re.sub(r"\\(\d{3})", lambda found: chr(int(found[1], 8)), words.split(" ")[4]))
        if place.is_relative_to(mount) and len(mount.parts) >= depth:  # of two at one place the later one is seen
            kind, depth = rest.partition(" ")[0], len(mount.parts)
    return kind in _SHARED or kind.startswith("fuse.")
