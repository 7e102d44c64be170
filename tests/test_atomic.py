"""Files are old or new, never half; facts are written once; nothing temporary stays."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from lorakit import atomic


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_write_replaces_whole(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    atomic.write_text(target, "one")
    atomic.write_text(target, "two ✓")
    assert target.read_text(encoding="utf-8") == "two ✓"
    assert names(tmp_path) == ["a.json"]


def test_write_once_refuses_a_second_fact(tmp_path: Path) -> None:
    target = tmp_path / "ended.json"
    atomic.write_once(target, b"first")
    with pytest.raises(FileExistsError):
        atomic.write_once(target, b"second")
    assert target.read_bytes() == b"first"
    assert names(tmp_path) == ["ended.json"]


def test_write_once_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError("no hard links here")

    monkeypatch.setattr(os, "link", no_links)
    atomic.write_once(tmp_path / "a", b"x")
    assert (tmp_path / "a").read_bytes() == b"x"
    with pytest.raises(FileExistsError):
        atomic.write_once(tmp_path / "a", b"y")
    assert names(tmp_path) == ["a"]


def test_json_is_stable_and_readable(tmp_path: Path) -> None:
    atomic.write_json(tmp_path / "a.json", {"name": "ひふみ", "n": 1})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "name": "ひふみ",\n  "n": 1\n}\n'


def test_a_file_too_big_for_the_disk_leaves_the_old_one_and_no_temporary(tmp_path: Path) -> None:
    target = tmp_path / "a"
    atomic.write_bytes(target, b"old")
    program = (
        "import resource, signal, sys; from pathlib import Path; from lorakit import atomic\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: atomic.write_bytes(Path(sys.argv[1]), b'x' * 5000)\n"
        "except OSError as error: print(error.errno)\n"
    )
    assert hasattr(resource, "RLIMIT_FSIZE")
    done = subprocess.run([sys.executable, "-c", program, str(target)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "27"  # EFBIG
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_long_names_leave_room_for_the_temporary(tmp_path: Path) -> None:
    name = "x" * 250
    atomic.write_text(tmp_path / name, "fits")
    assert names(tmp_path) == [name]
