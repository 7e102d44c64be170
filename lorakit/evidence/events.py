"""Scalars of TensorBoard event files as arrays, every point kept: numpy alone, whole columns of records at a time.

``lorakit.archive.events`` has the format. Records of one length are one matrix of bytes; those that also agree in their tag have
time, step and value in the same columns, so a hundred thousand points are a few array operations.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lorakit.archive.events import CRC_TABLE, masked_crc
from lorakit.errors import ArchiveError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]

__all__ = ["Curve", "EventTail", "Events", "event_files", "read_events", "read_folder"]

#: No record comes near this length: such a one is damage, or nothing for a reader of scalars.
_LONGEST: Final = 64 << 20
#: Checksums of longer payloads are not looked at: these are pictures, and a column of bytes each.
_CHECKED: Final = 64 << 10
#: What is read at once; bounds the memory that a file of any size takes.
_BLOCK: Final = 8 << 20
#: Records of one length whose forms are more than these are read one by one: no trainer has as many tags.
_FORMS: Final = 64
_MASK: Final = 0xA282EAD8


@dataclass(frozen=True)
class Curve:
    """One tag's points in the order they were written: ``steps`` (int64), ``values`` (float64), ``times`` (unix seconds)."""

    tag: str
    steps: NDArray[np.int64]
    values: NDArray[np.float64]
    times: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.steps)


@dataclass(frozen=True)
class Events:
    """What could be read: ``curves`` by tag, and of what could not be, how much.

    ``damaged`` counts records with a wrong checksum or structure, ``lost`` bytes behind a wrong length, after which no record can be
    found any more. ``pending`` are the bytes of an unfinished record at the end: one that is being written, or a cut file.
    """

    curves: Mapping[str, Curve]
    records: int = 0
    damaged: int = 0
    lost: int = 0
    pending: int = 0

    @property
    def points(self) -> int:
        """Of all curves together."""
        return sum(map(len, self.curves.values()))

    @property
    def complaint(self) -> str:
        """What could not be read, in words; empty when all was."""
        counted = (
            (self.damaged, "damaged record", ""),
            (self.lost, "byte", " behind a damaged length"),
            (self.pending, "byte", " of an unfinished record"),
        )
        return ", ".join(f"{many} {word}{'' if many == 1 else 's'}{where}" for many, word, where in counted if many)


@dataclass
class EventTail:
    """Reads on in one event file from where it stopped; ``offset`` is that place, in bytes, and may be given."""

    path: Path
    offset: int = 0
    _broken: bool = field(default=False, repr=False)

    def poll(self) -> Events:
        """Everything that was written since the last call. Raises ArchiveError for a file that cannot be read."""
        import numpy as np

        points = _Points()
        records = damaged = lost = pending = 0
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                rest = b""
                while not self._broken:
                    more = file.read(max(_BLOCK, _wanted(rest)))
                    data = rest + more
                    starts, lengths, end, self._broken = _frames(data)
                    if not more and not starts and not self._broken:
                        pending = len(rest)
                        break
                    records += len(starts)
                    damaged += points.add(np.frombuffer(data, np.uint8), starts, lengths)
                    self.offset += end
                    rest = data[end:]
                if self._broken:
                    file.seek(0, 2)
                    lost = max(file.tell() - self.offset, 0)
        except OSError as error:
            raise ArchiveError(f"{self.path} cannot be read", why=error.strerror or str(error)) from error
        return Events(points.curves(), records, damaged, lost, pending)


def read_events(path: Path) -> Events:
    """Every scalar of one event file. Raises ArchiveError when the file cannot be opened; damage is counted, not raised."""
    return EventTail(path).poll()


def event_files(folder: Path) -> tuple[Path, ...]:
    """The event files at or below a folder, oldest first as their names tell: a run's ``events``, or any trainer's log folder."""
    found = (path for path in folder.rglob("events.out.tfevents.*") if path.is_file())
    return tuple(sorted(found, key=lambda path: (path.name.split(".")[3:4], str(path))))


def read_folder(folder: Path) -> Events:
    """The scalars of all event files below a folder, those of a resumed run behind those before. Raises ArchiveError."""
    return joined([read_events(path) for path in event_files(folder)])


def joined(found: Sequence[Events]) -> Events:
    """Several files as one: the points of a tag behind one another."""
    import numpy as np

    parts: dict[str, list[Curve]] = {}
    for one in found:
        for tag, curve in one.curves.items():
            parts.setdefault(tag, []).append(curve)
    curves = {
        tag: Curve(
            tag, *(np.concatenate([getattr(one, name) for one in some]) for name in ("steps", "values", "times"))
        )
        for tag, some in parts.items()
    }
    sums = (sum(getattr(one, name) for one in found) for name in ("records", "damaged", "lost", "pending"))
    return Events(curves, *sums)


