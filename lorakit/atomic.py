"""Writing files so that a reader, or a machine that loses power, sees the old file or the new one, never half of one."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from pathlib import Path
from typing import Any

__all__ = ["TEMP_MARK", "dump_json", "fsync_dir", "write_bytes", "write_json", "write_once", "write_text"]

#: Every temporary name holds this mark, so that readers ignore such files and a sweep finds them.
TEMP_MARK = ".lorakit-tmp-"


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` whole to a unique temporary beside ``path``, flush it to disk, and rename it into place."""
    temp = _write_temp(path, data)
    try:
        os.replace(temp, path)
    except BaseException:
        temp.unlink(missing_ok=True)
        raise
    fsync_dir(path.parent)


def write_once(path: Path, data: bytes) -> None:
    """Like :func:`write_bytes`, but raises ``FileExistsError`` when ``path`` exists: a fact is written once."""
    temp = _write_temp(path, data)
    try:
        try:
            os.link(temp, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links: claim the name, then rename over the claim
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
            os.replace(temp, path)
    finally:
        temp.unlink(missing_ok=True)
    fsync_dir(path.parent)


def write_text(path: Path, text: str) -> None:
    """:func:`write_bytes` of UTF-8 text."""
    write_bytes(path, text.encode("utf-8", "surrogateescape"))


def dump_json(value: Any) -> bytes:
    """Stable, readable JSON: two-space indent, final newline, unicode kept."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "surrogateescape")


def write_json(path: Path, value: Any) -> None:
    """:func:`write_bytes` of :func:`dump_json`."""
    write_bytes(path, dump_json(value))


def fsync_dir(path: Path) -> None:
    """Flush a folder's entries to disk; silently nothing where the platform cannot open folders."""
    if os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_temp(path: Path, data: bytes) -> Path:
    temp = path.with_name(f".{path.name[:80]}{TEMP_MARK}{os.getpid()}-{secrets.token_hex(4)}")
    handle = os.open(temp, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temp.unlink()
        raise
    return temp
