"""What the word after `lorakit diagnose` names: a run, a sweep, a LoRA file, or a log folder; and the facts of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lorakit.archive.run import Run, open_run
from lorakit.errors import ArchiveError, ModelFileError, UsageError
from lorakit.verdict.diagnose.facts import Facts
from lorakit.verdict.diagnose.gather import of_run
from lorakit.verdict.diagnose.log_facts import of_logs
from lorakit.verdict.diagnose.lora_facts import of_file
from lorakit.workspace import Workspace

if TYPE_CHECKING:
    from lorakit.sweep.folder import Folder

__all__ = ["Target", "facts_of", "find_target"]


@dataclass(frozen=True)
class Target:
    """Exactly one of them."""

    run: Run | None = None
    sweep: Folder | None = None
    file: Path | None = None
    logs: Path | None = None


def find_target(word: str, workspace: Workspace) -> Target:
    """The run, sweep, LoRA file or log folder that is meant. Raises ArchiveError, ModelFileError."""
    path = Path(word)
    if path.suffix == ".safetensors" or path.is_file():
        if not path.is_file():
            raise ModelFileError(f"there is no file {word}")
        return Target(file=path)
    if path.is_dir() and (path / "request.json").is_file():
        return Target(run=Run(path.absolute()))
    if path.is_dir():
        from lorakit.evidence.events import event_files

        if event_files(path):
            return Target(logs=path)
    try:
        return Target(run=open_run(workspace.runs, word))
    except ArchiveError as not_a_run:
        sweep = _sweep(word, workspace)
        if sweep is not None:
            return Target(sweep=sweep)
        if path.is_dir():
            raise ArchiveError(
                f"{word} holds neither a run nor a log", why="there is no request.json and no event file in it"
            ) from not_a_run
        raise


def _sweep(word: str, workspace: Workspace) -> Folder | None:
    from lorakit.sweep.folder import find

    try:
        return find(workspace, word)
    except UsageError:
        return None


def facts_of(
    target: Target,
    workspace: Workspace,
    *,
    embeddings: bool = True,
    every_checkpoint: bool = True,
    seen: Sequence[str] = (),
) -> Facts:
    """The facts of a run, a file or a log folder. Raises ModelFileError, ArchiveError."""
    if target.run is not None:
        return of_run(target.run, workspace, embeddings=embeddings, every_checkpoint=every_checkpoint, seen=seen)
    found = of_file(target.file) if target.file is not None else of_logs(target.logs or Path())
    return replace(found, seen=tuple(seen))
