"""The built-in trainer and the real sd-scripts in turn on one full-size SDXL: seconds per step, memory, losses.

Both train the same checkpoint (random weights in bf16, 7 GB, written once into the given folder) on the same pictures with the
same arguments: 256 px, batch 2, dim 8, UNet and both text encoders, gradient checkpointing, sdpa, bf16. They never run at the
same time; they take turns, so that a machine that drifts does so for both. Needs about 22 GB of memory, most of it sd-scripts'.

LORAKIT_SD_SCRIPTS names the checkout, LORAKIT_SD_SCRIPTS_PYTHON the interpreter of its environment, and
LORAKIT_SD_SCRIPTS_TOKENIZERS the folder of its tokenizer cache.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from full_size import arguments, write_base, write_dataset
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lorakit import protocol

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PROGRESS = re.compile(rb"steps:[^\r\n]*?\| (\d+)/\d+ \[")


@dataclass(frozen=True)
class Trainer:
    """How to start a trainer, and how to tell from its folder how many steps it has done."""

    name: str
    command: list[str]
    folder: Path
    env: dict[str, str]
    steps_done: Callable[[Path], int]


@dataclass(frozen=True)
class Mark:
    """A finished step: when, after how many seconds of processor time, and the memory held (bytes)."""

    time: float
    processor: float
    memory: int


@dataclass
class Result:
    """What one trainer's steps cost, over all its turns. The first step of a turn pays for first touches and is left out."""

    seconds: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    stepping: int = 0
    peak: int = 0

    def add(self, other: Result) -> None:
        """Take in another turn; the losses are those of the last."""
        self.seconds += other.seconds
        self.processor += other.processor
        self.losses = other.losses
        self.stepping = max(self.stepping, other.stepping)
        self.peak = max(self.peak, other.peak)


def builtin() -> Trainer:
    command = [sys.executable, "-m", "lorakit.trainers.builtin"]

    def steps_done(work: Path) -> int:
        return sum(record["type"] == "step" for record in protocol.read(work / "progress.jsonl"))

    return Trainer("built-in", command, Path.cwd(), {}, steps_done)


def sd_scripts() -> Trainer:
    command = [os.environ["LORAKIT_SD_SCRIPTS_PYTHON"], "sdxl_train_network.py"]
    if tokenizers := os.environ.get("LORAKIT_SD_SCRIPTS_TOKENIZERS"):
        command.append(f"--tokenizer_cache_dir={tokenizers}")

    def steps_done(work: Path) -> int:
        found = _PROGRESS.findall((work / "log.txt").read_bytes())
        return int(found[-1]) if found else 0

    env = {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    return Trainer("sd-scripts", command, Path(os.environ["LORAKIT_SD_SCRIPTS"]), env, steps_done)


def run(trainer: Trainer, options: argparse.Namespace, base: Path, dataset: Path, work: Path) -> Result:
    """One turn: the trainer from start to end."""
    command = [*trainer.command, *arguments(base, dataset, work / "out", options), f"--logging_dir={work / 'curves'}"]
    env = os.environ | trainer.env
    env |= {"OMP_NUM_THREADS": str(options.threads), protocol.PROGRESS_ENV: str(work / "progress.jsonl")}
    marks: list[Mark] = []
    with open(work / "log.txt", "wb") as log:
        process = subprocess.Popen(command, env=env, cwd=trainer.folder, stdout=log, stderr=subprocess.STDOUT)
        while True:
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
            if ended:
                break
            if trainer.steps_done(work) > len(marks):
                marks.append(mark(process.pid))
            time.sleep(0.02)
    process.returncode = status  # it is waited for already
    if status != 0:
        sys.exit(
            f"{trainer.name} ended with status {status}:\n{(work / 'log.txt').read_text(errors='replace')[-3000:]}"
        )
    pairs = list(itertools.pairwise(marks))
    return Result(
        seconds=[after.time - before.time for before, after in pairs],
        processor=[after.processor - before.processor for before, after in pairs],
        losses=losses(work / "curves"),
        stepping=max(mark.memory for mark in marks),
        peak=usage.ru_maxrss * 1024,
    )


def mark(pid: int) -> Mark:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(") ", 1)[1].split()
    return Mark(time.monotonic(), (int(fields[11]) + int(fields[12])) / _TICKS, int(fields[21]) * _PAGE)


def losses(curves: Path) -> list[float]:
    events = EventAccumulator(str(next(curves.rglob("events.*")).parent))
    events.Reload()
    return [scalar.value for scalar in events.Scalars("loss/current")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the 7 GB checkpoint is kept")
    parser.add_argument("--steps", type=int, default=6, help="steps per turn")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each trainer")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--pixels", type=int, default=256)
    parser.add_argument("--dim", type=int, default=8)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    base = write_base(options.folder.resolve())
    trainers = [builtin(), sd_scripts()]
    results = [Result(), Result()]
    for _ in range(options.rounds):
        for trainer, result in zip(trainers, results, strict=True):
            with tempfile.TemporaryDirectory() as scratch:
                work = Path(scratch)
                once = run(trainer, options, base, write_dataset(work / "data", options.pixels), work)
            show(trainer.name, once)
            result.add(once)
    print(f"\nall {options.rounds} turns, {options.threads} threads")
    for trainer, result in zip(trainers, results, strict=True):
        show(trainer.name, result)
    ours, theirs = (statistics.median(result.seconds) for result in results)
    print(
        f"built-in / sd-scripts: {ours / theirs:.2f} of the seconds, {results[0].peak / results[1].peak:.2f} of the memory"
    )


def show(name: str, result: Result) -> None:
    print(
        f"{name:10}  {statistics.median(result.seconds):6.2f} s/step ({min(result.seconds):.2f} to {max(result.seconds):.2f})"
        f"  {statistics.median(result.processor):6.2f} s processor/step"
        f"  memory {result.peak / 2**30:5.2f} GiB at most, {result.stepping / 2**30:5.2f} while stepping"
        f"  losses {' '.join(f'{loss:.4f}' for loss in result.losses)}",
        flush=True,
    )


if __name__ == "__main__":
    main()
