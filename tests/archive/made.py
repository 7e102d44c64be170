"""Run folders made by hand for tests of the archive: nothing is launched."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path
from typing import Any

from lorakit.archive.birth import birth
from lorakit.archive.run import Run
from lorakit.atomic import dump_json


def born(runs_dir: Path, name: str = "hifumi", *, now: float | None = None) -> Run:
    """A run that was prepared and nothing more."""
    with birth(runs_dir, name, now=now) as new:
        new.write_json(new.run.request, {"schema": 1, "name": name, "time": time.time() if now is None else now})
        new.write_json(new.run.tags, {"tags": ["good"]})
        new.write(new.run.notes, "")
        for folder in (new.run.weights, new.run.samples, new.run.state, new.run.analysis, new.run.attempt(1).ranks):
            new.folder(folder)
    return new.run


def fact(path: Path, **values: Any) -> None:
    path.write_bytes(dump_json({"schema": 1, **values}))


def ended(run: Run, **values: Any) -> Run:
    """Add the facts of an attempt that has run and ended."""
    who = {"pid": 1, "ticks": 1, "boot_id": "an earlier boot", "host": "here"}
    fact(run.attempt(1).started, time=1000.0, keeper=who)
    known = {
        "status": "ok",
        "reason": "ok",
        "message": "4 steps",
        "time": 1010.0,
        "seconds": 10.0,
        "steps": 4,
        "total_steps": 4,
    }
    fact(run.attempt(1).ended, **{**known, **values})
    return run


def safetensors(path: Path, *, cut: int = 0, extra: bytes = b"") -> Path:
    header = json.dumps(
        {"__metadata__": {"a": "b"}, "t": {"dtype": "F32", "shape": [8], "data_offsets": [0, 32]}}
    ).encode()
    whole = struct.pack("<Q", len(header)) + header + b"\1" * 32 + extra
    path.write_bytes(whole[: len(whole) - cut])
    return path
