"""Runs as one file to keep or to give away: written beside its place, whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from lorakit._version import __version__
from lorakit.archive.bundle import MANIFEST, README, Bundle, Content, check_name, sink, source_of, suffix_of
from lorakit.archive.hashing import hash_file
from lorakit.archive.run import Run, read_record
from lorakit.archive.seal import manifests, sealed_files, verify
from lorakit.archive.strip import strip_run
from lorakit.atomic import crash_point, dump_json, replacing, staging, sweep_beside
from lorakit.errors import ArchiveError, DiskError, UsageError

__all__ = ["Exported", "export"]

_WORDS: Final = ("notes.md", "tags.json")


@dataclass(frozen=True)
class Exported:
    """A bundle that was written: its path and size in bytes, what it holds, and what was left out of a stripped one."""

    path: Path
    size: int
    bundle: Bundle
    left_out: tuple[str, ...] = ()


def export(
    runs: Sequence[Run],
    target: Path,
    *,
    strip: bool = False,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Exported:
    """Write sealed runs into one file; it appears under its name when it is complete and on disk.

    ``strip`` leaves out paths and the names of user and machine. ``progress`` is told the bytes done and their total. Raises
    UsageError, ArchiveError (a run that is not sealed, or differs from its seal) and DiskError.
    """
    suffix = suffix_of(target)
    if target.exists() and not force:
        raise UsageError(f"{target} exists", todo="choose another name, or --force to replace it")
    for run in runs:
        _must_be_whole(run)
    try:
        sweep_beside(target)
        with _stripped(runs, target) if strip else contextlib.nullcontext((list(runs), ())) as (sources, left_out):
            bundle = Bundle({run.id: dict(_contents(run)) for run in sources}, strip, _facts(sources))
            size = _write(sources, bundle, target, suffix, progress)
    except OSError as error:
        raise DiskError(
            f"{target} cannot be written", why=error.strerror or str(error), todo="choose another place for it"
        ) from error
    return Exported(target, size, bundle, tuple(left_out))


def _must_be_whole(run: Run) -> None:
    differences = verify(run)
    if differences:
        raise ArchiveError(
            f"{run.id} differs from its seal",
            why="\n".join(f"{one.kind:<10} {one.path}" for one in differences[:10]),
            todo=f"lorakit verify {run.short} tells all; only whole runs are exported",
        )


def _contents(run: Run) -> Iterator[tuple[str, Content]]:
    """Every file of a run that is worth keeping, with its content; what the seal covers, the seals, notes and tags."""
    known: dict[str, Any] = {}
    for path in manifests(run):
        known |= (read_record(path) or {}).get("files") or {}
    for path in [*sealed_files(run), *manifests(run), *(run.path / name for name in _WORDS)]:
        name = path.relative_to(run.path).as_posix()
        if name in known:
            yield check_name(name), Content(known[name]["size"], known[name]["sha256"])
        elif path.is_file():
            found = hash_file(path)
            yield check_name(name), Content(found.size, found.sha256)


def _facts(runs: Sequence[Run]) -> dict[str, Any]:
    needs = {}
    for run in runs:
        record = read_record(run.dataset) or {}
        models = record.get("models")
        needs[run.id] = {
            "models": {
                key: [{"name": Path(str(item.get("path"))).name, **_only(item, "sha256", "size")} for item in items]
                for key, items in (models.items() if isinstance(models, dict) else ())
            },
            "dataset": {"digest": record.get("digest"), "images": len(record.get("images") or ())},
        }
    return {"lorakit": __version__, "time": time.time(), "needs": needs}


def _only(item: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: item.get(key) for key in keys}


def _write(
    runs: Sequence[Run], bundle: Bundle, target: Path, suffix: str, progress: Callable[[int, int], None] | None
) -> int:
    done = 0
    with replacing(target) as file:
        out = sink(file, suffix)
        try:
            for name, data in ((MANIFEST, dump_json(bundle.to_json())), (README, _readme(bundle).encode())):
                out.add(name, len(data), source_of(data))
            for run in runs:
                for name, content in bundle.runs[run.id].items():
                    with open(run.path / name, "rb") as source:
                        checked = _Checked(source)
                        out.add(f"runs/{run.id}/{name}", content.size, checked)
                        checked.must_be(content.sha256, f"{name} of {run.id}")
                    crash_point("export:file")
                    done += content.size
                    if progress is not None:
                        progress(done, bundle.size)
            out.close()
        except BaseException:
            out.abandon()
            raise
    return target.stat().st_size


class _Checked:
    """A file that is hashed as it is read."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        self._digest.update(data)
        return data

    def must_be(self, sha256: str, what: str) -> None:
        """Raise ArchiveError when what was read is not this."""
        if self._digest.hexdigest() != sha256:
            raise ArchiveError(f"{what} changed while it was exported", todo="type it again")


@contextlib.contextmanager
def _stripped(runs: Sequence[Run], target: Path) -> Iterator[tuple[list[Run], list[str]]]:
    """Copies of runs without paths and names, sealed anew, beside the bundle; gone afterwards."""
    with staging(target) as folder:
        left_out: list[str] = []
        copies = []
        for run in runs:
            copy = Run(folder / run.id)
            left_out += [f"{run.id}/{name}" for name in strip_run(run, copy)]
            crash_point("export:stripped")
            copies.append(copy)
        yield copies, left_out


def _readme(bundle: Bundle) -> str:
    needs = (bundle.facts or {}).get("needs", {})
    lines = [
        "Runs of lorakit, each in a folder of its own under runs/, as they were sealed.",
        "",
        "    lorakit import-run THIS-FILE       checks every file and puts them into an archive",
        "    lorakit rerun RUN                  bakes one again; --set base.model=FILE --set dataset.path=FOLDER say where they are",
        "",
        "To bake again, these must be there as well; they are told apart by their sha256, not by name or place:",
    ]
    for run, need in needs.items():
        lines += ["", run]
        for key, items in need["models"].items():
            lines += [f"    {key:<16} {item['name']}  {item['size']} bytes  sha256 {item['sha256']}" for item in items]
        lines.append(
            f"    dataset          {need['dataset']['images']} images, listed with their sha256 in dataset.json"
        )
    return "\n".join(lines) + "\n"
