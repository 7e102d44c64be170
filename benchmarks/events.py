"""Reading a long training's event file: every scalar, by lorakit and by TensorBoard's EventAccumulator, in turns; the ratio."""

from __future__ import annotations

import argparse
import statistics
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lorakit.archive.events import masked_crc
from lorakit.evidence.events import EventTail, read_events

TAGS = ("loss/current", "loss/average", "lr/unet", "lr/textencoder")


def write(path: Path, steps: int) -> None:
    """An event file of four scalars a step, as the trainers write it."""
    with open(path, "wb") as file:
        file.write(_record(b"\x09" + struct.pack("<d", 1.0) + b"\x1a\x0dbrain.Event:2"))
        for step in range(steps):
            for tag in TAGS:
                value = b"\x0a" + bytes([len(tag)]) + tag.encode() + b"\x15" + struct.pack("<f", 0.1 + step / steps)
                summary = b"\x0a" + bytes([len(value)]) + value
                number = _varint(step)
                when = struct.pack("<d", 1.7e9 + step / 10)
                file.write(_record(b"\x09" + when + b"\x10" + number + b"\x2a" + bytes([len(summary)]) + summary))


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def _record(payload: bytes) -> bytes:
    head = struct.pack("<Q", len(payload))
    return head + struct.pack("<I", masked_crc(head)) + payload + struct.pack("<I", masked_crc(payload))


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    """Run it and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=30_000)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events.out.tfevents.1.bench"
        write(path, asked.steps)
        size = path.stat().st_size
        read_events(path)  # numpy is loaded, the file is in memory
        ours, theirs = [], []
        for _ in range(asked.repeats):
            ours.append(_seconds(lambda: read_events(path)))
            theirs.append(_seconds(EventAccumulator(str(path), size_guidance={"scalars": 0}).Reload))
        points = read_events(path).points
        tail = EventTail(path, offset=size)
        again = _seconds(tail.poll)
        fast, slow = statistics.median(ours), statistics.median(theirs)
        print(f"file               {points} scalars, {size / 1e6:.1f} MB")
        print(f"lorakit            {fast:.3f} s ({points / fast / 1e6:.2f} million scalars a second)")
        print(f"EventAccumulator   {slow:.3f} s")
        print(f"ratio              {slow / fast:.1f} times faster (medians of {asked.repeats}, in turns)")
        print(f"nothing new        {again * 1e3:.2f} ms to see that a file has not grown")


if __name__ == "__main__":
    main()
