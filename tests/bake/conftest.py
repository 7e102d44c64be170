"""A workspace with the tiny base model and a few pictures."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from lorakit.workspace import Workspace
from tests.bench_models import bench_checkpoint

PRESET = """\
name = "small thing"
seed = 7

[base]
model = "models/tiny.safetensors"

[dataset]
path = "datasets/things"
resolution = 64
bucket_min = 64
bucket_max = 128
bucket_step = 32
workers = 0

[network]
dim = 2

[optim]
type = "AdamW"
unet_lr = 1e-3
te_lr = 1e-3
schedule = "constant"

[length]
steps = 3
batch_size = 2

[precision]
mixed = "no"
save = "float"

[trainer]
kind = "builtin"

[launch]
cpu = true
threads = 1
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    root = tmp_path / "work space"  # with a space, as people have them
    (root / "models").mkdir(parents=True)
    shutil.copy(bench_checkpoint(), root / "models" / "tiny.safetensors")
    pictures = root / "datasets" / "things" / "2_thing"
    pictures.mkdir(parents=True)
    for index in range(4):
        Image.new("RGB", (64, 64 + 32 * (index % 2)), (60 * index, 90, 120)).save(pictures / f"{index}.png")
        (pictures / f"{index}.txt").write_text(f"thing, number {index}", encoding="utf-8")
    (root / "presets").mkdir()
    (root / "presets" / "small.toml").write_text(PRESET, encoding="utf-8")
    (root / "lorakit.toml").write_text("", encoding="utf-8")
    return Workspace(root)
