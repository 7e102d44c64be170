"""The trials of a sweep: which there are, which were baked before, which seed they share."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorakit.archive.diagnose_log import Status
from lorakit.archive.records import state
from lorakit.archive.run import Run, list_runs, read_record
from lorakit.errors import DiskError, LorakitError, PresetError, Problem, UsageError
from lorakit.sweep.axes import SEED, Axis, grid
from lorakit.sweep.definition import Definition
from lorakit.sweep.look import Looker, Refused, Trial

if TYPE_CHECKING:
    from lorakit.workspace import Workspace

__all__ = ["Refused", "Sweep", "Trial", "bytes_of", "default_preset", "prepare"]


@dataclass(frozen=True)
class Sweep:
    """A grid of trials from one preset; ``seed_drawn`` tells that the preset left the seed open and all trials share one.

    ``refused`` are trials that cannot be baked, ``left_out`` counts points that a condition leaves out, ``merged`` points that
    mean the same as another one.
    """

    preset: Path
    axes: tuple[Axis, ...]
    trials: tuple[Trial, ...]
    seed: int | None
    seed_drawn: bool
    refused: tuple[Refused, ...] = ()
    left_out: int = 0
    merged: int = 0

    @functools.cached_property
    def id(self) -> str:
        """Eight characters that are the same whenever the same trials are asked for."""
        return hashlib.sha256("\n".join(sorted(trial.identity for trial in self.trials)).encode()).hexdigest()[:8]

    @functools.cached_property
    def _places(self) -> Mapping[str, int]:
        return {trial.identity: at for at, trial in enumerate(self.trials, 1)}

    def lineage(self, trial: Trial) -> dict[str, Any]:
        """What the request.json of a trial's run says about where it comes from."""
        return {
            "kind": "sweep",
            "sweep": self.id,
            "trial": trial.identity,
            "index": self._places[trial.identity],
            "of": len(self.trials),
            "point": dict(trial.point),
            "axes": {axis.key: list(axis.values) for axis in self.axes},
            "preset": str(self.preset),
            "seed": trial.resolved.preset.seed,
            "seed_drawn": self.seed_drawn,
        }


def prepare(
    preset: Path,
    asked: Definition,
    workspace: Workspace,
    *,
    skip_refused: bool = False,
    seed: int | None = None,
    on_trial: Callable[[int, int], None] | None = None,
) -> Sweep:
    """Check and plan every trial before the first one starts, and find those that are done.

    ``seed`` is what was drawn before for a preset that leaves it open. ``on_trial`` is told how many of how many are looked at. Raises the LorakitError of a trial that cannot be baked, naming
    it and how many more there are; with ``skip_refused`` only when no trial is left.
    """
    looker = Looker(preset, asked, workspace)
    axes = looker.axes
    points = grid(axes, asked.zips)
    looked: list[Trial] = []
    refused: list[Refused] = []
    left_out = 0
    for at, point in enumerate(points):
        if on_trial is not None:
            on_trial(at, len(points))
        found = looker.look(point)
        if isinstance(found, Trial):
            looked.append(found)
        elif found is None:
            left_out += 1
        else:
            refused.append(found)
    if refused and not (skip_refused and looked):
        raise _refusal(refused, len(points) - left_out, looked=bool(looked))
    if not looked:
        raise UsageError("no trial is left", why="the conditions (--where) hold for none of them", todo="widen them")
    unlike = {trial.identity: trial for trial in reversed(looked)}
    kept = [trial for trial in looked if unlike[trial.identity] is trial]
    drawn = not any(axis.key == SEED for axis in axes) and all(trial.resolved.preset.seed is None for trial in kept)
    before = _baked_before(workspace, set(unlike))
    seed = seed if drawn and seed is not None else _shared_seed(before.values(), drawn=drawn)
    trials = tuple(_settle(trial, seed, before.get(trial.identity)) for trial in kept)
    _check_disk([trial for trial in trials if trial.done is None])
    return Sweep(preset, axes, trials, seed, drawn, tuple(refused), left_out, len(looked) - len(kept))


