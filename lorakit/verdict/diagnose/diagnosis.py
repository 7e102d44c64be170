"""The diagnosis: every rule looks at the facts; what was found, what is healthy, what could not be looked at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from lorakit.archive.records import require_writable
from lorakit.archive.run import SCHEMA, Run
from lorakit.atomic import write_json
from lorakit.errors import DiskError
from lorakit.verdict.diagnose.facts import PARTS, Facts
from lorakit.verdict.diagnose.findings import Finding, Table, figure
from lorakit.verdict.diagnose.rules_parts import ROAD_TABLE, TEXT, UNET
from lorakit.verdict.diagnose.rules_setup import CAPTIONS, WASTE
from lorakit.verdict.diagnose.rules_training import COURSE
from lorakit.verdict.diagnose.series import ends
from lorakit.verdict.diagnose.thresholds import Thresholds

__all__ = ["FILE", "TABLES", "Diagnosis", "diagnose", "keep"]

#: Where a run keeps its diagnosis, in analysis/.
FILE: Final = "diagnosis.json"
TABLES: Final[tuple[Table, ...]] = (TEXT, UNET, COURSE, CAPTIONS, WASTE, ROAD_TABLE)
_ORDER: Final = {"sure": 0, "likely": 1, "possible": 2}


@dataclass(frozen=True)
class Diagnosis:
    """Findings, surest first; ``healthy``: a line for each kind of evidence that was looked at and is as it should be."""

    facts: Facts
    limits: Thresholds
    findings: tuple[Finding, ...]
    healthy: tuple[str, ...]

    @property
    def carried(self) -> dict[str, float]:
        """Each part's share of the squared weight norm of the last checkpoint: which part carries the LoRA."""
        last = self.facts.last
        return {} if last is None else {part: found.share for part, found in last.parts.items()}

    def to_json(self) -> dict[str, Any]:
        """Plain values, the same for the same facts; numbers have at most six digits."""
        limits = self.limits
        return {
            "schema": SCHEMA,
            "of": self.facts.subject,
            "scale": self.facts.scale,
            "findings": [_rounded(finding.to_json()) for finding in self.findings],
            "healthy": list(self.healthy),
            "carried_by": _rounded(self.carried),
            "unseen": [{"what": one.what, "why": one.why} for one in self.facts.unseen],
            "saw": list(self.facts.seen),
            "thresholds": {key: value for key, value in limits.values.items() if value is not None},
            "overridden": dict(limits.overridden),
        }


def diagnose(facts: Facts, limits: Thresholds) -> Diagnosis:
    """Let every rule look. Pure: the same facts and thresholds give the same diagnosis."""
    looked = (rule.look(facts, limits) for table in TABLES for rule in table.rules)
    findings = sorted((one for one in looked if one is not None), key=lambda one: (_ORDER[one.confidence], one.code))
    codes = {one.code for one in findings}
    return Diagnosis(facts, limits, tuple(findings), tuple(_healthy(facts, limits, codes)))


def keep(found: Diagnosis, run: Run) -> None:
    """Write analysis/diagnosis.json, which no seal covers. Raises ArchiveError for a run of a newer lorakit, DiskError."""
    require_writable(run)
    try:
        run.analysis.mkdir(exist_ok=True)
        write_json(run.analysis / FILE, found.to_json())
    except OSError as error:
        raise DiskError(f"{run.analysis / FILE} cannot be written", why=error.strerror or str(error)) from error


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


def _healthy(facts: Facts, limits: Thresholds, codes: set[str]) -> Iterator[str]:
    """What was looked at and found well, shortest first."""
    moved = [
        f"{name} {found.relative:.1%}"
        for part, name in PARTS.items()
        if (found := facts.part(part)) is not None and found.relative is not None
        and not codes & ({"D11", "D12"} if part == "unet" else {"D01", "D03"})
    ]  # fmt: skip
    if moved:
        yield f"weights moved by {', '.join(moved)} of the base model's"
    if facts.embeddings and "D05" not in codes:
        last = facts.embeddings[-1]
        told = ", ".join(
            f"{PARTS[part]} {value:.2f} (base {last.base[part]:.2f})" for part, value in last.similarity.items()
        )
        yield f"similarity of captions {told}"
    if facts.checkpoints and "D41" not in codes:
        yield "no dead modules"
    loss = ends(facts.losses, round(limits["loss.window"])) if len(facts.losses) >= limits["loss.steps"] else None
    if loss is not None and not codes & {"D21", "D11"}:
        yield f"loss fell {figure(loss.first)} → {figure(loss.last)}, {figure(loss.fell)} × its noise"
    if facts.pictures and not codes & {"D11", "D12"}:
        yield "samples are neither noise nor flat"
