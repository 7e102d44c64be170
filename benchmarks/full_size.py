"""Seconds per step and peak memory of the built-in trainer on a full-size SDXL with random weights.

Writes the checkpoint once (7 GB in bf16, kept in the given folder), then trains a few steps at 256 px, batch 2, dim 8, both
text encoders, gradient checkpointing, sdpa, bf16, and prints medians. Needs about 12 GB of memory and 8 GB of disk.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from lorakit import protocol


def write_base(folder: Path) -> Path:
    path = folder / "full-sdxl-bf16.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [sys.executable, "-m", "lorakit.bench_model", "write", str(path), "--size", "full", "--dtype", "bf16"],
            check=True,
        )
    return path


def write_dataset(folder: Path, pixels: int) -> Path:
    images = folder / "1_noise"
    images.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(4):
        Image.fromarray(rng.integers(0, 255, (pixels, pixels, 3), dtype=np.uint8)).save(images / f"{number}.png")
        (images / f"{number}.txt").write_text("a photo of noise", encoding="utf-8")
    return folder


def arguments(base: Path, dataset: Path, output: Path, options: argparse.Namespace) -> list[str]:
    return [
        f"--pretrained_model_name_or_path={base}", f"--train_data_dir={dataset}", f"--output_dir={output}",
        "--output_name=full", "--caption_extension=.txt", f"--resolution={options.pixels},{options.pixels}",
        "--enable_bucket", "--min_bucket_reso=64", "--max_bucket_reso=2048", f"--train_batch_size={options.batch}",
        f"--max_train_steps={options.steps}", "--network_module=networks.lora", f"--network_dim={options.dim}",
        f"--network_alpha={options.dim}", "--learning_rate=1e-4", "--unet_lr=1e-4", "--text_encoder_lr=5e-5",
        "--optimizer_type=AdamW", "--lr_scheduler=constant", "--mixed_precision=bf16", "--save_precision=bf16",
        "--gradient_checkpointing", "--sdpa", "--cache_latents", "--seed=1", "--max_data_loader_n_workers=0",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the 7 GB checkpoint is kept")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--pixels", type=int, default=256)
    parser.add_argument("--dim", type=int, default=8)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    base = write_base(options.folder)
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        dataset = write_dataset(work / "data", options.pixels)
        progress = work / "progress.jsonl"
        env = os.environ | {"OMP_NUM_THREADS": str(options.threads), protocol.PROGRESS_ENV: str(progress)}
        command = [sys.executable, "-m", "lorakit.trainers.builtin", *arguments(base, dataset, work / "out", options)]
        trainer = subprocess.Popen(command, env=env)
        _, status, usage = os.wait4(trainer.pid, 0)
        if status != 0:
            sys.exit(f"the trainer ended with status {status}")
        steps = [record for record in protocol.read(progress) if record["type"] == "step"]
        seconds = [record["seconds"] for record in steps[1:]]  # the first step pays for first touches
        print(
            f"{len(steps)} steps, {options.pixels} px, batch {options.batch}, dim {options.dim}, {options.threads} threads"
        )
        print(
            f"seconds per step   median {statistics.median(seconds):.2f}   min {min(seconds):.2f}   max {max(seconds):.2f}"
        )
        print(f"peak memory        {usage.ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
