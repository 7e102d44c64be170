"""A run and all its paths, and how runs are found in the archive (stdlib only)."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from lorakit.archive.shared import patient, until_there
from lorakit.errors import ArchiveError

__all__ = ["SCHEMA", "Attempt", "Run", "born_at", "list_runs", "open_run", "read_record"]

#: The version in every record that lorakit writes today.
SCHEMA: Final = 1

#: YYYY-MM-DD_HHMM_<slug>_<4 random>
RUN_ID: Final = re.compile(r"(?P<minute>\d{4}-\d{2}-\d{2}_\d{4})_(?P<name>.+)_(?P<short>[a-z][a-z0-9]{3})")


@dataclass(frozen=True)
class Attempt:
    """One start of a run's training: ``attempts/NN``."""

    path: Path

    @property
    def number(self) -> int:
        """1 for the first start, 2 for the first resume."""
        return int(self.path.name)

    @property
    def job(self) -> Path:
        """Fact: the batch job that this attempt waits for or runs in (which, who asked for it, when)."""
        return self.path / "job.json"

    @property
    def started(self) -> Path:
        """Fact: the keeper started (who, when, the argv that was launched)."""
        return self.path / "started.json"

    @property
    def ended(self) -> Path:
        """Fact: the training ended (when, how, why, results)."""
        return self.path / "ended.json"

    @property
    def resumed(self) -> Path:
        """Fact: this attempt goes on from a state of an earlier one (which, at which step, who asked)."""
        return self.path / "resumed.json"

    @property
    def command(self) -> Path:
        """The launch line of a further attempt; the first one's is the run's own command.json."""
        return self.path / "command.json"

    @property
    def ranks(self) -> Path:
        """Facts of the shims: rank-N.json, exit-N.json."""
        return self.path / "ranks"

    @property
    def alive(self) -> Path:
        """Locked for as long as the keeper or any rank lives."""
        return self.path / "alive.lock"

    @property
    def log(self) -> Path:
        """Everything the training printed."""
        return self.path / "trainer.log"

    @property
    def keeper_log(self) -> Path:
        """What the keeper printed: empty unless lorakit itself failed."""
        return self.path / "keeper.log"

    @property
    def progress(self) -> Path:
        """The run protocol, one JSON object per line."""
        return self.path / "progress.jsonl"

    @property
    def caches(self) -> Path:
        """Fact: which caches on disk it used, and how much of them earlier runs had made."""
        return self.path / "caches.json"

    @property
    def events(self) -> Path:
        """TensorBoard event files."""
        return self.path / "events"

    def stop(self, level: int) -> Path:
        """The request to end: its existence asks. Level 1 is the file the trainer itself looks for."""
        return self.path / ("stop" if level == 1 else f"stop-{level}")


@dataclass(frozen=True)
class Run:
    """A handle on one run folder; holds no state, so it never goes stale."""

    path: Path

    @property
    def id(self) -> str:
        """The folder's name: ``YYYY-MM-DD_HHMM_<name>_<short>``."""
        return self.path.name

    @property
    def minute(self) -> str:
        """When it was born, ``YYYY-MM-DD_HHMM``, in local time."""
        return self.id[:15]

    @property
    def name(self) -> str:
        """The preset's name as it appears in the id."""
        return self.id[16:-5]

    @property
    def short(self) -> str:
        """The four random characters that are unique in an archive."""
        return self.id[-4:]

    @property
    def request(self) -> Path:
        """Who asked for what, when, and what it descends from."""
        return self.path / "request.json"

    @property
    def preset(self) -> Path:
        """The resolved preset, every value present."""
        return self.path / "preset.toml"

    @property
    def source(self) -> Path:
        """The preset as the user wrote it."""
        return self.path / "preset.source.toml"

    @property
    def provenance(self) -> Path:
        """Where each value came from."""
        return self.path / "provenance.json"

    @property
    def plan(self) -> Path:
        """The exact numbers that were promised."""
        return self.path / "plan.json"

    @property
    def dataset(self) -> Path:
        """Each file it was trained on: sha256, size, bucket, caption; and the model files."""
        return self.path / "dataset.json"

    @property
    def command_json(self) -> Path:
        """The launch line as a list."""
        return self.path / "command.json"

    @property
    def command_sh(self) -> Path:
        """The same line, to paste."""
        return self.path / "command.sh"

    @property
    def accelerate(self) -> Path:
        """The launch configuration."""
        return self.path / "accelerate.yaml"

    @property
    def environment(self) -> Path:
        """Python, packages, GPU, driver, trainer."""
        return self.path / "environment.json"

    @property
    def attempts(self) -> Path:
        """The folder of attempts."""
        return self.path / "attempts"

    @property
    def weights(self) -> Path:
        """Checkpoints and the final LoRA."""
        return self.path / "weights"

    @property
    def samples(self) -> Path:
        """Sample images."""
        return self.path / "samples"

    @property
    def state(self) -> Path:
        """Training states to resume from."""
        return self.path / "state"

    @property
    def analysis(self) -> Path:
        """Derived and rebuildable: not sealed."""
        return self.path / "analysis"

    @property
    def notes(self) -> Path:
        """The user's own words: not sealed."""
        return self.path / "notes.md"

    @property
    def tags(self) -> Path:
        """The user's own tags: not sealed."""
        return self.path / "tags.json"

    def attempt(self, number: int) -> Attempt:
        """One attempt, 1-based; it need not exist."""
        return Attempt(self.attempts / f"{number:02d}")

    def command_of(self, number: int) -> Path:
        """The record of an attempt's launch line."""
        return self.command_json if number == 1 else self.attempt(number).command

    def weights_of(self, number: int) -> Path:
        """Where an attempt writes: weights/, later ones weights/NN/, for what an earlier seal covers never changes."""
        return self.weights if number == 1 else self.weights / f"{number:02d}"

    def state_of(self, number: int) -> Path:
        """Where an attempt's training states are kept: state/, later ones state/NN/."""
        return self.state if number == 1 else self.state / f"{number:02d}"

    def manifest(self, number: int) -> Path:
        """The seal of an attempt."""
        return self.path / f"manifest-{number:02d}.json"

    @property
    def last_attempt(self) -> Attempt:
        """The newest attempt; the first when there is none yet."""
        try:
            numbers = [int(name) for name in os.listdir(self.attempts) if re.fullmatch(r"\d\d+", name)]
        except OSError:
            numbers = []
        return self.attempt(max(numbers, default=1))

    def locate(self, path: str | Path) -> Path | None:
        """Where a file of this run is now, from a path the trainer wrote down; None when it is gone.

        A run folder may have moved as a whole, and training states are moved from weights/ to state/ before the seal.
        """
        asked = Path(path)
        candidates = [asked] if asked.is_absolute() else [self.path / asked]
        if self.id in asked.parts:
            inside = asked.parts[asked.parts.index(self.id) + 1 :]
            candidates.append(self.path.joinpath(*inside))
            if inside[:1] == ("weights",):
                candidates.append(self.state.joinpath(*inside[1:]))
        candidates += [folder / asked.name for folder in (self.state, self.samples, self.weights)]
        return next((candidate for candidate in candidates if candidate.exists()), None)


