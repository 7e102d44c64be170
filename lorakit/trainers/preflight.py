"""Everything that can be found wrong with a preset before a trainer is started, in one call."""

from __future__ import annotations

import functools
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lorakit.errors import Problem
from lorakit.preset.models import Preset
from lorakit.preset.rules import Finding, Table, TrainerKind, check, ordered
from lorakit.trainers import builtin_support
from lorakit.trainers.catalogue import Catalogue
from lorakit.trainers.extra import check_extra, typed_key
from lorakit.trainers.file_rules import check_files
from lorakit.trainers.render import RenderPaths, render_options
from lorakit.trainers.sd_scripts.extras import check_extras
from lorakit.trainers.sd_scripts.installed import check_installed

if TYPE_CHECKING:
    from lorakit.workspace import Workspace

__all__ = ["TABLE", "check_builtin", "preflight"]

#: Already in lorakit's own words where the trainer is the built-in one.
_QUIET: Final = frozenset({"sdpa", "console_log_simple"})
TABLE: Final = Table[Namespace]("What the built-in trainer implements")


def preflight(preset: Preset, workspace: Workspace | None, kind: TrainerKind) -> tuple[Finding, ...]:
    """All findings about a preset for one trainer, errors first: rules, [extra], what the trainer lacks, files.

    Without a workspace no file is looked at. Missing and torn files are not found here but where a bake is prepared.
    """
    found = [*check(preset, kind), *check_extra(preset, kind)]
    if workspace is not None:
        found += check_files(preset, workspace)
    if kind == "sd-scripts" and workspace is not None and not any(finding.code in _UNSPEAKABLE for finding in found):
        found += check_installed(preset, workspace)
    if kind == "sd-scripts" and workspace is not None:
        found += check_extras(preset, workspace)
    if kind == "builtin" and not any(finding.code in _UNSPEAKABLE for finding in found):
        found += check_builtin(preset)
    return ordered(found)


#: Findings that leave no command to look at.
_UNSPEAKABLE: Final = frozenset({"LK011", "LK013", "LK401", "LK404", "LK405", "LK406"})


@TABLE.error(
    "LK501", "trainer.kind", "something that the built-in trainer does not implement",
    why="it refuses, before anything is loaded, what it would have to leave out",
    todo='leave it out, or train with sd-scripts (trainer.kind = "sd-scripts")',
)  # fmt: skip
def _only_what_is_implemented(_: Preset, arguments: Namespace) -> bool | str:
    problems = builtin_support.not_implemented(arguments)
    return "; ".join(f"{_place(problem.key)}: {_reason(problem)}" for problem in problems)


@TABLE.warning(
    "LK502", "trainer.kind", "something that changes nothing with the built-in trainer",
    why="it takes these settings, since the result is the same without them",
    todo="leave it out",
)  # fmt: skip
def _only_what_has_an_effect(_: Preset, arguments: Namespace) -> bool | str:
    flags = Catalogue.load().by_dest()
    given = [
        name
        for name in builtin_support.HARMLESS
        if name not in _QUIET and getattr(arguments, name) != flags[name].default
    ]
    return "; ".join(f"{_place(name)}: {builtin_support.HARMLESS[name]}" for name in given)


def check_builtin(preset: Preset) -> tuple[Finding, ...]:
    """What the built-in trainer would refuse, or take without effect, in the command of this preset."""
    # One name and seed for all: both are always understood, and the options of a thousand trials are then much the same.
    speakable = preset.model_copy(update={"seed": 0, "name": "preset"})
    paths = RenderPaths(Path("/"), Path("/"), Path("/"))
    options = render_options(speakable, paths, kind="builtin")
    arguments = Namespace(**_defaults())
    for option in options:
        for dest, value in _parsed(option):
            setattr(arguments, dest, value)
    return ordered(TABLE.look(preset, arguments))


@functools.cache
def _parser() -> ArgumentParser:
    return Catalogue.load().parser()


@functools.cache
def _defaults() -> dict[str, Any]:
    return vars(_parser().parse_args([]))


@functools.lru_cache(maxsize=4096)  # the trials of a sweep differ in few options, and argparse is slow
def _parsed(option: tuple[str, ...]) -> tuple[tuple[str, Any], ...]:
    """What one option of a command line sets."""
    unset = object()
    found = _parser().parse_args(option, Namespace(**dict.fromkeys(_defaults(), unset)))
    return tuple((dest, value) for dest, value in vars(found).items() if value is not unset)


def _place(dest: str) -> str:
    return typed_key(dest).split(" ")[0] or f"extra.{dest}"


def _reason(problem: Problem) -> str:
    return f"{problem.what} ({problem.why})" if problem.why else problem.what
