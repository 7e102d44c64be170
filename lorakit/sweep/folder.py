"""A sweep on disk: what was asked, its trials and what was ordered since, each written once; where it stands is computed.

sweeps/2026-11-22_1320_hifumi_3fa1c2d4/
  sweep.json                 what was asked, when, by which line
  trials/0001.json           trials that were added together: each one's point, whole preset, and plan in short
  orders/0001.json           pause, go, cancel, first: what somebody wants of it since
  shifts/0001.json           a process that hands out its trials; 0001.ended when it was done with that
  jobs/0001.json             trials that were handed to Slurm together, beside the script and the tasks' output
  dispatcher                 locked by the process that hands out its trials
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lorakit.archive.run import read_record
from lorakit.atomic import dump_json, write_once
from lorakit.errors import ArchiveError, UsageError
from lorakit.sweep.orders import Orders, Shift, dispatching, last_shift, order, read_orders, write_next

if TYPE_CHECKING:
    from lorakit.preset.files import ResolvedPreset
    from lorakit.sweep.trials import Sweep, Trial
    from lorakit.workspace import Workspace

__all__ = ["Folder", "Order", "Planned", "create", "find", "folders", "sweeps_of", "write_next"]

SCHEMA: Final = 1
_NAME: Final = re.compile(r"\d{4}-\d{2}-\d{2}_\d{4}_.+_[0-9a-f]{8}|queue")
Order = str  #: "pause", "go", "cancel" or "first"


@dataclass(frozen=True)
class Planned:
    """A trial as the folder keeps it: enough to bake it, and to say what it is without planning it again."""

    index: int
    identity: str
    name: str
    point: Mapping[str, str]
    preset: str
    source: str
    trainer: str
    seed: int | None
    steps: int
    bytes: int
    findings: tuple[str, ...] = ()
    contents: Mapping[str, str] = field(default_factory=dict)
    shape: Mapping[str, Any] = field(default_factory=dict)
    drawn: bool = False

    def resolved(self) -> ResolvedPreset:
        """Its preset, with every value in it, as it was planned: a preset edited since changes nothing."""
        from lorakit.preset.files import load_text

        return load_text(self.preset, Path(self.source))


@dataclass(frozen=True)
class Folder:
    """A sweep's folder."""

    path: Path

    @property
    def id(self) -> str:
        """Eight characters, or ``queue``."""
        return self.path.name.rpartition("_")[2]

    @property
    def lock(self) -> Path:
        """Locked while a process hands out trials."""
        return self.path / "dispatcher"

    @cached_property
    def record(self) -> dict[str, Any]:
        """sweep.json. Raises ArchiveError when it cannot be read."""
        found = read_record(self.path / "sweep.json")
        if found is None or "damaged" in found:
            raise ArchiveError(f"{self.path}/sweep.json cannot be read", why=str((found or {}).get("damaged", "")))
        return found

    @property
    def axes(self) -> dict[str, list[str]]:
        """Keys and their values, in the order of the line; values that were added since come last."""
        known: dict[str, list[str]] = {key: list(values) for key, values in self.record.get("axes", {}).items()}
        if self.id == "queue":
            return known
        for trial in self.trials():
            for key, value in trial.point.items():
                values = known.setdefault(key, [])
                if value not in values:
                    values.append(value)
        return known

    def trials(self) -> tuple[Planned, ...]:
        """All trials, in the order they were added, each once; a damaged file is left out."""
        found: dict[str, Planned] = {}
        for path in sorted((self.path / "trials").glob("*.json")):
            for record in (read_record(path) or {}).get("trials", ()):
                known = {key: record[key] for key in Planned.__dataclass_fields__ if key in record}
                planned = Planned(**{**known, "index": len(found) + 1, "findings": tuple(record.get("findings", ()))})
                found.setdefault(planned.identity, planned)
        return tuple(found.values())

    def add(self, trials: Iterable[Trial]) -> int:
        """Add the trials that are not there yet, all or none; returns how many. Safe beside others who do the same."""
        known = {trial.identity for trial in self.trials()}
        added = [_planned(trial) for trial in trials if trial.identity not in known]
        if added:
            write_next(self.path / "trials", {"schema": SCHEMA, "time": time.time(), "trials": added})
        return len(added)

    def order(self, what: Order, trials: Iterable[str] = ()) -> None:
        """Say what is wanted: ``pause`` for the whole sweep, ``first`` for some trials, ``cancel`` and ``go`` for some trials or all."""
        order(self.path, what, trials)

    def orders(self) -> Orders:
        """What is wanted of it, all orders taken together."""
        return read_orders(self.path / "orders")

    @contextlib.contextmanager
    def dispatching(self) -> Iterator[None]:
        """Be the one who hands out its trials. Raises UsageError when another process is; the lock dies with this one."""
        with dispatching(self.path, self.lock):
            yield

    @property
    def last_shift(self) -> Shift | None:
        """The latest process that handed out its trials."""
        return last_shift(self.path)

    @property
    def is_dispatched(self) -> bool:
        """Whether a process hands out its trials now."""
        from lorakit.launch.processes import is_locked

        return is_locked(self.lock)

    def lineage(self, trial: Planned, of: int) -> dict[str, Any]:
        """What the request.json of the trial's run says about where it comes from."""
        return {
            "kind": "queue" if self.id == "queue" else "sweep",
            "sweep": self.id,
            "trial": trial.identity,
            "index": trial.index,
            "of": of,
            "point": dict(trial.point),
            "axes": self.axes,
            "preset": str(self.record.get("preset", trial.source)),
            "seed": trial.seed,
            "seed_drawn": bool(self.record.get("seed_drawn")),
        }


