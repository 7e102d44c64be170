"""The index of an archive: an SQLite file that remembers what sealed runs say, so that ten thousand are listed at once (stdlib only).

It is a cache and nothing else: deleted, damaged, locked or not writable, it costs time and changes no answer. How it notices changes:

- Every opening scans the archive and looks at each run folder's time: new and vanished runs, a new attempt, a new seal, notes and tags
  that lorakit wrote, any file added, removed or replaced at the top of a run folder.
- A run that is not sealed, has not ended or has a damaged record is read anew each time.
- A column of tags or notes first looks at the times of all these files, for people edit them in place.
- A row that is handed out (:meth:`Index.states`) is held against the sizes and times of the records behind it.

The file is never written to: it is read as it is, without locks, and changes are made in memory and replace it whole. So a reader has
one state of it to the end, processes that use it at once cannot harm each other, a kill leaves the old one, and it works where
a file system has no locks. Of two that replace it at once the last wins, and the other's news are read again the next time.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from lorakit._version import __version__
from lorakit.archive.facts import RESULTS, Value
from lorakit.archive.records import RunState
from lorakit.archive.rows import (
    EDITED,
    Entry,
    check,
    folder_time,
    folder_times,
    key_of,
    read_run,
    restored,
    time_of,
    unpacked,
    written,
)
from lorakit.archive.run import SCHEMA, Run

__all__ = ["Index", "index_path", "open_index"]

#: Part of the file's name: another lorakit's layout is another file.
_LAYOUT: Final = 1
#: What an answer depends on besides the files: rows that another lorakit wrote are not read.
_VERSION: Final = f"{__version__} {SCHEMA} {' '.join(item.name for item in fields(RunState))} {' '.join(RESULTS)}"

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS about (what TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS runs (
    n INTEGER PRIMARY KEY, id TEXT UNIQUE, signature INTEGER, tag INTEGER, note INTEGER, checked TEXT,
    created REAL, row TEXT
);
CREATE TABLE IF NOT EXISTS keys (k INTEGER PRIMARY KEY, name TEXT UNIQUE);
CREATE TABLE IF NOT EXISTS facts (k INTEGER, n INTEGER, value, PRIMARY KEY (k, n)) WITHOUT ROWID;
"""
#: A run keeps its number when it is read again.
_PUT: Final = """
INSERT INTO runs (id, signature, tag, note, checked, created, row) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE
SET signature = excluded.signature, tag = excluded.tag, note = excluded.note, checked = excluded.checked,
    created = excluded.created, row = excluded.row
"""


def index_path(private: Path) -> Path:
    """Where the index of a workspace is, from its folder of caches."""
    return private / f"index-{_LAYOUT}.sqlite"


@contextlib.contextmanager
def open_index(runs_dir: Path, path: Path | None) -> Iterator[Index]:
    """The index of an archive, brought up to date; ``path`` None, or a file that cannot be used: in memory, from the folders.

    Raises ArchiveError when the archive itself cannot be read.
    """
    try:
        index = Index(runs_dir, path, _read_only(path) if path is not None else _empty())
    except (sqlite3.Error, UnicodeDecodeError):  # none yet, not readable, not an index (any more), another lorakit's
        index = Index(runs_dir, path, _empty())
    try:
        yield index
    finally:
        index.close()


def _read_only(path: Path) -> sqlite3.Connection:
    """The file as it is now. Raises sqlite3.Error when there is none that can be used."""
    database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True, isolation_level=None)
    try:
        found = database.execute("SELECT value FROM about WHERE what = 'version'").fetchone()
        if found is None or found[0] != _VERSION:
            raise sqlite3.DatabaseError("written by another lorakit")  # noqa: TRY301
    except BaseException:
        database.close()
        raise
    return database


def _empty() -> sqlite3.Connection:
    memory = sqlite3.connect(":memory:", isolation_level=None)
    memory.executescript(_TABLES)
    memory.execute("INSERT INTO about VALUES ('version', ?)", (_VERSION,))
    return memory


