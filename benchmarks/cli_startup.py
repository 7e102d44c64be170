"""How long `lorakit` takes to start, as multiples of Python's own start.

``python benchmarks/cli_startup.py [--repeats N] [--runs N]``: medians of fresh processes, taken in turns so that a busy moment
hits all alike. `ls` lists made-up runs (30 of them fill its page).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lorakit.archive.birth import birth

PRESET = "[network]\ndim = 16\nalpha = 8\n[optim]\nunet_lr = 1e-4\nte_lr = 5e-5\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="how long `lorakit` takes to start")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--runs", type=int, default=30, help="runs in the archive that ls lists")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_archive(Path(folder), asked.runs)
        commands = {
            "python -c pass": ["-c", "pass"],
            "lorakit --version": ["-m", "lorakit", "--version"],
            "lorakit --help": ["-m", "lorakit", "--help"],
            f"lorakit ls ({asked.runs} runs)": ["-m", "lorakit", "ls"],
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(asked.repeats):
            for name, arguments in commands.items():
                seconds[name].append(measure(arguments, Path(folder)))
    bare = statistics.median(seconds["python -c pass"])
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f"{name:<24} {1000 * median:7.1f} ms   {median / bare:5.1f} ×")


def measure(arguments: list[str], folder: Path) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def make_archive(folder: Path, count: int) -> None:
    for number in range(count):
        with birth(folder / "runs", f"run{number}") as new:
            new.write_json(new.run.request, {"schema": 1, "name": f"run{number}", "time": time.time()})
            new.write(new.run.preset, PRESET)
            attempt = new.run.attempt(1)
            facts = {"status": "ok", "reason": "ok", "time": time.time(), "steps": 100, "total_steps": 100}
            new.write(attempt.ended, json.dumps({"schema": 1, **facts, "loss_first": 0.14, "loss_last": 0.1}))


if __name__ == "__main__":
    main()
