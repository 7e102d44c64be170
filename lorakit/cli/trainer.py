"""`lorakit trainer install`, `status`, `catalogue`: sd-scripts in an environment of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Self

import typer

from lorakit.cli.options import Json, workspace
from lorakit.errors import TrainerError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.status import Status

    from lorakit.trainers.sd_scripts.status import Check

__all__ = ["HELP", "catalogue", "install", "print_checks", "status"]

HELP: Final = "Install sd-scripts apart from lorakit, and look at it."

#: What a step of an installation is called while it runs.
_STEPS: Final = {
    "checkout": "getting the checkout",
    "environment": "making its environment",
    "tokenizers": "filling the tokenizer cache",
    "parser": "asking its parser",
}
_MEANING: Final = {"ok": ("✓", "done"), "note": ("·", "look"), "problem": ("✗", "fail")}


def install(
    *,
    source: Annotated[
        str, typer.Option("--source", metavar="WHERE", help="A URL or folder to fetch from, in place of the pin's.")
    ] = "",
    python: Annotated[
        str, typer.Option("--python", metavar="PYTHON", help="Version or path of the Python for its environment.")
    ] = "",
    torch: Annotated[
        str,
        typer.Option("--torch", metavar="BUILD", help="cpu, cu126, …; default: the package index's; auto: by the GPU."),
    ] = "auto",
    tokenizers: Annotated[
        str,
        typer.Option("--tokenizers", metavar="DIR", help="A folder with CLIP's merges.txt, where the package is not."),
    ] = "",
    adopt: Annotated[
        str, typer.Option("--adopt", metavar="DIR", help="Use this checkout, with the interpreter given by --python.")
    ] = "",
    extras: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="NAME", help="A package on request: lycoris. May be repeated."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Install the pinned sd-scripts, or adopt a checkout that is there.

    The pin is vendor/sd-scripts.toml. Typed again after an interruption, it goes on; what is there and right stays.
    """
    from lorakit.cli import screen
    from lorakit.trainers.sd_scripts import install as installation

    place = workspace()
    words = Path(tokenizers).expanduser().absolute() if tokenizers else None
    if adopt and not python:
        raise UsageError(
            "--adopt needs --python", todo="lorakit trainer install --adopt DIR --python DIR/.venv/bin/python"
        )
    if adopt and (source or torch != "auto" or extras):
        raise UsageError("--adopt installs nothing", why="--source, --torch and --with have no meaning beside it")
    out = screen.console(err=as_json)
    with _Watcher(out) as watcher:
        if adopt:
            receipt = installation.adopt(
                place, watcher, folder=Path(adopt), python=Path(python), tokenizer_source=words
            )
        else:
            receipt = installation.install(
                place,
                watcher,
                source=source,
                python=python,
                torch=_build(torch),
                tokenizer_source=words,
                extras=extras or (),
            )
    if as_json:
        screen.print_json(receipt.to_json())
        return
    out.print(screen.text(("✓ ", "done"), f"sd-scripts in {receipt.folder} is ready"))
    rows = (("look", "lorakit trainer status"), ("bake", "lorakit bake PRESET --trainer sd-scripts"))
    for label, value in rows:
        out.print(screen.text("  ", (f"{label:<8}", "same"), value))


def status(*, as_json: Json = False) -> None:
    """Look at the trainer: commit, environment, GPU, tokenizers, disk.

    Exit code 8 when sd-scripts would not train.
    """
    from lorakit.trainers.sd_scripts.status import status as checks_of

    place = workspace()
    with _waiting(as_json):
        found = checks_of(place)
    print_checks(found, as_json=as_json)