class Index:
    """An index that was brought up to date when it was made. Runs have numbers; :attr:`numbers` are those of all, oldest first."""

    def __init__(self, runs_dir: Path, path: Path | None, database: sqlite3.Connection) -> None:
        self._runs_dir = runs_dir
        self._path = path
        self._database = database
        self._in_memory = False
        self._names: dict[int, str] = {}
        self._columns: dict[str, dict[int, Value]] = {}
        try:
            self.numbers: tuple[int, ...] = self._refresh()
        except BaseException:
            self._database.close()
            raise

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def run(self, number: int) -> Run:
        """The run of a number."""
        return Run(self._runs_dir / self._names[number])

    def known_keys(self) -> tuple[str, ...]:
        """Every key that any run has had a value for."""
        return tuple(name for (name,) in self._query("SELECT name FROM keys ORDER BY name"))

    def column(self, key: str) -> Mapping[int, Value]:
        """The value of a key for each run that has one."""
        if key not in self._columns:
            if key in EDITED:
                self._look_at_edited(key)
            query = "SELECT n, value FROM facts WHERE k = (SELECT k FROM keys WHERE name = ?)"
            self._columns[key] = {n: restored(value) for n, value in self._query(query, (key,)) if n in self._names}
        return self._columns[key]

    def states(self, numbers: Sequence[int]) -> list[RunState]:
        """How runs stand, in the order given; what vanished meanwhile is left out. Records that changed are read again."""
        found: dict[int, tuple[str, str]] = {}
        for start in range(0, len(numbers), 500):
            part = tuple(numbers[start : start + 500])
            query = f"SELECT n, checked, row FROM runs WHERE n IN ({','.join('?' * len(part))})"  # noqa: S608 (question marks)
            found |= {number: (checked, row) for number, checked, row in self._query(query, part)}
        states = {}
        for number in numbers:
            run = self.run(number)
            checked, row = found.get(number, ("", ""))
            known = unpacked(run, row) if checked else None
            if known is not None and checked == check(run, known.attempt):
                states[number] = known
        states |= self._read_again(number for number in numbers if number not in states)
        return [states[number] for number in numbers if number in states]

    def _query(self, query: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """The rows of a query; where the file has gone bad meanwhile, of an index in memory made from the folders."""
        try:
            return self._database.execute(query, values).fetchall()
        except (sqlite3.DatabaseError, UnicodeDecodeError):
            self._database.close()
            self._database, self._in_memory = _empty(), True
            numbers = {key_of(name): number for number, name in self._names.items()}
            entries = {name: read_run(self.run(number), 0) for number, name in self._names.items()}
            _write(self._database, {name: entry for name, entry in entries.items() if entry}, (), numbers)
            return self._database.execute(query, values).fetchall()

    def _look_at_edited(self, key: str) -> None:
        """Read again the runs whose file of this key is not the one that was read."""
        query = f"SELECT n, {key} FROM runs"  # noqa: S608 (a key of EDITED)
        self._read_again(
            number
            for number, before in self._query(query)
            if number in self._names and before != time_of(f"{self._runs_dir}/{self._names[number]}/{EDITED[key]}")
        )

    def _read_again(self, numbers: Iterable[int]) -> dict[int, RunState]:
        """Read runs whose rows turned out to be older than their records."""
        runs = {number: self.run(number) for number in numbers}
        entries = {number: read_run(run, folder_time(run.path)) for number, run in runs.items()}
        found = {number: entry for number, entry in entries.items() if entry is not None}
        if found:
            self._store({runs[number].id: entry for number, entry in found.items()}, ())
            self._columns.clear()
        return {number: entry.state for number, entry in found.items()}

    def _refresh(self) -> tuple[int, ...]:
        query = "SELECT id, n, signature, created FROM runs"
        known = {
            key: (number, signature, created)
            for key, number, signature, created in self._database.execute(query)
            if isinstance(created, float)  # a damaged file can hold anything
        }
        signatures = folder_times(self._runs_dir)
        names = {key_of(name): name for name in signatures}
        created = {}
        entries: dict[str, Entry] = {}
        for key, name in names.items():
            now = signatures[name]
            if key in known and now and known[key][1] == now:
                created[name] = known[key][2]
            elif (entry := read_run(Run(self._runs_dir / name), now)) is not None:
                entries[name] = entry
                created[name] = entry.created
        gone = [key for key in known if key not in names or names[key] not in created]
        numbers = {key: number for key, (number, _, _) in known.items()}
        if entries or gone:
            numbers = self._store(entries, gone)
        ordered = sorted(created, key=lambda name: (name[:15], created[name], name))
        self._names = {numbers[key_of(name)]: name for name in ordered}
        return tuple(self._names)

    def _store(self, entries: Mapping[str, Entry], gone: Collection[str]) -> dict[str, int]:
        """Take in what is new and give the numbers of all; the file is replaced when there is news worth remembering."""
        if not self._in_memory:
            memory = sqlite3.connect(":memory:", isolation_level=None)
            self._database.backup(memory)
            self._database.close()
            self._database, self._in_memory = memory, True
        numbers = _write(self._database, entries, gone)
        if self._path is not None and (gone or any(entry.signature for entry in entries.values())):
            _save(self._database, self._path)
        return numbers


def _save(database: sqlite3.Connection, path: Path) -> None:
    """Replace the file, or leave it as it is where it cannot be written: it is only a cache."""
    from lorakit.atomic import crash_point, temp_beside

    temp = temp_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(temp, isolation_level=None)) as file:
            # Nothing but this process knows the temporary, and it may be lost at any time.
            file.execute("PRAGMA journal_mode=OFF")
            file.execute("PRAGMA synchronous=OFF")
            database.backup(file)
        crash_point("index:written")
        os.replace(temp, path)
        crash_point("index:replaced")
    except (OSError, sqlite3.Error):
        return
    finally:
        with contextlib.suppress(OSError):
            temp.unlink()


