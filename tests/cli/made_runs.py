"""Run folders with known numbers, for tests of what is shown: nothing is launched."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path
from typing import Any

from lorakit.archive.birth import birth
from lorakit.archive.run import Run
from lorakit.archive.seal import seal

#: A whole safetensors file of a kilobyte.
WEIGHTS = (
    struct.pack("<Q", 92)
    + b'{"lora": {"dtype": "U8", "shape": [900], "data_offsets": [0, 900]}}'.ljust(92)
    + bytes(900)
)

#: A moment of an earlier year, in local time, so that dates read the same on every machine.
THEN = time.mktime((2025, 11, 21, 14, 29, 0, 0, 0, -1))

PRESET = """\
name = {name}
seed = 7

[base]
model = "models/base.safetensors"

[network]
dim = 32
alpha = {alpha}

[optim]
unet_lr = {unet_lr}
te_lr = {te_lr}
warmup = "5%"

[length]
epochs = 7
batch_size = 4
"""


def image(name: str, *, caption: str = "a cat", content: str = "", repeats: int = 3, **more: Any) -> dict[str, Any]:
    """An entry of dataset.json; the content is known by the name unless given."""
    return {
        "path": f"/data/3_cat/{name}",
        "sha256": content or name,
        "caption": caption,
        "caption_sha256": caption,
        "repeats": repeats,
        "bucket": [832, 1216],
        "validation": False,
        **more,
    }


def make_run(
    runs_dir: Path,
    name: str = "hifumi",
    *,
    short: str | None = None,
    now: float = THEN,
    unet_lr: str = "1e-4",
    te_lr: str = "[5e-5, 2e-5]",
    alpha: str = '"dim/2"',
    images: list[dict[str, Any]] | None = None,
    ended: dict[str, Any] | None = None,
    lineage: dict[str, Any] | None = None,
    tags: list[str] | None = None,
    packages: dict[str, str] | None = None,
    log: bytes = b"loading\nstep 1\nstep 2\n",
    weights: bytes = WEIGHTS,
    sealed: bool = True,
) -> Run:
    """A run that was born at ``now`` and ended as told; ``ended`` None: it ended well after 343 steps."""
    with birth(runs_dir, name, now=now) as new:
        run = new.run
        new.write_json(
            run.request,
            {"schema": 1, "name": name, "time": now, "argv": ["lorakit", "bake", name], "lineage": lineage or {}},
        )
        values = {"name": json.dumps(name), "alpha": alpha, "unet_lr": unet_lr, "te_lr": te_lr}
        new.write(run.preset, PRESET.format(**values))
        new.write_json(run.plan, {"images": 63, "total_steps": 343, "epochs": 7, "warmup_steps": 17})
        models = {"base.model": [{"path": "/models/base.safetensors", "sha256": "0123456789abcdef", "size": 9}]}
        new.write_json(
            run.dataset,
            {"digest": str(images), "models": models, "images": images if images is not None else [image("01.png")]},
        )
        new.write_json(run.command_json, {"trainer": {"kind": "builtin"}})
        new.write_json(
            run.environment, {"lorakit": "0.1.0", "python": "3.11.7", "packages": packages or {"torch": "2.13.0"}}
        )
        new.write_json(run.tags, {"tags": tags or []})
        new.write(run.notes, "")
        new.write(run.attempt(1).log, log)
        new.write(run.weights / "lora.safetensors", weights)
    attempt = run.attempt(1)
    keeper = {"pid": 1, "ticks": 1, "boot_id": "an earlier boot", "host": "here"}
    attempt.started.write_text(json.dumps({"schema": 1, "time": now, "keeper": keeper}))
    facts = {
        "schema": 1,
        "status": "ok",
        "reason": "ok",
        "message": "343 steps",
        "time": now + 169,
        "seconds": 169.0,
        "steps": 343,
        "total_steps": 343,
        "loss_first": 0.139,
        "loss_last": 0.104,
        "loss_average": 0.118,
        "validation": 0.118,
        "steps_per_second": 2.1,
        "vram": 13_200_000_000,
        "rss": 4_000_000_000,
        "checkpoints": [{"path": f"weights/{n}.safetensors", "bytes": 1000} for n in range(7)],
        "log_tail": log.decode().splitlines(),
    }
    attempt.ended.write_text(json.dumps({**facts, **(ended or {})}))
    if sealed:
        seal(run, 1)
    if short is None:
        return run
    renamed = Run(run.path.with_name(f"{run.id[:-4]}{short}"))
    run.path.rename(renamed.path)
    return renamed


OUT_OF_MEMORY: dict[str, Any] = {
    "status": "failed",
    "reason": "oom-cuda",
    "message": "failed at step 41 of 343: CUDA out of memory (tried 1.1 GB, 0.3 GB free of 24)",
    "steps": 41,
    "seconds": 31.0,
    "loss_first": 0.137,
    "loss_last": 0.131,
    "validation": None,
    "checkpoints": [],
}
