"""Measuring a LoRA of dim 128 on every module of the real SDXL: seconds, memory against the file's size, ratio to SVDs.

Writes a file of random weights (about 0.9 GB in 16 bits) into a temporary folder. Time is compared, in the same run, with what
the same spectra would take through singular value decompositions of the full products, of which a few are done.
"""

from __future__ import annotations

import argparse
import json
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

DIM = 128


def sdxl_modules() -> Iterator[tuple[str, int, int]]:
    """(name, in, out) of the 986 Linear modules that a LoRA of the real SDXL has."""
    blocks = [(f"input_blocks_{n}_1", 640, 2) for n in (4, 5)] + [(f"input_blocks_{n}_1", 1280, 10) for n in (7, 8)]
    blocks += [("middle_block_1", 1280, 10)]
    blocks += [(f"output_blocks_{n}_1", 1280, 10) for n in (0, 1, 2)] + [
        (f"output_blocks_{n}_1", 640, 2) for n in (3, 4, 5)
    ]
    for name, width, depth in blocks:
        yield f"lora_unet_{name}_proj_in", width, width
        yield f"lora_unet_{name}_proj_out", width, width
        for layer in range(depth):
            inner = f"lora_unet_{name}_transformer_blocks_{layer}"
            for attention, context in (("attn1", width), ("attn2", 2048)):
                yield f"{inner}_{attention}_to_q", width, width
                yield f"{inner}_{attention}_to_k", context, width
                yield f"{inner}_{attention}_to_v", context, width
                yield f"{inner}_{attention}_to_out_0", width, width
            yield f"{inner}_ff_net_0_proj", width, 8 * width
            yield f"{inner}_ff_net_2", 4 * width, width
    for part, layers, width in (("te1", 12, 768), ("te2", 32, 1280)):
        for layer in range(layers):
            inner = f"lora_{part}_text_model_encoder_layers_{layer}"
            for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
                yield f"{inner}_self_attn_{name}", width, width
            yield f"{inner}_mlp_fc1", width, 4 * width
            yield f"{inner}_mlp_fc2", 4 * width, width


def write_lora(path: Path, dim: int = DIM, dtype: str = "F16") -> None:
    """A LoRA of random weights on every module, in 16 or 32 bits."""
    rng = np.random.default_rng(0)
    size = {"F16": 2, "BF16": 2, "F32": 4}[dtype]
    header: dict[str, object] = {}
    at = 0
    shapes = []
    for name, inputs, outputs in sdxl_modules():
        for suffix, shape in (("lora_down.weight", (dim, inputs)), ("lora_up.weight", (outputs, dim)), ("alpha", ())):
            count = int(np.prod(shape, dtype=int))
            header[f"{name}.{suffix}"] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + count * size]}
            at += count * size
            shapes.append((shape, count))
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for shape, count in shapes:
            values = rng.standard_normal(count, dtype=np.float32) * np.float32(0.02) if shape else np.float32([dim / 2])
            if dtype == "BF16":
                file.write((values.view(np.uint32) >> np.uint32(16)).astype("<u2").tobytes())
            else:
                file.write(values.astype("<f2" if dtype == "F16" else "<f4").tobytes())


def measured(path: Path) -> dict[str, float]:
    """Seconds and peak memory of a process that measures the file, by itself."""
    program = (
        "import sys, time, resource, json\n"
        "from pathlib import Path\n"
        "import numpy\n"
        "from lorakit.evidence.weights import measure\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "began, spent = time.perf_counter(), time.process_time()\n"
        "found = measure(Path(sys.argv[1]))\n"
        "seconds, processor = time.perf_counter() - began, time.process_time() - spent\n"
        "after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(json.dumps({'seconds': seconds, 'processor': processor, 'modules': len(found.modules), 'peak': after * 1024, 'before': before * 1024}))\n"
    )
    answer = subprocess.run([sys.executable, "-c", program, str(path)], check=True, capture_output=True, text=True)
    return dict(json.loads(answer.stdout))


def svd_seconds(repeats: int = 3) -> float:
    """Seconds that SVDs of all 986 products would take, from a few of the commonest size (1280 × 1280)."""
    rng = np.random.default_rng(1)
    times = []
    for _ in range(repeats):
        a, b = rng.standard_normal((DIM, 1280), np.float32), rng.standard_normal((1280, DIM), np.float32)
        began = time.perf_counter()
        np.linalg.svd(b @ a, compute_uv=False)
        times.append(time.perf_counter() - began)
    return float(np.median(times)) * 986


def main() -> None:
    """Run it and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", choices=["F16", "BF16", "F32"], default="BF16")
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lora.safetensors"
        write_lora(path, dtype=asked.dtype)
        size = path.stat().st_size
        runs = [measured(path) for _ in range(asked.repeats)]
        seconds = float(np.median([run["seconds"] for run in runs]))
        peak = max(run["peak"] for run in runs)
        slow = svd_seconds()
        print(f"file             {size / 1e9:.2f} GB, {runs[0]['modules']} modules, dim {DIM}, {asked.dtype}")
        print(f"measured in      {seconds:.2f} s (median of {asked.repeats})")
        processor = min(run["processor"] for run in runs)
        print(
            f"processor time   {processor:.2f} s in two threads, the least of {asked.repeats}: half of it on two idle cores"
        )
        print(f"peak memory      {peak / size:.2f} of the file's size, mapped pages counted")
        print(f"against SVDs     {slow / seconds:.0f} times faster")


if __name__ == "__main__":
    main()
