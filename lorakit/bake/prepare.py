"""From a preset to a run folder that waits for its training: everything that is needed to run it, and to run it again."""

from __future__ import annotations

import dataclasses
import getpass
import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorakit._version import __version__
from lorakit.archive.birth import Birth, birth, moment_of_birth
from lorakit.archive.hashing import FileHash, HashCache, hash_files
from lorakit.archive.run import SCHEMA, Run
from lorakit.bake.cache_keys import CacheSet, cache_sets, trainer_version
from lorakit.bake.cache_store import cache_root, limit_of
from lorakit.bake.checks import check_disk, check_files, check_rules, model_files
from lorakit.errors import DatasetError, TrainerError
from lorakit.launch.accelerate import LaunchShape, config_text, default_threads, free_port, launch_argv
from lorakit.launch.environment import describe, has_gpu, refuse_secrets
from lorakit.launch.processes import this_host
from lorakit.preset.provenance import Provenance

if TYPE_CHECKING:
    from lorakit.plan import Plan
    from lorakit.preset.files import ResolvedPreset
    from lorakit.preset.models import Preset
    from lorakit.trainers.choose import TrainerChoice
    from lorakit.workspace import Workspace

__all__ = ["OnPrepare", "Prepared", "dataset_record", "launch_shape", "look", "prepare", "settled", "write_run"]

#: Called with what is being done ("scan", "hash"), how much of it is done, and how much there is.
OnPrepare = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Prepared:
    """Everything a run folder is written from; ``hashes`` covers every image, caption and model file."""

    resolved: ResolvedPreset
    choice: TrainerChoice
    plan: Plan
    shape: LaunchShape
    hashes: Mapping[Path, FileHash]
    models: Mapping[str, tuple[Path, ...]]
    environment: Mapping[str, Any]
    request: Mapping[str, Any]
    caches: tuple[CacheSet, ...] = ()


def prepare(
    resolved: ResolvedPreset,
    workspace: Workspace,
    *,
    lineage: Mapping[str, Any] | None = None,
    argv: Sequence[str] = (),
    allow_warnings: bool = True,
    on_prepare: OnPrepare | None = None,
) -> Run:
    """Check a preset, look at everything it names, and write its run folder. Nothing is written when anything is wrong.

    Raises what :func:`look` raises.
    """
    prepared = look(
        resolved, workspace, lineage=lineage, argv=argv, allow_warnings=allow_warnings, on_prepare=on_prepare
    )
    return write_run(prepared, workspace)


def look(
    resolved: ResolvedPreset,
    workspace: Workspace,
    *,
    lineage: Mapping[str, Any] | None = None,
    argv: Sequence[str] = (),
    allow_warnings: bool = True,
    on_prepare: OnPrepare | None = None,
) -> Prepared:
    """Check a preset and look at everything it names; nothing is written.

    Raises TrainerError, RuleError, ModelFileError, DatasetError, DiskError, UsageError (a secret in the preset).
    """
    from lorakit.plan.from_preset import plan
    from lorakit.trainers.choose import choose
    from lorakit.trainers.sd_scripts.checkout import SCRIPT

    choice = choose(resolved.preset, workspace)
    resolved = settled(resolved, choice)
    preset = resolved.preset
    refuse_secrets([*argv, *_extra_words(preset), *resolved.source_text.splitlines()])
    check_rules(resolved, choice.kind, allow_warnings=allow_warnings, workspace=workspace)
    check_files(preset, workspace)
    if choice.kind == "sd-scripts":
        _provide_tokenizers(preset, workspace)
    with ThreadPoolExecutor(max_workers=1) as pool:  # the environment is asked while files are hashed
        script = choice.checkout / SCRIPT if choice.checkout is not None else None
        environment = pool.submit(describe, choice.python, trainer=choice.kind, script=script)
        scanned = None if on_prepare is None else lambda done, total: on_prepare("scan", done, total)
        numbers = plan(preset, workspace, progress=scanned)
        check_disk(numbers, workspace.runs)
        models = model_files(preset, workspace)
        hashes = _hash(numbers, models, workspace, on_prepare)
        caches = cache_sets(
            preset,
            numbers.data,
            kind=choice.kind,
            version=trainer_version(choice.kind, choice.checkout),
            sha256=lambda path: hashes[path].sha256,
            models=models,
        )
        return Prepared(
            resolved=resolved,
            choice=choice,
            plan=numbers,
            shape=launch_shape(preset),
            hashes=hashes,
            models=models,
            environment=environment.result(),
            request=_request(resolved, workspace, lineage, argv),
            caches=caches,
        )


