"""The caches that a running attempt holds: claimed before it starts, shared once they are filled, trimmed at its end."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lorakit.archive.run import SCHEMA, Attempt, Run
from lorakit.atomic import dump_json, write_once
from lorakit.bake.cache_store import Hold, summary, trim
from lorakit.protocol import Writer

__all__ = ["HeldCaches"]


class HeldCaches:
    """Nothing at all for a run whose command names no caches."""

    def __init__(self, run: Run, attempt: Attempt, command: Mapping[str, Any]) -> None:
        links = _links(run.path / "dataset")
        wanted = [(one["kind"], Path(one["folder"])) for one in command.get("caches", ())]
        # Always in this order, so that no two runs can wait for each other.
        self._holds = {kind: Hold(folder, links.get(folder, ())) for kind, folder in sorted(wanted)}
        self._attempt = attempt
        self._limit = int(command.get("cache_limit", 0))

    def acquire(self, *, stop: Callable[[], bool]) -> None:
        """Claim all of them and record what was found there. Raises Stopped or DiskError."""
        if not self._holds:
            return
        for hold in self._holds.values():
            hold.acquire(stop=stop, waiting=self._tell_waiting)
        record = {"schema": SCHEMA, **{kind: summary(hold) for kind, hold in self._holds.items()}}
        write_once(self._attempt.caches, dump_json(record))

    def _tell_waiting(self) -> None:
        writer = Writer(self._attempt.progress)
        writer.write("phase", name="wait_cache")
        writer.close()

    def poll(self) -> None:
        """Let other runs in where all is there."""
        for hold in self._holds.values():
            hold.poll()

    def release(self) -> None:
        """End the claims and keep the caches within their limit."""
        for hold in self._holds.values():
            hold.release()
        try:
            for root in {hold.folder.parent.parent for hold in self._holds.values()}:
                trim(root, self._limit)
        except OSError:  # told in keeper.log: the run has ended as it has ended
            traceback.print_exc()


def _links(folder: Path) -> dict[Path, set[str]]:
    """The cache files that a run's view of its dataset links to, by their folder."""
    found: dict[Path, set[str]] = {}
    for here, _, names in os.walk(folder):
        for name in names:
            path = Path(here, name)
            if name.endswith(".npz") and path.is_symlink():
                target = path.readlink()
                found.setdefault(target.parent, set()).add(target.name)
    return found
