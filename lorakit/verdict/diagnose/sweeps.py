"""A sweep's diagnosis: its trials in the order of their findings, and which axis moved which evidence."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from lorakit.archive.run import SCHEMA, Run
from lorakit.sweep.standing import Standing
from lorakit.verdict.diagnose.diagnosis import Diagnosis, diagnose
from lorakit.verdict.diagnose.facts import Facts
from lorakit.verdict.diagnose.gather import of_run
from lorakit.verdict.diagnose.series import ends
from lorakit.verdict.diagnose.thresholds import Thresholds
from lorakit.workspace import Workspace

__all__ = ["EVIDENCE", "Effect", "SweepDiagnosis", "Trial", "effects", "of_sweep"]

_WEIGHT: Final = {"sure": 3, "likely": 2, "possible": 1}
#: An axis that explains less than this share of what an evidence varies is not named.
_TOLD: Final = 0.3


@dataclass(frozen=True)
class Trial:
    """One trial's point on the axes, its run and what was found."""

    point: Mapping[str, str]
    run: Run
    found: Diagnosis

    @property
    def weight(self) -> int:
        """Of its findings: 3 for a sure one, 2 for a likely, 1 for a possible; 0 is healthy."""
        return sum(_WEIGHT[finding.confidence] for finding in self.found.findings)


@dataclass(frozen=True)
class Effect:
    """How an axis moved a piece of evidence: its means by value of the axis, and the share of its variance between them (η²)."""

    axis: str
    evidence: str
    means: tuple[tuple[str, float], ...]
    share: float


@dataclass(frozen=True)
class SweepDiagnosis:
    """Trials with the fewest and least sure findings first; ``waiting`` have no finished run."""

    sweep: str
    trials: tuple[Trial, ...]
    effects: tuple[Effect, ...]
    waiting: int

    @property
    def shared(self) -> tuple[tuple[str, str, int], ...]:
        """Findings by how many trials have them: (code, title, number)."""
        counted = Counter((one.code, one.title) for trial in self.trials for one in trial.found.findings)
        return tuple(
            (code, title, number)
            for (code, title), number in sorted(counted.items(), key=lambda item: (-item[1], item[0]))
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "schema": SCHEMA,
            "sweep": self.sweep,
            "waiting": self.waiting,
            "trials": [
                {
                    "run": one.run.id,
                    "point": dict(one.point),
                    "weight": one.weight,
                    "findings": [finding.to_json() for finding in one.found.findings],
                    "evidence": {
                        name: value for name, of in EVIDENCE.items() if (value := of(one.found.facts)) is not None
                    },
                }
                for one in self.trials
            ],
            "effects": [
                {"axis": one.axis, "evidence": one.evidence, "means": dict(one.means), "share": one.share}
                for one in self.effects
            ],
        }


def of_sweep(now: Standing, workspace: Workspace, limits_of: Callable[[Facts], Thresholds]) -> SweepDiagnosis:
    """Diagnose every trial that has a run with an end, by its last checkpoint; text encoders are not measured for it."""
    trials = []
    for one in now.trials:
        if one.run is None or one.state is None or not one.state.is_final:
            continue
        facts = of_run(one.run, workspace, embeddings=False, every_checkpoint=False)
        trials.append(Trial(one.trial.point, one.run, diagnose(facts, limits_of(facts))))
    ranked = sorted(trials, key=lambda one: (one.weight, _last_validation(one.found.facts)))
    return SweepDiagnosis(now.folder.id, tuple(ranked), tuple(effects(trials)), len(now.trials) - len(trials))


def _last_validation(facts: Facts) -> float:
    return facts.validation[-1][1] if facts.validation else 0.0


def _moved(part: str) -> Callable[[Facts], float | None]:
    def of(facts: Facts) -> float | None:
        found = facts.part(part)
        return None if found is None else found.relative if found.relative is not None else found.norm

    return of


def _last_loss(facts: Facts) -> float | None:
    found = ends(facts.losses, 100)
    return None if found is None else found.last


#: What is compared between trials.
EVIDENCE: Final[Mapping[str, Callable[[Facts], float | None]]] = {
    "UNet moved": _moved("unet"),
    "TE1 moved": _moved("te1"),
    "TE2 moved": _moved("te2"),
    "validation loss": lambda facts: facts.validation[-1][1] if facts.validation else None,
    "last loss": _last_loss,
}


def effects(trials: Sequence[Trial]) -> Iterator[Effect]:
    """For each axis with several values, the evidence that it moved, most first. η² = between-group over total sum of squares."""
    axes = list(dict.fromkeys(key for one in trials for key in one.point))
    for axis in axes:
        found = []
        for name, of in EVIDENCE.items():
            groups: dict[str, list[float]] = {}
            for one in trials:
                if axis in one.point and (value := of(one.found.facts)) is not None:
                    groups.setdefault(one.point[axis], []).append(value)
            everything = [value for values in groups.values() for value in values]
            # With one trial for each value, everything would be "between".
            if len(groups) < 2 or len(everything) <= len(groups):
                continue
            mean = statistics.fmean(everything)
            total = sum((value - mean) ** 2 for value in everything)
            between = sum(len(values) * (statistics.fmean(values) - mean) ** 2 for values in groups.values())
            if total > 0 and between / total >= _TOLD:
                means = tuple((value, float(f"{statistics.fmean(values):.4g}")) for value, values in groups.items())
                found.append(Effect(axis, name, means, float(f"{between / total:.3g}")))
        yield from sorted(found, key=lambda one: -one.share)
