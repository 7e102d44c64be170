"""How a run comes into the archive: prepared out of sight, flushed to disk, born by one rename."""

from __future__ import annotations

import os
import secrets
import shutil
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from lorakit.archive.run import Run, born_at, list_runs
from lorakit.atomic import claimed, crash_point, dump_json, fsync_dir, move
from lorakit.errors import ArchiveError, DiskError, LorakitError

__all__ = ["STAGING", "Birth", "birth", "flush_tree", "moment_of_birth", "slug"]

#: Folders being prepared begin with this; readers of the archive ignore them.
STAGING: Final = ".birth-"

#: Seconds that a clock may be set back without later runs sorting before earlier ones; more than that was a wrong clock.
SET_BACK: Final = 7200.0

_FIRST: Final = "abcdefghjkmnpqrstuvwxyz"  # no i, l, o: they look like digits
_REST: Final = _FIRST + "23456789"
_SPELLED: Final = MappingProxyType({"ß": "ss", "ø": "o", "Ø": "O", "æ": "ae", "Æ": "AE", "ł": "l", "Ł": "L", "đ": "d"})


def slug(name: str) -> str:
    """A name as a safe part of a folder's name: ASCII letters, digits, ``-`` and ``.`` inside, at most 40 characters."""
    plain = unicodedata.normalize("NFKD", "".join(_SPELLED.get(letter, letter) for letter in name))
    kept = (
        letter if letter.isascii() and (letter.isalnum() or letter in "-.") else "-"
        for letter in plain
        if not unicodedata.combining(letter)
    )
    words = "".join(kept)
    while "--" in words:
        words = words.replace("--", "-")
    return words[:40].strip("-.") or "run"


@dataclass(frozen=True)
class Birth:
    """A run being prepared: ``run`` has the paths it will have; files are written into ``staging``."""

    run: Run
    staging: Path

    def write(self, target: Path, content: bytes | str) -> None:
        """Write a file of the run, named by its future path."""
        path = self.staging / target.relative_to(self.run.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content)
        crash_point("birth:file")

    def write_json(self, target: Path, value: Any) -> None:
        """Write a JSON record of the run, named by its future path."""
        self.write(target, dump_json(value))

    def folder(self, target: Path) -> None:
        """Make a folder of the run, named by its future path."""
        (self.staging / target.relative_to(self.run.path)).mkdir(parents=True, exist_ok=True)

    def link(self, link: Path, target: str) -> None:
        """Make a relative symbolic link of the run, named by its future path."""
        path = self.staging / link.relative_to(self.run.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)


@contextmanager
def birth(runs_dir: Path, name: str, *, now: float | None = None) -> Iterator[Birth]:
    """Claim a new run; when the block ends well the run appears whole, otherwise nothing of it is left.

    ``now`` is unix seconds (default: the clock). Raises DiskError when the archive cannot be written.
    """
    run, staging = _claim(runs_dir, slug(name), time.time() if now is None else now)
    try:
        with claimed(staging):
            crash_point("birth:claimed")
            yield Birth(run, staging)
            crash_point("birth:written")
            flush_tree(staging)
            move(staging, run.path)
    except OSError as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise _disk_error(runs_dir, error) from error
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def moment_of_birth(runs_dir: Path) -> float:
    """Now, in unix seconds; when the clock was set back a little, just after the newest run: later runs stay later."""
    now = time.time()
    newest = born_at(newest_run(runs_dir))
    return newest + 0.001 if now <= newest < now + SET_BACK else now


def newest_run(runs_dir: Path) -> Run | None:
    """The run that was born last, or None."""
    runs = list_runs(runs_dir) if runs_dir.is_dir() else ()  # what else it may be is told by who writes there
    return runs[-1] if runs else None


def _minute(runs_dir: Path, now: float) -> str:
    """The minute that an id begins with, in local time; not before the newest run's when the clock on the wall was put back."""
    minute = time.strftime("%Y-%m-%d_%H%M", time.localtime(now))
    newest = newest_run(runs_dir)
    if newest is not None and newest.minute > minute and 0 <= now - born_at(newest) < SET_BACK:
        return newest.minute
    return minute


def _claim(runs_dir: Path, name: str, now: float) -> tuple[Run, Path]:
    """An id whose short part no run has and nobody else is claiming: the exclusive mkdir decides every race."""
    minute = _minute(runs_dir, now)
    for _ in range(1000):
        short = secrets.choice(_FIRST) + "".join(secrets.choice(_REST) for _ in range(3))
        staging = runs_dir / f"{STAGING}{short}"
        try:
            runs_dir.mkdir(parents=True, exist_ok=True)
            staging.mkdir()
        except FileExistsError:
            if not runs_dir.is_dir():
                raise DiskError(
                    f"{runs_dir} is not a folder", todo="move it away, or choose another workspace"
                ) from None
            continue
        except OSError as error:
            raise _disk_error(runs_dir, error) from error
        # Looked at only after the claim: whoever was born with this name before it is visible now.
        if not any(existing.endswith(f"_{short}") for existing in os.listdir(runs_dir)):
            return Run(runs_dir / f"{minute}_{name}_{short}"), staging
        staging.rmdir()
    raise ArchiveError(
        f"no free id was found in {runs_dir}",
        why="the four characters that name a run are used up",
        todo="move old runs to another workspace",
    )


def flush_tree(folder: Path) -> None:
    """Put every file and folder on disk, so that the rename never shows half a run after a power loss."""
    for path, _, names in os.walk(folder, topdown=False):
        for name in names:
            if Path(path, name).is_symlink():
                continue
            handle = os.open(Path(path, name), os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        fsync_dir(Path(path))


def _disk_error(runs_dir: Path, error: OSError) -> LorakitError:
    try:
        free = f"; {shutil.disk_usage(runs_dir).free / 1e9:.1f} GB free"
    except OSError:  # the folder itself is the trouble
        free = ""
    return DiskError(
        f"no run can be written in {runs_dir}",
        why=f"{error.strerror or error}{free}",
        todo="free some space or rights there, or choose another workspace",
    )
