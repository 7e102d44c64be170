"""Folders of cache files that trainings share: locked while they are filled or read, bounded in size, forgotten by age."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lorakit.errors import DiskError, Stopped, WorkspaceError
from lorakit.launch.processes import take_lock

if TYPE_CHECKING:
    from lorakit.workspace import Workspace

__all__ = [
    "DEFAULT_LIMIT",
    "KINDS",
    "Entry",
    "Hold",
    "cache_root",
    "entries",
    "is_whole",
    "limit_of",
    "remove",
    "summary",
    "trim",
]

KINDS: Final = ("latents", "text")
#: Bytes that all caches of a workspace may take together, unless lorakit.toml says otherwise.
DEFAULT_LIMIT: Final = 20_000_000_000
_WAIT_SECONDS: Final = 0.2
_LOOK_SECONDS: Final = 1.0


def cache_root(workspace: Workspace) -> Path:
    """Where a workspace's caches are; it may be deleted whenever nothing trains."""
    return workspace.private / "caches"


def limit_of(workspace: Workspace) -> int:
    """Bytes that the caches may take: ``[cache] limit_gb`` of lorakit.toml. Raises WorkspaceError for no such number."""
    table = workspace.settings.get("cache", {})
    value = table.get("limit_gb", DEFAULT_LIMIT / 1e9) if isinstance(table, dict) else table
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        raise WorkspaceError(
            f"cache.limit_gb in lorakit.toml is {value!r}",
            why="it is how many GB (10⁹ bytes) the caches of latents and texts may take",
            todo="write [cache] and under it limit_gb = 20",
        )
    return int(value * 1e9)


@dataclass(frozen=True)
class Entry:
    """One key's folder of cache files. ``used`` is when a training last began or ended with it (unix seconds)."""

    kind: str
    key: str
    folder: Path
    files: int
    bytes: int
    used: float
    in_use: bool


def entries(root: Path) -> tuple[Entry, ...]:
    """All entries, least recently used first."""
    found = [_entry(kind, folder) for kind in KINDS for folder in _folders(root / kind)]
    return tuple(sorted(found, key=lambda entry: entry.used))


def _folders(parent: Path) -> Iterator[Path]:
    with contextlib.suppress(FileNotFoundError):
        yield from (Path(entry.path) for entry in os.scandir(parent) if entry.is_dir() and "." not in entry.name)


def _entry(kind: str, folder: Path) -> Entry:
    sizes = []
    with contextlib.suppress(FileNotFoundError):  # removed by somebody else meanwhile
        for file in os.scandir(folder):
            with contextlib.suppress(FileNotFoundError):
                sizes.append(file.stat().st_size)
    lock = _Lock(folder, make=False)
    free = lock.take(exclusive=True)
    used = lock.used()
    lock.close()
    return Entry(kind, folder.name, folder, len(sizes), sum(sizes), used, in_use=not free)


def remove(entry: Entry) -> bool:
    """Remove an entry with its files; False when a training uses it."""
    lock = _Lock(entry.folder)
    try:
        if not lock.take(exclusive=True):
            return False
        # Out of sight first: nobody finds half an entry, whatever happens while its files go.
        doomed = entry.folder.with_name(f"{entry.key}.removed-{os.getpid()}")
        with contextlib.suppress(FileNotFoundError):
            entry.folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
        lock.path.unlink(missing_ok=True)
        return True
    finally:
        lock.close()


def trim(root: Path, limit: int) -> tuple[Entry, ...]:
    """Remove the least recently used entries that nobody uses until all together take at most ``limit`` bytes."""
    known = entries(root)
    total = sum(entry.bytes for entry in known)
    removed = []
    for entry in known:
        if total > limit and not entry.in_use and remove(entry):
            removed.append(entry)
            total -= entry.bytes
    return tuple(removed)


def is_whole(path: Path, *, deep: bool = False) -> bool:
    """Whether a cache file was written to its end; ``deep`` reads it all and compares its checksums."""
    try:
        if not deep:
            return zipfile.is_zipfile(path)
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, EOFError, ValueError):
        return False


