"""What a rule gives: a finding with its evidence and advice; and the table that rules enter themselves into."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from lorakit.verdict.diagnose.facts import Facts
from lorakit.verdict.diagnose.thresholds import Thresholds

__all__ = ["ROADS", "SEEN", "Advice", "Confidence", "Evidence", "Finding", "Found", "Road", "Rule", "Table", "figure"]

#: sure: a fact, or two independent kinds of evidence; likely: one measured kind; possible: worth a look.
Confidence = Literal["sure", "likely", "possible"]
#: Ready presets that go on from a checkpoint.
Road = Literal["refine-unet", "refine-te", "anneal"]
ROADS: Final[tuple[Road, ...]] = ("refine-unet", "refine-te", "anneal")

#: What a person can say of the pictures, which no program sees: word → what it means.
SEEN: Final[Mapping[str, str]] = {
    "noise": "pictures fall apart into noise or stains",
    "like-base": "pictures look as without the LoRA",
    "unrelated-content": "training content appears where it was not asked for",
    "ignores-prompt": "pictures hardly follow the rest of the prompt",
    "weak-trigger": "the trigger works only at weights well above 1",
    "poor-images": "the text is understood, the pictures are poor",
    "text-not-understood": "the pictures are good, the text is not understood",
    "fine": "text and pictures are both fine",
}


@dataclass(frozen=True)
class Evidence:
    """One thing that was measured: a sentence, its number, and the file or setting it comes from."""

    text: str
    value: float | str | None
    source: str


@dataclass(frozen=True)
class Advice:
    """What to try: a sentence, and what it changes in the preset, by key path; ``road`` and ``start``: go on from a checkpoint."""

    text: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    road: Road | None = None
    start: str | None = None


@dataclass(frozen=True)
class Found:
    """What a rule's function gives when it applies; ``title`` in place of the rule's own."""

    confidence: Confidence
    evidence: tuple[Evidence, ...]
    advice: tuple[Advice, ...]
    title: str = ""


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be. Codes never change their meaning."""

    code: str
    title: str
    confidence: Confidence
    evidence: tuple[Evidence, ...]
    advice: tuple[Advice, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values; ``changes`` are those of all advice together, the first that names a key winning."""
        changes: dict[str, Any] = {}
        for one in self.advice:
            changes = {**one.changes, **changes}
        return {
            "code": self.code,
            "title": self.title,
            "confidence": self.confidence,
            "evidence": [{"text": one.text, "value": one.value, "source": one.source} for one in self.evidence],
            "advice": [one.text for one in self.advice],
            "changes": changes,
        }


Check = Callable[[Facts, Thresholds], Found | None]


@dataclass(frozen=True)
class Rule:
    """A code, what it finds in one line, and the pure function that looks."""

    code: str
    title: str
    check: Check

    def look(self, facts: Facts, limits: Thresholds) -> Finding | None:
        """The finding, where the rule applies."""
        found = self.check(facts, limits)
        if found is None:
            return None
        return Finding(self.code, found.title or self.title, found.confidence, found.evidence, found.advice)


class Table:
    """Rules of one kind, in the order of the page."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.rules: list[Rule] = []

    def rule(self, code: str, title: str) -> Callable[[Check], Check]:
        """Enter the function below under a code."""

        def enter(check: Check) -> Check:
            self.rules.append(Rule(code, title, check))
            return check

        return enter


def figure(value: float) -> str:
    """A number as people read it: three digits, large ones with their thousands apart."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{float(f'{value:.3g}'):,.0f}"


def confidence(pieces: Sequence[object]) -> Confidence:
    """Two independent pieces of evidence are sure, one is likely."""
    return "sure" if len(pieces) > 1 else "likely"
