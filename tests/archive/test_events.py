"""Our reader of event files against TensorBoard's own writer, and every kind of damage."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter, masked_crc32c

from lorakit.archive.events import EventFollower, Scalar, masked_crc, read_scalars


def event(step: int, **values: float) -> bytes:
    points = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
    data: bytes = Event(wall_time=1000.0 + step, step=step, summary=Summary(value=points)).SerializeToString()
    return data


def write(path: Path, *payloads: bytes) -> list[int]:
    """Write records with TensorBoard's writer; the file's size after each."""
    ends = []
    with open(path, "wb") as file:
        writer = RecordWriter(file)
        for payload in payloads:
            writer.write(payload)
            ends.append(file.tell())
    return ends


VERSION = Event(wall_time=1.0, file_version="brain.Event:2").SerializeToString()


@given(st.binary(max_size=64))
def test_the_checksum_is_tensorboards(data: bytes) -> None:
    assert masked_crc(data) == masked_crc32c(data)


def test_scalars_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "events"
    write(path, VERSION, event(1, loss=0.5, lr=0.25), event(2**40, loss=-1.5), event(3))
    assert read_scalars(path) == [
        Scalar("loss", 1, 0.5, 1001.0),
        Scalar("lr", 1, 0.25, 1001.0),
        Scalar("loss", 2**40, -1.5, 1000.0 + 2**40),
    ]
    assert read_scalars(tmp_path / "none") == []


def test_a_growing_file_is_read_once(tmp_path: Path) -> None:
    whole, growing = tmp_path / "whole", tmp_path / "growing"
    ends = write(whole, VERSION, *(event(step, loss=float(step)) for step in range(1, 6)))
    data = whole.read_bytes()
    follower = EventFollower(growing)
    seen: list[int] = []
    for size in range(0, len(data) + 1, 7):
        growing.write_bytes(data[:size])
        seen += [scalar.step for scalar in follower.poll()]
        assert len(seen) == max(0, sum(end <= size for end in ends) - 1)
    growing.write_bytes(data)
    seen += [scalar.step for scalar in follower.poll()]
    assert seen == [1, 2, 3, 4, 5]


def test_damage_costs_what_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "events"
    ends = write(path, VERSION, *(event(step, loss=float(step)) for step in range(1, 6)))
    data = bytearray(path.read_bytes())
    flipped = bytearray(data)
    flipped[ends[2]] ^= 1  # the length of the fourth record
    path.write_bytes(flipped)
    assert [scalar.step for scalar in read_scalars(path)] == [1, 2]
    path.write_bytes(bytes(data) + b"\0" * 100)
    assert len(read_scalars(path)) == 5, "a tail of zeros is no record"
    wrong = bytearray(data)
    wrong[ends[2] + 12 + 9] ^= 0xFF  # inside the payload
    path.write_bytes(wrong)
    assert {1, 2, 4, 5} <= {scalar.step for scalar in read_scalars(path)}


@given(st.binary(max_size=120))
def test_no_payload_makes_it_raise(tmp_path_factory: pytest.TempPathFactory, payload: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any-events"
    write(path, payload)
    read_scalars(path)
    path.write_bytes(payload)
    read_scalars(path)
