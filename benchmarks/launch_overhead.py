"""What lorakit adds to a training, apart from hashing: checks, the run folder, the keeper, the shim, the seal.

``python benchmarks/launch_overhead.py [--rounds N]`` makes a workspace with the tiny model in a temporary folder and takes turns:
a whole bake of two steps, and the bare command from its archive as a person would paste it. ``difference_seconds`` is the median
of bake minus bare minus hashing, which means something on a quiet machine only. ``own_seconds`` adds up what is lorakit's
alone and holds under load too: the bake's time outside the launcher's life, and the shim's start. It must stay under 0.5 s.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from lorakit.archive import hashing
from lorakit.archive.records import Status, state
from lorakit.archive.run import Run
from lorakit.bake import prepare
from lorakit.bake.bake import bake
from lorakit.launch.accelerate import SHIM
from lorakit.preset.files import load_preset
from lorakit.workspace import Workspace

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.small_run import small_pictures, small_preset

PRESET = small_preset("overhead", steps=2, model="models/tiny.safetensors", dataset="datasets/things", save="fp16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="bakes and bare runs, taken in turns")
    parser.add_argument("--limit", type=float, default=0.5, help="seconds the overhead may be")
    parser.add_argument("--model", type=Path, help="a tiny base model to use in place of a new one")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lorakit-overhead-") as folder:
        workspace = make_workspace(Path(folder), asked.model)
        rounds = [one_round(workspace, number) for number in range(asked.rounds)]
    shim = statistics.median(shim_seconds() for _ in range(asked.rounds))
    for number, times in enumerate(rounds, 1):
        told = (f"{name} {seconds:6.2f} s" for name, seconds in dataclasses.asdict(times).items())
        print(f"round {number}: {', '.join(told)}")
    own = statistics.median(times.bake - times.launcher - times.hashing for times in rounds) + shim
    difference = statistics.median(times.bake - times.hashing - times.bare for times in rounds)
    result = {"own_seconds": own, "of_it_shim": shim, "difference_seconds": difference, "limit_seconds": asked.limit}
    print(json.dumps({name: round(seconds, 3) for name, seconds in result.items()}))
    sys.exit(own > asked.limit)


@dataclass(frozen=True)
class Times:
    """One round, in seconds: the bake, the launcher's life in it, the hashing in it, the bare command."""

    bake: float
    launcher: float
    hashing: float
    bare: float


def shim_seconds() -> float:
    """What one Python more costs: an empty program through the shim, minus the empty program."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "empty.py")
        script.write_text("")
        times = []
        for line in ([str(SHIM), str(script)], [str(script)]):
            began = time.perf_counter()
            subprocess.run([sys.executable, *line], check=True, env={**os.environ, "LORAKIT_ATTEMPT": folder})
            times.append(time.perf_counter() - began)
    return times[0] - times[1]


def make_workspace(root: Path, model: Path | None) -> Workspace:
    small_pictures(root / "datasets" / "things" / "1_thing", 4)
    (root / "presets").mkdir()
    (root / "presets" / "overhead.toml").write_text(PRESET)
    (root / "models").mkdir()
    target = root / "models" / "tiny.safetensors"
    if model is not None:
        shutil.copy(model, target)
    else:
        command = [sys.executable, "-m", "lorakit.bench_model", "write", str(target), "--size", "tiny"]
        subprocess.run(command, check=True, capture_output=True)
    return Workspace(root)


def one_round(workspace: Workspace, number: int) -> Times:
    """A bake and its bare command, in an order that alternates; the hashing is this process's and the keeper's."""
    bare = 0.0
    if number % 2:  # a machine that gets slower or faster favours neither
        bare = run_bare(newest(workspace))
    timed = Timed(hashing.hash_files)
    with patch.object(prepare, "hash_files", timed):
        began = time.perf_counter()
        run = bake(load_preset(workspace.presets / "overhead.toml"), workspace)
        baked = time.perf_counter() - began
    assert state(run).status is Status.OK, state(run).message
    began = time.perf_counter()
    hashing.hash_files(path for path in run.path.rglob("*") if path.is_file())
    sealed = time.perf_counter() - began
    launcher = json.loads(run.attempt(1).ended.read_text())["launcher_seconds"]
    return Times(bake=baked, launcher=launcher, hashing=timed.seconds + sealed, bare=bare or run_bare(run))


def newest(workspace: Workspace) -> Run:
    return Run(max(workspace.runs.glob("2*"), key=lambda path: path.stat().st_ctime))


def run_bare(run: Run) -> float:
    """The archived command as a person would paste it, into another output folder."""
    argv = json.loads(run.command_json.read_text())["argv"]
    elsewhere = run.path.parent.parent / "bare"
    shutil.rmtree(elsewhere, ignore_errors=True)
    elsewhere.mkdir()
    argv[argv.index("--output_dir") + 1] = str(elsewhere)
    argv[argv.index("--logging_dir") + 1] = str(elsewhere / "events")
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    began = time.perf_counter()
    subprocess.run(argv, check=True, capture_output=True, env=environment, cwd=elsewhere)
    return time.perf_counter() - began


class Timed:
    """A function that adds up how long it took."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.seconds = 0.0

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Call it and look at the clock."""
        began = time.perf_counter()
        try:
            return self.function(*arguments, **options)
        finally:
            self.seconds += time.perf_counter() - began


if __name__ == "__main__":
    main()
