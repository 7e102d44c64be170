"""The house from Python: what the commands do, as a handful of typed functions (``import lorakit`` offers them)."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorakit.workspace import Workspace, find_workspace

if TYPE_CHECKING:
    from lorakit.archive.run import Run
    from lorakit.bake.bake import OnUpdate
    from lorakit.plan import Plan
    from lorakit.preset.files import ResolvedPreset

__all__ = ["bake", "list_runs", "load_preset", "open_run", "plan", "render"]

Folder = str | os.PathLike[str]


def load_preset(
    preset: Folder, overrides: Sequence[str] = (), *, workspace: Workspace | Folder | None = None
) -> ResolvedPreset:
    """A preset by path or by its name in presets/, with ``KEY=VALUE`` overrides, every value settled and traced.

    Raises PresetError with everything that is wrong in it.
    """
    from lorakit.preset.files import find_preset
    from lorakit.preset.files import load_preset as load

    return load(find_preset(os.fspath(preset), _place(workspace).presets), overrides)


def plan(preset: ResolvedPreset | Folder, *, workspace: Workspace | Folder | None = None) -> Plan:
    """The exact numbers of a bake: images, buckets, steps, rates, checkpoints, disk.

    Raises DatasetError for data that the trainer would stop at, ModelFileError for a damaged base model.
    """
    from lorakit.plan import plan as plan_of

    place = _place(workspace)
    return plan_of(_resolved(preset, place).preset, place)


def render(preset: ResolvedPreset | Folder, *, workspace: Workspace | Folder | None = None) -> tuple[str, ...]:
    """The launch line of a bake as a list of arguments, to be run without lorakit; it writes to output/NAME/.

    The accelerate config it names is written under .lorakit/, by its content. A seed is drawn where the preset has none.
    Raises RuleError for a preset that cannot be baked, TrainerError where its trainer is not installed.
    """
    from lorakit.bake.checks import check_rules
    from lorakit.bake.prepare import launch_shape, settled
    from lorakit.launch.accelerate import launch_argv
    from lorakit.trainers.choose import choose
    from lorakit.trainers.render import RenderPaths, output_name
    from lorakit.trainers.render import render as arguments_of
    from lorakit.trainers.sd_scripts.installed import fitting

    place = _place(workspace)
    asked = _resolved(preset, place)
    choice = choose(asked.preset, place)
    resolved = settled(asked, choice)
    check_rules(resolved, choice.kind, allow_warnings=True, workspace=place)
    shape = launch_shape(resolved.preset)
    output = place.root / "output" / output_name(resolved.preset)
    paths = RenderPaths.of(place, resolved.preset, output)
    paths = dataclasses.replace(paths, output_dir=output, logging_dir=output / "events")
    arguments = arguments_of(resolved.preset, paths, kind=choice.kind)
    if choice.kind == "sd-scripts":
        arguments = fitting(arguments, place)
    config = _config_file(place, shape)
    return launch_argv(str(choice.python), config, [*choice.program, *arguments], threads=shape.threads)


def bake(
    preset: ResolvedPreset | Folder,
    *,
    workspace: Workspace | Folder | None = None,
    on_update: OnUpdate | None = None,
    lineage: dict[str, Any] | None = None,
) -> Run:
    """Train, archive and seal; returns the run however its training ended (``archive.records.state(run)`` tells).

    ``on_update`` is called with the run and its new progress records, about twenty times a second.
    Raises LorakitError for whatever keeps the training from starting.
    """
    import sys

    from lorakit.bake.bake import bake as bake_of

    place = _place(workspace)
    return bake_of(_resolved(preset, place), place, on_update=on_update, lineage=lineage, argv=tuple(sys.argv))


def open_run(run: str = "latest", *, workspace: Workspace | Folder | None = None) -> Run:
    """The run meant by any unique beginning of its id or name, or by ``latest``. Raises ArchiveError."""
    from lorakit.archive.run import open_run as open_of

    return open_of(_place(workspace).runs, run)


def list_runs(*, workspace: Workspace | Folder | None = None) -> tuple[Run, ...]:
    """Every run of the workspace, oldest first."""
    from lorakit.archive.run import list_runs as list_of

    return list_of(_place(workspace).runs)


def _place(workspace: Workspace | Folder | None) -> Workspace:
    return (
        workspace
        if isinstance(workspace, Workspace)
        else find_workspace(None if workspace is None else Path(workspace))
    )


def _resolved(preset: ResolvedPreset | Folder, workspace: Workspace) -> ResolvedPreset:
    from lorakit.preset.files import ResolvedPreset

    return preset if isinstance(preset, ResolvedPreset) else load_preset(preset, workspace=workspace)


def _config_file(workspace: Workspace, shape: Any) -> Path:
    from lorakit import atomic
    from lorakit.errors import DiskError
    from lorakit.launch.accelerate import config_text

    content = config_text(shape)
    name = hashlib.sha256(content.encode()).hexdigest()[:12]
    path = workspace.private / "accelerate" / f"{name}.yaml"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(path, content)
    except OSError as error:
        raise DiskError(f"{path} cannot be written", why=error.strerror or str(error)) from error
    return path