def _wanted(rest: bytes) -> int:
    """How many bytes the record that begins ``rest`` still lacks."""
    if len(rest) < 8:
        return 0
    return min(int(struct.unpack_from("<Q", rest)[0]), _LONGEST) + 16 - len(rest)


def _frames(data: bytes) -> tuple[list[int], list[int], int, bool]:
    """Whole records: where their payloads start, their lengths, where the last one ends; and whether a wrong length follows."""
    import numpy as np

    starts: list[int] = []
    lengths: list[int] = []
    at, size, broken = 0, len(data), False
    length_at = struct.Struct("<Q").unpack_from
    while at + 12 <= size:
        (length,) = length_at(data, at)
        after = at + 16 + length
        # Checked at once where it stops the walk, and where it hardly moves it; all others together, below.
        if (length > _LONGEST or after > size or not length) and not _length_holds(data, at):
            broken = True
            break
        if after > size:
            broken = length > _LONGEST
            break
        starts.append(at + 12)
        lengths.append(length)
        at = after
    if starts:
        whole = np.frombuffer(data, np.uint8)
        heads = _rows(whole, np.asarray(starts) - 12, 12)
        wrong = np.flatnonzero(_crc(heads[:, :8]) != heads[:, 8:].copy().view("<u4")[:, 0])
        if wrong.size:
            first = int(wrong[0])
            return starts[:first], lengths[:first], starts[first] - 12, True
    return starts, lengths, at, broken


def _length_holds(data: bytes, at: int) -> bool:
    return masked_crc(data[at : at + 8]) == int(struct.unpack_from("<I", data, at + 8)[0])


def _rows(data: Bytes, starts: NDArray[np.int64], length: int) -> Bytes:
    """The ``length`` bytes from each start, as a matrix (n × length)."""
    import numpy as np

    return np.lib.stride_tricks.sliding_window_view(data, length)[starts]


def _crc(rows: Bytes) -> NDArray[np.uint32]:
    """The masked CRC-32C of each row: a column of all rows at a time."""
    import numpy as np

    table = np.array(CRC_TABLE, np.uint32)
    found = np.full(len(rows), 0xFFFFFFFF, np.uint32)
    for column in np.ascontiguousarray(rows.T):
        found = table[(found ^ column) & np.uint32(0xFF)] ^ (found >> np.uint32(8))
    found = ~found
    return (found >> np.uint32(15) | found << np.uint32(17)) + np.uint32(_MASK)


@dataclass(frozen=True)
class _Leaf:
    """Where a value of a tag lies in a payload, and its numpy type."""

    tag: str
    at: int
    kind: str


@dataclass(frozen=True)
class _Form:
    """Where a payload has its time (8 bytes), its step (a varint) and its values; -1 for what it leaves out, which is zero."""

    time_at: int
    step_at: int
    step_bytes: int
    leaves: tuple[_Leaf, ...]

    def mask(self, length: int) -> Bytes:
        """Which bits two payloads must share to have the same form: all but those of time, step and values."""
        import numpy as np

        mask = np.full(length, 0xFF, np.uint8)
        if self.time_at >= 0:
            mask[self.time_at : self.time_at + 8] = 0
        mask[self.step_at : self.step_at + self.step_bytes] = 0x80
        for leaf in self.leaves:
            mask[leaf.at : leaf.at + int(leaf.kind[2:])] = 0
        return mask