def _refusal(refused: Sequence[Refused], count: int, *, looked: bool) -> LorakitError:
    """The error of the first trial that is refused, with how many others there are."""
    first = refused[0]
    more = f" ({len(refused)} of {count} trials are refused)" if count > 1 else ""
    instead = "; or leave such trials out: --skip-refused" if looked else ""
    return type(first.error)(
        f"the trial {first.told} cannot be baked: {first.error.what}{more}",
        why=first.error.why or "every trial is checked before the first one starts",
        todo=(first.error.todo or "change its values") + instead,
        problems=first.error.problems,
    )


def bytes_of(trials: Iterable[Trial]) -> int:
    """What trials write together; caches on disk are shared, and count once."""
    known = list(trials)
    return sum(trial.plan.disk.needed - trial.plan.disk.caches for trial in known) + max(
        (trial.plan.disk.caches for trial in known), default=0
    )


def _check_disk(trials: Sequence[Trial]) -> None:
    if not trials:
        return
    from lorakit.bake.checks import gigabytes

    needed = bytes_of(trials)
    free = min(trial.plan.disk.free for trial in trials)
    if needed > free:
        raise DiskError(
            f"the sweep needs about {gigabytes(needed)} and {gigabytes(free)} are free",
            todo="free some space, keep fewer checkpoints (save.every_n_epochs, save.last_n_epochs), or try fewer values",
        )


def _baked_before(workspace: Workspace, identities: set[str]) -> dict[str, Run]:
    """The newest run of each trial that ended well."""
    found: dict[str, Run] = {}
    for run in list_runs(workspace.runs):
        if _lineage(run).get("trial") in identities and state(run).status is Status.OK:
            found[_lineage(run)["trial"]] = run
    return found


def _shared_seed(runs: Iterable[Run], *, drawn: bool) -> int | None:
    """The seed that the trials baked before had drawn, so that the grid stays comparable; else a new one."""
    import random

    if not drawn:
        return None
    earlier = [_lineage(run).get("seed") for run in sorted(runs, key=lambda run: run.id)]
    known = [seed for seed in earlier if isinstance(seed, int)]
    return known[-1] if known else random.SystemRandom().randrange(2**32)


def _settle(trial: Trial, seed: int | None, done: Run | None) -> Trial:
    from dataclasses import replace

    from lorakit.preset.provenance import Provenance

    resolved = trial.resolved
    if seed is not None:
        provenance = {**resolved.provenance, "seed": Provenance("derived", text="drawn for the whole sweep")}
        preset = resolved.preset.model_copy(update={"seed": seed})
        resolved = replace(resolved, preset=preset, provenance=provenance)
    return replace(trial, resolved=resolved, done=done, drawn=seed is not None)


def _lineage(run: Run) -> dict[str, Any]:
    lineage = (read_record(run.request) or {}).get("lineage")
    return lineage if isinstance(lineage, dict) else {}


def default_preset(workspace: Workspace) -> tuple[Path, str]:
    """The preset of a sweep that names none, and why it is that one: presets/default.toml, else that of the latest run.

    Raises PresetError when there is neither.
    """
    default = workspace.presets / "default.toml"
    if default.is_file():
        return default, "presets/default.toml"
    runs = list_runs(workspace.runs)
    if not runs:
        what = "no preset was named, and there is neither presets/default.toml nor a run to go on from"
        todo = "lorakit sweep PRESET --unet-lr 1e-4,2.5e-4"
        raise PresetError(what, todo=todo, problems=(Problem(what, todo=todo),))
    latest = runs[-1]
    # A trial's own preset already has one point of its grid in it: go back to where that sweep began.
    root = _lineage(latest).get("preset")
    if isinstance(root, str) and Path(root).is_file():
        return Path(root), f"the preset of the sweep that {latest.short} belongs to"
    return latest.preset, f"the preset of the latest run, {latest.short}"
