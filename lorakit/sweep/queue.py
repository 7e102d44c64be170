"""The queue: a sweep whose trials are presets, added one by one. The same folder, scheduler, claims and orders as any sweep's.

What is queued is frozen: the resolved preset is kept, with the seed that was drawn for it, and what it reads is known by its content.
Nothing starts by itself: after a crash or a reboot the queue stands still until somebody says start.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lorakit.errors import UsageError
from lorakit.sweep.definition import Definition, is_sweep_file
from lorakit.sweep.folder import SCHEMA, Folder, Planned, make_folder, sweeps_of
from lorakit.sweep.look import Looker, Trial
from lorakit.sweep.standing import Phase, Standing, TrialStanding, standing

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lorakit.workspace import Workspace

__all__ = [
    "Added",
    "Entry",
    "Life",
    "add",
    "changed",
    "life",
    "numbered",
    "open_queue",
    "planned",
    "start_over",
    "waiting",
    "withdraw",
]

_NAME: Final = "queue"
#: What may be taken out, and what may be brought back.
_WAITING: Final = frozenset({Phase.WAITING, Phase.INTERRUPTED, Phase.FAILED, Phase.STOPPED})
_ENDED_BADLY: Final = frozenset({Phase.FAILED, Phase.STOPPED, Phase.CANCELLED})


class Added(StrEnum):
    """What became of a preset that was to be queued."""

    NEW = "queued"
    THERE = "in the queue already"
    AGAIN = "queued again"
    DONE = "done before"


@dataclass(frozen=True)
class Entry:
    """A preset in the queue, and what became of the wish to put it there."""

    trial: TrialStanding
    added: Added


class Life(StrEnum):
    """How the queue itself stands."""

    STARTED = "under way"
    PAUSED = "paused"
    KILLED = "paused: what handed out its runs was killed, or the machine went down"
    IDLE = "not started"


def open_queue(workspace: Workspace) -> Folder:
    """The queue of a workspace; made empty where there is none."""
    record: dict[str, Any] = {"schema": SCHEMA, "sweep": _NAME, "time": time.time(), "axes": {}}
    return make_folder(sweeps_of(workspace) / _NAME, record)


def queue_now(workspace: Workspace) -> Standing:
    """Where the queue stands; writes nothing."""
    return standing(Folder(sweeps_of(workspace) / _NAME), workspace.runs)


def planned(presets: Sequence[Path], overrides: Sequence[str], workspace: Workspace) -> tuple[Trial, ...]:
    """Every preset resolved, checked and planned, with a seed. Raises the LorakitError of the first that cannot be baked."""
    from lorakit.preset.files import with_seed

    found: list[Trial] = []
    for path in presets:
        if is_sweep_file(path):
            raise UsageError(
                f"{path} is a sweep", why="the queue takes presets, one run each", todo=f"lorakit sweep {path}"
            )
        looker = Looker(path, Definition.of((), fixed=overrides), workspace, settle=with_seed)
        one = looker.look(())
        if not isinstance(one, Trial):
            assert one is not None, "there is no condition that could leave it out"
            raise one.error
        told = {key: value for key, _, value in (item.partition("=") for item in overrides)}
        found.append(replace(one, point=tuple(told.items())))
    return tuple(found)


def add(trials: Sequence[Trial], workspace: Workspace, *, first: bool = False) -> tuple[Entry, ...]:
    """Put presets into the queue, at its end or before all that wait; what is there already stays where it is.

    What failed, was stopped or taken out is brought back; what was baked well, here or in a sweep, is not baked again.
    """
    folder = open_queue(workspace)
    before = {one.trial.identity: one for one in standing(folder, workspace.runs).trials}
    folder.add(trials)
    wanted = [trial.identity for trial in trials]
    again = [key for key in wanted if key in before and before[key].phase in _ENDED_BADLY]
    if again:
        folder.order("go", again)
    if first:
        folder.order("first", wanted)
    after = {one.trial.identity: one for one in standing(folder, workspace.runs).trials}
    entries = []
    for key in dict.fromkeys(wanted):
        if after[key].phase is Phase.DONE:
            added = Added.DONE
        elif key in again:
            added = Added.AGAIN
        else:
            added = Added.THERE if key in before else Added.NEW
        entries.append(Entry(after[key], added))
    return tuple(entries)


def life(now: Standing) -> Life:
    """How the queue stands. After a crash it is paused until somebody starts it: whoever handed out its runs did not say goodbye."""
    if now.paused:
        return Life.PAUSED
    if now.dispatched:
        return Life.STARTED
    shift = now.folder.last_shift
    return Life.KILLED if shift is not None and not shift.ended else Life.IDLE


def waiting(now: Standing) -> tuple[TrialStanding, ...]:
    """What a start would bake, in this order: what waits, and what was cut short."""
    return tuple(one for one in now.trials if one.phase in {Phase.WAITING, Phase.INTERRUPTED})


def numbered(now: Standing, numbers: Iterable[int]) -> tuple[TrialStanding, ...]:
    """The entries of these numbers. Raises UsageError for a number that there is not."""
    by_number = {one.trial.index: one for one in now.trials}
    for number in numbers:
        if number not in by_number:
            raise UsageError(
                f"the queue has no entry {number}", why=f"it has {len(by_number)}", todo="lorakit queue ls --all"
            )
    return tuple(by_number[number] for number in numbers)


def withdraw(now: Standing, chosen: Sequence[TrialStanding]) -> None:
    """Take entries out that do not train. Raises UsageError for one that does, or is done."""
    for one in chosen:
        if one.phase is Phase.RUNNING and one.run is not None:
            raise UsageError(f"{one.trial.name} is training", todo=f"lorakit stop {one.run.short}")
        if one.phase not in _WAITING:
            raise UsageError(f"{one.trial.name} does not wait: it is {one.phase.value}")
    now.folder.order("cancel", [one.trial.identity for one in chosen])


def start_over(now: Standing, chosen: Sequence[TrialStanding]) -> None:
    """Bring entries back that failed, were stopped or taken out. Raises UsageError for one that waits, trains or is done."""
    for one in chosen:
        if one.phase is Phase.DONE and one.run is not None:
            raise UsageError(f"{one.trial.name} is done: {one.run.short}", todo=f"lorakit rerun {one.run.short}")
        if one.phase not in _ENDED_BADLY:
            raise UsageError(f"{one.trial.name} is {one.phase.value}, there is nothing to bring back")
    now.folder.order("go", [one.trial.identity for one in chosen])


def changed(trial: Planned) -> str:
    """What was changed of its preset on the line that queued it."""
    return "  ".join(f"{key}={value}" if value else f"{key} left out" for key, value in trial.point.items())
