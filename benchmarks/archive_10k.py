"""How long `lorakit ls` takes on 10,000 runs, as a whole command: to list, to filter, and to build its index from nothing.

``python benchmarks/archive_10k.py [--runs N] [--repeats N] [--folder DIR]``

Writes an archive of honest run folders: every file that a bake leaves, with the sizes a small bake gives them, each run with settings,
losses, tags, an end and a true seal of its own. The commands are timed in turns with a bare ``python -c pass``, so that a busy
moment hits all alike; ratios to it are printed beside the seconds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

START = 1_700_000_000.0
SOURCE = """\
name = "{name}"
seed = {seed}
[base]
model = "models/sd_xl_base_1.0.safetensors"
[dataset]
path = "datasets/{name}"
[network]
dim = {dim}
alpha = "dim/2"
[optim]
unet_lr = {unet_lr}
te_lr = {te_lr}
warmup = "5%"
[length]
epochs = 7
batch_size = 4
"""
#: As users have it: Python keeps its byte code, and compiles nothing anew at each start.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
COMMANDS = {
    "ls": ["ls"],
    "ls, filtered": ["ls", "network.dim==32 and loss.last<0.1 and tag:good"],
    "ls, sorted": ["ls", "--sort", "loss.last", "optim.unet_lr>1e-4 and not sealed==false"],
    "ls, one name": ["ls", "name:hifumi and created>2023-12-01", "--json", "--columns", "run,loss.last"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description="how long `lorakit ls` takes on many runs")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--folder", type=Path, help="keep the archive here, and use it again when it is there")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.folder or Path(temporary)
        if not (folder / "runs").is_dir():
            begin = time.perf_counter()
            make_archive(folder, asked.runs)
            print(f"{asked.runs:,} run folders written in {time.perf_counter() - begin:.0f} s")
        measure_all(folder, asked.repeats)


def measure_all(folder: Path, repeats: int) -> None:
    for leftover in (folder / ".lorakit").glob("index*"):
        leftover.unlink()
    build, _ = measure(["-m", "lorakit", "ls"], folder)
    bare: list[float] = []
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for _ in range(repeats):
        bare.append(measure(["-c", "pass"], folder)[0])
        for name, words in COMMANDS.items():
            seconds[name].append(measure(["-m", "lorakit", *words], folder))
    start = statistics.median(bare)
    print(f"{'python -c pass':<18} {1000 * start:7.0f} ms")
    print(f"{'index from nothing':<18} {build:7.2f} s")
    for name, values in seconds.items():
        walls = sorted(wall for wall, _ in values)
        median, cpu = statistics.median(walls), statistics.median(cpu for _, cpu in values)
        print(
            f"{name:<18} {1000 * median:7.0f} ms   best {1000 * walls[0]:4.0f} ms   processor {1000 * cpu:4.0f} ms   {median / start:5.1f} ×"
        )


def measure(arguments: list[str], folder: Path) -> tuple[float, float]:
    """Wall and processor seconds of a fresh process."""
    before = os.times()
    begin = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=folder, stdout=subprocess.DEVNULL, check=True, env=ENVIRONMENT)
    wall = time.perf_counter() - begin
    after = os.times()
    return wall, after.children_user + after.children_system - before.children_user - before.children_system


def make_archive(folder: Path, count: int, seed: int = 0) -> None:
    """A workspace with ``count`` sealed runs, the same for the same seed."""
    from lorakit.preset.dump import dump_toml
    from lorakit.preset.files import load_text

    rng = random.Random(seed)
    runs = folder / "runs"
    runs.mkdir(parents=True)
    (folder / "lorakit.toml").touch()
    texts: dict[tuple[Any, ...], tuple[str, str, dict[str, Any]]] = {}
    for number, short in zip(range(count), shorts(), strict=False):
        name = rng.choice(["hifumi", "style", "concept", "s4-unet2.5"])
        settings = (
            name,
            rng.randrange(4),
            rng.choice([8, 16, 32, 64]),
            rng.choice(["1e-4", "2.5e-4", "5e-5"]),
            rng.choice(["5e-5", "[5e-5, 2e-5]", "0"]),
        )
        if settings not in texts:
            source = SOURCE.format(**dict(zip(("name", "seed", "dim", "unet_lr", "te_lr"), settings, strict=True)))
            resolved = load_text(source, Path(f"presets/{name}.toml"), ())
            provenance = {key: value.to_json() for key, value in resolved.provenance.items()}
            texts[settings] = (source, dump_toml(resolved.preset, provenance=resolved.provenance), provenance)
        now = START + 600 * number
        minute = time.strftime("%Y-%m-%d_%H%M", time.localtime(now))
        write_run(runs / f"{minute}_{name}_{short}", name, now, texts[settings], rng)


def shorts() -> Iterator[str]:
    """Four characters for each run, each once."""
    letters = "abcdefghjkmnpqrstuvwxyz"
    for number in range(len(letters) ** 4):
        digits = [number // len(letters) ** place % len(letters) for place in range(4)]
        yield "".join(letters[digit] for digit in digits)


def write_run(path: Path, name: str, now: float, texts: tuple[str, str, dict[str, Any]], rng: random.Random) -> None:
    """The files of one ended bake of 100 steps."""
    source, preset, provenance = texts
    keeper = {"pid": 1, "ticks": 1, "boot_id": "an earlier boot", "host": "here"}
    losses = [round(0.14 - 0.0003 * step + rng.gauss(0, 0.02), 4) for step in range(100)]
    last = sum(losses[-14:]) / 14
    failed = rng.random() < 0.1
    request = {"schema": 1, "run": path.name, "name": name, "time": now, "user": "someone", "host": "here"}
    ended: dict[str, Any] = {
        "schema": 1, "run": path.name, "attempt": 1, "time": now + 300, "seconds": 300.0, "status": "failed" if failed else "ok",
        "reason": "oom-cuda" if failed else "ok", "message": "out of memory" if failed else "100 steps", "steps": 40 if failed else 100,
        "total_steps": 100, "epoch": 7, "epochs": 7, "loss_first": sum(losses[:14]) / 14, "loss_last": last,
        "loss_average": sum(losses) / 100, "validation": last + 0.01, "steps_per_second": 2.1, "samples": 0, "rss": 4 << 30, "vram": 13 << 30,
        "checkpoints": [{"path": f"weights/{name}.safetensors", "bytes": 400}], "log_tail": [f"step {step}" for step in range(20)],
    }  # fmt: skip
    image = {
        "path": "datasets/x/1_x/01.png", "sha256": "0" * 64, "size": 1, "width": 1024, "height": 1024, "bucket": [1024, 1024], "caption": "a cat",
    }  # fmt: skip
    header = json.dumps({"t": {"dtype": "F32", "shape": [64], "data_offsets": [0, 256]}}).encode()
    steps = [
        {"v": 1, "t": now + 3 * at, "type": "step", "step": at + 1, "loss": loss} for at, loss in enumerate(losses)
    ]
    files: dict[str, bytes] = {
        "request.json": dumped(request),
        "preset.toml": preset.encode(),
        "preset.source.toml": source.encode(),
        "provenance.json": dumped({"schema": 1, "values": provenance}),
        "plan.json": dumped({"schema": 1, "images": 63, "total_steps": 100, "epochs": 7, "warmup_steps": 5}),
        "dataset.json": dumped({"schema": 1, "digest": "0" * 64, "models": {}, "images": [image] * 20}),
        "command.json": dumped({"schema": 1, "argv": ["--option", "value"] * 90, "trainer": {"kind": "builtin"}}),
        "command.sh": b"#!/bin/sh\n" + b"--option value " * 90,
        "accelerate.yaml": b"distributed_type: NO\n",
        "environment.json": dumped({"schema": 1, "packages": {f"package{at}": "1.0" for at in range(100)}}),
        "attempts/01/started.json": dumped({"schema": 1, "time": now, "keeper": keeper}),
        "attempts/01/ended.json": dumped(ended),
        "attempts/01/progress.jsonl": b"".join(json.dumps(step).encode() + b"\n" for step in steps),
        "attempts/01/trainer.log": b"step\n" * 100,
        "attempts/01/alive.lock": b"",
        "attempts/01/ranks/rank-0.json": dumped(keeper),
        "attempts/01/ranks/exit-0.json": dumped({"code": 0}),
        f"weights/{name}.safetensors": struct.pack("<Q", len(header)) + header + rng.randbytes(256),
    }
    for folder in ("attempts/01/ranks", "weights", "samples", "state", "analysis"):
        (path / folder).mkdir(parents=True)
    for relative, data in files.items():
        (path / relative).write_bytes(data)
    sealed = {item: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for item, data in files.items()}
    manifest = {"schema": 1, "run": path.name, "attempt": 1, "time": now + 301, "previous": None, "files": sealed}
    (path / "manifest-01.json").write_bytes(dumped(manifest))
    tags = rng.sample(["good", "bad", "keep", "hands"], rng.choice([0, 0, 1, 2]))
    (path / "tags.json").write_bytes(dumped({"tags": tags}))
    (path / "notes.md").write_text("eyes are good\n" if rng.random() < 0.1 else "")


def dumped(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


if __name__ == "__main__":
    main()
