"""Bakes that share caches on disk: the second finds what the first made, and nothing stale is ever trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from lorakit.archive.records import state
from lorakit.archive.run import Run
from lorakit.archive.seal import verify
from lorakit.bake.bake import bake
from lorakit.bake.cache_store import cache_root, entries, remove
from lorakit.preset.files import load_preset
from lorakit.workspace import Workspace
from tests.bake.runs import wait_for

ON_DISK = (
    "memory.cache_latents_to_disk=true",
    "memory.cache_text_encoder_outputs=true",
    "memory.cache_text_encoder_outputs_to_disk=true",
    "optim.te_lr=0",
)


def baked(workspace: Workspace, *overrides: str) -> Run:
    run = bake(load_preset(workspace.presets / "small.toml", [*ON_DISK, *overrides]), workspace)
    assert state(run).status == "ok", state(run)
    assert verify(run) == ()
    assert list(workspace.datasets.rglob("*.npz")) == []
    return run


def used(run: Run) -> dict[str, tuple[int, int]]:
    """(found, wanted) files by kind."""
    record: dict[str, Any] = json.loads(run.attempt(1).caches.read_bytes())
    return {kind: (record[kind]["found"], record[kind]["files"]) for kind in ("latents", "text")}


def weights(run: Run) -> dict[str, bytes]:
    (path,) = run.weights.glob("*.safetensors")
    return {name: value.tobytes() for name, value in load_file(path).items()}


def test_the_second_bake_reads_what_the_first_made(workspace: Workspace) -> None:
    first = baked(workspace)
    assert used(first) == {"latents": (0, 4), "text": (0, 4)}
    made = {path: path.stat().st_mtime_ns for path in cache_root(workspace).rglob("*.npz")}
    assert len(made) == 8
    second = baked(workspace)
    assert used(second) == {"latents": (4, 4), "text": (4, 4)}
    assert {path: path.stat().st_mtime_ns for path in cache_root(workspace).rglob("*.npz")} == made
    assert weights(second) == weights(first)


@pytest.mark.slow
def test_changed_data_trains_like_fresh_data(workspace: Workspace) -> None:
    things = workspace.datasets / "things" / "2_thing"
    before = baked(workspace)
    Image.new("RGB", (64, 64), (250, 0, 0)).save(things / "0.png")
    (things / "1.txt").write_text("quite another caption", encoding="utf-8")
    changed = baked(workspace)
    # What did not change is taken from the first run's entries.
    assert used(changed) == {"latents": (3, 4), "text": (3, 4)}
    assert all(remove(entry) for entry in entries(cache_root(workspace)))
    fresh = baked(workspace)
    assert used(fresh) == {"latents": (0, 4), "text": (0, 4)}
    assert weights(changed) == weights(fresh) != weights(before)


@pytest.mark.slow
def test_two_bakes_at_once_make_it_once(workspace: Workspace) -> None:
    resolved = load_preset(workspace.presets / "small.toml", ON_DISK)
    first, second = (bake(resolved, workspace, detach=True) for _ in range(2))
    wait_for(lambda: state(first).sealed and state(second).sealed, 240)
    for run in (first, second):
        assert state(run).status == "ok", state(run)
    found = sorted(used(run)["latents"] for run in (first, second))
    assert found == [(0, 4), (4, 4)]
    assert weights(first) == weights(second)


@pytest.mark.slow
def test_the_limit_holds_after_each_run(workspace: Workspace) -> None:
    small = Workspace(workspace.root, {"cache": {"limit_gb": 0}})
    baked(small)
    assert entries(cache_root(small)) == ()
    assert used(baked(small)) == {"latents": (0, 4), "text": (0, 4)}


def test_the_handed_over_folders_hold_no_stale_cache(workspace: Workspace) -> None:
    from lorakit.bake.prepare import prepare

    things = workspace.datasets / "things" / "2_thing"
    np.savez(things / "0_0064x0064_sdxl.npz", latents=np.zeros((4, 8, 8), np.float32))
    run = prepare(load_preset(workspace.presets / "small.toml", ON_DISK), workspace)
    arguments = json.loads(run.command_json.read_bytes())["arguments"]
    folder = Path(arguments[arguments.index("--train_data_dir") + 1]) / "2_thing"
    links = {path.name: path.readlink() for path in folder.iterdir()}
    assert links["0.png"] == things / "0.png"
    assert links["0.txt"] == things / "0.txt"
    stale = links["0_0064x0064_sdxl.npz"]
    assert stale.parent.parent == cache_root(workspace) / "latents"
    assert not stale.exists()
    assert sum(name.endswith("_te_outputs.npz") for name in links) == 4
