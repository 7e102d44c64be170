"""Space kept on disk beforehand, so that the last facts of a run can be written when the disk is full (stdlib only)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lorakit.atomic import crash_point, fsync_dir, temp_beside

__all__ = ["Reserve"]

_SIZE: Final = 256 << 10


@dataclass(frozen=True)
class Reserve:
    """A file of ``size`` bytes that becomes ``target``: overwritten in place, which needs no free block."""

    target: Path
    path: Path
    size: int

    @classmethod
    def keep(cls, target: Path, size: int = _SIZE) -> Reserve:
        """Take the space. Raises OSError when the disk is full already."""
        path = temp_beside(target)
        with open(path, "wb") as file:
            file.write(b"\0" * size)
            file.flush()
            os.fsync(file.fileno())
        crash_point("reserve:kept")
        return cls(target, path, size)

    def write_once(self, data: bytes) -> None:
        """Write the fact and free the rest of the space. Raises FileExistsError when ``target`` exists."""
        with open(self.path, "r+b", buffering=0) as file:
            file.write(data)
            crash_point("reserve:overwritten")
            file.truncate(len(data))
            os.fsync(file.fileno())
        try:
            crash_point("reserve:before link")
            os.link(self.path, self.target)
            crash_point("reserve:linked")
        finally:
            self.path.unlink()
        fsync_dir(self.target.parent)
