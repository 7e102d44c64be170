"""How a training that cannot go on says why: the error for the reader, in the log and in the run protocol."""

from __future__ import annotations

import contextlib
import errno
from typing import Final

from lorakit.errors import DiskError, LorakitError, RunFailed
from lorakit.trainers.builtin.monitor import Monitor

__all__ = ["end_with", "explained", "told"]

#: No space, over quota, file too large, read-only, broken.
_DISK: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


def explained(error: Exception) -> LorakitError | None:
    """The error for the reader that stands behind one of torch or the system; None for one that nobody foresaw."""
    if isinstance(error, LorakitError):
        return error
    first = (str(error).splitlines() or [""])[0]
    if type(error).__name__ == "OutOfMemoryError":
        todo = "use gradient_checkpointing, a smaller batch or resolution, cached latents, or bf16"
        return RunFailed("out of GPU memory", why=first, todo=todo)
    if isinstance(error, MemoryError) or "can't allocate memory" in first:
        return RunFailed(
            "out of memory", why=first, todo="use gradient_checkpointing, cached latents, bf16, or a smaller batch"
        )
    if isinstance(error, OSError) and error.errno in _DISK:
        return DiskError("the disk refused to take more", why=first, todo="make room; what was saved before is whole")
    return None


def told(error: LorakitError) -> str:
    """An error in lines, as it stands in the log."""
    lines = [f"error: {error.what}", *(f"  why: {error.why}" for _ in (1,) if error.why)]
    lines += [f"  - {problem.what}" + (f" ({problem.why})" if problem.why else "") for problem in error.problems]
    if error.todo:
        lines.append(f"  what to do: {error.todo}")
    return "\n".join(lines)


def end_with(error: LorakitError, monitor: Monitor) -> None:
    """The last record of a training that an error has ended."""
    with contextlib.suppress(OSError):  # a full disk takes no record either; the exit code and the log have said it
        monitor.end("nan" if type(error).__name__ == "NotFiniteError" else "error", error.what)