def _provide_tokenizers(preset: Preset, workspace: Workspace) -> None:
    """See that sd-scripts finds its tokenizers without the hub: in its cache folder, or in the hub's own on this machine."""
    from lorakit.trainers.sd_scripts import tokenizers

    if preset.base.tokenizer_cache:
        return
    try:
        tokenizers.provide(workspace)
    except TrainerError:
        if not tokenizers.in_hub_cache():
            raise


def settled(resolved: ResolvedPreset, choice: TrainerChoice) -> ResolvedPreset:
    """The preset with what it left open decided for this machine: seed, trainer, CPU or GPU, threads."""
    from lorakit.preset.files import with_seed

    resolved = with_seed(resolved)
    preset = resolved.preset
    provenance = dict(resolved.provenance)
    launch: dict[str, Any] = {}
    if preset.launch.cpu is None:
        launch["cpu"] = not has_gpu()
        provenance["launch.cpu"] = Provenance(
            "derived", text="this machine has a GPU" if has_gpu() else "this machine has no GPU"
        )
    cpu = bool(launch.get("cpu", preset.launch.cpu))
    if preset.launch.threads is None:
        launch["threads"] = default_threads(preset.launch.processes, cpu=cpu)
        provenance["launch.threads"] = Provenance("derived", text="physical cores shared out among the processes")
    update: dict[str, Any] = {}
    if launch:
        update["launch"] = preset.launch.model_copy(update=launch)
    if preset.trainer.kind == "auto":
        update["trainer"] = preset.trainer.model_copy(update={"kind": choice.kind})
        provenance["trainer.kind"] = Provenance("derived", text=choice.why)
    return dataclasses.replace(resolved, preset=preset.model_copy(update=update), provenance=provenance)


def launch_shape(preset: Preset) -> LaunchShape:
    """How a settled preset is spread over this machine; several processes get a port that is free now."""
    processes = preset.launch.processes
    return LaunchShape(
        processes=processes,
        mixed_precision=preset.precision.mixed,
        cpu=bool(preset.launch.cpu),
        gpu_ids=preset.launch.gpu_ids or "all",
        threads=preset.launch.threads or 1,
        port=free_port() if processes > 1 else None,
    )


def _extra_words(preset: Preset) -> list[str]:
    """``[extra]`` as it will stand in the command, for the check on secrets."""
    return [f"--{name.lstrip('-')}={value}" for name, value in preset.extra.items()]


def _hash(
    plan: Plan, models: Mapping[str, tuple[Path, ...]], workspace: Workspace, on_prepare: OnPrepare | None
) -> dict[Path, FileHash]:
    images = [image for dataset in plan.data.datasets for image in (*dataset.train, *dataset.validation)]
    captions = [image.caption_path for image in images if image.caption_path is not None]
    paths = [*(image.path for image in images), *captions, *(path for files in models.values() for path in files)]
    cache = HashCache(workspace.private / "hashes.sqlite")
    try:
        total = sum(path.stat().st_size for path in set(paths)) if on_prepare else 0
        progress = None if on_prepare is None else lambda done: on_prepare("hash", done, total)
        return hash_files(paths, cache=cache, progress=progress)
    except OSError as error:
        raise DatasetError(
            f"{error.filename} cannot be read",
            why=error.strerror or str(error),
            todo="it was there a moment ago: look at the disk",
        ) from error


