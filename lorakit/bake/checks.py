"""What is looked at before a run is born: model files, disk, the archive itself. A bake that cannot work does not begin."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lorakit.archive.tensors import weights_fault
from lorakit.errors import DiskError, ModelFileError, PresetError, Problem, RuleError

if TYPE_CHECKING:
    from lorakit.plan import Plan
    from lorakit.preset.files import ResolvedPreset
    from lorakit.preset.models import Preset
    from lorakit.preset.rules import Finding
    from lorakit.trainers.render import TrainerKind
    from lorakit.workspace import Workspace

__all__ = ["check_disk", "check_files", "check_rules", "gigabytes", "model_files"]

_PICKLES: Final = (".ckpt", ".pt", ".pth", ".bin")


def check_rules(
    resolved: ResolvedPreset, kind: TrainerKind, *, allow_warnings: bool, workspace: Workspace | None = None
) -> tuple[Finding, ...]:
    """Raise RuleError with every rule that the preset breaks; warnings count only when they are not allowed.

    Returns the warnings that are let pass. With a ``workspace``, rules about what is in the preset's files hold too.
    """
    from lorakit.trainers.preflight import preflight

    findings = preflight(resolved.preset, workspace, kind)
    wrong = [finding for finding in findings if finding.level == "error" or not allow_warnings]
    if not wrong:
        return findings
    problems = tuple(finding.problem(_where(resolved, finding.key)) for finding in wrong)
    several = "a rule" if len(wrong) == 1 else f"{len(wrong)} rules"
    raise RuleError(f"{resolved.preset.name} breaks {several}", problems=problems)


def _where(resolved: ResolvedPreset, key: str) -> str:
    origin = resolved.provenance.get(key)
    return "" if origin is None or origin.kind == "default" else str(origin)


def check_files(preset: Preset, workspace: Workspace) -> None:
    """Raise ModelFileError for the first model file that is missing, torn or a pickle, PresetError for missing prompts."""
    for key, asked, path in _asked(preset, workspace):
        _check_model(key, asked, path, allow_pickle=preset.base.allow_pickle)
    if preset.sample.prompts:
        prompts = workspace.resolve(preset.sample.prompts)
        if not prompts.is_file():
            problem = Problem(
                f"sample.prompts = {preset.sample.prompts!r}: there is no such file",
                why="the trainer would stop at the first sample",
                todo=_nearest(prompts) or "write the file, or take the key out",
                key="sample.prompts",
            )
            raise PresetError(problem.what, why=problem.why, todo=problem.todo, problems=(problem,))


def model_files(preset: Preset, workspace: Workspace) -> dict[str, tuple[Path, ...]]:
    """The files of the base model, VAE and network weights by key; a diffusers folder gives all of its files."""
    return {key: tuple(_files(path)) for key, _, path in _asked(preset, workspace)}


def _asked(preset: Preset, workspace: Workspace) -> Iterator[tuple[str, str, Path]]:
    named = {"base.model": preset.base.model, "base.vae": preset.base.vae, "network.weights": preset.network.weights}
    for key, text in named.items():
        if text:
            yield key, text, workspace.resolve(text)


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from (file for file in sorted(path.rglob("*")) if file.is_file())
    else:
        yield path


def _check_model(key: str, asked: str, path: Path, *, allow_pickle: bool) -> None:
    if not path.exists():
        why = (
            f"{path} does not exist"
            if not path.is_symlink()
            else f"{path} is a link to {path.readlink()}, which is gone"
        )
        raise ModelFileError(
            f"{key} = {asked!r} is missing", why=why, todo=_nearest(path) or "put the file there, or name another"
        )
    if path.is_dir() and key == "base.model" and not (path / "model_index.json").is_file():
        raise ModelFileError(
            f"{key} = {asked!r} is a folder, but no diffusers model",
            why="it has no model_index.json",
            todo="name a .safetensors file or a whole diffusers folder",
        )
    weights = [file for file in _files(path) if file == path or file.suffix == ".safetensors"]
    for file in weights:
        if file.suffix not in (".safetensors", *_PICKLES):
            raise ModelFileError(
                f"{key} = {asked!r} is no model file",
                why=f"weights are kept in .safetensors files, this one ends in {file.suffix or 'nothing'}",
                todo=_nearest(file.with_suffix(".safetensors")) or "name a .safetensors file or a diffusers folder",
            )
        if file.suffix in _PICKLES and not allow_pickle:
            raise ModelFileError(
                f"{key} = {asked!r} is a pickle, which can run code when it is opened",
                why="a .safetensors file holds the same weights and nothing else",
                todo="convert it, or set base.allow_pickle = true if you trust where it comes from",
            )
        try:
            fault = weights_fault(file)
        except OSError as error:
            raise ModelFileError(f"{file} cannot be read", why=error.strerror or str(error)) from error
        if fault:
            raise ModelFileError(
                f"{key}: {file} is not whole", why=fault, todo="download or copy it again, and compare its size"
            )


def _nearest(path: Path) -> str:
    try:
        names = os.listdir(path.parent)
    except OSError:
        return ""
    close = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(str(path.parent / name) for name in close)}?" if close else ""


def gigabytes(count: int) -> str:
    """Bytes as gigabytes, or as megabytes where those would be none: ``2.3 GB``, ``0.4 MB``."""
    return f"{count / 1e9:.1f} GB" if count >= 5e7 else f"{count / 1e6:.1f} MB"


def check_disk(plan: Plan, runs_dir: Path) -> None:
    """Raise DiskError when what the run will write does not fit where it writes."""
    if plan.disk.needed > plan.disk.free:
        raise DiskError(
            f"the run needs about {gigabytes(plan.disk.needed)} and {runs_dir} has {gigabytes(plan.disk.free)} free",
            why=f"{sum(file.kept for file in plan.checkpoints)} checkpoints are kept",
            todo="free some space, or keep fewer: save.every_n_epochs, save.last_n_epochs",
        )
