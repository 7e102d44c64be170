"""The index of an archive: an SQLite file that remembers what sealed runs say, so that ten thousand are listed at once (stdlib only).

It is a cache and nothing else: deleted, damaged, locked or not writable, it costs time and changes no answer. How it notices changes:

- Every opening scans the archive and looks at each run folder's time: new and vanished runs, a new attempt, a new seal, notes and tags
  that lorakit wrote, any file added, removed or replaced at the top of a run folder.
- A run that is not sealed, has not ended or has a damaged record is read anew each time.
- A column of tags or notes first looks at the times of all these files, for people edit them in place.
- A row that is handed out (:meth:`Index.states`) is held against the sizes and times of the records behind it.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import stat
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Final

from lorakit._version import __version__
from lorakit.archive.diagnose_log import Reason, Status
from lorakit.archive.facts import RESULTS, Value, facts
from lorakit.archive.records import RunState, state
from lorakit.archive.run import RUN_ID, SCHEMA, Run
from lorakit.errors import ArchiveError

__all__ = ["Index", "index_path", "open_index"]

#: Part of the file's name: another lorakit's layout is another file.
_LAYOUT: Final = 1
#: Seconds to wait for another process that writes to the index, before doing without.
_PATIENCE: Final = 2.0
#: A change less than this long ago could be followed by another within the same time stamp, so such a row is not trusted yet.
_SETTLE_NS: Final = 2_000_000_000
#: Files that people edit in place, by the key that shows them.
_EDITED: Final = MappingProxyType({"tag": "tags.json", "note": "notes.md"})
#: What an answer depends on besides the files: rows that another lorakit wrote are not read.
_VERSION: Final = f"{__version__} {SCHEMA} {' '.join(item.name for item in fields(RunState))} {' '.join(RESULTS)}"

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS about (what TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS runs (
    n INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE, signature INTEGER, tag INTEGER, note INTEGER, checked TEXT,
    created REAL, row TEXT
);
CREATE TABLE IF NOT EXISTS keys (k INTEGER PRIMARY KEY, name TEXT UNIQUE);
CREATE TABLE IF NOT EXISTS facts (k INTEGER, n INTEGER, value, PRIMARY KEY (k, n)) WITHOUT ROWID;
"""
#: A run keeps its number when it is read again, and no number is ever used for another: a reader may hold on to them.
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
    index = _opened(runs_dir, path)
    try:
        yield index
    finally:
        index.close()


def _opened(runs_dir: Path, path: Path | None) -> Index:
    for last in (False, True) if path is not None else ():
        assert path is not None
        try:
            return Index(runs_dir, _connect(path))
        except sqlite3.OperationalError:  # not writable, locked for long, or a file system without locks
            with contextlib.suppress(sqlite3.Error):
                return Index(runs_dir, _copied(path))
            break
        except sqlite3.DatabaseError:  # not a database any more
            with contextlib.suppress(OSError):
                path.unlink()
            if last:
                break
        except OSError:
            break
    memory = sqlite3.connect(":memory:", isolation_level=None)
    memory.executescript(_TABLES)
    return Index(runs_dir, memory)


def _connect(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None)
    try:
        # It may be lost at any time, so nothing waits for the disk.
        database.execute("PRAGMA synchronous=OFF")
        if _version(database) != _VERSION:
            database.execute("BEGIN IMMEDIATE")
            for statement in _TABLES.split(";"):
                database.execute(statement)
            for table in ("runs", "facts"):
                database.execute(f"DELETE FROM {table}")  # noqa: S608 (one of two words)
            database.execute("INSERT OR REPLACE INTO about VALUES ('version', ?)", (_VERSION,))
            database.execute("COMMIT")
    except BaseException:
        database.close()
        raise
    return database


def _version(database: sqlite3.Connection) -> str | None:
    if not database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'facts'").fetchone()[0]:
        return None
    found = database.execute("SELECT value FROM about WHERE what = 'version'").fetchone()
    return str(found[0]) if found else None


def _copied(path: Path) -> sqlite3.Connection:
    """An index that can be read but not written, as a copy in memory. Raises sqlite3.Error."""
    uri = f"{path.absolute().as_uri()}?mode=ro&nolock=1"
    with contextlib.closing(sqlite3.connect(uri, uri=True)) as source:
        if _version(source) != _VERSION:
            raise sqlite3.DatabaseError("written by another lorakit")
        return _in_memory(source)


def _in_memory(source: sqlite3.Connection) -> sqlite3.Connection:
    memory = sqlite3.connect(":memory:", isolation_level=None)
    source.backup(memory)
    return memory


