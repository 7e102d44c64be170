"""Several runs trained by one process: what its folder holds, and how it is started.

A pack's folder has ``pack.json`` (fact: whose runs, with the arguments that would train each alone), and what one process for all
leaves: ``trainer.log`` (what it printed beside the runs' own logs), ``progress.jsonl`` (which member has left), ``ranks/``, ``keeper.log``. Each run is
a run like any other, with its own log, progress, stop files, end and seal, and its ``started.json`` names the pack.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from lorakit.archive.run import SCHEMA, Attempt, Run, read_record
from lorakit.atomic import dump_json, write_once
from lorakit.bake.guard import Limits
from lorakit.errors import ArchiveError
from lorakit.launch.processes import hold_lock, require_linux
from lorakit.launch.supervisor import module_argv, spawn_detached

__all__ = ["TRAINER", "Pack", "PackMember", "start_pack"]

#: The program that trains a pack, in place of each run's own.
TRAINER: Final = ("-m", "lorakit.trainers.builtin.pack")
_START_SECONDS: Final = 120.0


@dataclass(frozen=True)
class PackMember:
    """A run of a pack, and the attempt that the pack trains."""

    run: Run
    attempt: Attempt

    @property
    def command(self) -> dict[str, Any]:
        """What would train it alone."""
        path = self.run.command_of(self.attempt.number)
        found: dict[str, Any] = json.loads(path.read_bytes().decode("utf-8", "surrogateescape"))
        return found


@dataclass(frozen=True)
class Pack:
    """The folder of a pack."""

    path: Path

    @property
    def record(self) -> Path:
        """Fact: its members and how many examples go through the model together."""
        return self.path / "pack.json"

    @property
    def log(self) -> Path:
        """What the process printed: start-up, and its last words if it died."""
        return self.path / "trainer.log"

    @property
    def keeper_log(self) -> Path:
        """What its keeper printed: empty unless lorakit itself failed."""
        return self.path / "keeper.log"

    @property
    def progress(self) -> Path:
        """Which member has left, by its number, with the exit code it would have had alone."""
        return self.path / "progress.jsonl"

    @property
    def ranks(self) -> Path:
        """Facts of the shim about the one process."""
        return self.path / "ranks"

    def members(self) -> tuple[PackMember, ...]:
        """Its runs. Raises ArchiveError when the record cannot be read."""
        record = read_record(self.record)
        if record is None or "damaged" in record:
            raise ArchiveError(f"{self.record} cannot be read", why=str((record or {}).get("damaged", "")))
        return tuple(
            PackMember(Run(Path(one["run"])), Attempt(Path(one["attempt"]))) for one in record.get("members", ())
        )

    @classmethod
    def write(cls, place: Path, runs: Sequence[Run], *, rows: int) -> Self:
        """A new pack of runs that are prepared, in a folder of its own under ``place``."""
        path = place / f"{time.strftime('%Y-%m-%d_%H%M%S')}_{secrets.token_hex(2)}"
        (path / "ranks").mkdir(parents=True)
        members = [_member(PackMember(run, run.attempt(1))) for run in runs]
        pack = cls(path)
        record = {"schema": SCHEMA, "time": time.time(), "rows": rows, "members": members}
        write_once(pack.record, dump_json(record))
        return pack


def _member(member: PackMember) -> Mapping[str, Any]:
    limits = Limits.of(read_record(member.run.request))
    return {
        "run": str(member.run.path),
        "attempt": str(member.attempt.path),
        "arguments": member.command["arguments"],
        "spikes": getattr(limits, "spikes", ""),
    }


def start_pack(runs: Sequence[Run], place: Path, *, rows: int) -> Pack:
    """Train prepared runs in one process, with a keeper that outlives this one; returns once none of them can be lost any more.

    ``rows``: the most examples that go through the model together; with 1 the runs take turns. Raises ArchiveError when the
    keeper cannot do its work, with what it said.
    """
    require_linux()
    pack = Pack.write(place, runs, rows=rows)
    argv = module_argv("lorakit.bake.pack_keeper", str(pack.path))
    with ExitStack() as locks:  # until the keeper holds them: nobody may take these runs for some that never started
        for run in runs:
            locks.callback(os.close, hold_lock(run.attempt(1).alive))
        process = spawn_detached(argv, cwd=pack.path, env=os.environ, output=pack.keeper_log)
        try:
            code = process.wait(timeout=_START_SECONDS)
        except BaseException:
            process.kill()
            process.wait()
            raise
    if code != 0:
        lines = pack.keeper_log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise ArchiveError(
            f"a pack of {len(runs)} runs could not be started",
            why=lines[-1] if lines else "its keeper ended without a word",
            todo=f"the whole story is in {pack.keeper_log}",
        )
    return pack