def catalogue(*, as_json: Json = False) -> None:
    """Ask the installed version for its options.

    They are kept in vendor/sd-scripts.flags.json; a preset that uses one that is not among them is refused before it is launched.
    """
    from lorakit.cli import screen
    from lorakit.trainers.catalogue import Catalogue
    from lorakit.trainers.choose import usable
    from lorakit.trainers.sd_scripts.installed import make_catalogue, path_of

    place = workspace()
    usable(place)
    with _waiting(as_json):
        installed = make_catalogue(place)
    theirs, known = installed.catalogue.flags, Catalogue.load().flags
    missing, more = sorted(set(known) - set(theirs)), sorted(set(theirs) - set(known))
    if as_json:
        told = {"path": str(path_of(place)), "commit": installed.commit, "version": installed.version}
        screen.print_json({**told, "options": len(theirs), "missing": missing, "unknown": more})
        return
    out = screen.console()
    out.print(screen.text(("✓ ", "done"), f"{len(theirs)} options, {installed.version}, in {path_of(place)}"))
    for flag in missing:
        out.print(
            screen.text("  ", ("missing  ", "look"), flag, (f"  there since {known[flag].since.lstrip('<=')}", "same"))
        )
    for flag in more:
        out.print(
            screen.text(
                "  ", ("unknown  ", "look"), flag, ("  lorakit does not know it; [extra] cannot set it", "same")
            )
        )


def print_checks(found: Sequence[Check], *, as_json: bool) -> None:
    """Print checks, aligned; raise typer's exit with TrainerError's code when one is a problem."""
    from lorakit.cli import screen

    if as_json:
        screen.print_json([check.to_json() for check in found])
    else:
        out = screen.console()
        width = max(len(check.name) for check in found)
        indent = " " * (width + 5)
        for check in found:
            first, *rest = screen.text(check.found).wrap(out, out.width - len(indent)) or [screen.text()]
            for piece in (first, *rest):
                piece.rstrip()
            out.print(screen.text(_MEANING[check.state], f"  {check.name:<{width}}  ", first))
            for piece in rest:
                out.print(screen.text(indent, piece))
            if check.todo and check.state != "ok":
                out.print(screen.text("     ", ("→ ", "same"), check.todo))
    if any(check.state == "problem" for check in found):
        raise typer.Exit(TrainerError.exit_code)


def _build(torch: str) -> str:
    if torch != "auto":
        return torch
    import sys

    from lorakit.launch.environment import has_gpu
    from lorakit.trainers.sd_scripts.environment import DEFAULT_TORCH

    # The index's own build is for CUDA on Linux, some gigabytes more than what a machine without a GPU needs.
    return "cpu" if sys.platform == "linux" and not has_gpu() else DEFAULT_TORCH


def _waiting(quiet: bool) -> Status:
    from lorakit.cli import screen

    made = screen.console(err=True)
    made.quiet = quiet or not made.is_terminal
    return made.status("asking the trainer's Python, which reads torch")


class _Watcher:
    """Shows how an installation goes on: a line per step; on a terminal, what its programs say meanwhile."""

    def __init__(self, out: Console) -> None:
        self._out = out
        self._status: Status | None = None
        self._doing = ""

    def __enter__(self) -> Self:
        if self._out.is_terminal:
            self._status = self._out.status("")
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def step(self, name: str, done: str = "") -> None:
        """A step begins, or has ended."""
        from lorakit.cli import screen

        self._doing = _STEPS[name]
        if done:
            self._out.print(screen.text("  ", (f"{name:<12}", "done"), done))
        elif self._status is not None:
            self._status.update(screen.text(self._doing))
        else:
            self._out.print(screen.text("  ", (f"{self._doing} …", "same")))

    def line(self, text: str) -> None:
        """What a program says, cut to the terminal's width."""
        if self._status is None:
            return
        from lorakit.cli import screen

        shown = screen.text(self._doing, ("  ", "same"), (text, "same"))
        shown.truncate(max(20, self._out.width - 4), overflow="ellipsis")
        self._status.update(shown)

    def warn(self, text: str) -> None:
        """Something to look at."""
        from lorakit.cli import screen

        self._out.print(screen.text(("warn  ", "look"), text))