class Index:
    """An index that was brought up to date when it was made. Runs have numbers; :attr:`numbers` are those of all, oldest first."""

    def __init__(self, runs_dir: Path, database: sqlite3.Connection) -> None:
        self._runs_dir = runs_dir
        self._database = database
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
        return tuple(name for (name,) in self._database.execute("SELECT name FROM keys ORDER BY name"))

    def column(self, key: str) -> Mapping[int, Value]:
        """The value of a key for each run that has one."""
        if key not in self._columns:
            if key in _EDITED:
                self._look_at_edited(key)
            query = "SELECT n, value FROM facts WHERE k = (SELECT k FROM keys WHERE name = ?)"
            self._columns[key] = {
                number: _read(value) for number, value in self._database.execute(query, (key,)) if number in self._names
            }
        return self._columns[key]

    def states(self, numbers: Sequence[int]) -> list[RunState]:
        """How runs stand, in the order given; what vanished meanwhile is left out. Records that changed are read again."""
        found: dict[int, tuple[str, str]] = {}
        for start in range(0, len(numbers), 500):
            part = tuple(numbers[start : start + 500])
            query = f"SELECT n, checked, row FROM runs WHERE n IN ({','.join('?' * len(part))})"  # noqa: S608 (question marks)
            found |= {number: (checked, row) for number, checked, row in self._database.execute(query, part)}
        states = []
        for number in numbers:
            run = self.run(number)
            checked, row = found.get(number, ("", ""))
            known = _unpacked(run, row) if checked else None
            if known is None or checked != _check(run, known.attempt):
                known = self._read_again(run)
            if known is not None:
                states.append(known)
        return states

    def _look_at_edited(self, key: str) -> None:
        """Read again the runs whose file of this key is not the one that was read."""
        query = f"SELECT n, {key} FROM runs"  # noqa: S608 (a key of _EDITED)
        changed: dict[str, _Entry] = {}
        for number, before in self._database.execute(query):
            name = self._names.get(number)
            if name is not None and before != _time_of(f"{self._runs_dir}/{name}/{_EDITED[key]}"):
                run = Run(self._runs_dir / name)
                signature = _folder_time(run.path)
                entry = _entry(run, signature)
                if entry is not None:
                    changed[name] = entry
        if changed:
            self._store(changed, ())

    def _read_again(self, run: Run) -> RunState | None:
        """Read a run whose row turned out to be older than its records."""
        entry = _entry(run, _folder_time(run.path))
        if entry is not None:
            self._store({run.id: entry}, ())
            self._columns.clear()
        return entry.state if entry is not None else None

    def _refresh(self) -> tuple[int, ...]:
        query = "SELECT id, n, signature, created FROM runs"
        known = {key: (number, signature, created) for key, number, signature, created in self._database.execute(query)}
        signatures = _signatures(self._runs_dir)
        names = {_key(name): name for name in signatures}
        created = {}
        entries: dict[str, _Entry] = {}
        for key, name in names.items():
            now = signatures[name]
            if key in known and now and known[key][1] == now:
                created[name] = known[key][2]
            elif (entry := _entry(Run(self._runs_dir / name), now)) is not None:
                entries[name] = entry
                created[name] = entry.created
        gone = [key for key in known if key not in names or names[key] not in created]
        numbers = {key: number for key, (number, _, _) in known.items()}
        if entries or gone:
            numbers = self._store(entries, gone)
        ordered = sorted(created, key=lambda name: (name[:15], created[name], name))
        self._names = {numbers[_key(name)]: name for name in ordered}
        return tuple(self._names)

    def _store(self, entries: Mapping[str, _Entry], gone: Collection[str]) -> dict[str, int]:
        """Write what is new and give the numbers of all; where the file does not take it, into a copy in memory."""
        try:
            return _write(self._database, entries, gone)
        except sqlite3.OperationalError:
            memory = _in_memory(self._database)
            self._database.close()
            self._database = memory
            return _write(memory, entries, gone)


def _write(database: sqlite3.Connection, entries: Mapping[str, _Entry], gone: Collection[str]) -> dict[str, int]:
    database.execute("BEGIN IMMEDIATE")
    try:
        before: dict[str, int] = dict(database.execute("SELECT id, n FROM runs"))
        database.executemany(
            _PUT,
            (
                (_key(name), item.signature, *item.edited, item.checked, item.created, item.row)
                for name, item in entries.items()
            ),
        )
        database.executemany("DELETE FROM runs WHERE id = ?", ((key,) for key in gone))
        known = {name for (name,) in database.execute("SELECT name FROM keys")}
        new = {key for item in entries.values() for key in item.facts} - known
        database.executemany("INSERT INTO keys (name) VALUES (?)", ((key,) for key in sorted(new)))
        keys: dict[str, int] = dict(database.execute("SELECT name, k FROM keys"))
        numbers: dict[str, int] = dict(database.execute("SELECT id, n FROM runs"))
        outdated = [before[key] for key in (*gone, *map(_key, entries)) if key in before]
        # By key and number: the table is not ordered by run.
        database.executemany(
            "DELETE FROM facts WHERE k = ? AND n = ?", ((k, number) for k in keys.values() for number in outdated)
        )
        database.executemany(
            "INSERT INTO facts VALUES (?, ?, ?)",
            (
                (keys[key], numbers[_key(name)], _written(value))
                for name, item in entries.items()
                for key, value in item.facts.items()
            ),
        )
        database.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            database.execute("ROLLBACK")
        raise
    return numbers


