"""Secrets covered in place, in whatever pieces they come, and in event files with right checksums."""

from __future__ import annotations

import os
import struct
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorakit.archive.events import EventFollower, masked_crc
from lorakit.archive.masked import EventMask
from lorakit.launch.masking import FileMask, Masks, mask_file

TOKEN = "hf_" + "aB3" * 12
PHRASE = 'correct horse "battery" staple'
VALUES = {"HF_TOKEN": TOKEN, "MY_PASSWORD": PHRASE, "SHORT_TOKEN": "yes"}
PIECES = [TOKEN, PHRASE, "words and 花 more", "\n", "\r", "http://me:secret99@host", "hf_short", "yes"]
MASKS = Masks.of(VALUES)


def test_a_value_is_known_as_json_spells_it_too() -> None:
    assert MASKS.mask(b'{"a": "correct horse \\"battery\\" staple"}') == b'{"a": "<secret>************************"}'
    assert MASKS.mask(b"http://me:secret99@host/a?b=c@d") == b"http://<secret>***@host/a?b=c@d"
    assert MASKS.mask(b"yes correct horse") == b"yes <secret>*****", "a part of a value, from its beginning on"
    assert MASKS.mask(b"correct") == b"correct", "less than eight bytes are not"


@given(st.lists(st.sampled_from(PIECES), max_size=8).map("".join), st.lists(st.integers(0, 60), max_size=6))
def test_in_whatever_pieces_it_comes_nothing_is_left(text: str, cuts: list[int]) -> None:
    """Between any two writes the keeper looks: what is whole is covered, and at the end all is as if it had come at once."""
    data = text.encode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "log")
        mask = FileMask(path, MASKS)
        rest = data
        with open(path, "ab", buffering=0) as file:
            for size in [*cuts, len(data)]:
                file.write(rest[:size])
                rest = rest[size:]
                mask.poll()
                seen = path.read_bytes()
                assert TOKEN.encode() not in seen
                assert PHRASE.encode() not in seen
        assert path.read_bytes() == MASKS.mask(data)
        assert len(path.read_bytes()) == len(data)
        assert not mask.poll()
        assert not mask_file(path, MASKS)


def test_a_log_that_was_cut_is_read_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "log"
    mask = FileMask(path, MASKS)
    path.write_bytes(b"x" * 100)
    mask.poll()
    path.write_bytes(f"new {TOKEN}\n".encode())
    assert mask.poll()
    assert TOKEN.encode() not in path.read_bytes()


def test_a_line_without_an_end_is_followed_within_bounds(tmp_path: Path) -> None:
    path = tmp_path / "log"
    mask = FileMask(path, MASKS)
    with open(path, "ab", buffering=0) as file:
        for _ in range(50):
            file.write(b"." * 5000)
            file.write(TOKEN[:9].encode())
            mask.poll()
            file.write(TOKEN[9:].encode())
            mask.poll()
            assert len(mask._held) <= 1 << 16
    assert TOKEN.encode() not in path.read_bytes()
    assert path.read_bytes().count(b"<secret>") == 50


def record(payload: bytes, *, whole: bool = True) -> bytes:
    """One record of an event file."""
    head = struct.pack("<Q", len(payload))
    crc = masked_crc(payload) if whole else 7
    return head + struct.pack("<I", masked_crc(head)) + payload + struct.pack("<I", crc)


def scalar(value: float) -> bytes:
    inner = b"\x0a\x04loss\x15" + struct.pack("<f", value)
    return b"\x2a" + bytes([len(inner) + 2]) + b"\x0a" + bytes([len(inner)]) + inner


def test_event_files_are_covered_record_by_record(tmp_path: Path) -> None:
    path = tmp_path / "events.out.tfevents.1"
    text = b"\x1a" + bytes([len(TOKEN)]) + TOKEN.encode()
    path.write_bytes(record(scalar(1.0)) + record(text) + record(text, whole=False) + record(scalar(2.0))[:-6])
    mask = EventMask(path, MASKS)
    assert mask.poll() == 2
    with open(path, "ab") as file:
        file.write(record(scalar(2.0))[-6:] + b"damaged " + TOKEN.encode())
    assert mask.finish() == 1
    assert TOKEN.encode() not in path.read_bytes()
    follower = EventFollower(path)
    assert [point.value for point in follower.poll()] == [1.0, 2.0]
    assert follower.damaged == 2, "the record that was wrong before, and the end that is none"
    assert EventMask(path, MASKS).finish() == 0
    assert EventMask(tmp_path / "none", MASKS).finish() == 0


def test_tensorboard_reads_what_was_covered(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    path = tmp_path / "events.out.tfevents.1"
    value = Summary.Value(tag="arguments")
    value.tensor.dtype = 7
    value.tensor.string_val.append(f"--token {TOKEN}".encode())
    events = [Event(step=1, summary=Summary(value=[value])), Event(step=2, file_version="x")]
    path.write_bytes(b"".join(record(event.SerializeToString()) for event in events))
    EventMask(path, MASKS).finish()
    told = list(EventFileLoader(str(path)).Load())
    assert [event.step for event in told] == [1, 2]
    assert told[0].summary.value[0].tensor.string_val[0] == b"--token " + b"<secret>".ljust(len(TOKEN), b"*")


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    with pytest.raises(OSError, match="directory"):
        mask_file(tmp_path / "log", MASKS)
    assert os.listdir(tmp_path) == ["log"]
