"""Masks: one for each image, of its size, and none besides."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorakit.dataset.blueprint import DatasetDefaults, from_toml
from lorakit.dataset.scan import ScannedData, scan
from lorakit.errors import DatasetError
from tests.dataset.pictures import picture

TOML = "[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'a'\nconditioning_data_dir = 'm'\n"


def scanned(root: Path) -> ScannedData:
    (root / "d.toml").write_text(TOML)
    defaults = DatasetDefaults(resolution=(64, 64), masked_loss=True, caption_extension=".txt")
    return scan(from_toml(root / "d.toml", defaults, root=root))


def test_masks_that_fit(tmp_path: Path) -> None:
    picture(tmp_path / "a/one.jpg", (64, 80))
    picture(tmp_path / "m/one.png", (64, 80), None)
    assert scanned(tmp_path).images == 1


def test_everything_wrong_is_named(tmp_path: Path) -> None:
    for name in ("none", "small", "broken"):
        picture(tmp_path / f"a/{name}.png")
    picture(tmp_path / "m/small.png", (32, 32), None)
    picture(tmp_path / "m/broken.png", caption=None).write_bytes(b"x")
    picture(tmp_path / "m/extra.png", caption=None)
    with pytest.raises(DatasetError) as caught:
        scanned(tmp_path)
    found = [problem.what for problem in caught.value.problems]
    assert len(found) == 4
    for text in (
        "none.png' has no mask",
        "is 32×32, its image 64×64",
        "broken.png' cannot be read",
        "extra.png' belongs",
    ):
        assert any(text in what for what in found), text


def test_no_folder_of_masks(tmp_path: Path) -> None:
    picture(tmp_path / "a/one.png")
    with pytest.raises(DatasetError, match="1 file") as caught:
        scanned(tmp_path)
    assert "folder of masks" in caught.value.why
