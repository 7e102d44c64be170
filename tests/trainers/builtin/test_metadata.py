"""What a LoRA file says about itself, and that it is written whole or not at all."""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save

from lorakit.errors import DiskError
from lorakit.trainers.builtin.metadata import TrainingFacts, at_save, build_metadata, model_hashes, save_lora
from lorakit.trainers.catalogue import Catalogue

#: The ss_* entries of every file of the trainer, whatever the data set.
ALWAYS = set(
    """session_id training_started_at output_name learning_rate text_encoder_lr unet_lr num_train_images num_validation_images
    num_reg_images num_batches_per_epoch num_epochs gradient_checkpointing gradient_accumulation_steps max_train_steps
    lr_warmup_steps lr_scheduler network_module network_dim network_alpha network_dropout mixed_precision full_fp16 v2
    base_model_version clip_skip max_token_length cache_latents seed lowram noise_offset multires_noise_iterations
    multires_noise_discount adaptive_noise_scale zero_terminal_snr training_comment sd_scripts_commit_hash optimizer
    max_grad_norm caption_dropout_rate caption_dropout_every_n_epochs caption_tag_dropout_rate face_crop_aug_range
    prior_loss_weight min_snr_gamma scale_weight_norms ip_noise_gamma debiased_estimation noise_offset_random_strength
    ip_noise_gamma_random_strength loss_type huber_schedule huber_scale huber_c fp8_base fp8_base_unet validation_seed
    validation_split max_validation_steps validate_every_n_epochs validate_every_n_steps resize_interpolation
    training_finished_at steps epoch""".split()  # noqa: SIM905 (a column of names reads better)
)
FOLDERS = set(
    """batch_size_per_device total_batch_size resolution color_aug flip_aug random_crop shuffle_caption enable_bucket
    bucket_no_upscale min_bucket_reso max_bucket_reso keep_tokens dataset_dirs reg_dataset_dirs tag_frequency
    bucket_info""".split()  # noqa: SIM905
)
TOML = {"datasets", "tag_frequency", "dataset_dirs"}
SPEC = {
    "sai_model_spec", "architecture", "implementation", "title", "resolution", "date", "prediction_type",
    "implementation_version",
}  # fmt: skip


def arguments(*words: str) -> argparse.Namespace:
    return Catalogue.load().parser().parse_args(["--network_module", "networks.lora", *words])


def facts(**values: Any) -> TrainingFacts:
    return TrainingFacts(
        **{
            "num_train_images": 56,
            "num_validation_images": 0,
            "num_reg_images": 0,
            "num_batches_per_epoch": 28,
            "num_epochs": 2,
            "max_train_steps": 56,
            "total_batch_size": 2,
            "optimizer": "torch.optim.adamw.AdamW",
            "tag_frequency": {"4_zorp": {"a photo of a zorp": 12}},
            **values,
        }
    )


def entries(*words: str, **values: Any) -> dict[str, str]:
    given = arguments(*words)
    return at_save(build_metadata(given, facts(**values)), given, steps=28, epoch=1)


def named(metadata: dict[str, str], prefix: str = "ss_") -> set[str]:
    return {key.removeprefix(prefix) for key in metadata if key.startswith(prefix)}


def test_a_folder_data_set_has_all_entries_and_no_other() -> None:
    metadata = entries("--resolution", "832,1216", "--network_dim", "16", "--network_alpha", "8")
    assert named(metadata) == ALWAYS | FOLDERS
    assert named(metadata, "modelspec.") == SPEC
    assert metadata["ss_resolution"] == "(832, 1216)"
    assert metadata["modelspec.resolution"] == "832x1216"
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"]) == ("16", "8.0")
    assert (metadata["ss_steps"], metadata["ss_epoch"], metadata["ss_num_epochs"]) == ("28", "1", "2")
    assert (metadata["ss_v2"], metadata["ss_seed"]) == ("False", "None")
    assert json.loads(metadata["ss_tag_frequency"]) == {"4_zorp": {"a photo of a zorp": 12}}
    assert all(isinstance(value, str) for value in metadata.values())


def test_a_data_set_toml_is_told_in_ss_datasets() -> None:
    metadata = entries(datasets=[{"batch_size_per_device": 2}])
    assert named(metadata) == ALWAYS | TOML
    assert json.loads(metadata["ss_datasets"]) == [{"batch_size_per_device": 2}]
    assert metadata["modelspec.resolution"] == "1024x1024"


