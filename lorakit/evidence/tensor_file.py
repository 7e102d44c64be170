"""The tensors of a .safetensors file as numpy arrays: mapped, not loaded, and bfloat16 too (which numpy has no type for)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lorakit.archive.tensors import safetensors_fault
from lorakit.errors import ModelFileError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["TensorFile", "TensorInfo"]

_NUMPY: Final[Mapping[str, str]] = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True)
class TensorInfo:
    """What the header says of one tensor: its type (F16, BF16, …), shape, and where it begins in the file, bytes."""

    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def count(self) -> int:
        """Numbers in it."""
        found = 1
        for side in self.shape:
            found *= side
        return found


class TensorFile:
    """A whole .safetensors file: ``tensors`` by name, ``metadata``, and their values on demand.

    Raises ModelFileError for a file that is missing, no .safetensors file, or torn.
    """

    def __init__(self, path: Path) -> None:
        import numpy as np

        self.path = path
        try:
            fault = safetensors_fault(path)
            if fault is not None:
                raise ModelFileError(f"{path} cannot be measured: {fault}", todo="take another checkpoint")
            with open(path, "rb") as file:
                length = int.from_bytes(file.read(8), "little")
                header: dict[str, Any] = json.loads(file.read(length))
            self._data = np.memmap(path, np.uint8, "r")
        except OSError as error:
            raise ModelFileError(f"{path} cannot be read", why=error.strerror or str(error)) from error
        self.metadata: Mapping[str, str] = header.pop("__metadata__", None) or {}
        try:
            self.tensors: Mapping[str, TensorInfo] = {
                name: TensorInfo(entry["dtype"], tuple(entry["shape"]), 8 + length + entry["data_offsets"][0])
                for name, entry in header.items()
            }
        except (KeyError, TypeError) as error:
            raise ModelFileError(f"{path} is no .safetensors file", why=f"its header lacks {error}") from error

    def read(self, name: str) -> NDArray[np.float32]:
        """The tensor in float32, with its shape. Raises ModelFileError for whole numbers and other types."""
        import numpy as np

        info = self.tensors[name]
        if info.dtype not in _NUMPY:
            raise ModelFileError(f"{self.path}: {name} has the type {info.dtype}", why="weights are floating point")
        kind = np.dtype(_NUMPY[info.dtype])
        raw = self._data[info.start : info.start + info.count * kind.itemsize].view(kind).reshape(info.shape)
        if info.dtype == "BF16":  # the upper half of a float32
            return (raw.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return raw.astype(np.float32)
