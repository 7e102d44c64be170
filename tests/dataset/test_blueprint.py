"""Folders to blueprints, and the command line to defaults."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorakit.dataset.blueprint import DatasetDefaults, from_folders, parse_folder_name
from lorakit.errors import DatasetError
from lorakit.trainers.catalogue import Catalogue
from tests.dataset.pictures import picture

DEFAULTS = DatasetDefaults(resolution=(128, 128))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("10_hifumi girl", (10, "hifumi girl")),
        ("3_a_b", (3, "a_b")),
        ("10", (10, "")),
        ("0_a", (0, "a")),
        ("-1_a", (-1, "a")),
        (" 5_a", (5, "a")),
        ("a_10", (None, "10")),
        ("1.5_a", (None, "a")),
        ("_a", (None, "a")),
        ("10 a", (None, "")),
    ],
)
def test_folder_name(name: str, expected: tuple[int | None, str]) -> None:
    assert parse_folder_name(name) == expected


@given(st.integers(1, 10**6), st.text())
def test_folder_name_keeps_any_text(repeats: int, text: str) -> None:
    assert parse_folder_name(f"{repeats}_{text}") == (repeats, text)


def test_only_direct_folders_with_repeats(tmp_path: Path) -> None:
    for name in ("2_b", "10", "1_a", "loose", "0_none", "-3_no", "1_a/5_deeper", ".git"):
        (tmp_path / name).mkdir(parents=True)
    picture(tmp_path / "beside.png")
    (tmp_path / "7_file").touch()
    blueprint = from_folders(tmp_path, None, DEFAULTS)
    (dataset,) = blueprint.datasets
    assert [(s.num_repeats, s.class_tokens, s.is_reg) for s in dataset.subsets] == [
        (10, "", False),
        (1, "a", False),
        (2, "b", False),
    ]
    assert {(s.path.name, s.reason.split(" ")[-1]) for s in blueprint.skipped} == {
        ("loose", "(N_name)"),
        ("0_none", "repeats"),
        ("-3_no", "repeats"),
        ("beside.png", "them"),
    }


def test_regularisation_folders(tmp_path: Path) -> None:
    (tmp_path / "train/1_a").mkdir(parents=True)
    (tmp_path / "reg/1_girl").mkdir(parents=True)
    (dataset,) = from_folders(tmp_path / "train", tmp_path / "reg", DEFAULTS).datasets
    assert [(s.class_tokens, s.is_reg) for s in dataset.subsets] == [("a", False), ("girl", True)]
    (tmp_path / "reg/1_girl").rename(tmp_path / "reg/girl")
    with pytest.raises(DatasetError, match="no folder of regularisation images"):
        from_folders(tmp_path / "train", tmp_path / "reg", DEFAULTS)


def test_settings_come_from_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "1_a").mkdir()
    defaults = DatasetDefaults((64, 96), train_batch_size=3, caption_extension=".txt", keep_tokens=2, flip_aug=True)
    (dataset,) = from_folders(tmp_path, None, defaults).datasets
    assert (dataset.resolution, dataset.batch_size) == ((64, 96), 3)
    (subset,) = dataset.subsets
    assert (subset.caption_extension, subset.keep_tokens, subset.flip_aug) == (".txt", 2, True)


def test_nothing_to_train_on_says_what_to_do(tmp_path: Path) -> None:
    data = tmp_path / "pictures"
    with pytest.raises(DatasetError, match="cannot be read"):
        from_folders(data, None, DEFAULTS)
    data.mkdir()
    with pytest.raises(DatasetError) as caught:
        from_folders(data, None, DEFAULTS)
    assert "no sub-folder" in caught.value.why
    (data / "girl").mkdir()
    with pytest.raises(DatasetError) as caught:
        from_folders(data, None, DEFAULTS)
    assert '"1_girl"' in caught.value.todo
    picture(data / "a.png")
    with pytest.raises(DatasetError) as caught:
        from_folders(data, None, DEFAULTS)
    assert "1 images itself" in caught.value.why
    assert '"' + str(data / "1_pictures") + '"' in caught.value.todo


def test_given_the_n_name_folder_itself(tmp_path: Path) -> None:
    picture(tmp_path / "3_girl/a.png")
    with pytest.raises(DatasetError) as caught:
        from_folders(tmp_path / "3_girl", None, DEFAULTS)
    assert str(tmp_path) in caught.value.todo
    assert "N_name folder" in caught.value.todo


def test_resolution_is_needed(tmp_path: Path) -> None:
    (tmp_path / "1_a").mkdir()
    with pytest.raises(DatasetError, match="no resolution"):
        from_folders(tmp_path)


def test_defaults_are_those_of_the_trainers_parser() -> None:
    namespace = Catalogue.load().parser().parse_args([])
    assert DatasetDefaults.from_arguments(vars(namespace)) == DatasetDefaults()


def test_defaults_from_arguments() -> None:
    namespace = (
        Catalogue.load()
        .parser()
        .parse_args(
            [
                "--resolution",
                "832,1216",
                "--face_crop_aug_range",
                "2.0,4.0",
                "--caption_extention",
                ".cap",
                "--enable_bucket",
            ]
        )
    )
    defaults = DatasetDefaults.from_arguments(vars(namespace))
    assert defaults.resolution == (832, 1216)
    assert defaults.face_crop_aug_range == (2.0, 4.0)
    assert defaults.caption_extension == ".cap"
    assert defaults.enable_bucket
    assert DatasetDefaults.from_arguments(vars(Namespace(resolution="512"))).resolution == (512, 512)


@pytest.mark.parametrize(
    "arguments",
    [
        {"resolution": "1024x1024"},
        {"resolution": "1,2,3"},
        {"resolution": "0"},
        {"face_crop_aug_range": "2"},
        {"face_crop_aug_range": "4,2"},
    ],
)
def test_arguments_that_stop_the_trainer(arguments: dict[str, str]) -> None:
    with pytest.raises(DatasetError, match=next(iter(arguments))):
        DatasetDefaults.from_arguments(arguments)
