"""Runs a program that needs torch beside lorakit, which does not: a job in a file, JSON lines as it goes, errors as errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from lorakit import errors
from lorakit.errors import LorakitError, TrainerError
from lorakit.trainers.choose import missing_of_builtin

__all__ = ["run_helper"]

#: How long a program may take to go away after it was asked to, seconds.
_PATIENCE: Final = 5.0
_TAIL_BYTES: Final = 20_000


def run_helper(
    module: str, job: Mapping[str, Any], on_record: Callable[[dict[str, Any]], None] = lambda _: None
) -> None:
    """Run ``python -m MODULE JOB.json`` to its end and hand on every record that it tells on stdout.

    A record is a JSON object with a ``type``; what is no such line is passed over. The record ``error`` (``class``, ``what``,
    ``why``, ``todo``) is raised here as the error that it is. Whatever ends this call, the program is gone afterwards.

    Raises:
        TrainerError: the extra ``builtin`` is not installed, or the program died without a word.
        LorakitError: what the program told.
    """
    if missing := missing_of_builtin():
        raise TrainerError(
            f"this needs {', '.join(missing)}",
            why="lorakit is installed without the extra that it runs on",
            todo="pip install 'lorakit[builtin]'",
        )
    with tempfile.TemporaryDirectory(prefix="lorakit-job-") as folder, open(Path(folder, "stderr"), "w+b") as noise:
        path = Path(folder, "job.json")
        path.write_text(json.dumps(job), encoding="utf-8")
        process = subprocess.Popen(
            [sys.executable, "-m", module, str(path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=noise,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"},
        )
        try:
            told = _listen(process, on_record)
        finally:
            _end(process)
        if told is not None:
            raise told
        if process.returncode != 0:
            raise _silent_death(module, process.returncode, noise)


def _listen(process: subprocess.Popen[bytes], on_record: Callable[[dict[str, Any]], None]) -> LorakitError | None:
    """Read to the end; the error that was told, if any."""
    assert process.stdout is not None
    told: LorakitError | None = None
    for line in process.stdout:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if not isinstance(record, dict) or "type" not in record:
            continue
        if record["type"] == "error":
            told = _error(record)
        else:
            on_record(record)
    process.wait()
    return told


def _error(record: Mapping[str, Any]) -> LorakitError:
    kind = getattr(errors, str(record.get("class")), None)
    if not (isinstance(kind, type) and issubclass(kind, LorakitError)):
        kind = TrainerError
    return kind(str(record.get("what")), why=str(record.get("why", "")), todo=str(record.get("todo", "")))


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _silent_death(module: str, code: int, noise: Any) -> TrainerError:
    noise.seek(max(0, noise.seek(0, os.SEEK_END) - _TAIL_BYTES))
    lines = [line.strip() for line in noise.read().decode("utf-8", "replace").splitlines() if line.strip()]
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    todo = "it may have run out of memory: draw fewer at once, or smaller" if code == -9 else ""
    return TrainerError(f"python -m {module} {how}", why=lines[-1] if lines else "", todo=todo)
