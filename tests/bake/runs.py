"""Run folders for tests, made by the archive's own birth around the small trainer."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lorakit.archive.birth import birth
from lorakit.archive.records import RunState, state
from lorakit.archive.run import Run, read_record
from lorakit.bake.prepare import _write_rest
from lorakit.launch.accelerate import LaunchShape, config_text, free_port, launch_argv
from lorakit.launch.processes import ProcessId, processes_with_cookie

TRAINER = Path(__file__).with_name("small_trainer.py")


def make_run(
    runs_dir: Path,
    *arguments: str,
    name: str = "small",
    processes: int = 1,
    python: str = sys.executable,
    **limits: float,
) -> Run:
    """A prepared run of the small trainer with these arguments; ``limits`` as request.json has them."""
    shape = LaunchShape(processes=processes, cpu=True, port=free_port() if processes > 1 else None)
    with birth(runs_dir, name) as new:
        run = new.run
        line = ["--output_dir", str(run.weights), "--output_name", "small", *arguments]
        new.write_json(run.request, {"schema": 1, "name": name, "time": time.time(), "limits": limits})
        command = {
            "schema": 1,
            "argv": list(launch_argv(python, run.accelerate, [str(TRAINER), *line], threads=1)),
            "trainer": {"kind": "small", "python": python, "program": [str(TRAINER)]},
            "arguments": line,
            "shape": dataclasses.asdict(shape),
            "output_name": "small",
            "result": "weights/small.safetensors",
        }
        new.write_json(run.command_json, command)
        new.write(run.accelerate, config_text(shape))
        _write_rest(new)
    return run


def wait_for(condition: Callable[[], object], seconds: float = 40.0) -> None:
    """Wait until something is true; fail when it never is."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def wait_for_steps(run: Run, steps: int = 1) -> None:
    """Wait until the training is under way."""
    wait_for(lambda: state(run).steps >= steps or state(run).is_final)
    assert state(run).steps >= steps


def wait_sealed(run: Run, seconds: float = 40.0) -> RunState:
    """Wait for the end; the final state."""
    wait_for(lambda: state(run).sealed, seconds)
    return state(run)


def keeper_of(run: Run) -> ProcessId:
    record = read_record(run.attempt(1).started)
    assert record is not None
    found = ProcessId.from_json(record["keeper"])
    assert found is not None
    return found


def rank_of(run: Run, rank: int = 0) -> ProcessId:
    """The trainer process itself."""
    found = ProcessId.from_json(read_record(run.attempt(1).ranks / f"rank-{rank}.json"))
    assert found is not None
    return found


def launcher_of(run: Run) -> ProcessId:
    found = ProcessId.from_json(read_record(run.attempt(1).path / "launcher.json"))
    assert found is not None
    return found


def left_over(run: Run) -> tuple[ProcessId, ...]:
    """Living processes of the run, by the cookie that each of them carries."""
    record = read_record(run.attempt(1).started)
    return processes_with_cookie(record["cookie"]) if record and "cookie" in record else ()


@contextmanager
def reaped(run: Run) -> Iterator[Run]:
    """Leave nothing behind, whatever the test did."""
    try:
        yield run
    finally:
        with suppress(AssertionError, ProcessLookupError):
            os.kill(keeper_of(run).pid, 0)
            keeper_of(run).kill(signal.SIGKILL)
        for process in left_over(run):
            process.kill(signal.SIGKILL)
