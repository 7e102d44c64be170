"""A workspace with the tiny base model and a few pictures."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lorakit.workspace import Workspace
from tests.bench_models import bench_checkpoint
from tests.small_run import small_pictures, small_preset

PRESET = small_preset("small thing", steps=3, batch_size=2, model="models/tiny.safetensors", dataset="datasets/things")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    root = tmp_path / "work space"  # with a space, as people have them
    (root / "models").mkdir(parents=True)
    shutil.copy(bench_checkpoint(), root / "models" / "tiny.safetensors")
    small_pictures(root / "datasets" / "things" / "2_thing", 4, tall=True)
    (root / "presets").mkdir()
    (root / "presets" / "small.toml").write_text(PRESET, encoding="utf-8")
    (root / "lorakit.toml").write_text("", encoding="utf-8")
    return Workspace(root)
