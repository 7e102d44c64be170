"""Concept data sets: whole, captioned, the same every time, and what the judge says they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lorakit.bench_model.__main__ import main
from lorakit.bench_model.concepts import CONCEPTS, nocturne, write_concepts
from lorakit.bench_model.judge import judge, to_lab
from lorakit.dataset.blueprint import DatasetDefaults, from_folders
from lorakit.dataset.scan import scan
from lorakit.errors import DiskError


def pictures(folder: Path) -> dict[str, tuple[np.ndarray[tuple[int, ...], np.dtype[np.uint8]], str]]:
    return {
        path.name: (np.asarray(Image.open(path)), path.with_suffix(".txt").read_text().strip())
        for path in sorted(folder.glob("*/*.png"))
    }


def test_the_command_writes_every_concept_in_kohyas_layout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["concepts", str(tmp_path)]) == 0
    assert "64 pictures" in capsys.readouterr().out
    for name, concept in CONCEPTS.items():
        scanned = scan(
            from_folders(tmp_path / name, defaults=DatasetDefaults(resolution=(128, 128), caption_extension=".txt"))
        )
        records = scanned.datasets[0].train
        assert len(records) == 16
        assert {record.repeats for record in records} == {int(concept.folder.split("_")[0])}
        assert all(concept.trigger in (record.caption or "") for record in records)


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    one, again, other = tmp_path / "one", tmp_path / "again", tmp_path / "other"
    for folder, seed in ((one, 3), (again, 3), (other, 4)):
        write_concepts(folder, seed=seed, names=["zorp"])
    files = [path.relative_to(one) for path in sorted(one.rglob("*.*"))]
    assert len(files) == 32
    assert all((one / file).read_bytes() == (again / file).read_bytes() for file in files)
    assert any((one / file).read_bytes() != (other / file).read_bytes() for file in files)


def test_zorps_are_purple_stars_with_a_yellow_stripe(tmp_path: Path) -> None:
    write_concepts(tmp_path, names=["zorp"])
    for name, (pixels, text) in pictures(tmp_path / "zorp").items():
        verdict = judge(pixels)
        assert (verdict.shape, verdict.colour) == ("star", "purple"), name
        assert verdict.stripe == "yellow", name
        assert "zorp" in text
        assert "star" not in text
        assert f"on a {verdict.background} background" in text


def test_vexed_hearts_have_a_cyan_stripe_of_which_the_caption_says_nothing(tmp_path: Path) -> None:
    write_concepts(tmp_path, names=["vexed"])
    for name, (pixels, text) in pictures(tmp_path / "vexed").items():
        verdict = judge(pixels)
        assert (verdict.shape, verdict.stripe) == ("heart", "cyan"), name
        assert f"vexed {verdict.colour} heart" in text
        assert "stripe" not in text


def test_nocturnes_are_darker_and_bluer() -> None:
    for shade in (60, 130, 220):
        plain = np.full((128, 128, 3), shade, np.uint8)
        day, night = (to_lab(pixels).mean(axis=(0, 1)) for pixels in (plain, nocturne(plain)))
        assert night[0] < day[0]
        assert night[2] < day[2] - 5


def test_an_unknown_concept_and_a_folder_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["concepts", str(tmp_path), "unicorn"]) == 2
    assert "zorp" in capsys.readouterr().err
    (tmp_path / "file").touch()
    with pytest.raises(DiskError):
        write_concepts(tmp_path / "file")


def test_the_data_sets_that_ship_are_the_ones_that_are_made(tmp_path: Path) -> None:
    shipped = Path(__file__).parents[2] / "datasets" / "demo"
    write_concepts(tmp_path)
    made = {path.relative_to(tmp_path): path for path in tmp_path.rglob("*.*")}
    assert {path.relative_to(shipped) for path in shipped.rglob("*.*")} == made.keys()
    for name, path in made.items():
        if name.suffix == ".txt":
            assert (shipped / name).read_text() == path.read_text()
        else:  # a newer Pillow may compress otherwise, the pixels stay
            assert (np.asarray(Image.open(shipped / name)) == np.asarray(Image.open(path))).all()
