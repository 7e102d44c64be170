"""Putting an archive right after crashes: dead runs are ended honestly and sealed, stale temporaries swept, the index rebuilt.

Every action is safe beside runs that live and beside another repair, and doing it twice is doing it once. Nothing that a run holds
is ever removed or changed: only what never became part of one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from lorakit.archive.birth import STAGING
from lorakit.archive.diagnose_log import Status, Verdict, log_tail
from lorakit.archive.masked import mask_attempt
from lorakit.archive.progress import read_attempts, read_progress
from lorakit.archive.records import is_alive, is_newer, results, state
from lorakit.archive.run import SCHEMA, Run, list_runs, read_record
from lorakit.archive.seal import manifests, seal
from lorakit.archive.states import checkpoints, settle, training_states
from lorakit.archive.trash import trash_of
from lorakit.atomic import TEMP_MARK, claimed, crash_point, dump_json, write_once
from lorakit.errors import ArchiveError
from lorakit.launch.masking import Masks

__all__ = ["Action", "repair_archive", "repair_run"]

#: An empty folder of a birth this young may be about to be locked by whoever made it; seconds.
_YOUNG: Final = 10.0
#: A temporary of another machine is left alone for so long; seconds.
_FOREIGN_AGE: Final = 24 * 3600.0
_WRITER: Final = re.compile(re.escape(TEMP_MARK) + r"(?P<pid>\d+)(?:$|-(?:(?P<host>[0-9a-f]{6})-)?)")
_KEPT_LINES: Final = 20


@dataclass(frozen=True)
class Action:
    """One thing that was done, or found and left to the reader.

    ``kind`` is ended, sealed, swept, settled, indexed (done), or torn, half-written, damaged (only told).
    """

    run: str
    kind: str
    what: str

    @property
    def done(self) -> bool:
        """Whether something was changed."""
        return self.kind in {"ended", "sealed", "swept", "settled", "indexed"}

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "done": self.done}


def repair_archive(runs_dir: Path, *, private: Path | None = None) -> tuple[Action, ...]:
    """Repair every run of an archive and sweep what never became one; with ``private``, the workspace's folder of caches, rebuild the index.

    Raises OSError when the archive cannot be written.
    """
    found = [action for run in list_runs(runs_dir) for action in repair_run(run)]
    found += _sweep_births(runs_dir)
    for folder in (runs_dir, trash_of(runs_dir)):
        found += [Action("", "swept", str(path)) for path in _sweep(folder, deep=False)]
    if private is not None and private.is_dir():
        found += [Action("", "swept", str(path)) for path in _sweep(private, deep=True)]
        found.append(_rebuild(runs_dir, private))
    return tuple(found)


def _rebuild(runs_dir: Path, private: Path) -> Action:
    """Make the index anew from the run folders."""
    from lorakit.archive.index import index_path, open_index

    path = index_path(private)
    for old in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
        old.unlink(missing_ok=True)
    with open_index(runs_dir, path):
        pass
    return Action("", "indexed", path.name)


def repair_run(run: Run, *, over: Verdict | None = None) -> tuple[Action, ...]:
    """End, settle, seal and sweep one run as far as nothing of it lives; tell what of it is torn.

    A run that lives, is queued, of another machine, or of a newer lorakit is left as it is; where somebody knows that a queued or
    foreign run is over, for its scheduler says so, ``over`` is how it ended. Raises OSError when it cannot be written.
    """
    now = state(run)
    left_alone = {Status.RUNNING, Status.PREPARED}
    if over is None:
        left_alone |= {Status.QUEUED, Status.UNKNOWN}
    if now.status in left_alone or _is_newer(run):
        return ()
    attempt = run.last_attempt
    actions = []
    with claimed(attempt.path) as held:
        if not held or is_alive(attempt):
            return ()  # another repair is at it, or it has just been started
        if not attempt.ended.exists():
            actions.append(_end(run, over))
        if not run.manifest(attempt.number).exists():
            actions += [Action(run.id, "settled", path.relative_to(run.path).as_posix()) for path in settle(run)]
            actions += _sweep_run(run)
            if (sealed := _seal(run, attempt.number)) is not None:
                actions.append(sealed)
        else:
            actions += _sweep_run(run)
    return (*actions, *_findings(run))


def _is_newer(run: Run) -> bool:
    records = (read_record(path) for path in (run.request, run.command_json, run.last_attempt.started))
    return any(record is not None and is_newer(record) for record in records)


def _end(run: Run, over: Verdict | None) -> Action:
    """Write the end that a dead attempt could not write itself, with what shows that it is dead."""
    now, attempt = state(run), run.last_attempt
    if over is None or now.is_final:
        over = Verdict(Status.INTERRUPTED, now.reason, now.message, now.evidence)
    for error in mask_attempt(attempt, Masks.of(os.environ)):  # the keeper would have done it before the seal
        raise error
    progress, own = read_attempts(run, attempt.number), read_progress(attempt.progress)
    record = {
        "schema": SCHEMA,
        "run": run.id,
        "attempt": attempt.number,
        "time": time.time(),
        "status": over.status.value,
        "reason": over.reason.value,
        "message": over.message,
        "evidence": over.evidence,
        "repaired": True,
        **results(progress),
        "seconds": round(own.seconds, 3),
        "checkpoints": checkpoints(run),
        "warnings": list(own.warnings[:20]),
        "log_tail": list(log_tail(attempt.log, _KEPT_LINES)),
    }
    crash_point("repair:before end")
    with contextlib.suppress(FileExistsError):  # its keeper was faster after all
        write_once(attempt.ended, dump_json(record))
    crash_point("repair:ended")
    return Action(run.id, "ended", f"{over.message} ({over.evidence})" if over.evidence else over.message)


def _seal(run: Run, number: int) -> Action | None:
    try:
        path = seal(run, number)
    except ArchiveError:  # somebody sealed it meanwhile
        return None
    crash_point("repair:sealed")
    return Action(run.id, "sealed", path.name)


def _sweep_run(run: Run) -> list[Action]:
    return [Action(run.id, "swept", path.relative_to(run.path).as_posix()) for path in _sweep(run.path, deep=True)]


def _sweep(folder: Path, *, deep: bool) -> Iterator[Path]:
    """Remove temporaries whose writer is gone; ``deep`` looks into folders too."""
    for path in sorted(_temporaries(folder, deep)):
        if not _is_stale(path):
            continue
        crash_point("repair:before sweep")
        if path.is_dir() and not path.is_symlink():
            with claimed(path) as held:
                if held:
                    shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        crash_point("repair:swept")
        if not path.exists():
            yield path


def _temporaries(folder: Path, deep: bool) -> list[Path]:
    found = []
    for here, folders, names in os.walk(folder):
        found += [Path(here, name) for name in (*folders, *names) if TEMP_MARK in name]
        folders[:] = [name for name in folders if TEMP_MARK not in name] if deep else []
    return found


def _is_stale(path: Path) -> bool:
    """Whether the process that its name tells of is gone. Another machine's counts as gone after a day."""
    found = _WRITER.search(path.name)
    if found is None:
        return _age(path) > _FOREIGN_AGE
    ours = hashlib.sha256(socket.gethostname().encode("utf-8", "surrogateescape")).hexdigest()[:6]
    if found.group("host") not in (None, ours):
        return _age(path) > _FOREIGN_AGE
    try:
        os.kill(int(found.group("pid")), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return _age(path) > _FOREIGN_AGE  # a process of that number lives, but nobody writes one file for a day


def _age(path: Path) -> float:
    try:
        return abs(time.time() - path.stat().st_mtime)
    except OSError:
        return 0.0


def _sweep_births(runs_dir: Path) -> list[Action]:
    """Remove folders of births whose process is gone: nobody holds them."""
    found = []
    try:
        staging = sorted(Path(entry.path) for entry in os.scandir(runs_dir) if entry.name.startswith(STAGING))
    except OSError:
        return []
    for path in staging:
        try:
            with claimed(path) as held:
                if not held or (_age(path) < _YOUNG and not any(path.iterdir())):
                    continue
                crash_point("repair:before sweep")
                shutil.rmtree(path, ignore_errors=True)
        except OSError:  # born or swept meanwhile
            continue
        if not path.exists():
            found.append(Action("", "swept", str(path)))
    return found


def _findings(run: Run) -> list[Action]:
    """What cannot be put right, told so that nobody relies on it."""
    found = [
        Action(run.id, "torn", f"{entry['path']}: {entry['fault']}") for entry in checkpoints(run) if "fault" in entry
    ]
    for one in training_states(run):
        if one.fault is not None:
            name = one.path.relative_to(run.path).as_posix()
            found.append(Action(run.id, "half-written", f"{name}: {one.fault}; it is never resumed from"))
    records = [run.request, run.command_json, run.last_attempt.started, run.last_attempt.ended, *manifests(run)]
    for path in records:
        record = read_record(path)
        if record is not None and "damaged" in record:
            name = path.relative_to(run.path).as_posix()
            found.append(Action(run.id, "damaged", f"{name}: {record['damaged']}; take it from a copy or an export"))
    return found