def _request(
    resolved: ResolvedPreset, workspace: Workspace, lineage: Mapping[str, Any] | None, argv: Sequence[str]
) -> dict[str, Any]:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = str(os.getuid()) if hasattr(os, "getuid") else ""
    now = moment_of_birth(workspace.runs)
    return {
        "schema": SCHEMA,
        "name": resolved.preset.name,
        "description": resolved.preset.description,
        "time": now,
        "when": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(now)),
        "user": user,
        "host": this_host(),
        "cwd": os.getcwd(),
        "argv": list(argv),
        "workspace": str(workspace.root),
        "preset": str(resolved.path),
        "chain": [str(path) for path in resolved.chain],
        "lineage": dict(lineage or {}),
        "limits": {
            "no_progress_seconds": _seconds(resolved.preset.launch.no_progress_timeout),
            **({"spikes": resolved.preset.length.spikes} if resolved.preset.length.spikes else {}),
        },
        "lorakit": __version__,
    }


def _seconds(span: str | None) -> int | None:
    from lorakit.preset.spans import seconds

    return None if span is None else seconds(span)


def write_run(prepared: Prepared, workspace: Workspace) -> Run:
    """Write the run folder; it appears whole, under its final name, or not at all."""
    from lorakit.preset.dump import dump_toml
    from lorakit.trainers.render import RenderPaths, output_name, render, shell_line
    from lorakit.trainers.sd_scripts.installed import fitting

    preset, choice, shape = prepared.resolved.preset, prepared.choice, prepared.shape
    with birth(workspace.runs, preset.name, now=prepared.request["time"]) as new:
        run = new.run
        paths = RenderPaths.of(workspace, preset, run.path, run.id)
        paths = dataclasses.replace(paths, links={**paths.links, **_hand_over_dataset(prepared, workspace, new)})
        arguments = render(preset, paths, kind=choice.kind)
        if choice.kind == "sd-scripts":
            arguments = fitting(arguments, workspace)
        refuse_secrets(arguments)
        argv = launch_argv(str(choice.python), run.accelerate, [*choice.program, *arguments], threads=shape.threads)
        new.write_json(run.request, {**prepared.request, "run": run.id})
        new.write(run.preset, dump_toml(preset, provenance=prepared.resolved.provenance))
        new.write(run.source, prepared.resolved.source_text)
        new.write_json(
            run.provenance,
            {"schema": SCHEMA, "values": {key: value.to_json() for key, value in prepared.resolved.provenance.items()}},
        )
        new.write_json(run.plan, {"schema": SCHEMA, **prepared.plan.to_json()})
        new.write_json(run.dataset, dataset_record(prepared))
        name = output_name(preset)
        new.write_json(
            run.command_json,
            {
                "schema": SCHEMA,
                "argv": list(argv),
                "trainer": {
                    "kind": choice.kind,
                    "why": choice.why,
                    "python": str(choice.python),
                    "program": list(choice.program),
                    "probe": choice.probe,
                },
                "arguments": list(arguments),
                "shape": dataclasses.asdict(shape),
                "caches": [
                    {"kind": one.kind, "folder": str(one.folder(cache_root(workspace)))} for one in prepared.caches
                ],
                "cache_limit": limit_of(workspace),
                "output_name": name,
                "result": f"weights/{name}.{preset.save.format}",
            },
        )
        folders = [str(one.folder(cache_root(workspace))) for one in prepared.caches]
        before = shell_line(["mkdir", "-p", *folders]) + "\n" if folders else ""
        new.write(run.command_sh, _COMMAND_HEAD.format(run=run.id) + before + shell_line(argv) + "\n")
        new.write(run.accelerate, config_text(shape))
        new.write_json(run.environment, {"schema": SCHEMA, **prepared.environment})
        _write_rest(new)
    return run


