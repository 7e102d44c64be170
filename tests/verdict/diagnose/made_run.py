"""A small run folder with everything that a diagnosis looks at, made of known numbers; nothing is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from lorakit.archive.run import Run
from lorakit.preset.dump import dump_toml
from lorakit.preset.files import load_text
from tests.cli.made_runs import image, make_run

UNET = "input_blocks.4.1.transformer_blocks.0.attn1.to_q"
TE1 = "text_model.encoder.layers.0.mlp.fc1"
TE1_LAST = "text_model.encoder.layers.1.mlp.fc1"
WIDTH = 16

PRESET = """\
name = "hifumi"
seed = 7

[base]
model = "models/base.safetensors"

[dataset]
path = "datasets/hifumi"
resolution = 128
bucket_min = 64

[network]
dim = 4
alpha = "dim"

[optim]
type = "AdamW"
unet_lr = 3e-3
te_lr = {te_lr}
warmup = "10 steps"

[length]
epochs = 10
batch_size = 2

[trainer]
kind = "builtin"
"""


def base_model(path: Path) -> Path:
    """A checkpoint with the four kinds of names that matter; every matrix has a norm of 10."""
    rng = np.random.default_rng(1)

    def matrix(*shape: int) -> Any:
        found = rng.standard_normal(shape)
        return (10 * found / np.linalg.norm(found)).astype(np.float32)

    te2 = "conditioner.embedders.1.model.transformer.resblocks.0"
    fused = np.concatenate([matrix(WIDTH, WIDTH), 2 * matrix(WIDTH, WIDTH), 3 * matrix(WIDTH, WIDTH)])
    tensors = {
        f"model.diffusion_model.{UNET}.weight": matrix(WIDTH, WIDTH),
        f"conditioner.embedders.0.transformer.{TE1}.weight": matrix(WIDTH, WIDTH),
        f"conditioner.embedders.0.transformer.{TE1_LAST}.weight": matrix(WIDTH, WIDTH),
        f"{te2}.attn.in_proj_weight": fused,
        f"{te2}.mlp.c_fc.weight": matrix(WIDTH, WIDTH),
        "model.diffusion_model.out.2.bias": np.zeros(4, np.float32),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
    return path


def lora(
    path: Path, *, unet: float = 2.0, te: float = 0.1, width: int = WIDTH, metadata: dict[str, str] | None = None
) -> Path:
    """A LoRA whose ΔW has these norms, by module; TE1's last layer is as it began."""
    rng = np.random.default_rng(2)
    tensors: dict[str, Any] = {}
    names = {f"lora_unet_{UNET}": unet, f"lora_te1_{TE1}": te, f"lora_te1_{TE1_LAST}": 0.0}
    for name, norm in names.items():
        down, up = rng.standard_normal((4, width)), rng.standard_normal((width, 4))
        up *= norm / np.linalg.norm(up @ down)
        flat = name.replace(".", "_")
        tensors[f"{flat}.lora_down.weight"] = down.astype(np.float32)
        tensors[f"{flat}.lora_up.weight"] = up.astype(np.float32)
        tensors[f"{flat}.alpha"] = np.array(4.0, np.float32)
    save_file(tensors, path, metadata)
    return path


def draw(path: Path, *, noise: bool = False, shift: int = 0) -> Path:
    """A picture of two halves, or noise in spots of eight pixels."""
    rng = np.random.default_rng(3)
    if noise:
        pixels = np.kron(rng.integers(0, 255, (16, 16, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    else:
        pixels = np.full((128, 128, 3), 40 + shift, np.uint8)
        pixels[:64] = 200
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def made(
    runs_dir: Path,
    *,
    te_lr: str = "3e-4",
    unet: float = 2.0,
    noise: bool = False,
    captions: int = 8,
    cached: bool = False,
    lineage: dict[str, Any] | None = None,
) -> Run:
    """A run of 200 steps with two checkpoints and two samples. Its base model is models/base.safetensors of the workspace."""
    images = [image(f"{at}.png", caption=f"a photo of hifumi {at % captions}") for at in range(16)]
    run = make_run(runs_dir, images=images, sealed=False, lineage=lineage)
    cache = "\n[memory]\ncache_text_encoder_outputs = true\ncache_text_encoder_outputs_to_disk = true\n"
    text = PRESET.format(te_lr=te_lr) + (cache if cached else "")
    run.preset.write_text(dump_toml(load_text(text, Path("hifumi.toml")).preset), encoding="utf-8")
    run.source.write_text(text, encoding="utf-8")
    plan = {
        "images": 16,
        "total_steps": 200,
        "epochs": 10,
        "warmup_steps": 10,
        "batches_per_epoch": 20,
        "short_batches": 0,
    }
    run.plan.write_text(json.dumps(plan), encoding="utf-8")
    for path in run.weights.glob("*.safetensors"):
        path.unlink()
    lora(run.weights / "hifumi-000005.safetensors", unet=unet / 2)
    lora(run.weights / "hifumi.safetensors", unet=unet)
    draw(run.samples / "first.png")
    draw(run.samples / "last.png", noise=noise, shift=60)
    te = 0.0 if te_lr == "0" else 3e-4
    records: list[dict[str, Any]] = [{"type": "start", "total_steps": 200}]
    records.append(
        {"type": "sample", "step": 0, "epoch": 0, "path": str(run.samples / "first.png"), "prompt": "hifumi"}
    )
    for step in range(1, 201):
        loss = 0.14 - 0.0002 * step + (0.005 if step % 2 else -0.005)
        lr = {"unet": 3e-3, **({"te1": te, "te2": te} if te else {})}
        norms = {"unet": 0.02, **({"te1": 0.001, "te2": 0.001} if te else {})}
        records.append(
            {"type": "step", "step": step, "epoch": 1 + (step - 1) // 20, "loss": loss, "lr": lr, "grad_norm": norms}
        )
        if step in (100, 200):
            name = "hifumi-000005" if step == 100 else "hifumi"
            written = str(run.weights / f"{name}.safetensors")
            records.append(
                {"type": "save", "step": step, "epoch": step // 20, "path": written, "bytes": 1, "kind": "epoch"}
            )
    records.append(
        {"type": "sample", "step": 200, "epoch": 10, "path": str(run.samples / "last.png"), "prompt": "hifumi"}
    )
    run.attempt(1).progress.write_text(
        "".join(json.dumps({"v": 1, "t": 1.0, **one}) + "\n" for one in records), encoding="utf-8"
    )
    return run
