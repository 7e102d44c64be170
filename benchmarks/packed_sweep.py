"""A sweep packed into one process, beside one process after another and one single-threaded process per core.

``python benchmarks/packed_sweep.py [--trials 4 16] [--steps 40] [--rounds 1] [--base CHECKPOINT --pixels 256]``. Every way is the
whole command (``lorakit sweep``) in a fresh workspace: checks, start-up, loading, caching, training, sealing. The ways take turns.
Told are wall-clock and processor seconds, the latter of everything that a command started: on a shared machine they say more.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

_PR_SET_CHILD_SUBREAPER = 36

PRESET = """\
name = "packed"
seed = 1
[base]
model = "{base}"
[dataset]
path = "datasets/noise"
resolution = {pixels}
bucket_min = 64
bucket_step = 32
workers = 0
[network]
dim = 8
[optim]
type = "AdamW"
unet_lr = 1e-4
te_lr = 1e-5
schedule = "constant"
[length]
steps = {steps}
batch_size = {batch}
[precision]
mixed = "{mixed}"
[memory]
gradient_checkpointing = {checkpointing}
[trainer]
kind = "builtin"
[launch]
cpu = true
threads = {threads}
"""


@dataclass
class Way:
    """One way to bake a sweep: further words of the command line, threads of a process, and what its turns took."""

    name: str
    words: tuple[str, ...]
    threads: int
    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)


def workspace(root: Path, options: argparse.Namespace, threads: int) -> Path:
    (root / "presets").mkdir(parents=True)
    (root / "lorakit.toml").touch()
    values = {**vars(options), "threads": threads, "checkpointing": str(options.checkpointing).lower()}
    (root / "presets" / "packed.toml").write_text(PRESET.format(**values), encoding="utf-8")
    folder = root / "datasets" / "noise" / "1_noise"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(options.pictures):
        pixels = rng.integers(0, 255, (options.pixels, options.pixels, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(f"noise, number {index}", encoding="utf-8")
    return root


def turn(way: Way, options: argparse.Namespace, trials: int) -> None:
    """Bake the sweep once; the keepers are adopted by this process, so that their processor time is known too."""
    with tempfile.TemporaryDirectory() as folder:
        place = workspace(Path(folder) / "work", options, way.threads)
        rates = ",".join(f"{1e-4 * (1 + at):.1e}" for at in range(trials // 2))
        line = ["sweep", "packed", "--unet-lr", rates, "--seeds", "2", *way.words]
        before, began = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        env = {**os.environ, "LORAKIT_REPORT": "off"}  # pages are written after the sweep, and cost each way the same
        done = subprocess.run(
            [sys.executable, "-m", "lorakit", "-C", str(place), *line],
            env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        way.wall.append(time.monotonic() - before)
        if done.returncode:
            sys.exit(f"{way.name} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
        while True:
            try:
                os.wait()
            except ChildProcessError:
                break
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        way.processor.append(ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime)
        shutil.rmtree(place)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, help="a checkpoint; the tiny one with random weights if not given")
    parser.add_argument("--trials", type=int, nargs="+", default=[4, 16], help="even numbers")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--pixels", type=int, default=128)
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--mixed", default="no", help="bf16 for a full-size checkpoint")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--ways", nargs="+", default=["after", "cores", "packed"])
    options = parser.parse_args()
    if ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        sys.exit("this kernel lets nobody adopt orphans")
    with tempfile.TemporaryDirectory() as folder:
        if options.base is None:
            options.base = Path(folder) / "tiny.safetensors"
            command = [sys.executable, "-m", "lorakit.bench_model", "write", str(options.base), "--size", "tiny"]
            subprocess.run(command, check=True, capture_output=True)
        options.base = options.base.resolve()
        for trials in options.trials:
            compare(options, trials)


def compare(options: argparse.Namespace, trials: int) -> None:
    """Take turns, then print a table with the ratio to the packed way."""
    known = {
        "after": Way("one after another", (), options.cores),
        "cores": Way("one single-threaded process per core", ("--jobs", str(options.cores)), 1),
        "packed": Way("packed", ("--pack", "auto"), options.cores),
    }
    ways = [known[name] for name in options.ways]
    for _ in range(options.rounds):
        for way in ways:
            turn(way, options, trials)
    packed = known["packed"]
    print(
        f"\n{trials} trials, {options.steps} steps, batch {options.batch}, {options.pixels} px, {options.cores} cores"
    )
    for way in ways:
        wall, processor = statistics.median(way.wall), statistics.median(way.processor)
        ratio = f"{wall / statistics.median(packed.wall):.2f} x wall" if packed.wall else ""
        cpu = f"{processor / statistics.median(packed.processor):.2f} x processor" if packed.processor else ""
        print(f"  {way.name:40} {wall:7.1f} s wall  {processor:7.1f} s processor   {ratio}  {cpu}", flush=True)


if __name__ == "__main__":
    main()