@dataclass(frozen=True)
class _Entry:
    """What is remembered of a run; ``signature`` is 0 for one that has to be looked at each time."""

    state: RunState
    signature: int
    edited: tuple[int, ...]
    checked: str
    created: float
    row: str
    facts: Mapping[str, Value]


def _entry(run: Run, signature: int) -> _Entry | None:
    """Read a run's folder; None when it is gone."""
    attempt = run.last_attempt.number
    checked = _check(run, attempt)  # before reading: what changes meanwhile is noticed the next time
    edited = tuple(_time_of(f"{run.path}/{name}") for name in _EDITED.values())
    found = state(run)
    values = facts(run, found)
    if not run.path.is_dir():
        return None
    settled = found.sealed and found.is_final and not found.problems
    return _Entry(
        state=found,
        signature=signature if settled else 0,
        edited=tuple(0 if _is_fresh(changed) else changed for changed in edited),
        checked=checked if found.attempt == attempt else "",
        created=found.created or 0.0,
        row=json.dumps(found.to_json() | {"path": ""}),
        facts=values,
    )


def _unpacked(run: Run, row: str) -> RunState | None:
    """The state that a row holds; None when the row makes no sense."""
    try:
        held = json.loads(row)
        values = {item.name: held[item.name] for item in fields(RunState) if item.name != "run"}
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        return RunState(**values | {"run": run, "status": Status(values["status"]), "reason": Reason(values["reason"])})
    except (ValueError, KeyError, TypeError):
        return None


def _signatures(runs_dir: Path) -> dict[str, int]:
    """Every run folder's name with its time as one number; 0 when it is too fresh to be trusted."""
    found: dict[str, int] = {}
    newest = time.time_ns() - _SETTLE_NS
    try:
        handle = os.open(runs_dir, os.O_RDONLY)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ArchiveError(f"{runs_dir} cannot be read", why=error.strerror or str(error)) from error
    try:
        for name in os.listdir(handle):
            if RUN_ID.fullmatch(name) is None:
                continue
            try:
                now = os.stat(name, dir_fd=handle)
            except OSError:  # gone meanwhile
                continue
            if stat.S_ISDIR(now.st_mode):
                found[name] = 0 if now.st_mtime_ns > newest else hash((now.st_mtime_ns, now.st_ino)) or 1
    finally:
        os.close(handle)
    return found


def _folder_time(path: Path) -> int:
    try:
        now = os.stat(path)
    except OSError:
        return 0
    return 0 if _is_fresh(now.st_mtime_ns) else hash((now.st_mtime_ns, now.st_ino)) or 1


def _is_fresh(changed: int) -> bool:
    return changed > time.time_ns() - _SETTLE_NS


def _time_of(path: str) -> int:
    """When a file was changed, in nanoseconds; -1 where there is none."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return -1


def _check(run: Run, attempt: int) -> str:
    """Sizes and times of the records that a row was made from."""
    base, folder = str(run.path), str(run.attempt(attempt).path)
    records = [f"{base}/{name}" for name in ("attempts", "request.json", "preset.toml", *_EDITED.values())]
    parts = []
    for path in (*records, f"{folder}/started.json", f"{folder}/ended.json"):
        try:
            now = os.stat(path)
            parts.append(f"{now.st_mtime_ns}.{now.st_size}")
        except OSError:
            parts.append("-")
    return " ".join(parts)


def _key(name: str) -> str:
    """A folder's name as SQLite can hold it: one that is no text is spelled out."""
    return name if name.isascii() else name.encode("utf-8", "backslashreplace").decode("utf-8")


def _written(value: Value) -> float | str:
    """A value as SQLite holds it: numbers as they are, texts and the rest with a letter before that tells them apart."""
    if isinstance(value, bool):
        return f"b{int(value)}"
    if isinstance(value, int):
        return value if abs(value) < 1 << 62 else float(value)
    if isinstance(value, float):
        return value
    if isinstance(value, list):
        return f"l{json.dumps(value)}"
    return f"t{value.encode('utf-8', 'backslashreplace').decode('utf-8')}"


def _read(value: float | str) -> Value:
    if isinstance(value, str):
        if value[0] == "t":
            return value[1:]
        found: list[str] = json.loads(value[1:]) if value[0] == "l" else []
        return found if value[0] == "l" else value == "b1"
    return value
