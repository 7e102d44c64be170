"""Cross-field rules: what the trainer would reject, ignore or silently change, found before it is started."""

from __future__ import annotations

from typing import Final

from lorakit.preset.models import Preset
from lorakit.preset.rules import dataset, loss, model, network, optim, run, trained
from lorakit.preset.rules.rule import Finding, Level, Rule, Table, TrainerKind, ordered

__all__ = ["RULES", "TABLES", "Finding", "Level", "Rule", "Table", "TrainerKind", "check", "ordered"]

TABLES: Final[tuple[Table[TrainerKind], ...]] = (
    model.TABLE, trained.TABLE, dataset.TABLE, optim.TABLE, loss.TABLE, network.TABLE, run.TABLE,
)  # fmt: skip
RULES: Final[tuple[Rule[TrainerKind], ...]] = tuple(rule for table in TABLES for rule in table.rules)


def check(preset: Preset, kind: TrainerKind) -> tuple[Finding, ...]:
    """Everything that this preset breaks with this trainer, errors first, then by code. Pure: looks at no file."""
    return ordered(finding for table in TABLES for finding in table.look(preset, kind))
