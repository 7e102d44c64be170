"""Small real trainings for tests: a dataset, a command line, the program called in this process."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from PIL import Image
from safetensors.torch import load_file

from lorakit import protocol
from lorakit.trainers.builtin.__main__ import main
from lorakit.trainers.builtin.pack import main as pack_main

#: At 64 px they fall into the buckets 64×64 (three images), 96×32 and 32×96.
SIZES = ((64, 64), (128, 48), (40, 120), (128, 128), (80, 60))


def write_images(folder: Path, sizes: Sequence[tuple[int, int]] = SIZES, *, seed: int = 0) -> Path:
    """Images of noise (width, height) named 0.png, 1.png, …, each with a caption of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for index, (width, height) in enumerate(sizes):
        pixels = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(f"a cat, number {index}, grass, sky", encoding="utf-8")
    return folder


@dataclass(frozen=True)
class Run:
    """What a training left behind."""

    code: int
    output: Path
    records: tuple[dict[str, Any], ...]

    def of(self, type: str) -> list[dict[str, Any]]:
        return [record for record in self.records if record["type"] == type]

    @property
    def losses(self) -> list[float]:
        return [record["loss"] for record in self.of("step")]

    @property
    def end(self) -> dict[str, Any]:
        (end,) = self.of("end")
        return end

    def weights(self, name: str = "x") -> dict[str, torch.Tensor]:
        return load_file(self.output / f"{name}.safetensors")


def arguments(base: Path, data: Path, output: Path, changes: Mapping[str, Any] | None = None) -> list[str]:
    """A command line of the trainer: small and quick, with ``changes`` (None leaves out, True is a switch)."""
    values: dict[str, Any] = {
        "pretrained_model_name_or_path": base,
        "train_data_dir": data,
        "output_dir": output,
        "output_name": "x",
        "network_module": "networks.lora",
        "network_dim": 2,
        "network_alpha": 2,
        "resolution": 64,
        "enable_bucket": True,
        "min_bucket_reso": 32,
        "bucket_reso_steps": 32,
        "caption_extension": ".txt",
        "learning_rate": "1e-2",
        "max_train_steps": 2,
        "train_batch_size": 2,
        "seed": 1,
        "cache_latents": True,
        "max_data_loader_n_workers": 0,
    } | dict(changes or {})
    line: list[str] = []
    for name, value in values.items():
        if value is None or value is False:
            continue
        line.append(f"--{name}")
        if value is not True:
            line += [str(item) for item in value] if isinstance(value, (list, tuple)) else [str(value)]
    return line


@contextmanager
def _environment(values: Mapping[str, str]) -> Any:
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def train(
    base: Path,
    data: Path,
    output: Path,
    changes: Mapping[str, Any] | None = None,
    *,
    environment: Mapping[str, str] | None = None,
) -> Run:
    """Call the trainer in this process."""
    output.mkdir(parents=True, exist_ok=True)
    progress = output / "progress.jsonl"
    with _environment({protocol.PROGRESS_ENV: str(progress), **(environment or {})}):
        try:
            code = main(arguments(base, data, output, changes))
        finally:
            for state in (AcceleratorState, GradientState, PartialState):
                state._reset_state()
    return Run(code, output, tuple(protocol.read(progress)))


def train_packed(
    base: Path, data: Path, folder: Path, changes: Sequence[Mapping[str, Any]], *, rows: int = 64
) -> list[Run]:
    """Call the program of packs in this process: a trial for each of ``changes``, in folders 0, 1, …"""
    members = []
    for number, change in enumerate(changes):
        output = folder / str(number)
        output.mkdir(parents=True, exist_ok=True)
        members.append({"attempt": str(output), "arguments": arguments(base, data, output, change)})
    pack = folder / "pack.json"
    pack.write_text(json.dumps({"members": members, "rows": rows}), encoding="utf-8")
    with _environment({protocol.PROGRESS_ENV: str(folder / "pack.jsonl")}):
        try:
            assert pack_main([str(pack)]) == 0
        finally:
            for state in (AcceleratorState, GradientState, PartialState):
                state._reset_state()
    left = {record["member"]: record["code"] for record in protocol.read(folder / "pack.jsonl")}
    return [
        Run(left[number], folder / str(number), tuple(protocol.read(folder / str(number) / "progress.jsonl")))
        for number in range(len(changes))
    ]
