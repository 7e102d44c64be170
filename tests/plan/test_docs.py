"""The numbers in docs/plan.md."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from lorakit.schedule import steps

PAGE = Path(__file__).parents[2] / "docs" / "plan.md"
TEXT = PAGE.read_text(encoding="utf-8")
RECORD = Path(__file__).parents[1] / "conformance" / "data" / "plan.json"
ROWS = [
    tuple(map(int, row)) for row in re.findall(r"^\| (\d+) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|$", TEXT, re.MULTILINE)
]


def test_the_table_is_there() -> None:
    assert len(ROWS) == 4


@pytest.mark.parametrize("row", ROWS)
def test_every_row_is_what_is_planned(row: tuple[int, int, int, int, int]) -> None:
    batches, processes, accumulation, epochs, expected = row
    counts = steps(batches, max_train_epochs=epochs, processes=processes, gradient_accumulation_steps=accumulation)
    assert (counts.total_steps, counts.epochs) == (expected, epochs)


def test_the_counted_cases_are_those_that_are_recorded() -> None:
    recorded = json.loads(RECORD.read_text(encoding="utf-8"))["cases"].values()
    told = re.findall(r"(?:makes |^- )(\d+) (?:datasets|of them)", TEXT, re.MULTILINE)
    assert list(map(int, told)) == [len(recorded), sum("lr" in case for case in recorded)]
