"""Where a sheet's checkpoints come from: runs of the archive and LoRA files, each checkpoint whole and of SDXL."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorakit.archive.run import Run, open_run
from lorakit.archive.states import checkpoints
from lorakit.errors import ModelFileError, UsageError
from lorakit.evidence.base_model import base_of, base_sha256, settings_of
from lorakit.evidence.weights import open_lora
from lorakit.workspace import Workspace

__all__ = ["Checkpoint", "Source", "find_base", "open_source"]


@dataclass(frozen=True)
class Checkpoint:
    """A LoRA file; ``epoch`` or ``step`` as far as its name or metadata tell, ``last`` for the final one of its run."""

    path: Path
    epoch: int | None = None
    step: int | None = None
    last: bool = False

    @property
    def mark(self) -> str:
        """The word for it on an axis: ``3``, ``step200``, ``last``."""
        if self.step is not None:
            return f"step{self.step}"
        return "last" if self.epoch is None else str(self.epoch)


@dataclass(frozen=True)
class Source:
    """A run or a LoRA file: its name on the sheet, its checkpoints oldest first, and what its base model was."""

    name: str
    checkpoints: tuple[Checkpoint, ...]
    run: Run | None = None
    torn: tuple[tuple[str, str], ...] = ()
    base_sha256: str | None = None
    base_name: str | None = None
    resolution: tuple[int, int] | None = None

    def at(self, mark: str) -> Checkpoint | None:
        """The checkpoint that a word on the epoch axis means; None when there is none."""
        if mark in ("last", "final"):
            return self.checkpoints[-1]
        if mark == "first":
            return self.checkpoints[0]
        wanted = re.sub(r"^step0*(?=\d)", "step", mark) if mark.startswith("step") else str(int(mark))
        found = [one for one in self.checkpoints if one.mark == wanted or str(one.epoch) == wanted]
        return found[-1] if found else None


def open_source(word: str, workspace: Workspace) -> Source:
    """The run, or the file, that ``word`` names; its header is read, so that another architecture is named before anything loads.

    Raises ArchiveError for no such run, ModelFileError for a run without a whole checkpoint and for what is no LoRA of SDXL.
    """
    path = Path(word)
    if path.suffix == ".safetensors" or path.is_file():
        path = path.absolute()
        metadata = open_lora(path).file.metadata
        return Source(
            path.stem,
            (Checkpoint(path, _whole(metadata.get("ss_epoch")), last=True),),
            base_sha256=metadata.get("ss_new_sd_model_hash"),
            base_name=metadata.get("ss_sd_model_name"),
            resolution=_resolution(metadata.get("ss_resolution")),
        )
    return _of_run(open_run(workspace.runs, word))


def _of_run(run: Run) -> Source:
    entries = checkpoints(run)
    torn = tuple((Path(entry["path"]).name, entry["fault"]) for entry in entries if "fault" in entry)
    found = [_checkpoint(run.path / entry["path"]) for entry in entries if "fault" not in entry]
    if not found:
        why = f"{torn[0][0]}: {torn[0][1]}" if torn else "it saved none"
        raise ModelFileError(f"{run.short} has no whole checkpoint", why=why, todo=f"lorakit show {run.short}")
    found.sort(key=lambda one: (one.last, one.epoch or 0, one.step or 0, one.path.name))
    metadata = open_lora(found[-1].path).file.metadata
    return Source(
        f"{run.name} {run.short}",
        tuple(found),
        run,
        torn,
        base_sha256(run) or metadata.get("ss_new_sd_model_hash"),
        metadata.get("ss_sd_model_name"),
        _of_preset(settings_of(run).get("dataset", {}).get("resolution")) or _resolution(metadata.get("ss_resolution")),
    )


def _checkpoint(path: Path) -> Checkpoint:
    if path.suffix != ".safetensors":
        raise ModelFileError(
            f"{path.name} is no .safetensors file",
            why="a pickle can run any program when it is opened",
            todo="convert it",
        )
    if found := re.search(r"-(step)?(\d+)$", path.stem):
        number = int(found[2])
        return Checkpoint(path, step=number) if found[1] else Checkpoint(path, epoch=number)
    return Checkpoint(path, _whole(open_lora(path).file.metadata.get("ss_epoch")), last=True)


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None


def _resolution(text: str | None) -> tuple[int, int] | None:
    sides = [int(side) for side in re.findall(r"\d+", text or "")]
    return (sides[0], sides[1]) if len(sides) == 2 else None


def _of_preset(value: Any) -> tuple[int, int] | None:
    if isinstance(value, int):
        return value, value
    if isinstance(value, list) and len(value) == 2:
        return int(value[0]), int(value[1])
    return _resolution(value) if isinstance(value, str) else None


def find_base(sources: tuple[Source, ...], named: str | None, workspace: Workspace) -> Path:
    """The base model: the one that is named, that of the first run, or the file in models/ that a LoRA was made for.

    Raises UsageError where nothing tells, ModelFileError where it is gone.
    """
    if named is not None:
        path = Path(named) if Path(named).exists() else workspace.resolve(named)
        if not path.exists():
            raise ModelFileError(f"there is no base model {named}", todo="check the path after --base")
        return path.absolute()
    for source in sources:
        if source.run is not None:
            return base_of(source.run, workspace)
    names = [source.base_name for source in sources if source.base_name]
    for name in names:
        path = workspace.root / "models" / Path(name).name
        if path.exists():
            return path
    made = f"it was made for {names[0]}, which is not in models/" if names else "its metadata do not tell"
    raise UsageError(f"nothing says which base model {sources[0].name} is for", why=made, todo="add --base FILE")