class _Points:
    """Points by tag as they are found: arrays of record numbers, steps, values and times, put in order at the end."""

    def __init__(self) -> None:
        self._found: dict[str, list[tuple[Any, ...]]] = {}
        self._records = 0

    def add(self, data: Bytes, starts: Sequence[int], lengths: Sequence[int]) -> int:
        """Take the payloads that start and are long as told; returns how many of them were damaged."""
        import numpy as np

        all_starts, all_lengths = np.asarray(starts, np.int64), np.asarray(lengths, np.int64)
        damaged = 0
        for length in np.unique(all_lengths).tolist():
            numbers = np.flatnonzero(all_lengths == length)
            rows = _rows(data, all_starts[numbers], length + 4)
            payloads = rows[:, :length]
            if length <= _CHECKED:
                whole = _crc(payloads) == rows[:, length:].copy().view("<u4")[:, 0]
                damaged += int((~whole).sum())
                payloads, numbers = payloads[whole], numbers[whole]
            damaged += self._take(payloads, numbers + self._records)
        self._records += len(starts)
        return damaged

    def _take(self, rows: Bytes, numbers: NDArray[np.int64]) -> int:
        """Payloads of one length: those of the first one's form together, then those of the first of the rest."""
        damaged = forms = 0
        while len(rows):
            forms += 1
            try:
                form = _form(rows[0].tobytes())
            except (IndexError, ValueError):
                form = None
            if form is None or forms > _FORMS:
                damaged += form is None
                alike = slice(0, 1)
                rest: Any = slice(1, None)
            else:
                mask = form.mask(rows.shape[1])
                alike = ((rows ^ rows[0]) & mask == 0).all(axis=1)
                rest = ~alike
            if form is not None and form.leaves:
                self._read(form, rows[alike], numbers[alike])
            rows, numbers = rows[rest], numbers[rest]
        return damaged

    def _read(self, form: _Form, rows: Bytes, numbers: NDArray[np.int64]) -> None:
        import numpy as np

        def column(at: int, kind: str) -> Any:
            return rows[:, at : at + int(kind[2:])].copy().view(kind)[:, 0]

        times = column(form.time_at, "<f8") if form.time_at >= 0 else np.zeros(len(rows))
        steps = np.zeros(len(rows), np.uint64)
        for at in range(form.step_bytes):
            steps |= (rows[:, form.step_at + at] & np.uint8(0x7F)).astype(np.uint64) << np.uint64(7 * at)
        for leaf in form.leaves:
            values = column(leaf.at, leaf.kind).astype(np.float64)
            self._found.setdefault(leaf.tag, []).append((numbers, steps.view(np.int64), values, times))

    def curves(self) -> dict[str, Curve]:
        """Every tag's points in the order of their records."""
        import numpy as np

        found = {}
        for tag, parts in self._found.items():
            numbers, steps, values, times = (np.concatenate(column) for column in zip(*parts, strict=True))
            order = np.argsort(numbers, kind="stable")
            found[tag] = Curve(tag, steps[order], values[order], times[order])
        return dict(sorted(found.items(), key=lambda item: item[0]))


def _form(payload: bytes) -> _Form:
    """Where an Event has its time, step and scalars. Raises ValueError or IndexError where its structure is damaged."""
    time_at = step_at = -1
    step_bytes = 0
    summaries = []
    for number, kind, at, end in _fields(payload, 0, len(payload)):
        if number == 1 and kind == 1:
            time_at = at
        elif number == 2 and kind == 0:
            step_at, step_bytes = at, end - at
        elif number == 5 and kind == 2:
            summaries.append((at, end))
    leaves = [
        leaf
        for summary in summaries
        for number, kind, at, end in _fields(payload, *summary)
        if number == 1 and kind == 2
        for leaf in _scalar(payload, at, end)
    ]
    return _Form(time_at, step_at, step_bytes, tuple(leaves))


def _scalar(payload: bytes, start: int, stop: int) -> Iterable[_Leaf]:
    """The one number of a Summary.Value, where it is one: a simple_value (2), or a tensor (8) of one float or double."""
    tag = ""
    place: tuple[int, str] | None = None
    for number, kind, at, end in _fields(payload, start, stop):
        if number == 1 and kind == 2:
            tag = payload[at:end].decode("utf-8", "replace")
        elif number == 2 and kind == 5:
            place = at, "<f4"
        elif number == 8 and kind == 2:
            place = _tensor(payload, at, end)
    return [_Leaf(tag, *place)] if place is not None else []


#: The numbers of TensorProto's types, and what of it holds their values: as a field of its own, or raw in tensor_content (4).
_FLOATS: Final = {1: ("<f4", 5, 5), 2: ("<f8", 6, 1)}


def _tensor(payload: bytes, start: int, stop: int) -> tuple[int, str] | None:
    fields = list(_fields(payload, start, stop))
    types = [payload[at] for number, kind, at, _ in fields if number == 1 and kind == 0]
    kind_name, own, wire = _FLOATS.get(types[-1] if types else 0, ("", -1, -1))
    for number, kind, at, end in fields:
        packed = kind == 2 and number in (4, own) and kind_name and end - at == int(kind_name[2:])
        if packed or (number == own and kind == wire):
            return at, kind_name
    return None


def _fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields of a protobuf message that lies between two places: number, wire type, and where the value starts and ends."""
    while at < end:
        key, at = _varint(data, at)
        kind = key & 7
        start = at
        if kind == 0:
            _, at = _varint(data, at)
        elif kind == 1:
            at += 8
        elif kind == 2:
            length, start = _varint(data, at)
            at = start + length
        elif kind == 5:
            at += 4
        else:
            raise ValueError(f"wire type {kind}")
        if at > end:
            raise ValueError("a field longer than its message")
        yield key >> 3, kind, start, at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number of more than 64 bits")
