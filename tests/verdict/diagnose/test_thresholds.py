"""The table of thresholds, its page, and values set in its place."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from lorakit.errors import UsageError
from lorakit.verdict.diagnose import thresholds
from lorakit.verdict.diagnose.findings import SEEN
from lorakit.verdict.diagnose.reference import page
from lorakit.verdict.diagnose.thresholds import BY_KEY, TABLE, settle

ROOT = Path(__file__).parents[3]
CODE = Path(thresholds.__file__).parent


def test_the_page_is_what_the_tables_say() -> None:
    assert (ROOT / "docs" / "diagnose.md").read_text(encoding="utf-8") == page(), "make docs"


def test_every_threshold_is_used_and_every_one_used_is_in_the_table() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in CODE.glob("*.py") if path.name != "thresholds.py")
    used = set(re.findall(r'limits\[f?"([a-z_.0-9]+)"\]', code)) | {"te.grad_te1", "te.grad_te2"}
    assert used == set(BY_KEY)
    assert 'limits[f"te.grad_{part}"]' in code


def test_every_threshold_says_where_it_comes_from() -> None:
    assert len(BY_KEY) == len(TABLE)
    assert all(one.meaning and one.origin for one in TABLE)


def test_the_issues_numbers_are_those_of_sdxl() -> None:
    limits = settle("sdxl")
    asked = {
        "te.grad_te1": 0.01, "te.grad_te2": 0.03, "te.grad_ratio": 5, "te.schedule_cut": 0.7, "te.rate_low": 1e-5, "te.rate_high": 5e-5,
        "loss.window": 100, "embedding.te1_risk": 0.9, "embedding.te1_diversity": 0.05, "embedding.te2_watch": 0.8,
        "embedding.collapse": 0.15, "warmup.share": 0.1, "change.less": 0.3, "change.more": 3, "change.rest": 0.1, "change.refine_te": 1e-6,
    }  # fmt: skip
    assert {key: limits[key] for key in asked} == asked


def test_what_tells_nothing_at_a_scale_compares_with_nothing() -> None:
    assert math.isnan(settle("bench")["te.grad_te1"])
    assert settle("bench", words=["te.grad_te1=0.001"])["te.grad_te1"] == 0.001


def test_the_line_wins_over_the_workspace_over_the_table() -> None:
    table = {"unet": {"moved_much": 0.3, "moved_little": 0.01}, "te.moved_much": 0.1}
    found = settle("sdxl", table, ["unet.moved_much=0.4"])
    assert (found["unet.moved_much"], found["unet.moved_little"], found["te.moved_much"]) == (0.4, 0.01, 0.1)
    assert set(found.overridden) == {"unet.moved_much", "unet.moved_little", "te.moved_much"}


@pytest.mark.parametrize(
    "word", ["unet.moved_mutch=1", "nonsense", "unet.moved_much=", "unet.moved_much=nan", "unet.moved_much=inf"]
)
def test_a_wrong_word_is_refused(word: str) -> None:
    with pytest.raises(UsageError):
        settle("sdxl", words=[word])


@pytest.mark.parametrize(
    "table", [{"unet": {"moved_much": "x"}}, {"unet": {"moved_much": True}}, {"unet": 3}, {"x": {}, "y": 1}]
)
def test_a_wrong_table_is_refused(table: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        settle("sdxl", table)


def test_the_commands_page_has_every_word_for_what_is_seen() -> None:
    commands = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert all(f"`{word}`" in commands for word in SEEN)
