"""Datasets of a training: TOML files, regularisation, and settings that this trainer refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors import safe_open

from lorakit.dataset.blueprint import Blueprint, DatasetSpec, SubsetSpec
from lorakit.errors import TrainerError
from lorakit.trainers.builtin.dataset import refuse_unsupported
from lorakit.trainers.builtin.options import CacheOptions
from tests.trainers.builtin.runs import train, write_images


def blueprint(**settings: object) -> Blueprint:
    return Blueprint((DatasetSpec((SubsetSpec(Path("d"), **settings),), (64, 64)),))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "cache", "key"),
    [
        ({"alpha_mask": True}, CacheOptions(), "alpha_mask"),
        ({"face_crop_aug_range": (1.0, 2.0)}, CacheOptions(), "face_crop_aug_range"),
        ({"cache_info": True}, CacheOptions(), "cache_info"),
        ({"metadata_file": Path("m.json")}, CacheOptions(), "metadata_file"),
        ({"conditioning_data_dir": Path("c")}, CacheOptions(), "conditioning_data_dir"),
        ({"custom_attributes": {"diff_output_preservation": True}}, CacheOptions(), "custom_attributes"),
        ({"random_crop": True}, CacheOptions(cache_latents=True), "random_crop"),
        ({"color_aug": True}, CacheOptions(cache_latents=True), "color_aug"),
        ({"shuffle_caption": True}, CacheOptions(cache_text_encoder_outputs=True), "shuffle_caption"),
        ({"caption_dropout_rate": 0.1}, CacheOptions(cache_text_encoder_outputs=True), "caption_dropout_rate"),
    ],
)
def test_refused_settings(settings: dict[str, object], cache: CacheOptions, key: str) -> None:
    with pytest.raises(TrainerError, match=key):
        refuse_unsupported(blueprint(**settings), cache)


def test_settings_that_are_fine() -> None:
    refuse_unsupported(blueprint(random_crop=True, shuffle_caption=True, flip_aug=True), CacheOptions())


def test_toml_with_two_datasets_and_regularisation(tiny_base: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "cat", ((64, 64),) * 3)
    write_images(tmp_path / "wide", ((128, 64),) * 2)
    write_images(tmp_path / "animal", ((64, 64),) * 2, seed=4)
    config = tmp_path / "data.toml"
    config.write_text(
        f"""
        [general]
        enable_bucket = true
        min_bucket_reso = 32
        bucket_reso_steps = 32
        caption_extension = ".txt"
        [[datasets]]
        resolution = 64
        batch_size = 2
        [[datasets.subsets]]
        image_dir = "{tmp_path / "cat"}"
        num_repeats = 2
        [[datasets.subsets]]
        image_dir = "{tmp_path / "animal"}"
        is_reg = true
        [[datasets]]
        resolution = [96, 64]
        batch_size = 1
        [[datasets.subsets]]
        image_dir = "{tmp_path / "wide"}"
        flip_aug = true
        """
    )
    run = train(
        tiny_base, tmp_path, tmp_path / "out",
        {"train_data_dir": None, "resolution": None, "dataset_config": config, "max_train_steps": None,
         "max_train_epochs": 1, "max_data_loader_n_workers": 1, "persistent_data_loader_workers": True,
         "cache_latents": None, "network_train_unet_only": True, "prior_loss_weight": 0.5},
    )  # fmt: skip
    assert run.code == 0
    # 6 training and 6 regularisation examples by twos, 2 wide ones singly
    assert run.of("start")[0]["batches_per_epoch"] == len(run.of("step")) == 8
    with safe_open(run.output / "x.safetensors", "pt") as file:
        said = file.metadata()
    first, second = json.loads(said["ss_datasets"])
    assert (first["num_train_images"], first["num_reg_images"]) == (6, 2)
    assert [subset["image_dir"] for subset in first["subsets"]] == ["cat", "animal"]
    assert first["bucket_info"]["buckets"] == {"0": {"resolution": [64, 64], "count": 12}}
    assert second["subsets"][0]["flip_aug"] is True
    assert "ss_bucket_info" not in said
