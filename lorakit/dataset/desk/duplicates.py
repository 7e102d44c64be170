"""Pictures that are in a dataset twice: the same file, or the same picture in another size, format or quality."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lorakit.dataset.desk.pictures import Picture, file_sha256

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["groups_of", "look_alikes", "same_files"]

#: Bits of the 128 of two upper thirds that may differ, and how far the grey levels of the wholes may lie apart on average:
#: in units of their spread, and in levels of 255 where both are almost one colour.
_BITS: Final = 14
_SPREADS: Final = 0.12
_LEVELS: Final = 3.0
_FLAT: Final = 4.0
_BLOCK: Final = 1024


def same_files(paths: Iterable[Path]) -> tuple[tuple[Path, ...], ...]:
    """Groups of files with equal content; only files of equal size are read. A file that cannot be read is in no group."""
    by_size: defaultdict[int, list[Path]] = defaultdict(list)
    for path in paths:
        try:
            by_size[path.stat().st_size].append(path)
        except OSError:
            continue  # a missing picture is told of elsewhere
    groups: defaultdict[str, list[Path]] = defaultdict(list)
    for alike in by_size.values():
        for path in alike if len(alike) > 1 else ():
            try:
                groups[file_sha256(path)].append(path)
            except OSError:
                continue
    return tuple(sorted(tuple(sorted(group)) for group in groups.values() if len(group) > 1))


def look_alikes(
    pictures: Mapping[Path, Picture], whole: Callable[[Sequence[Path]], Mapping[Path, Picture]]
) -> tuple[tuple[Path, Path], ...]:
    """Pairs of pictures that look alike, of any size, format or brightness.

    Pairs whose upper thirds have almost the same hash are compared as a whole; ``whole`` gives pictures with all pixels seen.
    """
    paths = sorted(path for path, picture in pictures.items() if picture.top)
    pairs = list(_near([pictures[path].top for path in paths]))
    seen = whole(sorted({paths[index] for pair in pairs for index in pair}))
    greys = {path: _grey(picture) for path, picture in seen.items() if picture.grey}
    found = []
    for first, second in ((paths[a], paths[b]) for a, b in pairs):
        if first in greys and second in greys and _alike(greys[first], greys[second]):
            found.append((first, second))
    return tuple(found)


def groups_of(pairs: Iterable[tuple[Path, Path]]) -> tuple[tuple[Path, ...], ...]:
    """Pairs put together: whatever is alike to something that is alike is in one group."""
    leader: dict[Path, Path] = {}

    def head(path: Path) -> Path:
        while leader.setdefault(path, path) != path:
            leader[path] = leader[leader[path]]
            path = leader[path]
        return path

    for first, second in pairs:
        leader[head(second)] = head(first)
    groups: defaultdict[Path, list[Path]] = defaultdict(list)
    for path in leader:
        groups[head(path)].append(path)
    return tuple(sorted(tuple(sorted(group)) for group in groups.values() if len(group) > 1))


def _near(hashes: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Index pairs of hashes that differ in few bits: as vectors of ±1, their product says in how many they agree."""
    import numpy as np

    if len(hashes) < 2:
        return
    raw = np.frombuffer(bytes.fromhex("".join(hashes)), dtype=np.uint8).reshape(len(hashes), -1)
    signs = np.unpackbits(raw, axis=1).astype(np.float32) * 2 - 1
    least = signs.shape[1] - 2 * _BITS
    for start in range(0, len(hashes), _BLOCK):
        products = signs[start : start + _BLOCK] @ signs[start:].T
        for row, column in np.argwhere(products >= least):
            if column > row:
                yield start + int(row), start + int(column)


def _grey(picture: Picture) -> NDArray[np.float64]:
    import numpy as np

    return np.frombuffer(bytes.fromhex(picture.grey), dtype=np.uint8).astype(np.float64)


def _alike(first: NDArray[np.float64], second: NDArray[np.float64]) -> bool:
    """Whether two pictures have the same levels but for brightness and contrast."""
    spread = first.std(), second.std()
    if min(spread) < _FLAT:
        return bool(abs(first - second).mean() < _LEVELS)
    scaled = ((levels - levels.mean()) / levels.std() for levels in (first, second))
    return bool(abs(next(scaled) - next(scaled)).mean() < _SPREADS)
