"""Runs out of a bundle: everything in it is looked at with suspicion, and nothing appears before all of it is known to be right.

Refused: names that lead out of the run folder, links, devices, files that the manifest does not list, more bytes than it says, sizes
that no honest run compresses to, headers that would fill the memory. Unpacked into a hidden folder, verified, then renamed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from lorakit.archive.bundle import MANIFEST, README, Bundle, Content, read_manifest, suffix_of, zstd_module
from lorakit.archive.hashing import hash_file
from lorakit.archive.run import Run, list_runs
from lorakit.archive.seal import manifests, verify
from lorakit.archive.trash import trash_of
from lorakit.atomic import crash_point, fsync_dir, move, staging
from lorakit.errors import ArchiveError, DiskError

__all__ = ["import_runs"]

_CHUNK: Final = 1 << 20
#: Bytes of a manifest of many runs; and of a zip's directory, which is read into memory.
_LARGEST_MANIFEST: Final = 64 << 20
_LARGEST_DIRECTORY: Final = 64 << 20
#: Logs and JSON shrink to a twentieth, weights not at all; what shrinks more, and is large, is no bundle of runs.
_HIGHEST_RATIO: Final = 100
_HARMLESS: Final = 256 << 20
#: Empty folders of a run, and its one link: they are made anew, never taken from a bundle.
_FOLDERS: Final = ("weights", "samples", "state", "analysis")
_LINK: Final = ("weights/sample", "../samples")


@dataclass(frozen=True)
class _Member:
    """A file in a bundle: its name and size as the container tells them, and how to read it."""

    name: str
    size: int
    open: Callable[[], Any]


def import_runs(source: Path, runs_dir: Path, *, progress: Callable[[int, int], None] | None = None) -> tuple[Run, ...]:
    """Put the runs of a bundle into an archive, all of them or none; the runs as they are now there.

    ``progress`` is told the bytes done and their total. Raises ArchiveError for a bundle that is not right, or whose runs are there
    already, DiskError when they cannot be written.
    """
    suffix = suffix_of(source)
    try:
        size = source.stat().st_size
        with open(source, "rb") as file:
            members = _zip_members(file) if suffix == ".zip" else _tar_members(file)
            return _import(source, size, members, runs_dir, progress)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise _refused(source, f"it is damaged: {error}") from error
    except OSError as error:
        raise DiskError(
            f"{source} cannot be imported",
            why=error.strerror or str(error),
            todo="free some space or mend the rights there",
        ) from error


def _import(
    source: Path, size: int, members: Iterator[_Member], runs_dir: Path, progress: Callable[[int, int], None] | None
) -> tuple[Run, ...]:
    first = next(members, None)
    if first is None or first.name != MANIFEST or first.size > _LARGEST_MANIFEST:
        raise ArchiveError(f"{source} is no bundle of runs", why=f"it does not begin with {MANIFEST}")
    try:
        bundle = read_manifest(json.loads(_read(first, _LARGEST_MANIFEST)), source)
    except (ValueError, RecursionError) as error:
        raise _refused(source, f"its manifest is no JSON: {error}") from None
    _must_be_bearable(source, size, bundle, runs_dir)
    there = _those_there(bundle, runs_dir)
    with staging(runs_dir / "import") as folder:
        _unpack(source, members, bundle, folder, progress)
        for run in bundle.runs:
            _complete(source, Run(folder / run))
        crash_point("import:verified")
        return _appear([run for run in bundle.runs if run not in there], folder, runs_dir)


def _refused(source: Path, why: str) -> ArchiveError:
    return ArchiveError(
        f"{source} is refused, and nothing of it was kept", why=why, todo="ask for it again from where it came from"
    )


def _must_be_bearable(source: Path, size: int, bundle: Bundle, runs_dir: Path) -> None:
    if bundle.size > _HARMLESS and bundle.size > size * _HIGHEST_RATIO:
        raise _refused(source, f"{size:,} bytes claim to hold {bundle.size:,}: no honest run is that empty")
    existing = next(folder for folder in (runs_dir, *runs_dir.parents) if folder.is_dir())
    free = shutil.disk_usage(existing).free
    if bundle.size > free:
        raise DiskError(f"{source} needs {bundle.size:,} bytes", why=f"{free:,} are free", todo="free some space")


def _those_there(bundle: Bundle, runs_dir: Path) -> frozenset[str]:
    """Runs that an import which was killed has brought in already: sealed as in the bundle, while others are missing.

    Raises ArchiveError when nothing is missing, or another run of such a name or short name is there.
    """
    found = set()
    for folder, where in ((runs_dir, "the archive"), (trash_of(runs_dir), "the trash")):
        there = {run.short: run.id for run in list_runs(folder)}
        for run in map(Run, map(Path, bundle.runs)):
            other = there.get(run.short)
            if other == run.id and folder == runs_dir and _same_seals(bundle.runs[run.id], Run(folder / other)):
                found.add(run.id)
            elif other == run.id:
                raise _there_already(run, where)
            elif other is not None:
                raise ArchiveError(
                    f"{run.id} cannot come in",
                    why=f"{other} in {where} has the same four characters",
                    todo=f"lorakit rm {other} first",
                )
    if len(found) == len(bundle.runs):
        raise _there_already(Run(Path(next(iter(bundle.runs)))), "the archive")
    return frozenset(found)


def _there_already(run: Run, where: str) -> ArchiveError:
    return ArchiveError(f"{run.id} is in {where} already", todo=f"lorakit verify {run.short} compares it with its seal")


def _same_seals(listed: Mapping[str, Content], run: Run) -> bool:
    """Whether a run of the archive has the seals that a bundle lists."""
    seals = {path.name: hash_file(path).sha256 for path in manifests(run)}
    return bool(seals) and all(name in listed and listed[name].sha256 == sha256 for name, sha256 in seals.items())


def _unpack(
    source: Path, members: Iterator[_Member], bundle: Bundle, staging: Path, progress: Callable[[int, int], None] | None
) -> None:
    """Write every listed file, each checked against the manifest. Raises ArchiveError for anything that is not as listed."""
    expected = {f"runs/{run}/{path}": content for run, files in bundle.runs.items() for path, content in files.items()}
    done, total = 0, bundle.size
    for member in members:
        if member.name == README and member.size <= _CHUNK:
            _read(member, _CHUNK)
            continue
        content = expected.pop(member.name, None)
        if content is None:
            raise _refused(source, f"it holds {member.name[:100]!r}, which its manifest does not list, or twice")
        _write(source, member, content, staging / member.name.removeprefix("runs/"))
        crash_point("import:file")
        done += content.size
        if progress is not None:
            progress(done, total)
    if expected:
        raise _refused(source, f"{len(expected)} files are missing, such as {next(iter(expected))}")


def _write(source: Path, member: _Member, content: Content, target: Path) -> None:
    if member.size != content.size:
        raise _refused(source, f"{member.name} has {member.size} bytes instead of {content.size}")
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, left = hashlib.sha256(), content.size
    with contextlib.closing(member.open()) as packed, open(target, "xb") as out:
        while data := packed.read(min(_CHUNK, left + 1)):
            left -= len(data)
            if left < 0:
                raise _refused(source, f"{member.name} holds more than it says")
            digest.update(data)
            out.write(data)
        out.flush()
        os.fsync(out.fileno())
    if left or digest.hexdigest() != content.sha256:
        raise _refused(source, f"{member.name} is not what its manifest says")


def _complete(source: Path, run: Run) -> None:
    """Add the empty folders and the link of a run folder, and hold it against its own seals."""
    for name in _FOLDERS:
        (run.path / name).mkdir(exist_ok=True)
    link = run.path / _LINK[0]
    if not link.exists():
        link.symlink_to(_LINK[1])
    differences = verify(run) if manifests(run) else ()
    if not manifests(run):
        raise _refused(source, f"{run.id} has no seal")
    if differences:
        raise _refused(source, f"{run.id} differs from its own seal: {differences[0].kind} {differences[0].path}")
    for folder, _, _ in os.walk(run.path, topdown=False):
        fsync_dir(Path(folder))


def _appear(new: Sequence[str], folder: Path, runs_dir: Path) -> tuple[Run, ...]:
    """Rename each run into the archive; when one cannot, those before it go back, so that all appear or none."""
    there: list[Run] = []
    try:
        for run in new:
            move(folder / run, runs_dir / run)
            there.append(Run(runs_dir / run))
            crash_point("import:run")
    except OSError as error:
        for run_there in there:
            move(run_there.path, folder / run_there.id)
        raise ArchiveError(
            f"{run} cannot come in", why=error.strerror or str(error), todo="lorakit ls shows what is there"
        ) from error
    return tuple(there)


def _read(member: _Member, limit: int) -> bytes:
    with contextlib.closing(member.open()) as packed:
        data: bytes = packed.read(limit + 1)
    if len(data) > min(limit, member.size):
        raise ArchiveError("the bundle is refused", why=f"{member.name} holds more than it says")
    return data


def _zip_members(file: BinaryIO) -> Iterator[_Member]:
    """The files of a zip, in the order of its directory."""
    _look_at_directory(file)
    with zipfile.ZipFile(file) as packed:
        for info in packed.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if info.is_dir() or info.flag_bits & 1 or kind not in {0, stat.S_IFREG}:
                raise ArchiveError(
                    "the bundle is refused", why=f"{info.filename[:100]!r} is a folder, a link, or encrypted"
                )
            yield _Member(info.filename, info.file_size, lambda info=info: packed.open(info))  # type: ignore[misc]


def _look_at_directory(file: BinaryIO) -> None:
    """Refuse a zip whose directory would fill the memory before anything of it can be looked at."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 65_557))
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at >= 0 and len(tail) >= at + 16:
        (directory,) = struct.unpack_from("<L", tail, at + 12)
        if directory > _LARGEST_DIRECTORY:
            raise ArchiveError("the bundle is refused", why=f"its directory claims {directory:,} bytes")
    file.seek(0)


