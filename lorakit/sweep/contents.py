"""What a trial reads, told apart by what is in it: a change between the planning and the start is seen, and refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorakit.errors import UsageError

if TYPE_CHECKING:
    from lorakit.sweep.folder import Planned
    from lorakit.workspace import Workspace

__all__ = ["refuse_changed"]


def refuse_changed(trial: Planned, workspace: Workspace) -> None:
    """Raise UsageError naming what a trial reads that is no longer what it was when it was planned.

    Its preset is kept with it and cannot change; images, captions, models and prompts lie where everybody can write. Raises DatasetError
    and ModelFileError for what cannot be read any more, DiskError for what cannot be read at all.
    """
    from lorakit.bake.checks import check_files
    from lorakit.plan import plan
    from lorakit.sweep.identity import Identifier

    if not trial.contents:  # planned by a lorakit that did not write it down
        return
    preset = trial.resolved().preset
    if trial.drawn:  # it was planned before it had its seed, which can decide which images are held out
        preset = preset.model_copy(update={"seed": None})
    check_files(preset, workspace)
    data = plan(preset, workspace).data
    now = Identifier(workspace).contents(preset, data)
    changed = [key for key, digest in trial.contents.items() if now.get(key) != digest]
    changed += [key for key in now if key not in trial.contents]
    if changed:
        what = " and ".join(_told(key) for key in changed)
        raise UsageError(
            f"{trial.name} is not what was planned: {what} changed since",
            why="a trial is baked as it was planned, or not at all: else its numbers would stand beside others that saw something else",
            todo="put it back as it was, or plan it again: the same line of lorakit sweep or lorakit queue add takes it as it is now",
        )


def _told(key: str) -> str:
    return "the images or captions" if key == "images" else f"the file of {key}"
