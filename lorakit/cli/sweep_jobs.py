"""What the sweep commands do about trials that Slurm bakes: hand them over, ask for them, take them back."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from rich.console import Console

    from lorakit.launch.slurm import JobState
    from lorakit.sweep.folder import Folder
    from lorakit.sweep.standing import Standing
    from lorakit.workspace import Workspace

__all__ = ["ASK_SECONDS", "Asker", "asked", "cancel_tasks", "submit"]

#: How often Slurm is asked while somebody looks on: squeue is not for free on a busy cluster.
ASK_SECONDS: Final = 5.0


def submit(folder: Folder, workspace: Workspace, out: Console, *, width: int | None, as_json: bool) -> None:
    """Hand to Slurm what is neither done nor queued, and say so."""
    from lorakit.bake.batch import settings_of
    from lorakit.cli import screen
    from lorakit.sweep import jobs

    settings = settings_of(workspace)
    settings = settings if width is None else replace(settings, width=width)
    job, trials = jobs.submit(folder, workspace, settings)
    if as_json:
        screen.print_json({"sweep": folder.id, "job": job or None, "trials": [trial.identity for trial in trials]})
        return
    count = len(folder.trials())
    if not job:
        out.print(
            screen.text((f"sweep {folder.id}", "strong"), f"  nothing to submit: {count} trials are done or queued")
        )
    else:
        at_once = f", at most {settings.width} at once" if settings.width else ""
        told = f"  Slurm has {len(trials)} of {count} trials: job array {job}{at_once}"
        out.print(screen.text((f"sweep {folder.id}", "strong"), told))
    out.print(screen.text(("next: ", "same"), f"lorakit sweep status {folder.id}"))


def asked(now: Standing) -> tuple[Standing, bool]:
    """A standing with Slurm's word where trials were handed to it, and whether Slurm was asked and did not answer."""
    if not (now.folder.path / "jobs").is_dir() or now.is_over:
        return now, False
    from lorakit.sweep.jobs import merged, task_states

    states = task_states(now.folder)
    return (now, True) if states is None else (merged(now, states), False)


class Asker:
    """Asks Slurm every few seconds, beside whoever draws: a scheduler that hangs holds nothing up, its last word counts meanwhile."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._states: dict[str, JobState] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True) if (folder.path / "jobs").is_dir() else None

    def __enter__(self) -> Self:
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()  # and no waiting: a question that is under way ends by itself

    def _ask(self) -> None:
        from lorakit.sweep.jobs import task_states

        while not self._over.is_set():
            self._states = task_states(self._folder) or self._states
            self._over.wait(ASK_SECONDS)

    def merged(self, now: Standing) -> Standing:
        """A standing with what Slurm said last."""
        from lorakit.sweep.jobs import merged

        return merged(now, self._states) if self._states else now


def cancel_tasks(folder: Folder, trials: frozenset[str] | None) -> None:
    """Take cancelled trials out of Slurm's queue; where it does not answer, their tasks find themselves cancelled and end."""
    if (folder.path / "jobs").is_dir():
        from lorakit.sweep.jobs import cancel

        cancel(folder, trials)