def _tar_members(file: BinaryIO) -> Iterator[_Member]:
    """The files of a tar.zst, in their order; each has to be read before the next."""
    zstd = zstd_module()
    stream = zstd.ZstdDecompressor(max_window_size=1 << 27).stream_reader(file, read_across_frames=True)
    try:
        packed = tarfile.TarFile(fileobj=_Forward(stream, zstd.ZstdError), mode="r")  # type: ignore[arg-type]
        while (info := packed.next()) is not None:
            packed.members = []  # type: ignore[attr-defined]  # a million names are not kept
            if not info.isreg() or info.issparse():
                raise ArchiveError("the bundle is refused", why=f"{info.name[:100]!r} is a folder, a link, or a device")
            yield _Member(info.name, info.size, lambda info=info: packed.extractfile(info))  # type: ignore[misc]
    finally:
        stream.close()


class _Forward:
    """A stream as the seekable file that tarfile wants: forward only, and never a huge piece at once."""

    def __init__(self, stream: Any, damage: type[Exception]) -> None:
        self._stream = stream
        self._damage = damage
        self._at = 0

    def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes; tarfile asks for a whole extended header at once, and a hostile one claims gigabytes."""
        if size < 0 or size > 2 * _CHUNK:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        try:
            data: bytes = self._stream.read(size)
        except self._damage as error:
            raise tarfile.ReadError(str(error)) from error
        self._at += len(data)
        return data

    def tell(self) -> int:
        """Bytes read so far."""
        return self._at

    def seek(self, position: int) -> int:
        """Skip forward."""
        if position < self._at:
            raise tarfile.ReadError("it goes backwards")
        while self._at < position and self.read(min(_CHUNK, position - self._at)):
            pass
        return self._at
