"""Workspaces for tests of faults: a small trainer in the place of sd-scripts, a few pictures, a tiny base model."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lorakit.archive.run import Run, list_runs
from lorakit.bake.bake import bake
from lorakit.preset.files import load_text
from lorakit.workspace import Workspace
from tests.bench_models import bench_checkpoint
from tests.small_run import small_pictures, small_preset

ROOT = Path(__file__).parents[2]
QUICK = ROOT / "tests" / "bake" / "quick"

PRESET = small_preset("steady", steps=12, kind="sd-scripts", save="fp16", states_every=3)


def place(root: Path) -> Workspace:
    """A workspace whose sd-scripts is the soak's small trainer."""
    checkout = root / "checkout"
    checkout.mkdir(parents=True)
    shutil.copy(ROOT / "benchmarks" / "soak_trainer.py", checkout / "sdxl_train_network.py")
    small_pictures(root / "things" / "1_thing", 2)
    shutil.copy(bench_checkpoint(), root / "base.safetensors")
    return Workspace(root, {"sd_scripts": {"path": str(checkout), "python": sys.executable}})


def bake_steady(
    workspace: Workspace, *overrides: str, on_update: Callable[[Run, Sequence[dict[str, Any]]], None] | None = None
) -> Run:
    """Bake the preset of these tests."""
    resolved = load_text(PRESET, workspace.root / "steady.toml", overrides)
    return bake(resolved, workspace, on_update=on_update)


def value_after(steps: int) -> bytes:
    """What the small trainer's weights hold after so many steps, none left out and none done twice."""
    value = ""
    for step in range(1, steps + 1):
        value = hashlib.sha256(f"{value} {step}".encode()).hexdigest()
    return value.encode()


def run_of(work: Path, short: str = "aaaa") -> Run:
    """A run of an archive that was made for tests."""
    return next(run for run in list_runs(work / "runs") if run.short == short)
