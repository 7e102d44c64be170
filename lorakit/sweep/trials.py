"""The trials of a sweep: what each one is, whether it was baked before, which seed they share.

A trial is the same as an earlier one when all of this is: the command line that its preset comes to, but for names and the
places of files (and for the seed, if lorakit drew it); pictures, captions and their repeats; base model, VAE, starting
weights, dataset TOML and sample prompts, by what is in them; the number of processes; and the trainer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorakit.archive.diagnose_log import Status
from lorakit.archive.records import state
from lorakit.archive.run import Run, list_runs, read_record
from lorakit.errors import DiskError, LorakitError, PresetError, Problem, UsageError
from lorakit.sweep.axes import Axis, grid, trial_name

if TYPE_CHECKING:
    from lorakit.archive.hashing import FileHash
    from lorakit.dataset.scan import ImageRecord
    from lorakit.plan import Plan
    from lorakit.preset.files import ResolvedPreset
    from lorakit.preset.models import Preset
    from lorakit.preset.rules import TrainerKind
    from lorakit.workspace import Workspace

__all__ = ["Sweep", "Trial", "default_preset", "identity", "prepare"]

#: Runs that keep a trial from being baked again.
_COUNTED = frozenset({Status.OK, Status.RUNNING, Status.PREPARED})


@dataclass(frozen=True)
class Trial:
    """One point of the grid, checked and planned; ``done`` is the run that baked it before."""

    point: tuple[tuple[str, str], ...]
    resolved: ResolvedPreset
    plan: Plan
    trainer: TrainerKind
    identity: str
    done: Run | None = None


@dataclass(frozen=True)
class Sweep:
    """A grid of trials from one preset; ``seed_drawn`` tells that the preset left the seed open and all trials share one."""

    preset: Path
    axes: tuple[Axis, ...]
    trials: tuple[Trial, ...]
    seed: int | None
    seed_drawn: bool

    @property
    def id(self) -> str:
        """Eight characters that are the same whenever the same trials are asked for."""
        return hashlib.sha256("\n".join(sorted(trial.identity for trial in self.trials)).encode()).hexdigest()[:8]

    def lineage(self, trial: Trial) -> dict[str, Any]:
        """What the request.json of a trial's run says about where it comes from."""
        return {
            "kind": "sweep",
            "sweep": self.id,
            "trial": trial.identity,
            "index": self.trials.index(trial) + 1,
            "of": len(self.trials),
            "point": dict(trial.point),
            "axes": {axis.key: list(axis.values) for axis in self.axes},
            "preset": str(self.preset),
            "seed": trial.resolved.preset.seed,
            "seed_drawn": self.seed_drawn,
        }


def prepare(
    preset: Path,
    overrides: Sequence[str],
    axes: Sequence[Axis],
    workspace: Workspace,
    *,
    on_trial: Callable[[int, int], None] | None = None,
) -> Sweep:
    """Check and plan every trial before the first one starts, and find those that are done.

    ``on_trial`` is told how many of how many are looked at. Raises the LorakitError of the first trial that cannot be baked,
    naming it.
    """
    points = grid(axes)
    looked: list[Trial] = []
    for at, point in enumerate(points):
        if on_trial is not None:
            on_trial(at, len(points))
        looked.append(_look(preset, overrides, axes, point, workspace))
    _refuse_twins(looked)
    _check_disk(looked)
    drawn = all(trial.resolved.preset.seed is None for trial in looked)
    before = _baked_before(workspace, {trial.identity for trial in looked})
    _refuse_running(before.values())
    before = {key: run for key, run in before.items() if state(run).status is Status.OK}
    seed = _shared_seed(before.values(), drawn=drawn)
    trials = tuple(_settle(trial, seed, before.get(trial.identity)) for trial in looked)
    return Sweep(preset, tuple(axes), trials, seed, drawn)


def _look(
    preset: Path,
    overrides: Sequence[str],
    axes: Sequence[Axis],
    point: tuple[tuple[str, str], ...],
    workspace: Workspace,
) -> Trial:
    from lorakit.bake.checks import check_files, check_rules
    from lorakit.plan import plan
    from lorakit.preset.files import load_preset
    from lorakit.trainers.choose import choose

    values = [f"{key}={value}" for key, value in point]
    try:
        resolved = load_preset(preset, [*overrides, *values])
        if "name" not in dict(point):
            name = trial_name(resolved.preset.name, axes, point)
            resolved = load_preset(preset, [*overrides, *values, f"name={json.dumps(name, ensure_ascii=False)}"])
        choice = choose(resolved.preset, workspace)
        check_rules(resolved, choice.kind, allow_warnings=True, workspace=workspace)
        check_files(resolved.preset, workspace)
        planned = plan(resolved.preset, workspace)
    except LorakitError as error:
        raise _of_trial(error, " ".join(values)) from error
    key = identity(resolved.preset, planned, choice.kind, workspace)
    return Trial(point, resolved, planned, choice.kind, key)


