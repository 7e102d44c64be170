"""Opening a file of tensors so that a torn, corrupt or unsafe one is refused with a reason."""

from __future__ import annotations

import json
import pickle
import stat
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from lorakit.errors import ModelFileError

__all__ = ["TensorFile", "check_safetensors", "open_tensors"]

Shapes = Mapping[str, tuple[int, ...]]

_PICKLES = {".ckpt", ".pt", ".pth", ".bin"}
_HEADER_LIMIT = 100_000_000  # the format's own limit


class TensorFile:
    """Names and shapes of a file's tensors, its metadata, and the tensors themselves on demand (memory-mapped)."""

    def __init__(
        self, path: Path, shapes: Shapes, read: Callable[[str], torch.Tensor], metadata: Mapping[str, str] | None = None
    ) -> None:
        self.path = path
        self.shapes = shapes
        self.metadata = metadata or {}
        self._read = read

    def tensors(self, prefix: str, *, keep_prefix: bool = False) -> dict[str, torch.Tensor]:
        """All tensors whose name starts with ``prefix``, by name without it unless ``keep_prefix``."""
        skip = 0 if keep_prefix else len(prefix)
        return {key[skip:]: self._read(key) for key in self.shapes if key.startswith(prefix)}


@contextmanager
def open_tensors(path: Path, *, allow_pickle: bool = False) -> Iterator[TensorFile]:
    """Open a .safetensors file, or, where allowed, a pickled state dict (loaded with ``weights_only``).

    Raises:
        ModelFileError: missing, unreadable, torn, corrupt, or a pickle without ``allow_pickle``.
    """
    _require_file(path)
    if path.suffix.lower() in _PICKLES:
        yield _open_pickle(path, allow_pickle=allow_pickle)
        return
    shapes = check_safetensors(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield TensorFile(path, shapes, file.get_tensor, file.metadata())
    except (SafetensorError, OSError) as error:
        raise ModelFileError(
            f"{path}: cannot be read as safetensors", why=str(error), todo="download or copy the file again"
        ) from error


def check_safetensors(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes in a safetensors header, after checking that header and file size agree.

    Raises:
        ModelFileError: the file is no safetensors file, or shorter or longer than its header says.
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, _HEADER_LIMIT):
                raise ModelFileError(
                    f"{path}: not a safetensors file, or only its first part",
                    why=f"the file has {size:,} bytes and its first eight announce a header of {length:,}",
                    todo="download or copy the file again; convert other formats to .safetensors",
                )
            header: Any = json.loads(file.read(length))
        entries = {key: entry for key, entry in header.items() if key != "__metadata__"}
        shapes = {key: tuple(int(side) for side in entry["shape"]) for key, entry in entries.items()}
        end = max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read", why=str(error), todo="check the file's permissions") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise ModelFileError(
            f"{path}: the safetensors header is damaged", why=str(error), todo="download or copy the file again"
        ) from error
    if size != 8 + length + end:
        word = "shorter" if size < 8 + length + end else "longer"
        raise ModelFileError(
            f"{path}: the file is {word} than its header says",
            why=f"{size:,} bytes instead of {8 + length + end:,}",
            todo="the download or copy was probably cut off: fetch the file again",
        )
    return shapes


def _require_file(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise ModelFileError(
            f"{path}: no such file", why=str(error), todo="check the path; relative paths start at the current folder"
        ) from error
    if not stat.S_ISREG(mode):
        raise ModelFileError(
            f"{path}: not a file", why="weights are a .safetensors file or a diffusers folder", todo="check the path"
        )


def _open_pickle(path: Path, *, allow_pickle: bool) -> TensorFile:
    if not allow_pickle:
        raise ModelFileError(
            f"{path}: a pickled checkpoint is refused",
            why="a pickle can run any program when it is opened",
            todo="use the .safetensors form of the model, or allow pickles explicitly if you made the file yourself",
        )
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise ModelFileError(
            f"{path}: the pickle holds more than tensors, or is damaged",
            why=str(error).splitlines()[0] if str(error) else type(error).__name__,
            todo="convert it to .safetensors with the tool that made it",
        ) from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else {}
    tensors = {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}
    return TensorFile(path, {key: tuple(value.shape) for key, value in tensors.items()}, tensors.__getitem__)
