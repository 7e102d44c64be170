"""Bench checkpoints for any test that needs a base model: each is written once per test session."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


@functools.cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="lorakit-bench-"))
    owner = os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # a process forked by a test inherits this hook
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder


@functools.cache
def bench_checkpoint(size: str = "tiny", dtype: str = "fp16") -> Path:
    """A single-file SDXL checkpoint with random weights; treat it as read-only. Torch is not imported for it."""
    path = _folder() / f"{size}-{dtype}.safetensors"
    if "torch" in sys.modules:  # then this process can do it faster than a new one
        from lorakit.bench_model.writer import write_checkpoint

        write_checkpoint(path, size=size, dtype=dtype)
        return path
    command = [sys.executable, "-m", "lorakit.bench_model", "write", str(path), "--size", size, "--dtype", dtype]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return path
