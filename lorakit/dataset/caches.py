"""Cache files beside the images that the trainer believes more than the images."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import Final

from lorakit.dataset.buckets import Size

__all__ = ["misleading_caches"]

_LATENTS: Final = re.compile(r"_(\d{4,})x(\d{4,})_sdxl\.npz$")


def misleading_caches(sizes: Mapping[str, Size], names: Iterable[str]) -> tuple[str, ...]:
    """Names of images whose size the trainer would take, wrongly, from the name of a cached-latents file.

    ``sizes`` has each image's (width, height) by stem, ``names`` all names in the folder. The trainer looks for
    ``<stem>_<width>x<height>_sdxl.npz`` by the beginning of the name, so that ``a.png`` also finds the cache of ``ab.png``.
    """
    caches = sorted(name for name in names if _LATENTS.search(name))
    if not caches:
        return ()
    wrong = []
    for stem, size in sizes.items():
        own = [name for name in _starting_with(stem, caches) if _LATENTS.sub("", name) == stem]
        found = own or _starting_with(stem, caches)
        if found and _size(found[0]) != size:
            wrong.append(stem)
    return tuple(wrong)


def _starting_with(stem: str, caches: list[str]) -> list[str]:
    found = []
    for name in caches[bisect_left(caches, stem) :]:
        if not name.startswith(stem):
            break
        found.append(name)
    return found


def _size(name: str) -> Size:
    match = _LATENTS.search(name)
    assert match
    return (int(match[1]), int(match[2]))
