"""Runs that are removed: into the trash by one rename, back by another, and purged so that nobody ever sees half of one."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Final

from lorakit.archive.diagnose_log import Status
from lorakit.archive.records import is_alive, require_writable, state
from lorakit.archive.run import Run, list_runs
from lorakit.atomic import TEMP_MARK, move, remove_tree
from lorakit.errors import ArchiveError, DiskError

__all__ = ["purge", "purge_all", "remove", "restore", "trash_of"]

_TRASH: Final = ".trash"


def trash_of(runs_dir: Path) -> Path:
    """The trash of an archive: a folder in it, so that one rename gets a run in and out."""
    return runs_dir / _TRASH


def remove(run: Run, *, force: bool = False) -> Run:
    """Move a run to the trash; the run as it lies there.

    Raises ArchiveError when it is running, was written by a newer lorakit, or may be running on another machine (unless ``force``).
    """
    require_writable(run)
    _refuse_running(run, force=force)
    target = Run(trash_of(run.path.parent) / run.id)
    _rename(run.path, target.path)
    # Somebody may have started it between the look and the rename: a lock goes with its file.
    if is_alive(target.last_attempt):
        _rename(target.path, run.path)
        _refuse_running(run, force=force)
    return target


def restore(run: Run) -> Run:
    """Move a run from the trash back to its archive. Raises ArchiveError when one of that name is there."""
    target = Run(run.path.parent.parent / run.id)
    others = [other.id for other in list_runs(target.path.parent) if other.short == run.short and other.id != run.id]
    if others:
        raise ArchiveError(
            f"{run.id} cannot come back",
            why=f"{others[0]} has the same four characters",
            todo=f"lorakit rm {others[0]} first",
        )
    _rename(run.path, target.path)
    return target


def purge(run: Run) -> int:
    """Delete a run of the trash for good; the bytes that it took."""
    size = _size(run.path)
    try:
        remove_tree(run.path)
    except FileNotFoundError:  # another purge was faster
        return 0
    except OSError as error:
        raise _error(f"{run.id} cannot be purged", error) from error
    return size


def purge_all(runs_dir: Path) -> tuple[int, int]:
    """Delete everything in the trash, and what purges that were cut short have left; the number of runs and their bytes."""
    trash = trash_of(runs_dir)
    runs = list_runs(trash)
    size = sum(purge(run) for run in runs)
    try:
        leftovers = [Path(entry.path) for entry in os.scandir(trash) if TEMP_MARK in entry.name]
    except FileNotFoundError:
        leftovers = []
    for path in leftovers:
        size += _size(path)
        shutil.rmtree(path, ignore_errors=True)
    return len(runs), size


def _refuse_running(run: Run, *, force: bool) -> None:
    found = state(run)
    if found.status in {Status.RUNNING, Status.PREPARED, Status.QUEUED} or is_alive(run.last_attempt):
        raise ArchiveError(
            f"{run.id} is running", why="a run in training is never removed", todo=f"lorakit stop {run.short} first"
        )
    if found.status is Status.UNKNOWN and not force:
        raise ArchiveError(
            f"{run.id} may be running",
            why=found.message,
            todo=f"lorakit rm --force {run.short} when you know that it is not",
        )


def _rename(source: Path, target: Path) -> None:
    try:
        target.parent.mkdir(exist_ok=True)
        move(source, target)
    except FileNotFoundError:
        raise ArchiveError(f"{source.name} is gone", why="another command moved it meanwhile") from None
    except OSError as error:
        if error.errno in {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}:
            place = "the trash" if target.parent.name == _TRASH else "the archive"
            todo = (
                f"lorakit purge {target.name} first"
                if target.parent.name == _TRASH
                else f"lorakit rm {target.name} first"
            )
            raise ArchiveError(
                f"{source.name} cannot be moved", why=f"one of that name is in {place}", todo=todo
            ) from None
        raise _error(f"{source.name} cannot be moved", error) from error


def _error(what: str, error: OSError) -> DiskError:
    return DiskError(what, why=error.strerror or str(error), todo="mend the rights there; reading goes on as before")


def _size(folder: Path) -> int:
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(path, name)).st_size
            except OSError:  # gone meanwhile
                continue
    return total
