"""The training states of a run: which are whole, told from disk, and at which step each stands (stdlib only).

A state is a folder ``NAME-state`` that the trainer wrote. The built-in trainer lists its files in ``train_state.json``, the probe of
sd-scripts in ``lorakit.json``, each with size and SHA-256 and each written last; a state of bare sd-scripts counts as whole when every
file that it must have is there and whole. A folder without its list, or with a file of another size, is half written.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lorakit.archive.hashing import hash_file
from lorakit.archive.run import Run, read_record
from lorakit.archive.shared import patient
from lorakit.archive.tensors import weights_fault
from lorakit.atomic import TEMP_MARK, crash_point, fsync_dir

__all__ = ["STATE_MARK", "TrainingState", "checkpoints", "settle", "training_states", "whole_checkpoints"]

#: What the trainer adds to a state folder's name.
STATE_MARK: Final = "-state"
#: What the probe adds to a state of sd-scripts, and what both trainers keep of their position.
PROBE_RECORD: Final = "lorakit.json"
POSITION_RECORD: Final = "train_state.json"
#: What accelerate writes for one process, in this order.
_BARE: Final = ("model.safetensors", "optimizer.bin", "scheduler.bin", "random_states_0.pkl")
_WEIGHTS: Final = frozenset({".safetensors", ".ckpt", ".pt"})


@dataclass(frozen=True)
class TrainingState:
    """A state folder: the optimizer ``step`` it stands at (None when nothing tells), and its ``fault`` when it is not whole.

    ``attempt`` is the one that wrote it. ``probed``: the probe's record is in it, which holds the place within the epoch too.
    """

    path: Path
    attempt: int
    step: int | None
    total_steps: int | None
    probed: bool
    fault: str | None

    @property
    def whole(self) -> bool:
        """Whether a training can go on from it."""
        return self.fault is None


def training_states(run: Run, *, thorough: bool = False) -> tuple[TrainingState, ...]:
    """Every state folder of a run, the furthest step first, of equal steps the newest attempt's.

    ``thorough`` reads the files and compares their SHA-256, otherwise sizes are enough. Never raises for damage.
    """
    found = [
        _look_at(path, attempt, thorough) for attempt, folder in _state_folders(run) for path in _states_in(folder)
    ]
    return tuple(sorted(found, key=lambda state: (-(state.step or -1), -state.attempt, state.path.name)))


def _state_folders(run: Run) -> Iterator[tuple[int, Path]]:
    """Where states are: state/ and weights/ of the first attempt, state/NN/ and weights/NN/ of later ones."""
    for number in range(run.last_attempt.number, 0, -1):
        yield number, run.state_of(number)
        yield number, run.weights_of(number)


def _states_in(folder: Path) -> list[Path]:
    try:
        entries = patient(lambda: list(os.scandir(folder)))
    except OSError:
        return []
    named = (entry for entry in entries if entry.name.endswith(STATE_MARK) and TEMP_MARK not in entry.name)
    return sorted(Path(entry.path) for entry in named if entry.is_dir(follow_symlinks=False))


def _look_at(path: Path, attempt: int, thorough: bool) -> TrainingState:
    probe, position = read_record(path / PROBE_RECORD), read_record(path / POSITION_RECORD)
    record = probe if probe is not None else position
    step = _number(record, "step" if probe is not None else "current_step")
    if record is None:
        fault: str | None = f"{POSITION_RECORD} is missing"
    elif "damaged" in record:
        fault = f"{PROBE_RECORD if probe is not None else POSITION_RECORD} is {record['damaged']}"
    elif step is None:
        fault = "it does not say at which step it stands"
    else:
        try:
            fault = _listed_fault(path, record, thorough) if "files" in record else _bare_fault(path)
        except OSError as error:
            fault = error.strerror or str(error)
    return TrainingState(path, attempt, step, _number(record, "total_steps"), probe is not None, fault)


def _number(record: Mapping[str, Any] | None, key: str) -> int | None:
    value = (record or {}).get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _listed_fault(path: Path, record: Mapping[str, Any], thorough: bool) -> str | None:
    """What differs from the state's own list of files."""
    files = record["files"]
    if not isinstance(files, Mapping) or not files:
        return "its list of files cannot be read"
    for name, described in sorted(files.items()):
        if not isinstance(described, Mapping) or os.path.basename(name) != name:
            return "its list of files cannot be read"
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if (size := file.stat().st_size) != described.get("bytes"):
            return f"{name} has {size} of {described.get('bytes')} bytes"
        if (
            thorough
            and "sha256" in described
            and patient(functools.partial(hash_file, file)).sha256 != described["sha256"]
        ):
            return f"{name} is not what was saved"
    return None


def _bare_fault(path: Path) -> str | None:
    """What is missing of a state that has no list: every file must be there, and whole as far as its format tells."""
    for name in _BARE:
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if fault := weights_fault(file):
            return f"{name}: {fault}"
    return None


def settle(run: Run) -> tuple[Path, ...]:
    """Bring what the trainer wrote to its place: states move from weights/ to state/, each attempt's to its own; the moved.

    Samples are there already: weights/sample is a link to samples/.
    """
    moved = []
    for number in range(1, run.last_attempt.number + 1):
        source, target = run.weights_of(number), run.state_of(number)
        for path in _states_in(source):
            target.mkdir(parents=True, exist_ok=True)
            if not (target / path.name).exists():
                crash_point("settle:before move")
                path.rename(target / path.name)
                crash_point("settle:moved")
                moved.append(target / path.name)
        if moved:
            fsync_dir(source)
            fsync_dir(target)
    return tuple(moved)


def checkpoints(run: Run) -> list[dict[str, Any]]:
    """Every weights file with its size and, when it is not whole, its fault: ``{"path", "bytes", "fault"}``.

    Where a later attempt wrote a file of the same name again, that one counts; files of steps that it went over again and did not
    write are still there. Torn files are listed, so that nobody takes them for good ones.
    """
    found: dict[str, dict[str, Any]] = {}
    for number in range(1, run.last_attempt.number + 1):
        folder = run.weights_of(number)
        for path in sorted(folder.glob("*")) if folder.is_dir() else ():
            if path.suffix not in _WEIGHTS or path.name.startswith(".") or not path.is_file():
                continue
            entry: dict[str, Any] = {"path": path.relative_to(run.path).as_posix(), "bytes": path.stat().st_size}
            if fault := weights_fault(path):
                entry["fault"] = fault
            if fault and "fault" not in found.get(path.name, {"fault": ""}):
                continue  # an earlier attempt has it whole
            found[path.name] = entry
    return [found[name] for name in sorted(found)]


def whole_checkpoints(run: Run) -> tuple[Path, ...]:
    """The weights files that are offered for anything: whole ones, by step, the final file last."""
    paths = [run.path / entry["path"] for entry in checkpoints(run) if "fault" not in entry]
    return tuple(sorted(paths, key=_order))


def _order(path: Path) -> tuple[int, int, str]:
    numbered = re.search(r"-(step)?(\d+)$", path.stem)
    return (1, 0, path.stem) if numbered is None else (0, int(numbered.group(2)), path.stem)
