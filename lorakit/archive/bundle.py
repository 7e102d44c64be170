"""What a bundle of runs is: one zip or tar.zst file that begins with a manifest of everything in it (stdlib; zstandard for tar.zst).

lorakit-bundle.json     this manifest: for each run its id, and the size and sha256 of each file
README.txt              what it is, and what it needs to run again: models and pictures by hash, for they are not in it
runs/<id>/…             the run folders as they were sealed
"""

from __future__ import annotations

import importlib
import io
import re
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol, cast

from lorakit.archive.run import RUN_ID
from lorakit.atomic import TEMP_MARK
from lorakit.errors import ArchiveError, UsageError

__all__ = [
    "LAYOUT",
    "MANIFEST",
    "README",
    "Bundle",
    "Content",
    "Sink",
    "check_name",
    "read_manifest",
    "sink",
    "suffix_of",
    "zstd_module",
]

#: The version in every manifest that lorakit writes today.
LAYOUT: Final = 1
MANIFEST: Final = "lorakit-bundle.json"
README: Final = "README.txt"
#: No manifest of honest runs comes near these.
_MOST_FILES: Final = 500_000
_LONGEST_NAME: Final = 255
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
#: Already compressed, or random to a compressor: stored as they are.
_DENSE: Final = frozenset({".safetensors", ".png", ".jpg", ".webp", ".pt", ".ckpt", ".bin"})


@dataclass(frozen=True)
class Content:
    """A file's size in bytes and its sha256 in hex."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Bundle:
    """A manifest: the files of each run by their paths inside the run folder; ``stripped`` of paths and names or not."""

    runs: dict[str, dict[str, Content]]
    stripped: bool = False
    facts: dict[str, Any] | None = None

    @property
    def size(self) -> int:
        """Bytes of all files, unpacked."""
        return sum(content.size for files in self.runs.values() for content in files.values())

    @property
    def count(self) -> int:
        """The number of files."""
        return sum(map(len, self.runs.values()))

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        runs = [
            {"id": run, "files": {path: {"size": item.size, "sha256": item.sha256} for path, item in files.items()}}
            for run, files in self.runs.items()
        ]
        return {"bundle": LAYOUT, **(self.facts or {}), "stripped": self.stripped, "runs": runs}


def read_manifest(value: Any, where: Path) -> Bundle:
    """A manifest from its JSON. Raises ArchiveError for anything that lorakit does not write."""
    if not isinstance(value, dict) or not isinstance(value.get("bundle"), int):
        raise ArchiveError(f"{where} is no bundle of runs", why=f"its {MANIFEST} holds no manifest")
    if value["bundle"] > LAYOUT:
        raise ArchiveError(
            f"{where} was written by a newer lorakit",
            why=f"layout {value['bundle']}, this one knows {LAYOUT}",
            todo="pip install --upgrade lorakit",
        )
    runs: dict[str, dict[str, Content]] = {}
    try:
        for entry in value["runs"]:
            run = entry["id"]
            if not isinstance(run, str) or RUN_ID.fullmatch(run) is None or run in runs:
                raise ValueError(  # noqa: TRY301
                    f"{run!r} is no run's id, or stands there twice"
                )
            check_name(run)
            runs[run] = {check_name(path): _content(path, item) for path, item in entry["files"].items()}
        if not runs or sum(map(len, runs.values())) > _MOST_FILES:
            raise ValueError("no runs, or more files than runs have")  # noqa: TRY301
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ArchiveError(f"the manifest of {where} cannot be right", why=str(error)) from None
    return Bundle(runs, bool(value.get("stripped")))


def _content(path: str, item: Any) -> Content:
    size, sha256 = item["size"], item["sha256"]
    if not isinstance(size, int) or isinstance(size, bool) or size < 0 or not isinstance(sha256, str):
        raise ValueError(f"{path} has no size")
    if _SHA256.fullmatch(sha256) is None:
        raise ValueError(f"{path} has no sha256")
    return Content(size, sha256)


def check_name(name: str) -> str:
    """A relative path that stays inside wherever it is unpacked, on every system. Raises ValueError."""
    parts = name.split("/")
    bad = (
        not name
        or "\\" in name
        or "\0" in name
        or any(part in {"", ".", ".."} or len(part.encode("utf-8", "surrogatepass")) > _LONGEST_NAME for part in parts)
        or (len(parts[0]) == 2 and parts[0][1] == ":")
        or TEMP_MARK in name
        or len(name) > 4000
    )
    if bad:
        raise ValueError(f"{name[:80]!r} is no path inside a run folder")
    return name


def suffix_of(path: Path) -> str:
    """Which kind of bundle a file's name asks for: ``.zip`` or ``.tar.zst``. Raises UsageError."""
    for suffix in (".zip", ".tar.zst"):
        if path.name.lower().endswith(suffix):
            return suffix
    raise UsageError(f"{path.name} says no kind of bundle", todo="name it something.zip or something.tar.zst")


def zstd_module() -> Any:
    """The zstandard package. Raises UsageError where it is not installed."""
    try:
        return importlib.import_module("zstandard")
    except ImportError:
        raise UsageError(
            "this Python cannot read or write .tar.zst", why="the package zstandard is not installed",
            todo="pip install 'lorakit[zstd]', or use a .zip",
        ) from None  # fmt: skip


class Readable(Protocol):
    """What a sink takes its bytes from."""

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes."""


class Sink(Protocol):
    """Where a bundle is written to, file after file."""

    def add(self, name: str, size: int, source: Readable) -> None:
        """Write one file of exactly ``size`` bytes."""

    def close(self) -> None:
        """Write what comes after the last file."""

    def abandon(self) -> None:
        """Let go of it after an error: it is not ended."""


def sink(target: BinaryIO, suffix: str) -> Sink:
    """A writer of the kind that the suffix names."""
    return _Zip(target) if suffix == ".zip" else _Tar(target)


_CHUNK: Final = 1 << 20


class _Zip:
    def __init__(self, target: BinaryIO) -> None:
        self._file = zipfile.ZipFile(target, "w", allowZip64=True)

    def add(self, name: str, size: int, source: Readable) -> None:
        info = zipfile.ZipInfo(name)  # 1980, for its time is in the records
        info.file_size = size
        info.external_attr = 0o100644 << 16
        info.compress_type = zipfile.ZIP_STORED if Path(name).suffix in _DENSE else zipfile.ZIP_DEFLATED
        with self._file.open(info, "w") as out:
            while data := source.read(_CHUNK):
                out.write(data)

    def close(self) -> None:
        self._file.close()

    def abandon(self) -> None:
        """Leave it as it is: what cannot be written cannot be ended either, and would be tried once more when it is forgotten."""
        self._file.fp = None


class _Tar:
    def __init__(self, target: BinaryIO) -> None:
        self._stream = zstd_module().ZstdCompressor(level=6).stream_writer(target, closefd=False)
        self._file = tarfile.open(  # noqa: SIM115 (closed in close)
            fileobj=self._stream, mode="w|", format=tarfile.PAX_FORMAT
        )

    def add(self, name: str, size: int, source: Readable) -> None:
        info = tarfile.TarInfo(name)
        info.size = size
        self._file.addfile(info, cast("BinaryIO", source))

    def close(self) -> None:
        self._file.close()
        self._stream.close()

    def abandon(self) -> None:
        """Leave it as it is."""


def source_of(data: bytes) -> BinaryIO:
    """Bytes as a file to read."""
    return io.BytesIO(data)
