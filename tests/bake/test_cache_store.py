"""The store of caches: claims, half-written files, age and size."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from lorakit.bake.cache_store import DEFAULT_LIMIT, Hold, entries, limit_of, remove, trim
from lorakit.errors import Stopped, WorkspaceError
from lorakit.workspace import Workspace


def written(path: Path, content: bytes = b"x" * 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("latents.npy", content)
    return path


def held(folder: Path, *names: str) -> Hold:
    hold = Hold(folder, names)
    hold.acquire(stop=lambda: True)
    return hold


def test_who_fills_is_alone_and_lets_others_in_when_all_is_there(tmp_path: Path) -> None:
    folder = tmp_path / "latents" / "k1"
    first = held(folder, "a.npz", "b.npz")
    assert (first.found, first.waited) == (0, 0.0)
    told: list[str] = []
    with pytest.raises(Stopped, match="another run to fill the cache k1"):
        Hold(folder, ["a.npz"]).acquire(stop=lambda: bool(told), waiting=lambda: told.append("waits"))
    written(folder / "a.npz")
    first._looked = 0.0
    first.poll()
    with pytest.raises(Stopped):
        held(folder, "a.npz", "b.npz")
    written(folder / "b.npz")
    first._looked = 0.0
    first.poll()
    second, third = held(folder, "a.npz", "b.npz"), held(folder, "a.npz", "b.npz")
    assert second.found == third.found == 2
    for hold in (first, second, third):
        hold.release()


def test_who_waits_finds_what_was_made_meanwhile(tmp_path: Path) -> None:
    folder = tmp_path / "text" / "k"
    first = held(folder, "a.npz")

    def make() -> None:
        written(folder / "a.npz")
        first.release()

    second = Hold(folder, ["a.npz"])
    second.acquire(waiting=make)
    assert second.found == 1
    assert second.waited > 0


def test_what_a_killed_run_left_half_written_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "latents" / "k"
    whole, damaged = written(folder / "whole.npz"), written(folder / "damaged.npz")
    (folder / "torn.npz").write_bytes(whole.read_bytes()[:60])
    data = bytearray(damaged.read_bytes())
    data[60] ^= 1  # inside of the content: only a checksum tells
    damaged.write_bytes(data)
    hold = held(folder, "whole.npz", "damaged.npz", "torn.npz")
    assert hold.found == 1
    assert sorted(os.listdir(folder)) == ["whole.npz"]


def test_the_same_picture_is_taken_from_another_entry(tmp_path: Path) -> None:
    old = written(tmp_path / "latents" / "old" / "same.npz")
    (tmp_path / "latents" / "old" / "torn.npz").write_bytes(b"PK")
    hold = held(tmp_path / "latents" / "new", "same.npz", "torn.npz", "other.npz")
    assert hold.found == 1
    assert (hold.folder / "same.npz").samefile(old)
    assert not (hold.folder / "torn.npz").exists()


def test_the_least_recently_used_go_first_and_none_that_is_in_use(tmp_path: Path) -> None:
    for age, key in enumerate(("newest", "middle", "oldest")):
        written(tmp_path / "latents" / key / "a.npz", b"x" * 1000)
        held(tmp_path / "latents" / key, "a.npz").release()
        os.utime(tmp_path / "latents" / f"{key}.lock", (1e9 - age, 1e9 - age))
    size = entries(tmp_path)[0].bytes
    assert [entry.key for entry in entries(tmp_path)] == ["oldest", "middle", "newest"]
    using = Hold(tmp_path / "latents" / "oldest", ["a.npz"])
    using.acquire()
    os.utime(tmp_path / "latents" / "oldest.lock", (1e8, 1e8))
    assert [entry.in_use for entry in entries(tmp_path)] == [True, False, False]
    assert trim(tmp_path, 3 * size) == ()
    assert [entry.key for entry in trim(tmp_path, 2 * size)] == ["middle"]
    assert [entry.key for entry in trim(tmp_path, 0)] == ["newest"]
    assert [entry.key for entry in entries(tmp_path)] == ["oldest"]
    using.release()
    assert remove(entries(tmp_path)[0])
    assert os.listdir(tmp_path / "latents") == []


def test_an_entry_removed_while_it_is_waited_for_is_made_anew(tmp_path: Path) -> None:
    folder = tmp_path / "latents" / "k"
    written(folder / "a.npz")
    hold = Hold(folder, ["a.npz"])
    assert remove(entries(tmp_path)[0])
    hold.acquire()
    assert hold.found == 0
    assert folder.is_dir()
    assert entries(tmp_path)[0].in_use
    hold.release()


def test_the_limit_stands_in_lorakit_toml(tmp_path: Path) -> None:
    assert limit_of(Workspace(tmp_path)) == DEFAULT_LIMIT
    assert limit_of(Workspace(tmp_path, {"cache": {"limit_gb": 0.5}})) == 500_000_000
    for wrong in ({"limit_gb": "20 GB"}, {"limit_gb": -1}, {"limit_gb": True}, {"limit_gb": float("nan")}, 7.5):
        with pytest.raises(WorkspaceError, match="limit_gb"):
            limit_of(Workspace(tmp_path, {"cache": wrong} if isinstance(wrong, dict) else {"cache": "x"}))
