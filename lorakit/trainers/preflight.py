"""Everything that can be found wrong with a preset before a trainer is started, in one call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lorakit.errors import Problem, RuleError
from lorakit.preset.models import Preset
from lorakit.preset.rules import Finding, TrainerKind, check, ordered
from lorakit.trainers import builtin_support
from lorakit.trainers.catalogue import Catalogue
from lorakit.trainers.extra import check_extra, typed_key
from lorakit.trainers.file_rules import check_files
from lorakit.trainers.render import RenderPaths, render

if TYPE_CHECKING:
    from argparse import Namespace

    from lorakit.workspace import Workspace

__all__ = ["check_builtin", "preflight", "refusal"]

#: Already in lorakit's own words where the trainer is the built-in one.
_QUIET: Final = frozenset({"sdpa", "console_log_simple"})


def preflight(preset: Preset, workspace: Workspace, kind: TrainerKind) -> tuple[Finding, ...]:
    """All findings about a preset for one trainer in one workspace, errors first: rules, [extra], files, support."""
    found = [*check(preset, kind), *check_extra(preset, kind), *check_files(preset, workspace)]
    if kind == "builtin" and not any(finding.code in _UNSPEAKABLE for finding in found):
        found += check_builtin(preset)
    return ordered(found)


#: Findings that leave no command to look at.
_UNSPEAKABLE: Final = frozenset({"LK011", "LK013", "LK401", "LK404", "LK405", "LK406"})


def refusal(findings: Iterable[Finding], where: Callable[[str], str] = lambda _key: "") -> RuleError | None:
    """The error that stops a bake, or None when there are only warnings; ``where`` tells ``file:line`` of a key."""
    problems = tuple(finding.problem(where(finding.key)) for finding in findings if finding.level == "error")
    if not problems:
        return None
    first = problems[0]
    count = f"{len(problems)} things are wrong with the preset" if len(problems) > 1 else first.what
    return RuleError(count, why=first.why, todo=first.todo, problems=problems)


def check_builtin(preset: Preset) -> tuple[Finding, ...]:
    """LK501, LK502: what the built-in trainer would refuse or take without effect in the command of this preset."""
    speakable = preset if preset.seed is not None else preset.model_copy(update={"seed": 0})
    paths = RenderPaths(Path("/"), Path("/"), Path("/"))
    arguments = Catalogue.load().parser().parse_args(render(speakable, paths, kind="builtin"))
    refused = (_finding("LK501", problem) for problem in builtin_support.not_implemented(arguments))
    return ordered([*refused, *_without_effect(arguments)])


def _without_effect(arguments: Namespace) -> Iterator[Finding]:
    flags = Catalogue.load().by_dest()
    for name, why in builtin_support.HARMLESS.items():
        if name not in _QUIET and getattr(arguments, name) != flags[name].default:
            what = f"{flags[name].flag} has no effect with the built-in trainer"
            yield _finding("LK502", Problem(what, why=why, key=name))


def _finding(code: str, problem: Problem) -> Finding:
    key = typed_key(problem.key).split(" ")[0] or f"extra.{problem.key}"
    if code == "LK501":
        todo = 'leave it out, or train with sd-scripts (trainer.kind = "sd-scripts")'
        return Finding(code, "error", key, f"the built-in trainer: {problem.what}", problem.why, todo)
    return Finding(code, "warning", key, problem.what, problem.why, "leave it out")
