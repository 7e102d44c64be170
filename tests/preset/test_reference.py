"""docs/presets.md is what the models say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from lorakit.preset.files import load_text
from lorakit.preset.reference import reference
from lorakit.preset.schema import fields

PAGE = Path(__file__).parents[2] / "docs" / "presets.md"


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "run python -m lorakit.preset.reference > docs/presets.md"


def test_the_command_that_the_page_names_makes_it() -> None:
    made = subprocess.run([sys.executable, "-m", "lorakit.preset.reference"], capture_output=True, check=True)
    assert made.stdout.decode() == reference()


def test_every_key_has_a_row_with_words() -> None:
    page = reference()
    for path, field in fields():
        assert path == ("extra",) or f"| `{path[-1]}` |" in page
        assert field.description


def test_the_smallest_preset_on_the_page_loads() -> None:
    example = reference().split("```toml\n")[1].split("```")[0]
    assert load_text(example, Path("hifumi.toml")).preset.name == "hifumi"
