"""docs/builtin-trainer.md says what the code says."""

from __future__ import annotations

from pathlib import Path

from lorakit.trainers.builtin_page import page
from lorakit.trainers.builtin_support import HARMLESS, REFUSED
from lorakit.trainers.catalogue import Catalogue


def test_the_page_is_current() -> None:
    shipped = Path(__file__).parents[2] / "docs" / "builtin-trainer.md"
    assert shipped.read_text(encoding="utf-8") == page(), "run `make docs`"


def test_the_tables_name_options_that_exist_each_once() -> None:
    assert set(REFUSED) | set(HARMLESS) <= set(Catalogue.load().by_dest())
    assert not set(REFUSED) & set(HARMLESS)
