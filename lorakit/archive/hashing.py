"""SHA-256 of big files, several at once, remembered by path, size, time and inode (stdlib only)."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["FileHash", "HashCache", "hash_file", "hash_files"]

_CHUNK: Final = 4 << 20
#: A file changed less than this long ago could change again within the same time stamp, so it is not remembered.
_SETTLE_SECONDS: Final = 2.0


@dataclass(frozen=True)
class FileHash:
    """Content of a file: ``sha256`` in hex and ``size`` in bytes."""

    sha256: str
    size: int


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def hash_file(path: Path, *, flush: bool = False) -> FileHash:
    """Hash a file, reading it once; ``flush`` puts its content on disk first. Raises OSError."""
    digest = hashlib.sha256()
    size = 0
    with open(path, "rb", buffering=0) as file:
        if flush:
            os.fsync(file.fileno())
        buffer = memoryview(bytearray(_CHUNK))
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
            size += count
    return FileHash(digest.hexdigest(), size)


def hash_files(
    paths: Iterable[Path],
    *,
    cache: HashCache | None = None,
    flush: bool = False,
    progress: Callable[[int], None] | None = None,
) -> dict[Path, FileHash]:
    """Hash files on as many threads as there are cores (hashing lets other threads run).

    ``progress`` is told the bytes done after each file. Raises OSError of the first file that cannot be read.
    """
    found: dict[Path, FileHash] = {}
    missing = []
    for path in dict.fromkeys(paths):
        known = cache.get(path) if cache else None
        if known is None:
            missing.append(path)
        else:
            found[path] = known
    if not missing:
        return found
    done = 0
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for path, value in zip(missing, pool.map(lambda path: _remembered(path, cache, flush), missing), strict=True):
            found[path] = value
            done += value.size
            if progress is not None:
                progress(done)
    if cache is not None:
        cache.save()
    return found


def _remembered(path: Path, cache: HashCache | None, flush: bool) -> FileHash:
    before = path.stat()
    value = hash_file(path, flush=flush)
    if cache is not None:
        cache.put(path, before, value)
    return value


class HashCache:
    """Hashes that were computed before, in an SQLite file that may be deleted at any time.

    An entry counts only while path, size, time of change and inode are the same. A damaged or locked file costs time,
    never correctness: its entries are unknown, and it is replaced when something new is saved.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._new: dict[str, tuple[int, int, int, str]] = {}
        self._known: dict[str, tuple[int, int, int, str]] = {}
        if path.is_file():
            try:
                self._known = self._load()
            except sqlite3.DatabaseError:
                self._known = {}

    def _load(self) -> dict[str, tuple[int, int, int, str]]:
        with contextlib.closing(sqlite3.connect(self._path, timeout=5)) as database:
            rows = database.execute("SELECT path, size, mtime_ns, inode, sha256 FROM hashes")
            return {path: (size, mtime_ns, inode, sha256) for path, size, mtime_ns, inode, sha256 in rows}

    def get(self, path: Path) -> FileHash | None:
        """The hash of a file that has not changed since it was remembered."""
        known = self._known.get(os.path.abspath(path))
        if known is None:
            return None
        try:
            now = path.stat()
        except OSError:
            return None
        if known[:3] != (now.st_size, now.st_mtime_ns, now.st_ino):
            return None
        return FileHash(known[3], now.st_size)

    def put(self, path: Path, before: os.stat_result, value: FileHash) -> None:
        """Remember the hash of a file whose stat was ``before`` when reading began, unless it is still too fresh."""
        if value.size != before.st_size or time.time() - before.st_mtime < _SETTLE_SECONDS:
            return
        self._new[os.path.abspath(path)] = (before.st_size, before.st_mtime_ns, before.st_ino, value.sha256)

    def save(self) -> None:
        """Write what is new. Other processes may do the same at the same time."""
        if not self._new:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._store()
        except sqlite3.OperationalError:  # locked for too long, or no space: it is only a cache
            return
        except sqlite3.DatabaseError:  # not a database any more
            self._path.unlink(missing_ok=True)
            self._store()
        self._known.update(self._new)
        self._new.clear()

    def _store(self) -> None:
        with contextlib.closing(sqlite3.connect(self._path, timeout=5)) as database, database:
            database.execute(
                "CREATE TABLE IF NOT EXISTS hashes (path TEXT PRIMARY KEY, size INT, mtime_ns INT, inode INT, sha256 TEXT)"
            )
            # A file name that is no text cannot be a key; such a file is hashed every time.
            rows = [(path, *values) for path, values in self._new.items() if _is_text(path)]
            database.executemany("INSERT OR REPLACE INTO hashes VALUES (?, ?, ?, ?, ?)", rows)
