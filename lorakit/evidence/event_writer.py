"""Writes small event files that TensorBoard reads: scalars, and the values of its hparams table (stdlib only)."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from lorakit.archive.events import masked_crc

__all__ = ["scalar", "session", "write_events"]


def write_events(path: Path, events: Iterable[bytes]) -> None:
    """An event file of the given events, behind the one that tells the version of the format. Raises OSError."""
    first = _double(1, time.time()) + _bytes(3, b"brain.Event:2")
    with open(path, "wb") as file:
        for payload in (first, *events):
            head = struct.pack("<Q", len(payload))
            file.write(head + struct.pack("<I", masked_crc(head)) + payload + struct.pack("<I", masked_crc(payload)))


def scalar(tag: str, value: float, step: int, when: float) -> bytes:
    """An event of one scalar."""
    point = _bytes(1, tag.encode("utf-8", "replace")) + _varint(2 << 3 | 5) + struct.pack("<f", value)
    return _double(1, when) + _whole(2, step) + _bytes(5, _bytes(1, point))


def session(values: Mapping[str, bool | float | str], *, group: str, began: float) -> bytes:
    """The event by which a run tells its row of the hparams table: values by key, the row's name, when it began (unix seconds).

    It is a SessionStartInfo in the metadata of a summary without a value, as TensorBoard's plug-in has it.
    """
    entries = b"".join(
        _bytes(1, _bytes(1, key.encode("utf-8", "replace")) + _bytes(2, _value(value))) for key, value in values.items()
    )
    info = entries + _bytes(4, group.encode("utf-8", "replace")) + _double(5, began)
    plugin = _bytes(1, b"hparams") + _bytes(2, _bytes(3, info))
    summary = _bytes(1, b"_hparams_/session_start_info") + _bytes(9, _bytes(1, plugin))
    return _double(1, time.time()) + _bytes(5, _bytes(1, summary))


def _value(value: bool | float | str) -> bytes:
    """A google.protobuf.Value."""
    if isinstance(value, bool):
        return _whole(4, int(value), always=True)
    if isinstance(value, (int, float)):
        return _double(2, float(value))
    return _bytes(3, value.encode("utf-8", "replace"))


def _double(number: int, value: float) -> bytes:
    return _varint(number << 3 | 1) + struct.pack("<d", value)


def _bytes(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _whole(number: int, value: int, *, always: bool = False) -> bytes:
    return _varint(number << 3) + _varint(value) if value or always else b""


def _varint(number: int) -> bytes:
    found = bytearray()
    number &= (1 << 64) - 1
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])
