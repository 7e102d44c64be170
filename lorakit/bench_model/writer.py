"""Writing a bench model as an ordinary single-file SDXL checkpoint, tensor by tensor, so that memory stays low."""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import torch

from lorakit._version import __version__
from lorakit.atomic import TEMP_MARK, fsync_dir
from lorakit.bench_model.shape import SIZES, tensor_shapes
from lorakit.bench_model.weights import make_tensor
from lorakit.errors import DiskError, UsageError

__all__ = ["DTYPES", "write_checkpoint"]

DTYPES = {"fp16": (torch.float16, "F16"), "bf16": (torch.bfloat16, "BF16"), "fp32": (torch.float32, "F32")}


def write_checkpoint(
    path: Path,
    *,
    size: str = "tiny",
    dtype: str = "fp16",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write the model ``size`` (tiny, slim, full) to ``path``; the file appears whole or not at all.

    The same arguments give the same bytes. ``progress`` is told bytes done and bytes in all. Returns the file's size.

    Raises:
        UsageError: no such size or dtype.
        DiskError: the file cannot be written.
    """
    if size not in SIZES or dtype not in DTYPES:
        raise UsageError(
            f"no bench model of size {size!r} and dtype {dtype!r}",
            todo=f"choose a size of {', '.join(SIZES)} and a dtype of {', '.join(DTYPES)}",
        )
    kind, code = DTYPES[dtype]
    shapes = tensor_shapes(SIZES[size])
    header = _header(shapes, code, kind.itemsize, f"lorakit bench model, {size}, seed {seed}, random weights")
    total = len(header) + sum(math.prod(shape) for shape in shapes.values()) * kind.itemsize
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _replacing(path) as file:
            done = file.write(header)
            for name, shape in shapes.items():
                tensor = make_tensor(name, shape, seed=seed).to(kind)
                done += file.write(tensor.flatten().view(torch.uint8).numpy().data)
                if progress:
                    progress(done, total)
    except OSError as error:
        raise DiskError(
            f"{path}: cannot be written", why=str(error), todo="make room or choose another place"
        ) from error
    return total


def _header(shapes: dict[str, tuple[int, ...]], code: str, itemsize: int, title: str) -> bytes:
    metadata = {
        "format": "pt",
        "modelspec.title": title,
        "modelspec.architecture": "stable-diffusion-xl-v1-base",
        "modelspec.implementation_version": f"lorakit/{__version__}",
    }
    entries: dict[str, object] = {"__metadata__": metadata}
    start = 0
    for name, shape in shapes.items():
        end = start + math.prod(shape) * itemsize
        entries[name] = {"dtype": code, "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    temp = path.with_name(f".{path.name[:80]}{TEMP_MARK}{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with open(temp, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temp, path)
        fsync_dir(path.parent)
    finally:
        temp.unlink(missing_ok=True)
