"""What was measured of a run's checkpoints, kept in its analysis/ so that it is measured once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from lorakit import atomic
from lorakit.archive.run import Run, read_record
from lorakit.errors import LorakitError
from lorakit.evidence.weights import Weights, measure

__all__ = ["PartWeight", "WeightSummary", "of_checkpoint", "of_file"]

_FILE: Final = "weights.json"
_VERSION: Final = 1


@dataclass(frozen=True)
class PartWeight:
    """A part of a LoRA: its norm, its share of the whole (of the squares, 0 … 1), and the norm of each of its blocks."""

    norm: float
    share: float
    modules: int
    dead: int
    effective_rank: float
    blocks: Mapping[str, float]


@dataclass(frozen=True)
class WeightSummary:
    """A LoRA file in numbers: Frobenius norm of ΔW over everything and by part (unet, te1, te2)."""

    file: str
    norm: float
    parts: Mapping[str, PartWeight]

    @property
    def carrier(self) -> tuple[str, float] | None:
        """The part with the largest share, and that share; None for a LoRA that changes nothing."""
        if not self.parts or not self.norm:
            return None
        part = max(self.parts, key=lambda name: self.parts[name].share)
        return part, self.parts[part].share


def of_file(path: Path) -> WeightSummary:
    """Measure one file. Raises ModelFileError for what is no whole SDXL LoRA, naming what it is."""
    return _summary(measure(path))


def _summary(weights: Weights) -> WeightSummary:
    parts = {
        name: PartWeight(
            norm=part["norm"],
            share=part["share"],
            modules=part["modules"],
            dead=part["dead"],
            effective_rank=part["effective_rank"],
            blocks=part["blocks"],
        )
        for name, part in weights.to_json()["parts"].items()
    }
    return WeightSummary(weights.path.name, weights.norm(), parts)


def of_checkpoint(run: Run, path: Path, *, measure_now: bool = True) -> WeightSummary | None:
    """A checkpoint of a run, from what is kept, else measured and kept; None where it is not kept and not to be measured.

    Raises ModelFileError. What cannot be kept (a read-only disk) is measured again the next time.
    """
    status = path.stat()
    mark = f"{_VERSION} {status.st_size} {status.st_mtime_ns}"
    key = path.relative_to(run.path).as_posix()
    kept = (read_record(run.analysis / _FILE) or {}).get("files")
    kept = kept if isinstance(kept, dict) else {}
    entry = kept.get(key)
    if isinstance(entry, dict) and entry.get("mark") == mark:
        try:
            return _read(entry)
        except (KeyError, TypeError, ValueError, AttributeError):
            pass  # of another version or damaged by hand: measured again below
    if not measure_now:
        return None
    found = of_file(path)
    kept[key] = {"mark": mark, **asdict(found)}
    try:
        run.analysis.mkdir(exist_ok=True)
        atomic.write_json(run.analysis / _FILE, {"schema": 1, "files": kept})
    except (OSError, LorakitError):
        return found
    return found


def _read(entry: Mapping[str, Any]) -> WeightSummary:
    parts = {
        str(name): PartWeight(
            norm=float(part["norm"]),
            share=float(part["share"]),
            modules=int(part["modules"]),
            dead=int(part["dead"]),
            effective_rank=float(part["effective_rank"]),
            blocks={str(block): float(norm) for block, norm in part["blocks"].items()},
        )
        for name, part in entry["parts"].items()
    }
    return WeightSummary(str(entry["file"]), float(entry["norm"]), parts)