def sweeps_of(workspace: Workspace) -> Path:
    """Where a workspace keeps its sweeps."""
    return workspace.root / "sweeps"


def folders(workspace: Workspace) -> tuple[Folder, ...]:
    """The sweeps of a workspace, oldest first; the queue is none of them."""
    place = sweeps_of(workspace)
    names = sorted(path.name for path in place.glob("*") if _NAME.fullmatch(path.name) and path.name != "queue")
    return tuple(Folder(place / name) for name in names if (place / name / "sweep.json").is_file())


def find(workspace: Workspace, word: str = "latest") -> Folder:
    """The sweep that a beginning of its id or name means, or ``latest``. Raises UsageError."""
    known = folders(workspace)
    if not known and word != "queue":
        raise UsageError("there is no sweep yet", todo="lorakit sweep PRESET --unet-lr 1e-4,2.5e-4")
    if word == "latest":
        return known[-1]
    if word == "queue" and (sweeps_of(workspace) / "queue" / "sweep.json").is_file():
        return Folder(sweeps_of(workspace) / "queue")
    found = [one for one in known if one.id.startswith(word) or one.path.name == word] or [
        one for one in known if one.path.name[16:].startswith(word)
    ]
    if len(found) == 1:
        return found[0]
    ids = ", ".join(one.id for one in (found or known)[-8:])
    raise UsageError(f"{word!r} names {'several sweeps' if found else 'no sweep'}", why=f"there are {ids}")


def create(sweep: Sweep, asked: Mapping[str, Any], workspace: Workspace, argv: Iterable[str]) -> Folder:
    """The folder of a sweep: the one that an earlier line of the same trials made, or a new one, which appears whole."""
    for known in folders(workspace):
        if known.id == sweep.id:
            known.add(sweep.trials)
            return known
    name = f"{time.strftime('%Y-%m-%d_%H%M')}_{_slug(sweep.preset.stem)}_{sweep.id}"
    record = {
        "schema": SCHEMA,
        "sweep": sweep.id,
        "time": time.time(),
        "argv": list(argv),
        "preset": str(sweep.preset),
        "asked": dict(asked),
        "axes": {axis.key: list(axis.values) for axis in sweep.axes},
        "seed": sweep.seed,
        "seed_drawn": sweep.seed_drawn,
    }
    made = make_folder(sweeps_of(workspace) / name, record)
    made.add(sweep.trials)
    return made


def make_folder(path: Path, record: Mapping[str, Any]) -> Folder:
    """An empty sweep at ``path``; there already, it is taken as it is."""
    for part in ("trials", "orders", "shifts"):
        (path / part).mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        write_once(path / "sweep.json", dump_json(json.loads(json.dumps(record))))
    return Folder(path)


def _planned(trial: Trial) -> dict[str, Any]:
    from lorakit.preset.dump import dump_toml

    preset = trial.resolved.preset
    return {
        "identity": trial.identity,
        "name": preset.name,
        "point": dict(trial.point),
        "preset": dump_toml(preset, provenance=trial.resolved.provenance),
        "source": str(trial.resolved.path),
        "trainer": trial.trainer,
        "seed": preset.seed,
        "steps": trial.plan.total_steps,
        "bytes": trial.plan.disk.needed,
        "findings": [finding.code for finding in trial.findings],
        "contents": dict(trial.contents),
        "shape": dict(trial.shape),
        "drawn": trial.drawn,
    }


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", name).strip("-")[:40] or "sweep"