class Hold:
    """A training's claim on one entry: alone while files are missing, beside others once all are there.

    The kernel ends the claim when the process does. ``found`` counts the wanted files that were there from earlier trainings.
    """

    def __init__(self, folder: Path, wanted: Iterable[str]) -> None:
        self.folder = folder
        self.wanted = frozenset(wanted)
        self.found = 0
        self.waited = 0.0
        self._filling = False
        self._looked = 0.0
        self._lock = _Lock(folder)

    def acquire(self, *, stop: Callable[[], bool] = lambda: False, waiting: Callable[[], None] = lambda: None) -> None:
        """Claim the entry, waiting while another training fills it; ``waiting`` is told once.

        Files that a killed training left half written are removed, and those that another entry has under the same name
        (the same picture, made in the same way) are taken from there. Raises Stopped when ``stop()`` while waiting,
        DiskError when the entry cannot be written.
        """
        began = time.monotonic()
        told = False
        try:
            while not self._try():
                if stop():
                    raise Stopped(f"stopped while it waited for another run to fill the cache {self.folder.name}")
                if not told:
                    waiting()
                    told = True
                time.sleep(_WAIT_SECONDS)
        except OSError as error:
            raise DiskError(
                f"the cache {self.folder} cannot be used",
                why=error.strerror or str(error),
                todo="give write permission or make room, or switch memory.cache_…_to_disk off",
            ) from error
        self.waited = time.monotonic() - began if told else 0.0

    def _try(self) -> bool:
        self._lock.reopen()
        if self._lock.take(exclusive=False) and not self._missing():
            self.found = len(self.wanted)
        elif self._lock.take(exclusive=True):
            self.folder.mkdir(parents=True, exist_ok=True)
            for name in self.wanted:
                if not is_whole(self.folder / name, deep=True):
                    (self.folder / name).unlink(missing_ok=True)
            self._adopt()
            self.found = len(self.wanted) - len(self._missing())
            self._filling = self.found < len(self.wanted)
            self.poll()
        else:
            self._lock.close()
            return False
        self._lock.touch()
        return True

    def poll(self) -> None:
        """Let others in once every file is there; cheap, may be called all the time."""
        now = time.monotonic()
        if self._lock.exclusive and (not self._filling or now - self._looked > _LOOK_SECONDS):
            self._looked = now
            if not self._missing():
                self._filling = False
                self._lock.take(exclusive=False)

    def release(self) -> None:
        """End the claim."""
        self._lock.touch()
        self._lock.close()

    def _missing(self) -> set[str]:
        return {name for name in self.wanted if not is_whole(self.folder / name)}

    def _adopt(self) -> None:
        missing = self._missing()
        for sibling in _folders(self.folder.parent):
            if not missing:
                return
            if sibling == self.folder:
                continue
            for name in missing & set(os.listdir(sibling)):
                if is_whole(sibling / name, deep=True):
                    with contextlib.suppress(OSError):  # no hard links here: it is made anew
                        os.link(sibling / name, self.folder / name)
            missing = self._missing()


class _Lock:
    """The lock beside an entry's folder; its time of change says when the entry was last used."""

    def __init__(self, folder: Path, *, make: bool = True) -> None:
        self.path = folder.with_name(folder.name + ".lock")
        self.exclusive = False
        self._make = make
        self._handle: int | None = None

    def reopen(self) -> None:
        """Open the file that stands there now: who removes an entry removes its lock too."""
        self.close()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def take(self, *, exclusive: bool) -> bool:
        """Take the lock, or change it, without waiting; False when others are in the way or the entry has just gone."""
        if self._handle is None:
            if not self._make and not self.path.exists():
                return True
            self.reopen()
        assert self._handle is not None
        if not take_lock(self._handle, exclusive=exclusive):
            return False
        self.exclusive = exclusive
        return self._is_the_one()

    def _is_the_one(self) -> bool:
        assert self._handle is not None
        try:
            return os.path.samestat(os.fstat(self._handle), os.stat(self.path))
        except FileNotFoundError:
            return False

    def touch(self) -> None:
        """Note that the entry is used now."""
        if self._handle is not None:
            os.utime(self._handle)

    def used(self) -> float:
        """When the entry was last used; 0 when nobody knows."""
        try:
            return self.path.stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def close(self) -> None:
        """Give the lock back."""
        if self._handle is not None:
            os.close(self._handle)
        self._handle, self.exclusive = None, False


def summary(hold: Hold) -> dict[str, Any]:
    """What is recorded of a training's use of an entry."""
    return {
        "key": hold.folder.name,
        "folder": str(hold.folder),
        "files": len(hold.wanted),
        "found": hold.found,
        "waited_seconds": round(hold.waited, 1),
    }
