"""A dumped preset is complete, stable and loads back as itself."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import given, settings

from lorakit.preset.dump import dump_toml
from lorakit.preset.files import load_text
from lorakit.preset.schema import fields
from lorakit.preset.toml_lines import dotted

from .strategies import presets

if TYPE_CHECKING:
    from lorakit.preset.models import Preset


@settings(max_examples=150, deadline=None)
@given(presets())
def test_a_dumped_preset_loads_back_as_itself(preset: Preset) -> None:
    text = dump_toml(preset)
    again = load_text(text, Path("dumped.toml"))
    assert again.preset == preset
    assert repr(again.preset) == repr(preset)  # 0 and 0.0 are equal, and a trainer is told them differently
    assert dump_toml(again.preset) == text


@settings(max_examples=50, deadline=None)
@given(presets())
def test_every_key_is_there_with_its_value_or_as_a_comment(preset: Preset) -> None:
    text = dump_toml(preset)
    data = tomllib.loads(text)
    for path, _ in fields():
        table = data
        for part in path[:-1]:
            table = table[part]
        assert path[-1] in table or f"# {path[-1]} =" in text.splitlines(), dotted(path)
