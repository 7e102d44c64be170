"""Runs that have everything a page shows, some of it written by somebody who means harm."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from PIL import Image

from lorakit.archive.run import Run
from tests.cli.made_runs import image, make_run
from tests.verdict.made_loras import lora

#: Ends scripts and attributes, loads pictures, turns the direction of what follows.
HOSTILE = '</script><img src=x onerror="window.hacked=1">\'"&amp; \u202egnp.exe {{data}} <!-- ${1+1}'
PROMPTS = ("a zorp on a table", HOSTILE)


def progress(run: Run, *, steps: int = 60, per_epoch: int = 15, height: float = 0.1) -> None:
    """A training whose loss falls from ``height``, with validation, rates, gradients and samples after each epoch."""
    lines: list[dict[str, Any]] = [{"type": "start", "total_steps": steps, "epochs": steps // per_epoch}]
    for step in range(1, steps + 1):
        at = {"step": step, "epoch": (step - 1) // per_epoch + 1, "t": 1e9 + step / 2, "v": 1}
        loss: float | str = height * (1 + math.sin(step * 1.7) / 3) * math.exp(-step / 60)
        lines.append(
            {
                **at,
                "type": "step",
                "loss": "nan" if step == 7 else loss,
                "lr": {"unet": 1e-4, "te1": 5e-5},
                "grad_norm": {"unet": 0.04, "te1": 0.01, "te2": 0.02},
            }
        )
        if step % per_epoch == 0:
            lines.append({**at, "type": "validation", "loss": height * math.exp(-step / 80)})
            for number, prompt in enumerate(PROMPTS):
                name = f"samples/x_e{at['epoch']:06d}_{number:02d}_20261122151806_1.png"
                (run.path / "samples").mkdir(exist_ok=True)
                Image.new("RGB", (64, 96), (40 * number + 40, int(50 * at["epoch"]), 90)).save(run.path / name)
                lines.append({**at, "type": "sample", "path": name, "prompt": prompt})
    run.attempt(1).progress.write_text("".join(json.dumps(line) + "\n" for line in lines))


def rename(run: Run, name: str) -> None:
    """Give a run another name than its folder tells."""
    request = json.loads(run.request.read_text())
    run.request.write_text(json.dumps({**request, "name": name}))


def runs(folder: Path) -> list[Run]:
    """Four runs, of two rates and two data sets, the first of which has a hostile name, the last of which failed."""
    made = []
    for at, (unet, te) in enumerate((("1e-4", "5e-5"), ("1e-4", "2e-5"), ("2e-4", "5e-5"), ("2e-4", "2e-5"))):
        caption = HOSTILE if at == 1 else "a cat"
        images = [
            image("1.png", caption=caption),
            image(f"{HOSTILE if at == 2 else 2}.png"),
            image("3.png", validation=True),
        ]
        ended = {"validation": 0.118 - at / 100, "loss_last": 0.1 + at / 100}
        run = make_run(folder, short=f"k3f{at}", unet_lr=unet, te_lr=te, images=images, ended=ended)
        lora(run.weights / "lora.safetensors", unet=3.0 + at, text=1.0)
        lora(run.weights / "lora-000002.safetensors", unet=2.0, text=0.5)
        progress(run, steps=60 + 15 * at, height=0.1 + at / 50)
        made.append(run)
    rename(made[0], HOSTILE)
    return made


def diagnosis(run: Run) -> None:
    """What `lorakit diagnose` leaves in a run, with a title of somebody who means harm."""
    found = {
        "code": "D07",
        "title": f"UNet is starting to fry {HOSTILE}",
        "confidence": "likely",
        "evidence": [{"text": "‖ΔW‖ UNet grew", "value": "2.2 ×", "source": "weights/lora.safetensors"}],
        "advice": ["stop at lora-000002"],
    }
    run.analysis.mkdir(exist_ok=True)
    (run.analysis / "diagnosis.json").write_text(json.dumps({"findings": [found]}))
    Image.new("RGB", (400, 200), (90, 20, 160)).save(run.analysis / "contact.png")
