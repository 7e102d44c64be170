"""More values for a sweep that is there: its grid, widened, with what it was asked, its preset and its seed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorakit.errors import UsageError
from lorakit.sweep.axes import SEED, Axis, label
from lorakit.sweep.definition import Definition
from lorakit.sweep.trials import Sweep, prepare

if TYPE_CHECKING:
    from lorakit.sweep.folder import Folder, Planned
    from lorakit.sweep.look import Trial
    from lorakit.workspace import Workspace

__all__ = ["asked_of", "widened"]


def asked_of(folder: Folder) -> Definition:
    """What a sweep was asked to be when it began."""
    asked: dict[str, Any] = folder.record.get("asked") or {}
    return Definition.of(
        [Axis(key, tuple(values)) for key, values in (asked.get("axes") or {}).items()],
        fixed=asked.get("fixed") or (),
        zips=asked.get("zip") or (),
        where=asked.get("where") or (),
        seeds=asked.get("seeds"),
    )


def widened(folder: Folder, more: Definition, workspace: Workspace, *, skip_refused: bool = False) -> Sweep:
    """The trials that more values on its axes, or more replicates, bring to a sweep, checked and planned; those it has are left out.

    Raises UsageError for an axis that the sweep does not have, when nothing is added, and when what the sweep was made from (preset,
    data set, models) is no longer what it was.
    """
    before = asked_of(folder)
    for axis in more.axes:
        if axis.key != SEED and axis.key not in {known.key for known in before.axes}:
            raise UsageError(
                f"{label(axis.key)} is no axis of sweep {folder.id}",
                why=f"it has {', '.join(label(known.key) for known in before.axes) or 'none'}",
                todo="a sweep over another axis is another sweep; what is done already is skipped in it",
            )
    if not more.axes and more.seeds is None:
        raise UsageError("no values to add", todo=f"lorakit sweep add {folder.id} --unet-lr 5e-4")
    trials = folder.trials()
    drawn = folder.record.get("seed") if folder.record.get("seed_drawn") else None
    axes = _axes(before, more, folder, sorted({trial.seed for trial in trials if trial.seed is not None}))
    preset = Path(str(folder.record.get("preset")))
    asked = replace(before, axes=axes, seeds=None)
    found = prepare(preset, asked, workspace, skip_refused=skip_refused, seed=drawn)
    known = {_place(trial.point, trial.seed): trial for trial in trials}
    new = []
    for one in found.trials:
        there = known.get(_place(dict(one.point), one.resolved.preset.seed))
        if there is None:
            new.append(one)
        elif not _is_same(there, one):
            raise UsageError(
                f"trial {there.index} of sweep {folder.id} would not be the same today",
                why=f"{preset.name}, the data set or a model changed since the sweep began",
                todo="start a new sweep; or put it back as it was",
            )
    return replace(found, trials=tuple(new))


def _axes(before: Definition, more: Definition, folder: Folder, seeds: Sequence[int]) -> tuple[Axis, ...]:
    """The axes with what is on them already and what comes; replicates are an axis of seeds, those that there are among them."""
    given = {axis.key: axis.values for axis in more.axes}
    known = folder.axes
    axes = [
        Axis(axis.key, _together(known.get(axis.key, axis.values), given.get(axis.key, ())))
        for axis in before.axes
        if axis.key != SEED
    ]
    if more.seeds is None and SEED not in given and len(seeds) < 2:
        return tuple(axes)
    start = seeds[0] if seeds else 1
    replicates = [str(start + at) for at in range(more.seeds or 0)]
    return (*axes, Axis(SEED, _together(map(str, seeds), (*replicates, *given.get(SEED, ())))))


def _together(values: Iterable[str], others: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*values, *others)))


def _place(point: Mapping[str, str], seed: int | None) -> tuple[frozenset[tuple[str, str]], int | None]:
    """Where a trial stands in the grid: its values, and its seed, however that was given."""
    return frozenset((key, value) for key, value in point.items() if key != SEED), seed


def _is_same(there: Planned, now: Trial) -> bool:
    """Whether a trial comes out as it was planned. A seed that was drawn does not count for what a trial is, a given one does."""
    if there.identity == now.identity:
        return True
    ours, theirs = (
        preset.model_copy(update={"name": "t", "seed": 0}) for preset in (now.resolved.preset, there.resolved().preset)
    )
    return ours == theirs and dict(there.contents) == dict(now.contents) and there.trainer == now.trainer
