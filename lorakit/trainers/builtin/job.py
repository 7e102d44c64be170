"""Programs that lorakit starts with a job in a file: records as JSON lines on stdout, errors as a record."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from lorakit.errors import LorakitError, RunFailed, Stopped

__all__ = ["Tell", "run_job"]

#: Writes one record: its type, and its further keys.
Tell = Callable[..., None]


def run_job(work: Callable[[dict[str, Any], Tell], None], argv: list[str]) -> int:
    """Read the job that ``argv`` names, do the work, return the exit code.

    Whatever libraries print goes to stderr, so that nothing stands between the records.
    """
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8", buffering=1) as out:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        tell = _teller(out)
        try:
            work(json.loads(Path(argv[0]).read_text(encoding="utf-8")), tell)
        except LorakitError as error:
            return _tell_error(tell, error)
        except KeyboardInterrupt:
            return Stopped.exit_code
        except (MemoryError, RuntimeError) as error:
            # torch has no class of its own for a machine without memory, but on a GPU
            first = (str(error).splitlines() or [""])[0]
            if not (isinstance(error, MemoryError) or "memory" in first):
                raise
            return _tell_error(
                tell, RunFailed("out of memory", why=first, todo="take a smaller batch, or smaller pictures")
            )
    return 0


def _teller(out: IO[str]) -> Tell:
    def tell(type: str, **keys: Any) -> None:
        out.write(json.dumps({"type": type, **keys}) + "\n")

    return tell


def _tell_error(tell: Tell, error: LorakitError) -> int:
    tell("error", **{"class": type(error).__name__}, what=error.what, why=error.why, todo=error.todo)
    return error.exit_code
