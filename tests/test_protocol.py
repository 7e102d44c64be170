"""The run protocol: whole lines only, tolerant reading, nothing that is not JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lorakit import protocol


def test_write_and_follow(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    follower = protocol.Follower(path)
    assert follower.poll() == []
    writer = protocol.Writer(path)
    writer.write("start", total_steps=2)
    assert [record["type"] for record in follower.poll()] == ["start"]
    writer.write("step", step=1, loss=0.5, lr={"unet": 1e-4})
    writer.write("step", step=2, loss=0.25)
    records = follower.poll()
    assert [record["step"] for record in records] == [1, 2]
    assert records[0]["lr"] == {"unet": 1e-4}
    assert records[0]["v"] == 1
    assert follower.poll() == []
    writer.close()
    writer.write("end", reason="ok")  # after close: swallowed, for a late thread must not kill a run
    assert follower.poll() == []


def test_an_incomplete_last_line_waits_for_its_end(tmp_path: Path) -> None:
    path = tmp_path / "p"
    follower = protocol.Follower(path)
    path.write_bytes(b'{"type":"step","step":1}\n{"type":"st')
    assert len(follower.poll()) == 1
    with path.open("ab") as file:
        file.write(b'ep","step":2}\n')
    assert [record["step"] for record in follower.poll()] == [2]


@pytest.mark.parametrize("junk", [b"\x00\x00\x00\n", b"[]\n", b"{}\n", b'{"type":3}\n', b"\xff\xfe\n", b'{"type"\n'])
def test_damaged_lines_cost_only_themselves(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "p"
    path.write_bytes(b'{"type":"a"}\n' + junk + b'{"type":"b"}\n')
    assert [record["type"] for record in protocol.read(path)] == ["a", "b"]


def test_not_a_number_is_still_json(tmp_path: Path) -> None:
    path = tmp_path / "p"
    writer = protocol.Writer(path)
    writer.write("step", loss=float("nan"), lr={"unet": float("inf")}, list=[1.0, float("-inf")])
    writer.close()
    record = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert (record["loss"], record["lr"]["unet"], record["list"]) == ("nan", "inf", [1.0, "-inf"])


def test_writer_and_stop_file_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(protocol.PROGRESS_ENV, raising=False)
    protocol.Writer.from_env().write("start")
    assert not protocol.stop_requested()
    monkeypatch.setenv(protocol.PROGRESS_ENV, str(tmp_path / "p"))
    monkeypatch.setenv(protocol.STOP_ENV, str(tmp_path / "stop"))
    writer = protocol.Writer.from_env()
    writer.write("start")
    writer.close()
    assert protocol.read(tmp_path / "p")[0]["type"] == "start"
    assert not protocol.stop_requested()
    (tmp_path / "stop").touch()
    assert protocol.stop_requested()
