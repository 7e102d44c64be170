"""LK515: packages that only some networks need, brought into the trainer's environment on request."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lorakit.errors import TrainerError, UsageError
from lorakit.preset.kinds import kind_of
from lorakit.preset.models import Preset
from lorakit.preset.rules import Finding, Table, ordered
from lorakit.trainers.sd_scripts.pin import read_pin
from lorakit.trainers.sd_scripts.place import find
from lorakit.trainers.sd_scripts.programs import Runner, answer
from lorakit.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lorakit.trainers.sd_scripts.pin import Pin
    from lorakit.trainers.sd_scripts.place import Place

__all__ = ["IMPORTED", "TABLE", "check_extras", "check_names", "install_extras", "version_in"]

TABLE: Final = Table[Workspace]("What the trainer's environment has")

#: By the names that are asked for: the package, and the module that a network is made by.
IMPORTED: Final = {"lycoris": ("lycoris-lora", "lycoris.kohya")}


def check_names(pin: Pin, names: Iterable[str]) -> None:
    """Raises UsageError for a name that the pin does not know."""
    for name in names:
        if name not in pin.extras or name not in IMPORTED:
            raise UsageError(
                f"--with {name}: no packages of this name",
                todo=f"known: {', '.join(sorted(set(pin.extras) & set(IMPORTED)))}",
            )


def install_extras(pin: Pin, names: Sequence[str], python: Path, installer: str, runner: Runner) -> None:
    """Install the packages into the trainer's environment, and see that they can be imported.

    Nothing else is touched: what they need is there already, and another torch must not come with them. Raises TrainerError.
    """
    command = (
        ["uv", "pip", "install", "--python", str(python)]
        if installer == "uv"
        else [str(python), "-m", "pip", "install"]
    )
    for name in names:
        runner.run([*command, "--no-deps", *pin.extras[name]], doing=f"installing {name}")
        code, text, errors = answer([str(python), "-c", f"import {IMPORTED[name][1]}"], seconds=300)
        if code != 0:
            last = ([line for line in (text + errors).splitlines() if line.strip()] or [f"exit code {code}"])[-1]
            raise TrainerError(
                f"{name} is installed, but cannot be imported", why=last.strip(), todo=f"look into {runner.log}"
            )


def version_in(place: Place, package: str) -> str | None:
    """The version of a package in the trainer's environment, "" where there is none; None where that cannot be told.

    Starts nothing: looks for what an installer leaves beside the package.
    """
    base = place.python.parent.parent
    folders = (
        [base / "Lib" / "site-packages"] if sys.platform == "win32" else [*base.glob("lib/python3*/site-packages")]
    )
    folders = [folder for folder in folders if folder.is_dir()]
    if not folders:
        return None
    stem = re.sub(r"[-_.]+", "_", package)
    for folder in folders:
        for path in folder.glob("*.dist-info"):
            name, _, version = path.name.removesuffix(".dist-info").rpartition("-")
            if re.sub(r"[-_.]+", "_", name).lower() == stem:
                return version
    return ""


def check_extras(preset: Preset, workspace: Workspace) -> tuple[Finding, ...]:
    """Whether the trainer's environment has what the preset's network needs. Nothing where no sd-scripts is installed."""
    return ordered(TABLE.look(preset, workspace))


@TABLE.error(
    "LK515", "network.module", "a network whose package is not in the trainer's environment",
    why="the trainer would load the model and then fail to import it",
    todo="type: lorakit trainer install --with lycoris",
)  # fmt: skip
def _the_package_is_there(preset: Preset, workspace: Workspace) -> bool | str:
    kind = kind_of(preset.network)
    if kind is None or not kind.package:
        return False
    place = find(workspace)
    if not place.python.is_file() or version_in(place, kind.package) != "":
        return False
    if place.named:
        wanted = " ".join(read_pin(workspace).extras.get("lycoris", (kind.package,)))
        return f"{kind.package}; in an environment of your own: {place.python} -m pip install --no-deps {wanted}"
    return kind.package
