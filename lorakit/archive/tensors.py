"""Whether a weights file is whole, told from its header and its size without loading it (stdlib only)."""

from __future__ import annotations

import functools
import json
import struct
from pathlib import Path
from typing import Final

from lorakit.archive.shared import patient

__all__ = ["safetensors_fault", "weights_fault"]

#: The format's own limit on the header, bytes.
_MAX_HEADER: Final = 100_000_000


def safetensors_fault(path: Path) -> str | None:
    """Why a .safetensors file is not whole, or None when it is. Raises OSError when it cannot be read.

    The file is 8 bytes of header length (little-endian), the JSON header, then the tensors; the header's largest end offset
    must be exactly where the file ends.
    """
    found = path.stat()
    return patient(lambda: _fault(path, found.st_mtime_ns, found.st_size))


@functools.lru_cache(maxsize=64)  # the same base model is looked at for every trial of a sweep
def _fault(path: Path, _changed: int, size: int) -> str | None:
    with open(path, "rb") as file:
        start = file.read(8)
        if len(start) < 8:
            return "it is empty" if not start else "it ends within the length of its header"
        (length,) = struct.unpack("<Q", start)
        if length > _MAX_HEADER:
            return "it is no safetensors file: its first 8 bytes are no header length"
        header = file.read(min(length, size))  # what it claims is not what there is
    if len(header) < length:
        return f"it ends within its header ({size} of at least {length + 8} bytes)"
    try:
        entries = json.loads(header)
        ends = [int(entry["data_offsets"][1]) for name, entry in entries.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return "its header cannot be read"
    expected = 8 + length + max(ends, default=0)
    if size < expected:
        return f"it is cut off: {size} of {expected} bytes"
    if size > expected:
        return f"it has {size - expected} bytes too many"
    return None


def weights_fault(path: Path) -> str | None:
    """Why a weights file of any kind is not whole, or None; a .ckpt or .pt can only be told from an empty or cut zip.

    Raises OSError when it cannot be read.
    """
    if path.suffix == ".safetensors":
        return safetensors_fault(path)
    return patient(lambda: _zip_fault(path))


def _zip_fault(path: Path) -> str | None:
    with open(path, "rb") as file:
        magic = file.read(4)
        if not magic:
            return "it is empty"
        if magic == b"PK\x03\x04":  # torch's zip: its directory stands at the end
            size = file.seek(0, 2)
            file.seek(max(0, size - 65_558))
            if b"PK\x05\x06" not in file.read():
                return "it is cut off: the end of its zip archive is missing"
    return None
