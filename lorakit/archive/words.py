"""The user's own words about a run: notes and tags, the only files of a run folder that may change after its seal."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from lorakit.archive.records import require_writable
from lorakit.archive.run import Run, read_record
from lorakit.atomic import write_json, write_text
from lorakit.errors import ArchiveError, DiskError, UsageError

__all__ = [
    "add_note",
    "change_tags",
    "check_tag",
    "read_note",
    "read_tags",
    "replace_note",
]

#: A tag is one word, so that filters and tables can hold it.
_TAG: Final = re.compile(r"[^\W_][\w.+/@#-]{0,39}")
#: What a note may hold, in characters: it is a note.
_LONGEST: Final = 20_000


def check_tag(tag: str) -> str:
    """The tag itself. Raises UsageError when it is no word of letters, digits and ``. _ - + / @ #``."""
    if _TAG.fullmatch(tag) is None:
        raise UsageError(
            f"{tag!r} cannot be a tag",
            why="a tag is one word of up to 40 letters, digits and . _ - + / @ #, and begins with a letter or digit",
            todo="longer words are a note: lorakit note RUN TEXT",
        )
    return tag


def read_tags(run: Run) -> list[str]:
    """The tags of a run. Raises ArchiveError when tags.json is damaged."""
    record = read_record(run.tags)
    tags = [] if record is None else record.get("tags")
    if not isinstance(tags, list):
        raise ArchiveError(
            f"the tags of {run.id} cannot be read",
            why=str((record or {}).get("damaged", "tags.json holds no list")),
            todo=f"mend or delete {run.tags}",
        )
    return [str(tag) for tag in tags]


def change_tags(run: Run, *, add: Iterable[str] = (), remove: Iterable[str] = ()) -> list[str]:
    """Add and remove tags; the tags afterwards. Several processes may do so at once and none's change is lost.

    Raises UsageError for what cannot be a tag, ArchiveError for a damaged tags.json or a newer lorakit's run.
    """
    added = [check_tag(tag) for tag in add]
    removed = set(remove)
    with _changing(run):
        before = read_tags(run)
        after = [tag for tag in dict.fromkeys([*before, *added]) if tag not in removed]
        if after != before:
            record = read_record(run.tags) or {}
            write_json(run.tags, {**record, "tags": after})
    return after


def read_note(run: Run) -> str:
    """The notes of a run, without the last line's end."""
    try:
        return run.notes.read_text(encoding="utf-8", errors="replace").rstrip("\n")
    except FileNotFoundError:
        return ""


def add_note(run: Run, text: str) -> str:
    """Add a line to the notes; the notes afterwards."""
    with _changing(run):
        before = read_note(run)
        return _put(run, f"{before}\n{text}" if before else text)


def replace_note(run: Run, text: str) -> str:
    """Replace the notes; the notes afterwards."""
    with _changing(run):
        return _put(run, text)


def _put(run: Run, text: str) -> str:
    if len(text) > _LONGEST:
        raise UsageError(f"the note would have {len(text)} characters", todo=f"keep it under {_LONGEST:,}")
    write_text(run.notes, f"{text}\n" if text else "")
    return text


@contextlib.contextmanager
def _changing(run: Run) -> Iterator[None]:
    """Hold a run while its words are read and written again, where the file system has locks; elsewhere the last one wins."""
    require_writable(run)
    try:
        with _locked(run.path):
            yield
    except OSError as error:
        raise DiskError(
            f"the notes and tags of {run.id} cannot be written",
            why=error.strerror or str(error),
            todo="mend the rights there; reading goes on as before",
        ) from error


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
