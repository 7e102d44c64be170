"""The seal covers everything but what is the user's, and verify finds every change."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path

import pytest

from lorakit.archive import hashing
from lorakit.archive.hashing import FileHash, HashCache, hash_file, hash_files
from lorakit.archive.run import Run
from lorakit.archive.seal import Difference, seal, verify
from lorakit.errors import ArchiveError
from tests.archive.made import born, ended, safetensors


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = ended(born(tmp_path))
    safetensors(made.weights / "a.safetensors")
    (made.samples / "one.png").write_bytes(b"png")
    (made.weights / "sample").symlink_to("../samples")
    (made.analysis / "cache.json").write_text("{}")
    return made


def kinds(run: Run) -> list[tuple[str, str]]:
    return [(difference.kind, difference.path) for difference in verify(run)]


def test_a_sealed_run_is_whole(run: Run) -> None:
    seal(run, 1)
    assert verify(run) == ()
    files = json.loads(run.manifest(1).read_text())["files"]
    assert set(files) == {
        "request.json",
        "attempts/01/started.json",
        "attempts/01/ended.json",
        "weights/a.safetensors",
        "samples/one.png",
    }
    assert files["samples/one.png"] == {"sha256": hash_file(run.samples / "one.png").sha256, "size": 3}


def test_what_is_the_users_may_change(run: Run) -> None:
    seal(run, 1)
    run.notes.write_text("the best so far")
    run.tags.write_text('{"tags": []}')
    (run.analysis / "cache.json").unlink()
    (run.analysis / "new.json").write_text("{}")
    assert verify(run) == ()


def test_every_other_change_is_found(run: Run) -> None:
    seal(run, 1)
    weights = run.weights / "a.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    (run.samples / "one.png").write_bytes(b"longer")
    run.request.unlink()
    (run.path / "extra.txt").write_text("")
    assert kinds(run) == [
        ("added", "extra.txt"),
        ("missing", "request.json"),
        ("changed", "samples/one.png"),
        ("changed", "weights/a.safetensors"),
    ]


def test_a_run_is_sealed_once(run: Run) -> None:
    seal(run, 1)
    with pytest.raises(ArchiveError, match="sealed already"):
        seal(run, 1)


def test_an_unsealed_run_cannot_be_verified(run: Run) -> None:
    with pytest.raises(ArchiveError, match="not sealed"):
        verify(run)


def test_a_second_attempt_seals_what_is_new_and_chains(run: Run) -> None:
    seal(run, 1)
    (run.attempts / "02").mkdir()
    (run.attempts / "02" / "started.json").write_text("{}")
    assert kinds(run) == [("added", "attempts/02/started.json")]
    seal(run, 2)
    assert verify(run) == ()
    assert set(json.loads(run.manifest(2).read_text())["files"]) == {"attempts/02/started.json"}
    first = json.loads(run.manifest(1).read_text())
    run.manifest(1).write_text(json.dumps({**first, "files": {}}))
    assert ("changed", "manifest-01.json") in kinds(run)


@pytest.mark.parametrize("content", [b"", b"{", b'{"files": 3}', b"[]"])
def test_a_damaged_manifest_is_a_difference(run: Run, content: bytes) -> None:
    seal(run, 1)
    run.manifest(1).write_bytes(content)
    assert [kind for kind, _ in kinds(run)] == ["manifest"]


def test_an_unreadable_entry(run: Run) -> None:
    seal(run, 1)
    record = json.loads(run.manifest(1).read_text())
    record["files"]["request.json"] = None
    run.manifest(1).write_text(json.dumps(record))
    assert [(found.kind, found.path) for found in verify(run)] == [("unreadable", "request.json")]
    assert isinstance(verify(run)[0], Difference)
    assert verify(run)[0].to_json()["kind"] == "unreadable"


def old(path: Path, content: bytes) -> Path:
    """A file that was written long enough ago to be remembered."""
    path.write_bytes(content)
    os.utime(path, (1_000_000_000, 1_000_000_000))
    return path


def test_hashes_are_remembered_until_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = old(tmp_path / "a", b"one"), old(tmp_path / "b", b"two")
    store = tmp_path / "private" / "hashes.sqlite"
    fresh = hash_files([first, second, first], cache=HashCache(store))
    assert fresh[first].sha256 == hash_file(first).sha256
    read: list[Path] = []
    real = hashing.hash_file

    def counted(path: Path, *, flush: bool = False) -> FileHash:
        read.append(path)
        return real(path, flush=flush)

    monkeypatch.setattr(hashing, "hash_file", counted)
    assert hash_files([first, second], cache=HashCache(store)) == fresh
    assert read == []
    old(second, b"six")  # same size, same time: told by nothing but the inode, so replace the file
    second.unlink()
    old(tmp_path / "c", b"new")
    (tmp_path / "c").rename(second)
    os.utime(second, (1_000_000_001, 1_000_000_001))
    assert hash_files([first, second], cache=HashCache(store))[second].sha256 == real(second).sha256
    assert read == [second]


def test_a_file_written_a_moment_ago_is_not_remembered(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    store = tmp_path / "hashes.sqlite"
    hash_files([path], cache=HashCache(store))
    assert HashCache(store).get(path) is None


def test_a_broken_cache_is_only_slow(tmp_path: Path) -> None:
    path = old(tmp_path / "a", b"one")
    store = tmp_path / "hashes.sqlite"
    store.write_bytes(b"this is no database at all, but long enough to look like a file" * 20)
    expected = hash_file(path)
    assert hash_files([path], cache=HashCache(store)) == {path: expected}
    assert HashCache(store).get(path) == expected, "and it was replaced"
    with sqlite3.connect(store) as database:
        database.execute("DROP TABLE hashes")
    database.close()
    assert hash_files([path], cache=HashCache(store)) == {path: expected}


def test_a_cache_that_cannot_be_written_is_only_slow(tmp_path: Path) -> None:
    path = old(tmp_path / "a", b"one")
    store = tmp_path / "is-a-folder.sqlite"
    store.mkdir()
    assert hash_files([path], cache=HashCache(store)) == {path: hash_file(path)}


def test_a_file_name_that_is_no_text(tmp_path: Path) -> None:
    path = old(tmp_path / "caf\udce9.png", b"one")
    store = tmp_path / "hashes.sqlite"
    assert hash_files([path], cache=HashCache(store)) == {path: hash_file(path)}
    assert HashCache(store).get(path) is None


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        hash_files([tmp_path / "none"])


def test_progress_of_hashing_counts_bytes(tmp_path: Path) -> None:
    paths = [old(tmp_path / name, b"x" * size) for name, size in (("a", 10), ("b", 5))]
    told: list[int] = []
    hash_files(paths, progress=told.append)
    assert told == [10, 15]
