"""Reads scalars from TensorBoard event files as they grow, without TensorBoard (stdlib only).

A record is 8 bytes of payload length (little-endian), a masked CRC-32C of these, the payload, a masked CRC-32C of the
payload. The payload is a protobuf Event: field 1 the time (double), 2 the step, 5 a Summary whose values (field 1) have a tag (1) and a
simple_value (2, float32). A wrong CRC of a length ends what can be read, one of a payload costs this record; both are counted.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

__all__ = ["CRC_TABLE", "EventFollower", "Scalar", "masked_crc", "read_scalars"]

#: No payload comes near this: such a length is damage.
_MAX_PAYLOAD: Final = 64 << 20
#: No payload of scalars comes near this; images do, and hashing these in Python takes seconds.
_CHECKED: Final = 64 << 10


@dataclass(frozen=True)
class Scalar:
    """One point of a curve: its tag, step, value, and when it was written (unix seconds)."""

    tag: str
    step: int
    value: float
    time: float


def _crc_table() -> tuple[int, ...]:
    """CRC-32C (Castagnoli), reflected polynomial 0x82F63B78."""
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


CRC_TABLE: Final = _crc_table()


def masked_crc(data: bytes) -> int:
    """The CRC-32C of a record's part, rotated by 15 bits and shifted by the format's constant."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@dataclass
class EventFollower:
    """Reads the scalars that were added to one event file since the last call; remembers its place.

    ``broken`` says that nothing more can be read; ``damaged`` counts the records that could not be, this place included.
    """

    path: Path
    offset: int = 0
    broken: bool = field(default=False)
    damaged: int = 0

    def poll(self) -> list[Scalar]:
        """New scalars, oldest first; an incomplete record at the end is read when it is complete."""
        if self.broken:
            return []
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                data = file.read()
        except FileNotFoundError:
            return []
        found: list[Scalar] = []
        at = 0
        while at + 12 <= len(data):
            length, crc = struct.unpack_from("<QI", data, at)
            if length > _MAX_PAYLOAD or masked_crc(data[at : at + 8]) != crc:
                self.broken = True
                self.damaged += 1
                break
            if at + 16 + length > len(data):
                break
            payload = data[at + 12 : at + 12 + length]
            if length <= _CHECKED and masked_crc(payload) != struct.unpack_from("<I", data, at + 12 + length)[0]:
                self.damaged += 1
            else:
                found += _scalars(payload)
            at += 16 + length
        self.offset += at
        return found


def read_scalars(path: Path) -> list[Scalar]:
    """Every scalar of an event file that can be read; empty when there is no file."""
    return EventFollower(path).poll()


def _scalars(payload: bytes) -> Iterator[Scalar]:
    """The scalars of one Event; none for anything else, and none where its inner structure is damaged."""
    try:
        step, when = 0, 0.0
        summaries = []
        for number, value in _fields(payload):
            if number == 1 and isinstance(value, bytes):
                (when,) = struct.unpack("<d", value)
            elif number == 2 and isinstance(value, int):
                step = value
            elif number == 5 and isinstance(value, bytes):
                summaries.append(value)
        for summary in summaries:
            for number, value in _fields(summary):
                if number == 1 and isinstance(value, bytes):
                    inner = dict(_fields(value))
                    tag, point = inner.get(1), inner.get(2)
                    if isinstance(tag, bytes) and isinstance(point, float):
                        yield Scalar(tag.decode("utf-8", "replace"), step, point, when)
    except (IndexError, struct.error, ValueError):
        return


def _fields(data: bytes) -> Iterator[tuple[int, int | float | bytes]]:
    """The fields of a protobuf message: number, and an int, a float32, 8 raw bytes or bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
        elif kind == 1:
            yield key >> 3, data[at : at + 8]
            at += 8
        elif kind == 2:
            length, at = _varint(data, at)
            if at + length > len(data):
                raise ValueError("a field longer than its message")
            yield key >> 3, data[at : at + length]
            at += length
        elif kind == 5:
            yield key >> 3, struct.unpack_from("<f", data, at)[0]
            at += 4
        else:
            raise ValueError(f"wire type {kind}")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
