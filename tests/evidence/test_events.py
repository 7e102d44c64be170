"""The reader of event files against TensorBoard's own, whole, cut and damaged; and against any bytes."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util.tensor_util import make_ndarray, make_tensor_proto

from lorakit.archive.events import masked_crc, read_scalars
from lorakit.errors import ArchiveError
from lorakit.evidence import events
from lorakit.evidence.events import Events, EventTail, event_files, read_events, read_folder

NAME = "events.out.tfevents.1795360653.vm.10746.0"


def event(tag: str, value: float, step: int, time: float = 1.5e9) -> Event:
    return Event(wall_time=time, step=step, summary=Summary(value=[Summary.Value(tag=tag, simple_value=value)]))


def write(path: Path, found: Sequence[Event]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        writer = RecordWriter(file)
        writer.write(Event(wall_time=1.0, file_version="brain.Event:2").SerializeToString())
        for one in found:
            writer.write(one.SerializeToString())
    return path


def a_training(steps: int) -> Iterator[Event]:
    for step in range(steps):
        yield event("loss/current", 0.1 + step / 1e4, step, 1.5e9 + step)
        yield event("loss/average", 0.2, step, 1.5e9 + step)
        yield event("lr/unet", 1e-4, step, 1.5e9 + step)


def by_tensorboard(path: Path) -> dict[str, list[tuple[int, float, float]]]:
    accumulator = EventAccumulator(str(path), size_guidance={"scalars": 0}, purge_orphaned_data=False)
    accumulator.Reload()
    return {
        tag: [(one.step, one.value, one.wall_time) for one in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
    }


def points(found: Events) -> dict[str, list[tuple[int, float, float]]]:
    return {
        tag: list(zip(curve.steps.tolist(), curve.values.tolist(), curve.times.tolist(), strict=True))
        for tag, curve in found.curves.items()
    }


def test_what_tensorboard_reads(tmp_path: Path) -> None:
    path = write(tmp_path / NAME, list(a_training(500)))
    found = read_events(path)
    assert points(found) == by_tensorboard(path)
    assert (found.records, found.points, found.complaint) == (1501, 1500, "")
    assert found.curves["loss/current"].values.dtype == np.float64


TAGS = st.text(min_size=1, max_size=20).filter(lambda tag: tag.isprintable())
EVENTS = st.lists(
    st.builds(
        event,
        TAGS | st.sampled_from(["loss/current", "lr/unet"]),
        st.floats(width=32, allow_nan=False),
        st.integers(-(2**63), 2**63 - 1) | st.integers(0, 300),
        st.floats(0, 4e9),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(found=EVENTS)
def test_any_scalars_as_tensorboard_reads_them(found: list[Event], tmp_path: Path) -> None:
    path = write(tmp_path / NAME, found)
    assert points(read_events(path)) == by_tensorboard(path)


def test_not_a_number_is_kept(tmp_path: Path) -> None:
    path = write(tmp_path / NAME, [event("loss", float("nan"), 1), event("loss", float("inf"), 2)])
    values = read_events(path).curves["loss"].values
    assert np.isnan(values[0])
    assert np.isinf(values[1])


def test_several_values_in_one_record(tmp_path: Path) -> None:
    values = [Summary.Value(tag=tag, simple_value=at) for at, tag in enumerate("abc")]
    path = write(tmp_path / NAME, [Event(step=3, summary=Summary(value=values))] * 5)
    assert points(read_events(path)) == {tag: [(3, float(at), 0.0)] * 5 for at, tag in enumerate("abc")}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scalars_written_as_tensors(dtype: type, tmp_path: Path) -> None:
    made = [make_tensor_proto(np.array(value, dtype)) for value in (0.25, 0.5, 0.125)]
    raw = make_tensor_proto(np.array(0.75, dtype))
    content = make_ndarray(raw).tobytes()
    for name in ("float_val", "double_val"):
        raw.ClearField(name)
    raw.tensor_content = content
    found = [
        Event(step=step, summary=Summary(value=[Summary.Value(tag="loss", tensor=one)]))
        for step, one in enumerate([*made, raw])
    ]
    path = write(tmp_path / NAME, found)
    assert read_events(path).curves["loss"].values.tolist() == [0.25, 0.5, 0.125, 0.75]


def test_what_is_no_scalar_is_passed_over(tmp_path: Path) -> None:
    picture = Summary.Value(tag="picture", image=Summary.Image(height=1, width=1, encoded_image_string=b"x" * 100_000))
    texts = Summary.Value(tag="text", tensor=make_tensor_proto(np.array([b"a", b"b"], object)))
    wide = Summary.Value(tag="wide", tensor=make_tensor_proto(np.zeros(3, np.float32)))
    others = [Event(step=1, summary=Summary(value=[one])) for one in (picture, texts, wide)]
    found = read_events(write(tmp_path / NAME, [*others, event("loss", 0.5, 2)]))
    assert list(found.curves) == ["loss"]
    assert found.complaint == ""


def test_a_cut_file(tmp_path: Path) -> None:
    path = write(tmp_path / NAME, list(a_training(100)))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2 + 5])
    found = read_events(path)
    assert points(found) == by_tensorboard(path)
    assert 0 < found.pending < 60
    assert "of an unfinished record" in found.complaint


def test_a_flipped_bit_costs_one_record(tmp_path: Path) -> None:
    path = write(tmp_path / NAME, list(a_training(100)))
    data = bytearray(path.read_bytes())
    starts, *_ = events._frames(bytes(data))
    data[starts[100] + 9] ^= 1
    path.write_bytes(data)
    found = read_events(path)
    assert (found.records, found.points, found.damaged, found.lost) == (301, 299, 1, 0)
    assert found.complaint == "1 damaged record"


def test_a_wrong_length_ends_what_can_be_read_and_the_rest_is_counted(tmp_path: Path) -> None:
    path = write(tmp_path / NAME, list(a_training(100)))
    data = bytearray(path.read_bytes())
    start = events._frames(bytes(data))[0][150] - 12
    data[start] ^= 0xFF
    path.write_bytes(data)
    found = read_events(path)
    assert found.lost == len(data) - start
    assert points(found) == by_tensorboard(path)


def test_a_tail_of_zeros(tmp_path: Path) -> None:
    path = write(tmp_path / NAME, list(a_training(10)))
    path.write_bytes(path.read_bytes() + bytes(50_000))
    found = read_events(path)
    assert (found.points, found.lost) == (30, 50_000)


def test_empty_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / NAME).touch()
    assert read_events(tmp_path / NAME) == Events({})
    with pytest.raises(ArchiveError, match="cannot be read"):
        read_events(tmp_path / "none")


def test_reading_on_as_a_file_grows(tmp_path: Path) -> None:
    data = write(tmp_path / NAME, list(a_training(50))).read_bytes()
    path = tmp_path / "growing"
    tail = EventTail(path)
    seen = 0
    for end in range(0, len(data) + 97, 97):
        path.write_bytes(data[:end])
        seen += tail.poll().points
    assert seen == 150
    assert tail.offset == len(data)
    assert tail.poll().points == 0
    assert EventTail(path, offset=tail.offset).poll() == Events({})


def test_blocks_smaller_than_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / NAME, list(a_training(50)))
    whole = points(read_events(path))
    monkeypatch.setattr(events, "_BLOCK", 16)
    assert points(read_events(path)) == whole


def test_more_forms_than_a_trainer_has(tmp_path: Path) -> None:
    path = write(tmp_path / NAME, [event(f"tag{at:04d}", at, at % 100) for at in range(300)])
    assert points(read_events(path)) == by_tensorboard(path)


def framed(payload: bytes) -> bytes:
    head = struct.pack("<Q", len(payload))
    return head + struct.pack("<I", masked_crc(head)) + payload + struct.pack("<I", masked_crc(payload))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(payloads=st.lists(st.binary(max_size=60), max_size=10), tail=st.binary(max_size=40))
def test_any_payload_with_right_checksums(payloads: list[bytes], tail: bytes, tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.write_bytes(b"".join(map(framed, payloads)) + tail)
    found = read_events(path)
    assert found.records >= len(payloads)
    assert found.damaged + found.points <= found.records * 60


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 2000), change=st.integers(1, 255), cut=st.integers(0, 300))
def test_any_damage_leaves_what_the_careful_reader_finds(at: int, change: int, cut: int, tmp_path: Path) -> None:
    path = write(tmp_path / NAME, list(a_training(12)))
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= change
    path.write_bytes(data[: len(data) - cut])
    found = read_events(path)
    slow = [(one.tag, one.step, one.value) for one in read_scalars(path)]
    fast = [(tag, step, value) for tag, some in points(found).items() for step, value, _ in some]
    assert sorted(fast) == sorted(slow)


def test_a_log_folder_of_another_trainer(tmp_path: Path) -> None:
    for stamp, first in (("20261122151733", 0), ("20261122161733", 2)):
        name = f"events.out.tfevents.{1795360653 + first}.vm.1.0"
        write(
            tmp_path / stamp / "network_train" / name, [event("loss/current", first, first), event("lr/unet", 1, first)]
        )
    assert len(event_files(tmp_path)) == 2
    assert points(read_folder(tmp_path))["loss/current"] == [(0, 0.0, 1.5e9), (2, 2.0, 1.5e9)]
    assert read_folder(tmp_path / "nothing") == Events({})
