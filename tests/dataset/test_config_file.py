"""The dataset TOML: lookup order, strict types and keys, all problems at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lorakit.dataset.blueprint import Blueprint, DatasetDefaults, from_toml
from lorakit.dataset.scan import scan
from lorakit.errors import DatasetError
from tests.dataset.pictures import picture

DEFAULTS = DatasetDefaults(resolution=(128, 128), caption_extension=".txt", train_batch_size=2, dataset_repeats=4)


def read(tmp_path: Path, text: str, defaults: DatasetDefaults = DEFAULTS) -> Blueprint:
    path = tmp_path / "data.toml"
    path.write_text(text, encoding="utf-8")
    return from_toml(path, defaults, root=tmp_path)


def problems(tmp_path: Path, text: str, defaults: DatasetDefaults = DEFAULTS) -> dict[str, str]:
    with pytest.raises(DatasetError) as caught:
        read(tmp_path, text, defaults)
    return {problem.key: problem.what for problem in caught.value.problems}


def test_least(tmp_path: Path) -> None:
    (dataset,) = read(tmp_path, '[[datasets]]\n[[datasets.subsets]]\nimage_dir = "a"').datasets
    assert (dataset.resolution, dataset.batch_size, dataset.enable_bucket) == ((128, 128), 2, False)
    (subset,) = dataset.subsets
    assert subset.image_dir == tmp_path / "a"
    assert (subset.num_repeats, subset.caption_extension, subset.class_tokens) == (4, ".txt", None)


def test_lookup_order(tmp_path: Path) -> None:
    first, second = read(
        tmp_path,
        """
        [general]
        num_repeats = 2
        keep_tokens = 1
        batch_size = 8
        resolution = 512
        class_tokens = "of all"
        [[datasets]]
        keep_tokens = 3
        resolution = [832, 1216]
        validation_split = 0.25
        validation_seed = 9
        [[datasets.subsets]]
        image_dir = "a"
        [[datasets.subsets]]
        image_dir = "b"
        keep_tokens = 5
        num_repeats = 7
        is_reg = true
        class_tokens = "its own"
        token_warmup_step = 3
        face_crop_aug_range = [1.0, 2.0]
        custom_attributes = { diff_output_preservation = true }
        [[datasets]]
        [[datasets.subsets]]
        image_dir = "/abs"
        """,
    ).datasets
    assert (first.resolution, first.batch_size) == ((832, 1216), 8)
    assert (first.validation_split, first.validation_seed) == (0.25, 9)
    assert [(s.keep_tokens, s.num_repeats, s.is_reg, s.class_tokens) for s in first.subsets] == [
        (3, 2, False, "of all"),
        (5, 7, True, "its own"),
    ]
    assert first.subsets[1].face_crop_aug_range == (1.0, 2.0)
    assert first.subsets[1].custom_attributes == {"diff_output_preservation": True}
    assert second.resolution == (512, 512)
    assert second.subsets[0].image_dir == Path("/abs")


def test_json_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text(json.dumps({"datasets": [{"subsets": [{"image_dir": "a", "num_repeats": 3}]}]}))
    assert from_toml(path, DEFAULTS, root=tmp_path).datasets[0].subsets[0].num_repeats == 3


def test_all_problems_at_once_with_their_keys(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        """
        colour = 1
        [general]
        shufle_caption = true
        validation_split = 0
        image_dir = "no"
        [[datasets]]
        batch_size = 0
        resolution = "512"
        train_batch_size = 3
        [[datasets.subsets]]
        num_repeats = 0
        flip_aug = 1
        batch_size = 2
        [[datasets.subsets]]
        image_dir = 3
        face_crop_aug_range = [2, 4]
        conditioning_data_dir = "c"
        [[datasets]]
        """,
    )
    assert found == {
        "colour": "is not a key that the trainer knows",
        "general.shufle_caption": "is not a key that the trainer knows: did you mean 'shuffle_caption'?",
        "general.validation_split": "must be a number with a decimal point (such as 0.0), not 0",
        "general.image_dir": "is not a key that the trainer knows here (it is a key of another level)",
        "datasets[0].batch_size": "must be at least 1, not 0",
        "datasets[0].resolution": "must be a whole number or [width, height], not '512'",
        "datasets[0].train_batch_size": "is not a key that the trainer knows: did you mean 'batch_size'?",
        "datasets[0].subsets[0].image_dir": "is missing",
        "datasets[0].subsets[0].num_repeats": "must be at least 1, not 0",
        "datasets[0].subsets[0].flip_aug": "must be true or false, not 1",
        "datasets[0].subsets[0].batch_size": "is not a key that the trainer knows here (it is a key of another level)",
        "datasets[0].subsets[1].image_dir": "must be text in quotes, not 3",
        "datasets[0].subsets[1].face_crop_aug_range": "must be [low, high] with decimal points, not [2, 4]",
        "datasets[0].subsets[1].conditioning_data_dir": "is only allowed with masked_loss",
        "datasets[1].subsets": "is missing: at least one [[datasets.subsets]] is needed",
    }


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("", "datasets"),
        ("datasets = []", "datasets"),
        ("datasets = 3", "datasets"),
        ("datasets = [3]", "datasets[0]"),
        ("general = 1\n[[datasets]]\n[[datasets.subsets]]\nimage_dir='a'", "general"),
        ("[[datasets]]\nsubsets = ['a']", "datasets[0].subsets[0]"),
    ],
)
def test_wrong_shapes(tmp_path: Path, text: str, key: str) -> None:
    assert key in problems(tmp_path, text)


def test_resolution_must_come_from_somewhere(tmp_path: Path) -> None:
    text = '[[datasets]]\n[[datasets.subsets]]\nimage_dir = "a"'
    assert "datasets[0].resolution" in problems(tmp_path, text, DatasetDefaults())
    (dataset,) = read(tmp_path, "[general]\nresolution = 64\n" + text, DatasetDefaults()).datasets
    assert dataset.resolution == (64, 64)


def test_styles_may_not_mix(tmp_path: Path) -> None:
    text = '[[datasets]]\n[[datasets.subsets]]\nimage_dir = "a"\n[[datasets.subsets]]\nmetadata_file = "m.json"'
    assert "are mixed" in problems(tmp_path, text)["datasets[0].subsets"]


def test_masked_loss_allows_masks(tmp_path: Path) -> None:
    text = '[[datasets]]\n[[datasets.subsets]]\nimage_dir = "a"\nconditioning_data_dir = "m"'
    defaults = DatasetDefaults(resolution=(64, 64), masked_loss=True)
    assert read(tmp_path, text, defaults).datasets[0].subsets[0].conditioning_data_dir == tmp_path / "m"


@pytest.mark.parametrize("text", ["[[datasets", "a = é", "\ud800"])
def test_not_toml(tmp_path: Path, text: str) -> None:
    path = tmp_path / "data.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(DatasetError, match="not valid TOML"):
        from_toml(path, DEFAULTS)


def test_not_json_and_not_there(tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text("[1, 2]")
    with pytest.raises(DatasetError, match="holds no table"):
        from_toml(tmp_path / "data.json", DEFAULTS)
    (tmp_path / "data.json").write_text("{")
    with pytest.raises(DatasetError, match="not valid JSON"):
        from_toml(tmp_path / "data.json", DEFAULTS)
    with pytest.raises(DatasetError, match="cannot be read"):
        from_toml(tmp_path / "none.toml", DEFAULTS)


def test_folder_names_are_not_parsed(tmp_path: Path) -> None:
    picture(tmp_path / "9_girl/a.png", caption=None)
    data = scan(read(tmp_path, '[[datasets]]\n[[datasets.subsets]]\nimage_dir = "9_girl"\nnum_repeats = 2'))
    (record,) = data.datasets[0].train
    assert (record.repeats, record.caption) == (2, "")


def test_two_datasets_do_not_share_batches(tmp_path: Path) -> None:
    picture(tmp_path / "a/a.png")
    picture(tmp_path / "b/b.png")
    text = "[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'a'\nnum_repeats = 3\n[[datasets]]\nbatch_size = 3\n"
    data = scan(read(tmp_path, text + "[[datasets.subsets]]\nimage_dir = 'b'"))
    assert [sum(dataset.batches().values()) for dataset in data.datasets] == [2, 2]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["image_dir", "x"]), inner, max_size=2),
    max_leaves=4,
)
keys = st.sampled_from(["image_dir", "resolution", "num_repeats", "batch_size", "subsets", "face_crop_aug_range", "no"])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.fixed_dictionaries(
        {"datasets": st.lists(st.dictionaries(keys, values, max_size=4) | values, max_size=2)},
        optional={"general": values | st.dictionaries(keys, values, max_size=3)},
    )
)
def test_any_table_is_read_or_refused(tmp_path: Path, table: dict[str, object]) -> None:
    path = tmp_path / "any.json"
    path.write_text(json.dumps(table))
    try:
        blueprint = from_toml(path, DEFAULTS, root=tmp_path)
    except DatasetError as error:
        assert error.problems  # noqa: PT017
        return
    assert all(subset.num_repeats >= 1 for dataset in blueprint.datasets for subset in dataset.subsets)
