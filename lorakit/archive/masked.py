"""What an attempt's trainer wrote, kept free of secrets: its log and progress as they grow, event files record by record (stdlib only)."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from lorakit.archive.events import masked_crc
from lorakit.archive.run import Attempt
from lorakit.archive.trainer_log import log_parts
from lorakit.launch.masking import FileMask, Masks, mask_file

__all__ = ["AttemptMask", "EventMask", "mask_attempt"]

_EVENT_MARK: Final = ".tfevents."
#: No payload comes near this: such a length is damage.
_MAX_PAYLOAD: Final = 64 << 20


class EventMask:
    """Follows one event file and covers the secrets in its records, each with its checksum made anew.

    A record whose checksum was wrong before keeps a wrong one: it is not made to look whole. What stands behind a damaged
    length belongs to no record, and is covered as plain bytes.
    """

    def __init__(self, path: Path, masks: Masks) -> None:
        self._path = path
        self._masks = masks
        self._offset = 0
        self._broken = False

    def poll(self) -> int:
        """Cover what was added in whole records; how many held secrets. Raises OSError but for a missing file."""
        count = 0
        try:
            if os.stat(self._path).st_size <= self._offset:
                return 0
            file = os.open(self._path, os.O_RDWR)
        except FileNotFoundError:
            return 0
        try:
            while not self._broken and (size := self._record(file)) is not None:
                count += self._cover(file, size)
                self._offset += size + 16
        finally:
            os.close(file)
        return count

    def finish(self) -> int:
        """The same for a file that nobody writes to any more: what is cut off or damaged at its end too."""
        count = self.poll()
        try:
            with open(self._path, "r+b") as file:
                file.seek(self._offset)
                rest = file.read()
                clean = self._masks.mask(rest)
                if clean != rest:
                    file.seek(self._offset)
                    file.write(clean)
                    count += 1
        except FileNotFoundError:
            return 0
        return count

    def _record(self, file: int) -> int | None:
        """Bytes of the payload of the next record; None when it is not whole yet, or its length makes no sense."""
        head = os.pread(file, 12, self._offset)
        if len(head) < 12:
            return None
        length, crc = struct.unpack("<QI", head)
        if length > _MAX_PAYLOAD or masked_crc(head[:8]) != crc:
            self._broken = True
            return None
        return int(length) if os.fstat(file).st_size >= self._offset + 16 + length else None

    def _cover(self, file: int, size: int) -> int:
        record = os.pread(file, size + 4, self._offset + 12)
        payload, crc = record[:-4], record[-4:]
        clean = self._masks.mask(payload)
        if clean == payload:
            return 0
        if struct.pack("<I", masked_crc(payload)) == crc:
            crc = struct.pack("<I", masked_crc(clean))
        os.pwrite(file, clean + crc, self._offset + 12)  # at once: a kill leaves no record with another's checksum
        return 1


class AttemptMask:
    """Follows everything that the trainer of a running attempt writes as text."""

    def __init__(self, attempt: Attempt, masks: Masks) -> None:
        self._attempt = attempt
        self._masks = masks
        self._log = FileMask(attempt.log, masks)
        self._progress = FileMask(attempt.progress, masks)
        self._events: dict[Path, EventMask] = {}

    def poll(self) -> None:
        """Cover what was printed and told since the last call. Raises OSError."""
        self._log.poll()
        self._progress.poll()

    def poll_events(self) -> None:
        """Cover what was added to event files. Raises OSError."""
        for path in _event_files(self._attempt):
            mask = self._events.setdefault(path, EventMask(path, _binary(self._masks)))
            mask.poll()

    def log_was_cut(self) -> None:
        """The log began anew; what was put beside it may hold bytes that came in the last moment."""
        self._log.begin()
        for part in log_parts(self._attempt.log)[:-1]:
            mask_file(part, self._masks)


def mask_attempt(attempt: Attempt, masks: Masks) -> Iterator[OSError]:
    """Cover every secret in what an ended attempt's processes wrote; gives the errors of files that could not be gone through."""
    for path in (*log_parts(attempt.log), attempt.progress, attempt.keeper_log):
        try:
            mask_file(path, masks)
        except OSError as error:
            yield error
    for path in _event_files(attempt):
        try:
            EventMask(path, _binary(masks)).finish()
        except OSError as error:
            yield error


def _binary(masks: Masks) -> Masks:
    return Masks(masks.values, binary=True)


def _event_files(attempt: Attempt) -> list[Path]:
    return [path for path in attempt.events.rglob(f"*{_EVENT_MARK}*") if path.is_file() and not path.is_symlink()]
