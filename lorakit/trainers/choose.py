"""Which trainer bakes a preset: sd-scripts where it is installed, else the built-in one."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lorakit.errors import TrainerError
from lorakit.trainers.sd_scripts.checkout import SCRIPT
from lorakit.trainers.sd_scripts.place import find
from lorakit.trainers.sd_scripts.receipt import read_receipt

if TYPE_CHECKING:
    from lorakit.preset.models import Preset
    from lorakit.trainers.render import TrainerKind
    from lorakit.workspace import Workspace

__all__ = ["TrainerChoice", "choose", "missing_of_builtin", "usable"]

#: What the extra ``builtin`` brings and the trainer cannot do without.
_BUILTIN_NEEDS: Final = ("torch", "diffusers", "transformers", "accelerate")
#: What sd-scripts is started through; a program of its own, run by sd-scripts' Python and never imported here.
PROBE: Final = Path(__file__).with_name("sd_scripts") / "probe.py"


@dataclass(frozen=True)
class TrainerChoice:
    """The trainer, why it was taken, its interpreter, and the program: a script, or ``-m`` and a module.

    ``checkout`` is the folder of sd-scripts; the script that is run may be another one, which starts it. ``probe``: it is
    started through the probe, which is then the first word of ``program``.
    """

    kind: TrainerKind
    why: str
    python: Path
    program: tuple[str, ...]
    checkout: Path | None = None
    probe: bool = False


def choose(preset: Preset, workspace: Workspace) -> TrainerChoice:
    """The trainer that ``trainer.kind`` asks for, in this workspace; raises TrainerError where it cannot run.

    sd-scripts is where lorakit.toml says (``[sd_scripts] path = …, python = …, script = …``), else vendor/sd-scripts with
    its own .venv; with ``trainer.probe`` the program begins with the probe. Nothing is imported or started.
    """
    asked = preset.trainer.kind
    if asked == "builtin":
        return _builtin('trainer.kind = "builtin"')
    if asked == "sd-scripts":
        return _sd_scripts(workspace, 'trainer.kind = "sd-scripts"', probe=preset.trainer.probe)
    place = find(workspace)
    if place.named or place.folder.is_dir():
        return _sd_scripts(workspace, place.told, probe=preset.trainer.probe)
    return _builtin("sd-scripts is not installed in this workspace")


def _sd_scripts(workspace: Workspace, why: str, *, probe: bool = False) -> TrainerChoice:
    place = find(workspace)
    instead = 'or set trainer.kind = "builtin"'
    receipt = None if place.named else read_receipt(workspace)
    if receipt is not None and not receipt.complete:
        raise TrainerError(
            "sd-scripts is half installed",
            why="its installation was interrupted, or failed",
            todo=f"lorakit trainer install goes on where it ended, {instead}",
        )
    for file in (place.folder / SCRIPT, place.script):
        if not file.is_file():
            raise TrainerError(
                f"sd-scripts is not usable: {file} does not exist",
                why=why,
                todo=f"lorakit trainer install, or put its folder into lorakit.toml ([sd_scripts] path), {instead}",
            )
    if not place.python.is_file():
        raise TrainerError(
            f"sd-scripts is not usable: its interpreter {place.python} does not exist",
            why="sd-scripts runs in an environment of its own, apart from lorakit's",
            todo=f"lorakit trainer install, or put its python into lorakit.toml ([sd_scripts] python), {instead}",
        )
    program = (str(PROBE), str(place.script)) if probe else (str(place.script),)
    return TrainerChoice("sd-scripts", why, place.python, program, place.folder, probe)


def usable(workspace: Workspace) -> TrainerChoice:
    """sd-scripts, where it is. Raises TrainerError when it is not there as a whole."""
    return _sd_scripts(workspace, find(workspace).told)


def missing_of_builtin() -> list[str]:
    """The packages that the built-in trainer needs and does not find."""
    return [name for name in _BUILTIN_NEEDS if importlib.util.find_spec(name) is None]


def _builtin(why: str) -> TrainerChoice:
    if missing := missing_of_builtin():
        raise TrainerError(
            f"the built-in trainer needs {', '.join(missing)}",
            why=f"{why}, and lorakit is installed without the extra that it runs on",
            todo="pip install 'lorakit[builtin]'",
        )
    return TrainerChoice("builtin", why, Path(sys.executable), ("-m", "lorakit.trainers.builtin"))