def _hand_over_dataset(prepared: Prepared, workspace: Workspace, new: Birth) -> dict[Path, Path]:
    """What stands in the command in place of the preset's dataset, where that itself would not do.

    A dataset TOML may name folders relative to the workspace, but the trainer runs elsewhere. No trainer can be told to
    skip unreadable images, and cache files beside the images are not to be believed: it is given folders of links without
    them, and with links to the caches that are its own.
    """
    from lorakit.dataset.blueprint import Blueprint
    from lorakit.dataset.handover import explicit_config, write_view

    data, folder, asked = prepared.plan.data, new.run.path / "dataset", prepared.resolved.preset.dataset
    moved: list[dict[Path, Path]] = [{} for _ in data.datasets]
    if data.unreadable or prepared.caches or (data.stray_caches and prepared.choice.kind == "sd-scripts"):
        for index, dataset in enumerate(data.datasets):
            links = {
                beside: place
                for one in prepared.caches
                for beside, place in one.links(cache_root(workspace), index).items()
            }
            part = dataclasses.replace(data, datasets=(dataset,))
            view = write_view(part, new.staging / "dataset" / "view" / str(index), links)
            moved[index] = {old: new.run.path / now.relative_to(new.staging) for old, now in view.items()}
    if asked.config is None:
        named = (workspace.resolve(text) for text in (asked.path, asked.reg_path) if text)
        return {path: moved[0][Path(os.path.abspath(path))] for path in named if moved[0]}
    blueprint = Blueprint(tuple(dataset.spec for dataset in data.datasets))
    new.write_json(folder / "config.json", explicit_config(blueprint, moved))
    return {workspace.resolve(asked.config): folder / "config.json"}


_COMMAND_HEAD = """\
#!/bin/sh
# The training of {run}, as lorakit launched it.
# It writes into this run's own folders: give it another --output_dir to keep what is there.
"""


def _write_rest(new: Birth) -> None:
    """What is there for the user and for the trainer: notes, tags, empty folders."""
    run = new.run
    new.write(run.notes, "")
    new.write_json(run.tags, {"tags": []})
    for folder in (run.weights, run.samples, run.state, run.analysis, run.attempt(1).path, run.attempt(1).ranks):
        new.folder(folder)
    # The trainer puts samples into sample/ under its output folder; this way they stand in their own place at once.
    new.link(run.weights / "sample", "../samples")


def dataset_record(prepared: Prepared) -> dict[str, Any]:
    """Every file that the training reads. ``digest`` is one sha256 over contents, buckets and repeats, not over paths."""
    hashes = prepared.hashes
    images = []
    digest = hashlib.sha256()
    for index, dataset in enumerate(prepared.plan.data.datasets):
        for held_out, records in ((False, dataset.train), (True, dataset.validation)):
            for image in records:
                entry = {
                    "path": str(image.path),
                    "sha256": hashes[image.path].sha256,
                    "size": hashes[image.path].size,
                    "width": image.width,
                    "height": image.height,
                    "bucket": list(image.bucket),
                    "repeats": image.repeats,
                    "dataset": index,
                    "subset": image.subset_index,
                    "reg": image.is_reg,
                    "validation": held_out,
                    "caption": image.caption,
                    "caption_path": None if image.caption_path is None else str(image.caption_path),
                    "caption_sha256": None if image.caption_path is None else hashes[image.caption_path].sha256,
                }
                images.append(entry)
                counted = (entry["sha256"], entry["caption"], entry["bucket"], image.repeats, image.is_reg, held_out)
                digest.update(repr(counted).encode("utf-8", "surrogateescape"))
    return {
        "schema": SCHEMA,
        "digest": digest.hexdigest(),
        "models": {key: [_file(path, hashes[path]) for path in paths] for key, paths in prepared.models.items()},
        "images": images,
        "skipped": [{"path": str(item.path), "reason": item.reason} for item in prepared.plan.skipped],
    }


def _file(path: Path, content: FileHash) -> dict[str, Any]:
    return {"path": str(path), "sha256": content.sha256, "size": content.size}
