"""A trainer of a few lines for the soak and its tests: speaks the run protocol, keeps states, goes on from them (stdlib only).

It stands where sdxl_train_network.py would and takes the options of it that it needs. Its "weights" are a running hash of the steps
done, so that a resumed training can be told from one that lost or repeated a step.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import struct
import sys
import time
from pathlib import Path


def main() -> None:
    """Train: one line of the protocol and one turn of the hash for each step."""
    asked = parse()
    step, value = resumed(asked.resume)
    tell(type="start", total_steps=asked.max_train_steps, epochs=1, batches_per_epoch=asked.max_train_steps,
         first_step=step, trainer="soak")  # fmt: skip
    reason = "ok"
    while step < asked.max_train_steps:
        time.sleep(float(os.environ.get("SOAK_SECONDS", "0.02")))
        step += 1
        value = hashlib.sha256(f"{value} {step}".encode()).hexdigest()
        tell(type="step", step=step, epoch=1, loss=1.0 / step, lr={"unet": 1e-4}, seconds=0.02, rss=1 << 20)
        if asked.save_every_n_steps and step % asked.save_every_n_steps == 0:
            save(asked, f"-step{step:08d}", "step", step, value)
        if os.path.exists(os.environ["LORAKIT_STOP_FILE"]):
            reason = "stopped"
            break
    save(asked, "", "final", step, value)
    tell(type="end", reason=reason, steps=step, message="")


def parse() -> argparse.Namespace:
    """The options that it knows; the others are sd-scripts'."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--output_name", required=True)
    parser.add_argument("--max_train_steps", type=int, default=20)
    parser.add_argument("--save_every_n_steps", type=int)
    parser.add_argument("--save_state", action="store_true")
    parser.add_argument("--resume", type=Path)
    return parser.parse_known_args()[0]


def resumed(folder: Path | None) -> tuple[int, str]:
    """Steps done and their hash."""
    if folder is None:
        return 0, ""
    position = json.loads((folder / "train_state.json").read_text(encoding="utf-8"))
    return position["current_step"], (folder / "model.safetensors").read_bytes()[-64:].decode()


def save(asked: argparse.Namespace, mark: str, kind: str, step: int, value: str) -> None:
    """A weights file, written in place as safetensors 0.4 does, and a state where one is wanted."""
    path = asked.output_dir / f"{asked.output_name}{mark}.safetensors"
    write(path, value)
    tell(type="save", step=step, epoch=1, path=str(path), bytes=path.stat().st_size, kind=kind)
    if asked.save_state:
        folder = asked.output_dir / f"{asked.output_name}{mark}-state"
        folder.mkdir(exist_ok=True)
        write(folder / "model.safetensors", value)
        (folder / "optimizer.bin").write_bytes(b"o" * 1000)
        files = {name: {"bytes": (folder / name).stat().st_size} for name in ("model.safetensors", "optimizer.bin")}
        record = {"current_step": step, "total_steps": asked.max_train_steps, "files": files}
        (folder / "train_state.json").write_text(json.dumps(record), encoding="utf-8")
        tell(type="save", step=step, epoch=1, path=str(folder), bytes=1000, kind="state")


def write(path: Path, value: str) -> None:
    """A safetensors file of one tensor, in two writes, so that a kill can leave it torn."""
    header = json.dumps({"lora": {"dtype": "U8", "shape": [64], "data_offsets": [0, 64]}}).encode()
    with open(path, "wb", buffering=0) as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.write(value.encode())


def tell(**values: object) -> None:
    """A protocol record."""
    with open(os.environ["LORAKIT_PROGRESS"], "ab", buffering=0) as file:
        file.write(json.dumps({"v": 1, "t": time.time(), **values}).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main())
