"""Handing a dataset to a trainer that runs elsewhere."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lorakit.dataset.blueprint import DatasetDefaults, from_folders, from_toml
from lorakit.dataset.handover import explicit_config, write_view
from lorakit.dataset.scan import ScannedData, scan
from tests.dataset.pictures import picture

DEFAULTS = DatasetDefaults(
    resolution=(128, 96), enable_bucket=True, min_bucket_reso=64, max_bucket_reso=256, caption_extension=".txt"
)
TOML = """
[general]
num_repeats = 2
face_crop_aug_range = [1.0, 2.0]
[[datasets]]
resolution = 64
validation_split = 0.5
validation_seed = 3
[[datasets.subsets]]
image_dir = "a"
class_tokens = "x 'y'"
custom_attributes = { diff_output_preservation = true }
[[datasets.subsets]]
image_dir = "b"
is_reg = true
[[datasets]]
[[datasets.subsets]]
metadata_file = "m.json"
image_dir = "a"
"""


def test_config_reads_back_as_the_same_blueprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "d.toml").write_text(TOML)
    blueprint = from_toml(tmp_path / "d.toml", DEFAULTS, root=tmp_path)
    (tmp_path / "explicit.json").write_text(json.dumps(explicit_config(blueprint)))
    monkeypatch.chdir("/")
    # Nothing is left to the command line: other defaults change nothing but what a metadata subset has no key for.
    again = from_toml(tmp_path / "explicit.json", replace(DEFAULTS, keep_tokens=5, dataset_repeats=9, flip_aug=True))
    assert again == blueprint


def test_config_of_folders(tmp_path: Path) -> None:
    picture(tmp_path / "3_girl/a.png")
    config = explicit_config(from_folders(tmp_path, None, DEFAULTS))
    (dataset,) = config["datasets"]
    assert dataset["validation_split"] == 0.0
    assert dataset["resolution"] == [128, 96]
    assert dataset["subsets"][0]["image_dir"] == str(tmp_path / "3_girl")
    assert dataset["subsets"][0]["class_tokens"] == "girl"


def numbers(data: ScannedData) -> list[tuple[str, str, int, tuple[int, int], bool]]:
    return [
        (record.path.name, record.caption, record.repeats, record.bucket, validates)
        for dataset in data.datasets
        for validates, records in ((False, dataset.train), (True, dataset.validation))
        for record in records
    ]


def test_view_leaves_out_the_unreadable_and_nothing_else(tmp_path: Path) -> None:
    defaults = replace(DEFAULTS, validation_split=0.3, validation_seed=5)
    for i in range(9):
        picture(tmp_path / f"train/3_a 'b'/{i}\n.png", (64, 64 + 8 * i), f"tag {i}" if i % 2 else None)
        picture(tmp_path / f"reg/1_b/{i}.png", (64, 64))
    bad = tmp_path / "train/3_a 'b'/bad.png"
    bad.write_bytes(b"x")
    data = scan(from_folders(tmp_path / "train", tmp_path / "reg", defaults), skip_unreadable=True)
    assert data.unreadable == (bad,)
    moved = write_view(data, tmp_path / "run/dataset")
    view = from_folders(moved[tmp_path / "train"], moved[tmp_path / "reg"], defaults)
    assert numbers(scan(view)) == numbers(data)
    assert not (moved[tmp_path / "train"] / "3_a 'b'/bad.png").exists()
    assert bad.exists()


def test_view_of_a_toml(tmp_path: Path) -> None:
    picture(tmp_path / "a/good.png")
    picture(tmp_path / "a/bad.jpg").write_bytes(b"")
    (tmp_path / "d.toml").write_text("[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'a'\n")
    blueprint = from_toml(tmp_path / "d.toml", DEFAULTS, root=tmp_path)
    data = scan(blueprint, skip_unreadable=True)
    moved = write_view(data, tmp_path / "view")
    (tmp_path / "d.json").write_text(json.dumps(explicit_config(blueprint, moved)))
    assert numbers(scan(from_toml(tmp_path / "d.json"))) == numbers(data)
