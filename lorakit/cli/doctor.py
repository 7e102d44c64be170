"""`lorakit doctor`: this machine, lorakit, and its trainers, each with what to do where something is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorakit.cli.options import Json, workspace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lorakit.trainers.sd_scripts.status import Check
    from lorakit.workspace import Workspace

__all__ = ["doctor"]


def doctor(*, as_json: Json = False) -> None:
    """Look at this machine and its trainers, and say what to do.

    Exit code 8 when no trainer would train.
    """
    from lorakit.cli.trainer import print_checks

    print_checks(list(_checks(workspace())), as_json=as_json)


def _checks(place: Workspace) -> Iterator[Check]:
    import platform
    import shutil
    import sys

    from lorakit._version import __version__
    from lorakit.launch.environment import gpus
    from lorakit.trainers.sd_scripts.status import Check, disk_check, is_installed, status
    from lorakit.workspace import MARKER

    yield Check("lorakit", "ok", f"{__version__}, Python {platform.python_version()} at {sys.executable}")
    if (place.root / MARKER).is_file():
        yield Check("workspace", "ok", str(place.root))
    else:
        yield Check("workspace", "note", f"{place.root} has no {MARKER}", "lorakit init")
    if shutil.which("git") is None:
        yield Check("git", "note", "not installed", "install git, to install sd-scripts and to know its version")
    else:
        yield Check("git", "ok", str(shutil.which("git")))
    cards = gpus()
    for card in cards:
        yield Check("GPU", "ok", f"{card.name}, {card.memory / 1e9:.1f} GB, driver {card.driver}")
    if not cards:
        yield Check("GPU", "note", "none that nvidia-smi lists", "training on the CPU is slow, for trials only")
    built_in = _builtin()
    if is_installed(place):
        yield built_in
        yield from status(place)
        return
    yield built_in if built_in.state == "ok" else Check("built-in", "problem", built_in.found, built_in.todo)
    yield Check("sd-scripts", "note", "not installed in this workspace", "lorakit trainer install")
    yield disk_check(place.root)


def _builtin() -> Check:
    from lorakit.trainers.choose import missing_of_builtin
    from lorakit.trainers.sd_scripts.status import Check

    missing = missing_of_builtin()
    if missing:
        return Check("built-in", "note", f"cannot train without {', '.join(missing)}", "pip install 'lorakit[builtin]'")
    return Check("built-in", "ok", "has what it needs")
