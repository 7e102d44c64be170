"""Text-encoder outputs that are computed once: in memory by caption, or in npz files in the trainer's layout."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lorakit.dataset.scan import ImageRecord
from lorakit.errors import DatasetError
from lorakit.trainers.builtin.latents import read_npz, write_npz

__all__ = ["TextStore", "text_path"]

_KEY = "lorakit_key"


class TextStore:
    """What both text encoders say to a caption: hidden (tokens, d1 + d2) and pooled (dp), each float32.

    A file counts only when caption, token length, text encoders and number format are the same. ``first_width`` is d1,
    where the file's layout cuts the hidden state in two.
    """

    def __init__(self, *, to_disk: bool, first_width: int, identity: str) -> None:
        self.to_disk = to_disk
        self._width = first_width
        self._identity = identity
        self._memory: dict[str, tuple[Tensor, Tensor]] = {}

    def key(self, caption: str) -> str:
        """What a file of this caption must say about its making."""
        return hashlib.sha256(f"{self._identity}\x1f{caption}".encode("utf-8", "surrogateescape")).hexdigest()

    def missing(self, records: Iterable[ImageRecord]) -> Iterator[ImageRecord]:
        """The images whose captions are still to be encoded; in memory each caption once."""
        seen: set[str] = set()
        for record in records:
            mark = str(record.path) if self.to_disk else record.caption
            if mark in seen:
                continue
            seen.add(mark)
            if self._file(record) is None if self.to_disk else record.caption not in self._memory:
                yield record

    def put(self, record: ImageRecord, hidden: Tensor, pooled: Tensor) -> None:
        """Keep what the text encoders say to the caption of ``record``."""
        hidden, pooled = hidden.float().cpu().contiguous(), pooled.float().cpu().contiguous()
        if not self.to_disk:
            self._memory[record.caption] = (hidden, pooled)
            return
        content = {
            "hidden_state1": hidden[:, : self._width].numpy(),
            "hidden_state2": hidden[:, self._width :].numpy(),
            "pool2": pooled.numpy(),
            _KEY: np.array(self.key(record.caption)),
        }
        write_npz(text_path(record), content)

    def get(self, record: ImageRecord) -> tuple[Tensor, Tensor]:
        """Hidden and pooled of the caption of ``record``; DatasetError when its file vanished or changed."""
        if not self.to_disk:
            return self._memory[record.caption]
        content = self._file(record)
        if content is None:
            raise DatasetError(
                f"the cached text {text_path(record)} vanished or was changed while it was trained on",
                todo="start the training again; one dataset can be cached for one training at a time",
            )
        hidden = np.concatenate([content["hidden_state1"], content["hidden_state2"]], axis=-1)
        return torch.from_numpy(hidden), torch.from_numpy(content["pool2"])

    def _file(self, record: ImageRecord) -> dict[str, np.ndarray[Any, Any]] | None:
        content = read_npz(text_path(record))
        names = {"hidden_state1", "hidden_state2", "pool2", _KEY}
        if content is None or not names <= set(content) or str(content[_KEY]) != self.key(record.caption):
            return None
        return content


def text_path(record: ImageRecord) -> Path:
    """The trainer's name of a file of cached text-encoder outputs."""
    return record.path.with_name(f"{record.path.stem}_te_outputs.npz")