def _of_trial(error: LorakitError, trial: str) -> LorakitError:
    return type(error)(
        f"the trial {trial} cannot be baked: {error.what}",
        why=error.why or "every trial is checked before the first one starts",
        todo=error.todo,
        problems=error.problems,
    )


def identity(preset: Preset, plan: Plan, trainer: TrainerKind, workspace: Workspace) -> str:
    """The sha256 of everything that makes a trial what it is; a preset without a seed is any seed's.

    Values count as the command line says them: a preset may say them in other words, or not at all. Raises DiskError for
    a file that cannot be read.
    """
    from lorakit.archive.hashing import HashCache, hash_files
    from lorakit.bake.checks import model_files

    images = [image for dataset in plan.data.datasets for image in (*dataset.train, *dataset.validation)]
    asked = {"dataset.config": preset.dataset.config, "sample.prompts": preset.sample.prompts}
    files = {key: [workspace.resolve(path)] for key, path in asked.items() if path}
    files |= {key: list(paths) for key, paths in model_files(preset, workspace).items()}
    captions = [image.caption_path for image in images if image.caption_path is not None]
    wanted = [*(image.path for image in images), *captions, *(path for paths in files.values() for path in paths)]
    try:
        hashes = hash_files(map(Path, wanted), cache=HashCache(workspace.private / "hashes.sqlite"))
    except OSError as error:
        raise DiskError(f"{error.filename} cannot be read", why=error.strerror or str(error)) from error
    record = {
        "command": _command(preset, trainer),
        "seed": preset.seed,
        "processes": preset.launch.processes,
        "probe": preset.trainer.probe,
        "files": {key: [hashes[path].sha256 for path in paths] for key, paths in files.items()},
        "images": sorted(_fingerprint(image, hashes) for image in images),
        "trainer": trainer,
    }
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode("utf-8", "surrogateescape")).hexdigest()


def _command(preset: Preset, trainer: TrainerKind) -> tuple[str, ...]:
    """The trainer's arguments with nothing in them that only names: not the run, not where files lie."""
    from lorakit.trainers.render import RenderPaths, render

    base, dataset, network, sample = preset.base, preset.dataset, preset.network, preset.sample
    nameless = {
        "name": "trial",
        "seed": preset.seed or 0,
        "base": base.model_copy(update={"model": "model", "vae": _known(base.vae), "tokenizer_cache": None}),
        "dataset": dataset.model_copy(
            update={key: _known(getattr(dataset, key)) for key in ("path", "reg_path", "config")}
        ),
        "network": network.model_copy(update={"weights": _known(network.weights)}),
        "sample": sample.model_copy(update={"prompts": _known(sample.prompts)}),
    }
    nowhere = Path("/")
    return render(preset.model_copy(update=nameless), RenderPaths(nowhere, nowhere, nowhere), kind=trainer)


def _known(path: str | None) -> str | None:
    # That there is such a file counts, and what is in it; not where.
    return "known by its content" if path else None


def _fingerprint(image: ImageRecord, hashes: Mapping[Path, FileHash]) -> list[Any]:
    caption = "" if image.caption_path is None else hashes[Path(image.caption_path)].sha256
    return [hashes[Path(image.path)].sha256, caption, image.caption, image.repeats, image.is_reg]


def _refuse_twins(trials: Sequence[Trial]) -> None:
    seen: dict[str, Trial] = {}
    for trial in trials:
        twin = seen.setdefault(trial.identity, trial)
        if twin is not trial:
            one, other = (" ".join(f"{key}={value}" for key, value in each.point) for each in (twin, trial))
            raise UsageError(
                f"{one} and {other} are the same trial", why="the values mean the same", todo="leave one of them out"
            )


def _check_disk(trials: Sequence[Trial]) -> None:
    needed = sum(trial.plan.disk.needed for trial in trials)
    free = min(trial.plan.disk.free for trial in trials)
    if needed > free:
        raise DiskError(
            f"the sweep needs about {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free",
            todo="free some space, keep fewer checkpoints (save.every_n_epochs, save.last_n_epochs), or try fewer values",
        )


def _baked_before(workspace: Workspace, identities: set[str]) -> dict[str, Run]:
    """The newest run of each trial that ended well, or is under way."""
    found: dict[str, Run] = {}
    for run in list_runs(workspace.runs):
        if _lineage(run).get("trial") in identities and state(run).status in _COUNTED:
            found[_lineage(run)["trial"]] = run
    return found


def _refuse_running(runs: Iterable[Run]) -> None:
    running = [run.short for run in runs if state(run).status is not Status.OK]
    if running:
        raise UsageError(
            f"a trial of this sweep is being baked now: {', '.join(running)}",
            why="the same sweep seems to run elsewhere",
            todo=f"wait for it, or lorakit stop {running[0]}",
        )


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
    return replace(trial, resolved=resolved, done=done)


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
