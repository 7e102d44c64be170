"""The real sd-scripts with caches on disk: the second run reads the first's, and none of them lies beside the images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lorakit.archive.records import state
from lorakit.archive.run import Run
from lorakit.archive.seal import verify
from lorakit.bake.bake import bake
from lorakit.bake.cache_store import cache_root
from lorakit.bench_model.writer import write_checkpoint
from lorakit.preset.files import load_text
from lorakit.workspace import Workspace
from tests.conformance import checkout
from tests.conformance.pictures import write_dataset
from tests.conformance.test_probe import PRESET

pytestmark = checkout.needs_checkout

ON_DISK = (
    "memory.cache_latents_to_disk=true",
    "memory.cache_text_encoder_outputs=true",
    "memory.cache_text_encoder_outputs_to_disk=true",
    "optim.te_lr=0",
    "sample.prompts=",
    "length.steps=2",
)
IMAGES = 6


def test_caches_are_made_once_and_never_stale(tmp_path: Path) -> None:
    things = lay_out(tmp_path)
    workspace = checkout.workspace(tmp_path)
    # What another run may have left beside the images: a latent of the wrong picture, a text of the wrong caption.
    np.savez(things / "0_0128x0128_sdxl.npz", latents=np.full((4, 16, 16), 1e4, np.float32))
    np.savez(things / "0_te_outputs.npz", hidden_state1=np.full((77, 8), 1e4, np.float32))
    stray = {path.name for path in things.glob("*.npz")}
    first = baked(workspace)
    assert used(first) == {"latents": (0, IMAGES), "text": (0, IMAGES)}
    made = {path: path.stat().st_mtime_ns for path in cache_root(workspace).rglob("*.npz")}
    assert len(made) == 2 * IMAGES
    latents = [np.load(path) for path in made if path.parent.parent.name == "latents"]
    assert all(set(found) >= {"latents", "original_size", "crop_ltrb"} for found in latents)
    assert all(float(np.abs(found["latents"]).max()) < 1e3 for found in latents)
    second = baked(workspace)
    assert used(second) == {"latents": (IMAGES, IMAGES), "text": (IMAGES, IMAGES)}
    assert {path: path.stat().st_mtime_ns for path in cache_root(workspace).rglob("*.npz")} == made
    assert result(second) == result(first)
    assert losses(second) == losses(first)
    Image.new("RGB", (128, 128), (250, 250, 250)).save(things / "1.png")
    (things / "2.txt").write_text("a caption that was written anew", encoding="utf-8")
    third = baked(workspace)
    assert used(third) == {"latents": (IMAGES - 1, IMAGES), "text": (IMAGES - 1, IMAGES)}
    assert losses(third) != losses(first)
    wider = baked(workspace, "dataset.resolution=192")
    assert used(wider)["latents"] == (0, IMAGES)
    assert used(wider)["text"] == (IMAGES, IMAGES)
    assert {path.name for path in things.glob("*.npz")} == stray


def lay_out(root: Path) -> Path:
    write_checkpoint(root / "slim.safetensors", size="slim")
    things = root / "data" / "2_thing"
    things.mkdir(parents=True)
    for index, path in enumerate(write_dataset(root / "drawn", IMAGES)):
        Image.open(path).resize((128, 128 + 64 * (index % 2))).save(things / f"{index}.png")
        shutil.copy(path.with_suffix(".txt"), things / f"{index}.txt")
    return things


def baked(workspace: Workspace, *overrides: str) -> Run:
    text = PRESET.format(data=workspace.root / "data")
    run = bake(load_text(text, workspace.root / "cached.toml", (*ON_DISK, *overrides)), workspace)
    assert state(run).status == "ok", run.attempt(1).log.read_text()[-3000:]
    assert verify(run) == ()
    return run


def used(run: Run) -> dict[str, tuple[int, int]]:
    record: dict[str, Any] = json.loads(run.attempt(1).caches.read_bytes())
    return {kind: (record[kind]["found"], record[kind]["files"]) for kind in ("latents", "text")}


def result(run: Run) -> bytes:
    data = (run.weights / "probed.safetensors").read_bytes()
    return data[8 + int.from_bytes(data[:8], "little") :]  # the header has dates in it


def losses(run: Run) -> list[float]:
    lines = run.attempt(1).progress.read_text(encoding="utf-8").splitlines()
    return [record["loss"] for record in map(json.loads, lines) if record["type"] == "step"]
