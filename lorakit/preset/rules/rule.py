"""What a rule and a finding are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Generic, Literal, TypeVar

from lorakit.errors import Problem
from lorakit.preset.models import Preset

__all__ = ["Check", "Finding", "Level", "Rule", "Table", "TrainerKind", "ordered"]

Level = Literal["error", "warning"]
TrainerKind = Literal["sd-scripts", "builtin"]


@dataclass(frozen=True)
class Finding:
    """One thing in a preset that will fail or will not be what it seems: a stable code, the key, and three sentences."""

    code: str
    level: Level
    key: str
    what: str
    why: str
    todo: str

    def problem(self, where: str = "") -> Problem:
        """The same as a problem of an error; ``where`` is ``file:line``."""
        return Problem(self.what, why=self.why, todo=self.todo, key=self.key, where=where, code=self.code)


#: What a rule needs to know beside the preset: the trainer, or the workspace with its files.
About = TypeVar("About")
#: False or "": nothing to say; True: the rule's sentence; a text: that, then the detail.
Check = Callable[[Preset, About], bool | str]


@dataclass(frozen=True)
class Rule(Generic[About]):
    """A rule of the table. ``broken`` changes nothing, and is pure where it is about the trainer."""

    code: str
    level: Level
    key: str
    what: str
    why: str
    todo: str
    broken: Check[About]

    def look(self, preset: Preset, about: About) -> Finding | None:
        """The finding, where the preset breaks the rule."""
        broken = self.broken(preset, about)
        if not broken:
            return None
        what = f"{self.what}: {broken}" if isinstance(broken, str) else self.what
        return Finding(self.code, self.level, self.key, what, self.why, self.todo)


class Table(Generic[About]):
    """The rules about one group of keys, in the order of their codes."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.rules: list[Rule[About]] = []

    def error(self, code: str, key: str, what: str, *, why: str, todo: str) -> Callable[[Check[About]], Check[About]]:
        """A rule whose breach makes the bake fail, or makes it something else than what is asked."""
        return self._add(partial(Rule[About], code, "error", key, what, why, todo))

    def warning(self, code: str, key: str, what: str, *, why: str, todo: str) -> Callable[[Check[About]], Check[About]]:
        """A rule whose breach is worth a look: something has no effect, or is rarely meant."""
        return self._add(partial(Rule[About], code, "warning", key, what, why, todo))

    def look(self, preset: Preset, about: About) -> list[Finding]:
        """Everything that the preset breaks in this table."""
        return [finding for rule in self.rules if (finding := rule.look(preset, about)) is not None]

    def _add(self, rule: Callable[[Check[About]], Rule[About]]) -> Callable[[Check[About]], Check[About]]:
        def register(broken: Check[About]) -> Check[About]:
            self.rules.append(rule(broken))
            return broken

        return register


def ordered(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Errors first, then by code."""
    return tuple(sorted(findings, key=lambda finding: (finding.level != "error", finding.code, finding.what)))
