"""Datasets listed by a metadata file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lorakit.dataset.blueprint import Blueprint, DatasetDefaults, from_toml
from lorakit.dataset.scan import scan
from lorakit.errors import DatasetError
from lorakit.plan import REAL_SDXL, PlanInput, network_size, plan_from
from tests.dataset.pictures import picture

DEFAULTS = DatasetDefaults(
    resolution=(128, 128), enable_bucket=True, min_bucket_reso=64, max_bucket_reso=256, bucket_reso_steps=32
)


def blueprint(root: Path, table: Any, *, image_dir: bool = True, name: str = "m.json", more: str = "") -> Blueprint:
    for i, size in enumerate([(128, 128), (200, 100), (100, 200)]):
        picture(root / f"a/i{i}.png", size, None)
    lines = "\n".join(json.dumps(row) for row in table) if name.endswith("jsonl") else json.dumps(table)
    (root / name).write_text(lines.replace("ROOT", str(root)))
    text = f'[[datasets]]\n{more}\n[[datasets.subsets]]\nmetadata_file = "{name}"\nnum_repeats = 2\n'
    (root / "d.toml").write_text(text + ('image_dir = "a"\n' if image_dir else ""))
    return from_toml(root / "d.toml", DEFAULTS, root=root)


def test_json(tmp_path: Path) -> None:
    table = {"i0.png": {"caption": "c"}, "i1.png": {"tags": "t"}, "ROOT/a/i2.png": {"caption": "c", "tags": "t"}}
    (dataset,) = scan(blueprint(tmp_path, table)).datasets
    assert [(r.path, r.caption, r.repeats) for r in dataset.train] == [
        (tmp_path / "a/i0.png", "c", 2),
        (tmp_path / "a/i1.png", "t", 2),
        (tmp_path / "a/i2.png", "c,t", 2),
    ]
    # As seen in sd-scripts.
    assert dataset.bucket_counts() == {(96, 160): 2, (128, 128): 2, (160, 96): 2}


def test_jsonl_without_image_dir(tmp_path: Path) -> None:
    rows = [{"image_path": "ROOT/a/i0.png", "caption": "c"}, {"image_path": "ROOT/a/i1.png", "tags": ""}]
    (dataset,) = scan(blueprint(tmp_path, rows, image_dir=False, name="m.jsonl")).datasets
    assert [r.caption for r in dataset.train] == ["c", ""]


def test_the_size_in_the_file_is_believed(tmp_path: Path) -> None:
    data = scan(blueprint(tmp_path, {"i0.png": {"caption": "c", "image_size": [128, 256]}}))
    assert data.datasets[0].train[0].bucket == (96, 160)
    assert "128×128, but its metadata says 128×256" in data.warnings[0]


def test_relative_needs_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="1 entries"):
        scan(blueprint(tmp_path, {"i0.png": {"caption": "c"}}, image_dir=False))


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        scan(blueprint(tmp_path, {"i0": {"caption": "c"}, "i1.png": {}}))
    assert "/a/i0'" in caught.value.why


def test_no_validation_split(tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        scan(blueprint(tmp_path, {"i0.png": {}}, more="validation_split = 0.5\nvalidation_seed = 1"))
    assert "would validate on all images" in caught.value.why


@pytest.mark.parametrize(
    "table",
    [
        [],
        [1],
        3,
        {"a.png": 3},
        {"a.png": {"caption": 3}},
        {"a.png": {"image_size": [1]}},
        {"a.png": {"image_size": "1"}},
    ],
)
def test_not_metadata(tmp_path: Path, table: object) -> None:
    with pytest.raises(DatasetError, match=r"m\.json"):
        scan(blueprint(tmp_path, table))


def test_broken_files(tmp_path: Path) -> None:
    asked = blueprint(tmp_path, {"i0.png": {}})
    (tmp_path / "m.json").write_text("{")
    with pytest.raises(DatasetError, match="not a metadata file"):
        scan(asked)
    (tmp_path / "m.json").unlink()
    with pytest.raises(DatasetError, match="cannot be read"):
        scan(asked)
    with pytest.raises(DatasetError, match="not a metadata file"):
        scan(blueprint(tmp_path, [{"caption": "c"}], name="m.jsonl"))


def test_it_is_planned_like_any_other(tmp_path: Path) -> None:
    asked = PlanInput(
        blueprint=blueprint(tmp_path, {"i0.png": {"caption": "c"}, "i1.png": {}}),
        output_name="n",
        output_dir=tmp_path,
        rates={"unet": 1e-4},
        network=network_size(REAL_SDXL, ["unet"], 4),
        max_train_epochs=2,
    )
    plan = plan_from(asked)
    assert (plan.images, plan.batches_per_epoch, plan.total_steps) == (2, 4, 8)
    assert plan.folders[0].path == tmp_path / "a"