def list_runs(runs_dir: Path) -> tuple[Run, ...]:
    """Every run of an archive, oldest first; folders that are not named like a run are not runs. No file is read."""
    try:
        names = patient(lambda: _names(runs_dir))
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise ArchiveError(f"{runs_dir} cannot be read", why=error.strerror or str(error)) from error
    per_minute = Counter(name[:15] for name in names)
    runs = (Run(runs_dir / name) for name in names)
    return tuple(
        sorted(runs, key=lambda run: (run.minute, born_at(run) if per_minute[run.minute] > 1 else 0.0, run.id))
    )


def _names(runs_dir: Path) -> list[str]:
    return [entry.name for entry in os.scandir(runs_dir) if RUN_ID.fullmatch(entry.name) and entry.is_dir()]


def born_at(run: Run | None) -> float:
    """Unix seconds of birth, to order runs of the same minute; 0 where no request tells."""
    request = read_record(run.request) if run is not None else None
    value = request.get("time") if request else None
    return float(value) if isinstance(value, (int, float)) else 0.0


def open_run(runs_dir: Path, prefix: str) -> Run:
    """The run meant by ``latest``, or by any unique prefix of an id, a short id or a name.

    A whole id, short id, name, or ``name_short`` as the screens of a bake say it, wins over prefixes. Raises ArchiveError when
    none or several are meant.
    """
    return until_there(lambda: _meant(runs_dir, prefix), runs_dir) or _not_found(runs_dir, prefix)


def _meant(runs_dir: Path, prefix: str) -> Run | None:
    """The run meant; None when there is none. Raises ArchiveError when several are."""
    runs, wanted = list_runs(runs_dir), prefix.strip().rstrip("/")
    if wanted == "latest" and runs:
        return runs[-1]
    found = (
        [run for run in runs if wanted in {run.id, run.short, f"{run.name}_{run.short}"}]
        or [run for run in runs if wanted == run.name]
        or [run for run in runs if wanted and any(word.startswith(wanted) for word in (run.id, run.short, run.name))]
    )
    if len(found) > 1:
        raise ArchiveError(
            f"{prefix!r} could mean {len(found)} runs",
            why=_several(found),
            todo=f"use the last four characters, such as {found[-1].short}",
        )
    return found[0] if found else None


def _not_found(runs_dir: Path, prefix: str) -> NoReturn:
    runs, wanted = list_runs(runs_dir), prefix.strip().rstrip("/")
    if not runs:
        raise ArchiveError(f"there are no runs in {runs_dir}", todo="lorakit bake PRESET makes one")
    if not wanted:
        raise ArchiveError("an empty word names no run", todo="lorakit ls shows them all; `latest` is the newest")
    raise ArchiveError(f"no run is called {prefix!r}", why=_nearest(wanted, runs), todo="lorakit ls shows them all")


def _several(runs: Iterable[Run]) -> str:
    names = [f"{run.short} ({run.id})" for run in runs]
    shown = ", ".join(names[-8:])
    return shown if len(names) <= 8 else f"{shown} and {len(names) - 8} older ones"


def _nearest(wanted: str, runs: Iterable[Run]) -> str:
    import difflib

    words = sorted({word for run in runs for word in (run.short, run.name, run.id)})
    close = difflib.get_close_matches(wanted, words, n=3)
    return f"near: {', '.join(close)}" if close else ""


def read_record(path: Path) -> dict[str, Any] | None:
    """A JSON record; None when it is missing. Raises nothing: a damaged record gives ``{"damaged": why}``."""
    try:
        data = patient(path.read_bytes)
    except FileNotFoundError:
        return None
    except OSError as error:
        return {"damaged": error.strerror or str(error)}
    try:
        value = json.loads(data.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError) as error:
        return {"damaged": f"not JSON: {error}"}
    return value if isinstance(value, dict) else {"damaged": "not a JSON object"}
