"""The seal of a run: a manifest of every file, written last, and the check that nothing has changed since (stdlib only)."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from lorakit.archive.hashing import hash_file, hash_files
from lorakit.archive.run import SCHEMA, Run, read_record
from lorakit.archive.shared import patient, until_there
from lorakit.atomic import TEMP_MARK, dump_json, write_once
from lorakit.errors import ArchiveError

__all__ = ["Difference", "manifests", "seal", "sealed_files", "verify"]

#: What the user may change, lorakit may rebuild, or a batch system may write to after the seal.
UNSEALED: Final = ("analysis", "notes.md", "tags.json", "slurm.log")
_MANIFEST: Final = re.compile(r"manifest-\d\d+\.json")


@dataclass(frozen=True)
class Difference:
    """One way a run differs from its seal: ``kind`` is missing, changed, added, unreadable or manifest."""

    path: str
    kind: str
    detail: str = ""

    def to_json(self) -> dict[str, str]:
        """Plain values."""
        return asdict(self)


def sealed_files(run: Run) -> Iterator[Path]:
    """Every file that a seal covers, sorted; symbolic links, manifests and temporaries are left out."""
    for folder, folders, names in os.walk(run.path):
        folders[:] = sorted(name for name in folders if TEMP_MARK not in name)
        here = Path(folder)
        if here == run.path:
            folders[:] = [name for name in folders if name not in UNSEALED]
            names = [name for name in names if name not in UNSEALED and not _MANIFEST.fullmatch(name)]  # noqa: PLW2901
        for name in sorted(names):
            path = here / name
            if not path.is_symlink() and TEMP_MARK not in name:
                yield path


def manifests(run: Run) -> tuple[Path, ...]:
    """The run's seals, oldest first."""
    return tuple(sorted(path for path in run.path.glob("manifest-*.json") if _MANIFEST.fullmatch(path.name)))


def seal(run: Run, number: int) -> Path:
    """Seal an attempt: flush and hash every file that no earlier seal covers, and write the manifest as the last fact.

    The manifest names the seal before it with its own sha256, so that seals form a chain. Raises ArchiveError when the
    attempt is sealed already, OSError when a file cannot be read or the manifest cannot be written.
    """
    earlier = [path for path in manifests(run) if path != run.manifest(number)]
    covered = set()
    for path in earlier:
        covered |= set(_files(read_record(path)))
    wanted = {path.relative_to(run.path).as_posix(): path for path in sealed_files(run)}
    new = {name: path for name, path in wanted.items() if name not in covered}
    hashes = hash_files(new.values(), flush=True)
    record = {
        "schema": SCHEMA,
        "run": run.id,
        "attempt": number,
        "time": time.time(),
        "previous": {"name": earlier[-1].name, "sha256": hash_file(earlier[-1]).sha256} if earlier else None,
        "files": {name: {"sha256": hashes[path].sha256, "size": hashes[path].size} for name, path in new.items()},
    }
    target = run.manifest(number)
    try:
        write_once(target, dump_json(record))
    except FileExistsError as error:
        raise ArchiveError(
            f"{run.id} is sealed already", why=f"{target.name} exists and is never written again"
        ) from error
    return target


def verify(run: Run) -> tuple[Difference, ...]:
    """Every way in which a run's files differ from its seals, sorted by path; empty when it is whole.

    Raises ArchiveError when the run was never sealed.
    """
    seals = manifests(run)
    if not seals:
        raise ArchiveError(
            f"{run.id} is not sealed",
            why="its bake has not ended, or was cut short",
            todo=f"lorakit show {run.short} says which",
        )
    found: list[Difference] = []
    expected: dict[str, Any] = {}
    for index, path in enumerate(seals):
        record = read_record(path)
        if record is None or "damaged" in record or not isinstance(record.get("files"), dict):
            found.append(Difference(path.name, "manifest", (record or {}).get("damaged", "holds no files")))
            continue
        if index and (record.get("previous") or {}).get("sha256") != hash_file(seals[index - 1]).sha256:
            found.append(
                Difference(
                    seals[index - 1].name, "changed", f"{path.name} was written after another {seals[index - 1].name}"
                )
            )
        expected.update(_files(record))
    until_there(lambda: _all_there(run, expected), run.path)
    present = {path.relative_to(run.path).as_posix(): path for path in sealed_files(run)}
    found += [Difference(name, "missing") for name in expected if name not in present]
    if not any(difference.kind == "manifest" for difference in found):
        found += [Difference(name, "added", "no seal knows it") for name in present if name not in expected]
    names = sorted(set(expected) & set(present))
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        compared = pool.map(lambda name: _compare(name, present[name], expected[name]), names)
        found += [difference for difference in compared if difference is not None]
    return tuple(sorted(found, key=lambda difference: (difference.path, difference.kind)))


def _all_there(run: Run, expected: Mapping[str, Any]) -> bool | None:
    """Whether every sealed file shows; None, rather than no, for somebody may wait for it."""
    return all((run.path / name).exists() for name in expected) or None


def _compare(name: str, path: Path, expected: Any) -> Difference | None:
    """The difference of one file; its size is looked at first, for that costs nothing."""
    try:
        size = patient(path.stat).st_size
        if size != expected.get("size"):
            return Difference(name, "changed", f"{size} bytes instead of {expected.get('size')}")
        if patient(lambda: hash_file(path)).sha256 != expected.get("sha256"):
            return Difference(name, "changed", "another content of the same size")
    except (OSError, AttributeError) as error:
        return Difference(name, "unreadable", str(error))
    return None


def _files(record: dict[str, Any] | None) -> dict[str, Any]:
    files = record.get("files") if record else None
    return files if isinstance(files, dict) else {}