def _write(
    database: sqlite3.Connection,
    entries: Mapping[str, Entry],
    gone: Collection[str],
    numbers: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, int]:
    """Write rows and give the numbers of all runs; ``numbers`` are those that runs of an empty index shall have."""
    database.execute("BEGIN")
    try:
        database.executemany("INSERT INTO runs (id, n) VALUES (?, ?)", numbers.items())
        before: dict[str, int] = dict(database.execute("SELECT id, n FROM runs"))
        database.executemany(
            _PUT,
            (
                (key_of(name), item.signature, *item.edited, item.checked, item.created, item.row)
                for name, item in entries.items()
            ),
        )
        database.executemany("DELETE FROM runs WHERE id = ?", ((key,) for key in gone))
        known = {name for (name,) in database.execute("SELECT name FROM keys")}
        new = {key for item in entries.values() for key in item.facts} - known
        database.executemany("INSERT INTO keys (name) VALUES (?)", ((key,) for key in sorted(new)))
        keys: dict[str, int] = dict(database.execute("SELECT name, k FROM keys"))
        after: dict[str, int] = dict(database.execute("SELECT id, n FROM runs"))
        outdated = [before[key] for key in (*gone, *map(key_of, entries)) if key in before]
        # By key and number: the table is not ordered by run.
        database.executemany(
            "DELETE FROM facts WHERE k = ? AND n = ?", ((k, number) for k in keys.values() for number in outdated)
        )
        database.executemany(
            "INSERT INTO facts VALUES (?, ?, ?)",
            (
                (keys[key], after[key_of(name)], written(value))
                for name, item in entries.items()
                for key, value in item.facts.items()
            ),
        )
        database.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            database.execute("ROLLBACK")
        raise
    return after
