"""What a rule and a finding are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from lorakit.errors import Problem
from lorakit.preset.models import Preset

__all__ = ["Check", "Finding", "Level", "Rule", "Table", "TrainerKind"]

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


#: Looks at one preset for one trainer. False: nothing to say; True: the rule's sentence; a text: that, then the detail.
Check = Callable[[Preset, TrainerKind], bool | str]


@dataclass(frozen=True)
class Rule:
    """A rule of the table. ``broken`` is pure."""

    code: str
    level: Level
    key: str
    what: str
    why: str
    todo: str
    broken: Check

    def look(self, preset: Preset, kind: TrainerKind) -> Finding | None:
        """The finding, where the preset breaks the rule."""
        broken = self.broken(preset, kind)
        if not broken:
            return None
        what = f"{self.what}: {broken}" if isinstance(broken, str) else self.what
        return Finding(self.code, self.level, self.key, what, self.why, self.todo)


class Table:
    """The rules about one group of keys, in the order of their codes."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.rules: list[Rule] = []

    def error(self, code: str, key: str, what: str, *, why: str, todo: str) -> Callable[[Check], Check]:
        """A rule whose breach makes the bake fail, or makes it something else than what is asked."""
        return self._add(partial(Rule, code, "error", key, what, why, todo))

    def warning(self, code: str, key: str, what: str, *, why: str, todo: str) -> Callable[[Check], Check]:
        """A rule whose breach is worth a look: something has no effect, or is rarely meant."""
        return self._add(partial(Rule, code, "warning", key, what, why, todo))

    def _add(self, rule: Callable[[Check], Rule]) -> Callable[[Check], Check]:
        def register(broken: Check) -> Check:
            self.rules.append(rule(broken))
            return broken

        return register
