"""The program: ``accelerate launch --config_file F -m lorakit.trainers.builtin <sdxl_train_network.py arguments>``."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Sequence
from typing import Final

from lorakit import protocol
from lorakit.errors import DiskError, LorakitError, RunFailed, Stopped
from lorakit.trainers.builtin.monitor import Monitor
from lorakit.trainers.builtin.options import parse
from lorakit.trainers.builtin.stopping import Stopper

__all__ = ["main"]

#: No space, over quota, file too large, read-only, broken.
_DISK: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


def main(argv: Sequence[str] | None = None) -> int:
    """Train as the arguments say; returns the exit code. Errors are told on stderr and in the run protocol."""
    monitor = Monitor(talks=os.environ.get("RANK", "0") == "0")
    try:
        options = parse(sys.argv[1:] if argv is None else argv)
        with Stopper() as stopper:
            from lorakit.trainers.builtin.run import train

            train(options, monitor, stopper)
    except Stopped as stopped:
        monitor.say(stopped.what)
        monitor.end("stopped", stopped.what)
        return 0
    except LorakitError as error:
        return _tell(error, monitor)
    except KeyboardInterrupt:
        monitor.end("stopped", "interrupted")
        return Stopped.exit_code
    except Exception as error:
        if known := _explained(error):
            return _tell(known, monitor)
        # A bug: the log gets the traceback, the protocol the sentence.
        monitor.end("error", f"{type(error).__name__}: {error}")
        raise
    finally:
        monitor.close()
    return 0


def _explained(error: Exception) -> LorakitError | None:
    """The error for the reader that stands behind one of torch or the system; None for one that nobody foresaw."""
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


def _tell(error: LorakitError, monitor: Monitor) -> int:
    lines = [f"error: {error.what}", *(f"  why: {error.why}" for _ in (1,) if error.why)]
    lines += [f"  - {problem.what}" + (f" ({problem.why})" if problem.why else "") for problem in error.problems]
    if error.todo:
        lines.append(f"  what to do: {error.todo}")
    print("\n".join(lines), file=sys.stderr, flush=True)
    if not monitor.talks:  # the first process will only see that this one is gone
        protocol.Writer.from_env().write("warn", message=f"process {os.environ.get('RANK')}: {error.what}")
    with contextlib.suppress(OSError):  # a full disk takes no record either; the exit code and stderr have said it
        monitor.end("nan" if type(error).__name__ == "NotFiniteError" else "error", error.what)
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