def test_the_program_is_named_honestly() -> None:
    metadata = entries("--training_comment", "lorakit run k3f9")
    assert re.fullmatch(r"lorakit-\d+\.\d+.*", metadata["ss_sd_scripts_commit_hash"])
    assert metadata["modelspec.implementation_version"].startswith("lorakit/")
    assert metadata["ss_training_comment"] == "lorakit run k3f9"


def test_rates_names_and_network_arguments() -> None:
    metadata = entries(
        "--text_encoder_lr", "1e-5", "2e-5", "--unet_lr", "1e-4", "--network_args", "rank_dropout=0.1", "x=a=b"
    )
    assert (metadata["ss_text_encoder_lr"], metadata["ss_unet_lr"]) == ("1e-05", "0.0001")
    assert json.loads(metadata["ss_network_args"]) == {"rank_dropout": "0.1", "x": "a=b", "dropout": None}
    assert entries()["ss_text_encoder_lr"] == "None"


def test_no_metadata_leaves_the_minimum() -> None:
    metadata = entries("--no_metadata", "--network_args", "rank_dropout=0.1")
    assert named(metadata) == {
        "v2", "base_model_version", "network_module", "network_dim", "network_alpha", "network_args",
    }  # fmt: skip
    assert named(metadata, "modelspec.") == SPEC


def test_the_optional_entries_of_the_model_spec(tmp_path: Path) -> None:
    picture = tmp_path / "thumb.png"
    picture.write_bytes(b"png")
    metadata = entries(
        "--metadata_title", "Zorps", "--metadata_author", "me", "--metadata_trigger_phrase", "zorp", "--v_parameterization",
        "--metadata_thumbnail", str(picture), "--min_timestep", "100", "--clip_skip", "2",
    )  # fmt: skip
    spec = {key: metadata[f"modelspec.{key}"] for key in named(metadata, "modelspec.")}
    assert (spec["title"], spec["author"], spec["trigger_phrase"]) == ("Zorps", "me", "zorp")
    assert spec["prediction_type"] == "v"
    assert spec["timestep_range"] == "100,1000"
    assert spec["encoder_layer"] == "2"
    assert spec["thumbnail"] == "data:image/png;base64," + base64.b64encode(b"png").decode()


def test_base_model_and_vae_are_hashed(tmp_path: Path) -> None:
    model, vae = tmp_path / "model.safetensors", tmp_path / "vae"
    model.write_bytes(os.urandom(0x120000))
    vae.mkdir()
    metadata = entries("--pretrained_model_name_or_path", str(model), "--vae", str(vae))
    content = model.read_bytes()
    assert metadata["ss_sd_model_name"] == "model.safetensors"
    assert metadata["ss_new_sd_model_hash"] == hashlib.sha256(content).hexdigest()
    assert metadata["ss_sd_model_hash"] == hashlib.sha256(content[0x100000:0x110000]).hexdigest()[:8]
    assert metadata["ss_vae_hash"] == metadata["ss_new_vae_hash"] == "IsADirectory"
    assert model_hashes(model) == (metadata["ss_sd_model_hash"], metadata["ss_new_sd_model_hash"])


# ---- the file ----


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "lora_unet_a.alpha": torch.tensor(4.0),
        "lora_unet_a.lora_down.weight": torch.randn(300, 900, generator=generator),
        "lora_unet_a.lora_up.weight": torch.randn(900, 300, generator=generator).half(),
    }


def read_back(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def test_the_hashes_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    metadata = entries("--training_comment", "Grüße\n\t\"'\\ \u0001 日本")
    save_lora(path, tensors(), metadata)
    content = path.read_bytes()
    stored = read_back(path)
    area = content[8 + int.from_bytes(content[:8], "little") :]
    assert stored["sshs_model_hash"] == hashlib.sha256(area).hexdigest()
    # the library's own serialisation with only the ss_* entries
    window = save(tensors(), {k: v for k, v in stored.items() if k.startswith("ss_")})[0x100000:0x110000]
    assert len(window) == 0x10000
    assert stored["sshs_legacy_hash"] == hashlib.sha256(window).hexdigest()[:8]
    assert {key: stored[key] for key in metadata} == metadata
    loaded = load_file(path)
    assert loaded.keys() == tensors().keys()
    assert all(torch.equal(loaded[key], value) for key, value in tensors().items())


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    metadata = entries()
    save_lora(one, tensors(), metadata)
    save_lora(two, dict(reversed(tensors().items())), dict(reversed(metadata.items())))
    assert one.read_bytes() == two.read_bytes()


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lora.safetensors"
    path.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskError, match="cannot be written") as caught:
        save_lora(path, tensors(), {})
    assert caught.value.exit_code == 11
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["lora.safetensors"]
