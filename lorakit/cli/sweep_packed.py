"""`lorakit sweep --pack`: several trials to a process, planned from memory and said before anything starts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.text import Text

    from lorakit.sweep.pack_memory import PackPlan
    from lorakit.sweep.scheduler import Slot
    from lorakit.sweep.trials import Sweep
    from lorakit.workspace import Workspace

__all__ = ["planned_pack", "refuse_with_pack", "seats"]


def planned_pack(sweep: Sweep, workspace: Workspace, asked: str | None, *, exact: bool) -> PackPlan | None:
    """The packs of a sweep, if any are asked for: as large as memory allows (``auto``), or of so many trials.

    ``exact`` lets trials take turns. Raises UsageError for what is neither, and for trials that cannot share a process.
    """
    from lorakit.errors import UsageError

    if asked is None:
        if exact:
            raise UsageError(
                "--exact says how packs train, and there are none", todo="add --pack auto, or leave it out"
            )
        return None
    if asked != "auto" and (not asked.isdigit() or not 1 <= int(asked) <= 256):
        raise UsageError(f"--pack {asked} cannot be read", todo="write --pack auto, or a number of trials: --pack 4")
    left = [trial for trial in sweep.trials if trial.done is None and trial.trainer == "builtin"]
    if not left:
        if any(trial.done is None for trial in sweep.trials):
            raise UsageError(
                "only the built-in trainer trains several trials in one process",
                why="these trials are sd-scripts'",
                todo="add --trainer builtin, or leave --pack out",
            )
        return None
    from lorakit.launch.memory import free_memory
    from lorakit.sweep.packs import plan_of

    largest = max(left, key=lambda trial: trial.plan.network.total_parameters)
    count = None if asked == "auto" else min(int(asked), len(left))
    found = plan_of(largest.resolved, largest.plan, workspace, free_memory(), trials=count)
    found = replace(found, trials=min(found.trials, len(left)))
    return replace(found, rows=1) if exact else found


def refuse_with_pack(asked: str | None, jobs: int | None, on: object) -> None:
    """Raise UsageError for options that mean another way to bake several trials."""
    from lorakit.errors import UsageError
    from lorakit.launch.environment import has_gpu

    if asked is None:
        return
    if on is not None:
        raise UsageError("--pack and --on cannot go together", why="packs train on this machine", todo="leave one out")
    if jobs is not None and not has_gpu():
        raise UsageError(
            "--pack and --jobs cannot go together without a GPU",
            why="one pack uses all cores; with GPUs --jobs is how many of them",
            todo="leave --jobs out",
        )


def seats(slots: Sequence[Slot], planned: PackPlan) -> tuple[Slot, ...]:
    """A slot for each trial that bakes at once: those of a GPU come to one pack."""
    return tuple(
        replace(slot, number=at) for at, slot in enumerate(slot for slot in slots for _ in range(planned.trials))
    )


def told(planned: PackPlan, batch: int) -> Text:
    """The line about packs below the table of trials."""
    from lorakit.cli import screen

    together = planned.together(batch)
    how = f"{together} learn together" if together > 1 else "taking turns"
    count = f"{planned.trials} trials to a process, {how}" if planned.trials > 1 else "one trial to a process"
    size = f"about {screen.size(planned.needed)} of {screen.size(planned.available)}, computed"
    return screen.text(("packs ", "same"), f"{count} · {size}")


def as_json(planned: PackPlan | None) -> dict[str, Any] | None:
    """Plain values, None where there are no packs."""
    if planned is None:
        return None
    return {
        "trials": planned.trials,
        "rows": planned.rows,
        "bytes": planned.needed,
        "available": planned.available,
    }
