"""A page's pictures: samples by run, epoch and prompt as small pictures in it, each with a link to the whole one."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lorakit import protocol
from lorakit.archive.run import Run

__all__ = ["Sample", "embedded", "samples_of", "thinned"]

#: Pictures that a page holds at most, and how wide they are: fewer are larger.
_MOST: Final = 400
_WIDTHS: Final = ((60, 384), (160, 256), (_MOST, 160))
#: Bytes of pixels beyond which a picture is not opened: no sample is as large.
_LARGEST: Final = 100_000_000
_NAMED: Final = re.compile(r"_(?:e(?P<epoch>\d{6})|(?P<step>\d{6}))_(?P<prompt>\d+)_")


@dataclass(frozen=True)
class Sample:
    """One sample: which prompt (its words, where they are known), after which step and epoch, and its file."""

    prompt: int
    text: str
    step: int | None
    epoch: int | None
    path: Path


def samples_of(run: Run) -> tuple[Sample, ...]:
    """The samples of a run as its progress tells them, else as their names do; those that are gone are left out."""
    found: dict[Path, Sample] = {}
    order: dict[tuple[int | None, int | None], int] = {}
    for number in range(1, run.last_attempt.number + 1):
        for record in protocol.read(run.attempt(number).progress):
            if record.get("type") != "sample" or not (path := run.locate(str(record.get("path", "")))):
                continue
            step, epoch = (_whole(record.get(key)) for key in ("step", "epoch"))
            named = _NAMED.search(path.name)
            at = order.get((step, epoch), 0)
            order[step, epoch] = at + 1
            prompt = int(named["prompt"]) if named else at
            found[path.resolve()] = Sample(prompt, str(record.get("prompt") or ""), step, epoch, path)
    if not found and run.samples.is_dir():
        for path in sorted(run.samples.glob("*.png")):
            if named := _NAMED.search(path.name):
                step, epoch = (int(named[key]) if named[key] else None for key in ("step", "epoch"))
                found[path] = Sample(int(named["prompt"]), "", step, epoch, path)
    return tuple(sorted(found.values(), key=lambda one: (one.step or 0, one.epoch or 0, one.prompt)))


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def thinned(samples: Sequence[Sequence[Sample]]) -> list[list[Sample]]:
    """As many as a page holds: of each run every second, third … moment, the last one always."""
    kept = [list(some) for some in samples]
    every = 1
    while sum(map(len, kept)) > _MOST:
        every += 1
        kept = [_every(some, every) for some in samples]
        if all(len(_moments(some)) <= 1 for some in kept):
            break
    return kept


def _moments(samples: Iterable[Sample]) -> list[tuple[int | None, int | None]]:
    return list(dict.fromkeys((one.step, one.epoch) for one in samples))


def _every(samples: Sequence[Sample], every: int) -> list[Sample]:
    wanted = set(_moments(samples)[::-1][::every])
    return [one for one in samples if (one.step, one.epoch) in wanted]


def width_for(count: int) -> int | None:
    """How wide each of so many pictures may be, in pixels; None when there are too many to hold."""
    return next((width for most, width in _WIDTHS if count <= most), None)


def embedded(path: Path, width: int) -> str | None:
    """A picture as a data URI, at most ``width`` wide; None for a file that is no picture, or too large a one."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            if image.width * image.height * 4 > _LARGEST:
                return None
            small = image.convert("RGB")
            small.thumbnail((width, width * 2), Image.Resampling.LANCZOS)
            data = io.BytesIO()
            small.save(data, "WEBP", quality=82, method=4)
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return "data:image/webp;base64," + base64.b64encode(data.getvalue()).decode("ascii")
