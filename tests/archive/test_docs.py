"""docs/runs.md names every status and reason."""

from __future__ import annotations

from pathlib import Path

from lorakit.archive.diagnose_log import Reason, Status


def test_every_word_is_explained() -> None:
    text = (Path(__file__).parents[2] / "docs" / "runs.md").read_text(encoding="utf-8")
    for word in (*Status, *Reason):
        assert f"`{word.value}`" in text or word is Reason.NONE
