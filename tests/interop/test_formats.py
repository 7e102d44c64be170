"""Each trainer's files, hand-written: what comes in, by what right, and what is listed."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from lorakit.errors import UsageError
from lorakit.interop.imported import Imported
from lorakit.interop.recognise import import_file, import_text
from lorakit.preset.files import load_text

FIXTURES = Path(__file__).parent / "fixtures"
NAMES = sorted(path.name for path in FIXTURES.iterdir())
METADATA = {
    "ss_output_name": "koi_v2", "ss_learning_rate": "9e-05", "ss_unet_lr": "9e-05", "ss_text_encoder_lr": "None",
    "ss_lr_scheduler": "cosine", "ss_lr_warmup_steps": "0.05", "ss_network_module": "networks.lora", "ss_network_dim": "16",
    "ss_network_alpha": "8.0", "ss_num_batches_per_epoch": "49", "ss_num_epochs": "7", "ss_epoch": "4", "ss_steps": "196",
    "ss_max_train_steps": "343", "ss_resolution": "(1024, 1024)", "ss_seed": "77", "ss_clip_skip": "None",
    "ss_mixed_precision": "bf16", "ss_enable_bucket": "True", "ss_network_args": '{"conv_dim": "8"}',
    "ss_optimizer": "bitsandbytes.optim.adamw.AdamW8bit(weight_decay=0.1,betas=(0.9, 0.99))",
    "ss_dataset_dirs": '{"3_koi": {"n_repeats": 3, "img_count": 63}}', "ss_sd_model_name": "D:\\m\\base.safetensors",
    "ss_base_model_version": "sdxl_base_v1-0",
}  # fmt: skip


def got(imported: Imported, *keys: str) -> list[Any]:
    return [imported.values[key].value if key in imported.values else None for key in keys]


def left(imported: Imported) -> dict[str, str]:
    return {one.name: one.reason for one in imported.unmapped}


def noted(imported: Imported) -> str:
    return " ".join(f"{note.what} {note.why}" for note in imported.notes)


@pytest.mark.parametrize("name", NAMES)
def test_every_fixture_is_a_preset_that_says_where_each_value_comes_from(name: str) -> None:
    imported = import_file(FIXTURES / name)
    loaded = load_text(imported.toml, Path("/w/presets/x.toml")).preset
    assert loaded.model_dump() == imported.preset.model_dump()
    for key, value in imported.values.items():
        assert value.origin in {"explicit", "default", "derived", "unknown"}, key
        assert value.text or value.why, key
    json.dumps(imported.to_json(), allow_nan=False)


def test_kohya_gui() -> None:
    imported = import_file(FIXTURES / "kohya_gui.json")
    assert (imported.format, imported.era) == ("kohya-gui", "v26")
    assert got(imported, "network.dim", "optim.unet_lr", "optim.te_lr", "optim.warmup") == [24, 8e-5, 3e-5, 0.06]
    assert got(imported, "length.epochs", "length.batch_size", "loss.noise_offset", "optim.max_grad_norm") == [
        11,
        3,
        0.03,
        0.5,
    ]
    assert imported.preset.seed is None
    assert imported.preset.memory.attention == "sdpa"
    assert imported.values["dataset.bucket_no_upscale"].origin == "unknown"
    assert {"my_box", "sample_prompts", "multires_noise_iterations", "stop_text_encoder_training", "nonsense"} <= left(
        imported
    ).keys()
    assert (imported.recipe.rounding, imported.recipe.base, imported.recipe.warmup_ratio) == ("floor", "exact", 0.06)


def test_kohya_gui_of_2023() -> None:
    imported = import_file(FIXTURES / "kohya_gui_2023.json")
    assert imported.era == "2023-02"
    assert got(imported, "optim.cycles", "optim.type", "seed", "network.alpha") == [6, "AdamW8bit", 1234, 1.0]
    assert (imported.recipe.rounding, imported.recipe.base) == ("half-even", "estimated")


@pytest.mark.parametrize(("era", "te_lr"), [("v26", 1e-4), ("v25", 0), ("v24", 1e-4), ("v23", 5e-5), ("2023-02", 5e-5)])
def test_a_missing_rate_depends_on_the_era(era: str, te_lr: float) -> None:
    text = '{"LoRA_type": "Standard", "lr_warmup": 0, "epoch": 2, "max_resolution": "1024,1024"}'
    imported = import_text(text, "x.json", era=era)
    assert imported.values["optim.te_lr"].value == te_lr
    assert imported.values["optim.te_lr"].origin == "unknown"
    with pytest.raises(UsageError, match="no era"):
        import_text(text, "x.json", era="v9")


@pytest.mark.parametrize(
    ("values", "key", "value", "word"),
    [
        ({"lr_warmup": "7.5"}, "optim.warmup", "0 steps", "whole percents"),
        ({"lr_warmup": 7.5}, "optim.warmup", 0.07, "whole percents"),
        ({"lr_warmup": 9, "lr_warmup_steps": 40}, "optim.warmup", "40 steps", ""),
        ({"lr_warmup": 10, "lr_scheduler": "constant"}, "optim.warmup", "0 steps", "constant with a warmup"),
        ({"max_train_steps": 1600, "epoch": 5}, "length.steps", 1600, "counts for nothing"),
        ({"max_train_steps": "", "epoch": 5, "lr_warmup_steps": 0}, "length.epochs", 5, ""),
        ({"max_train_epochs": 3, "max_train_steps": 900}, "length.epochs", 3, ""),
        ({"text_encoder_lr": 0, "unet_lr": 1e-4}, "optim.te_lr", 0, ""),
        ({"text_encoder_lr": 0, "unet_lr": 0, "learning_rate": 3e-5}, "optim.te_lr", 3e-5, "both parts"),
        ({"network_alpha": 0}, "network.alpha", 1, "its own 1"),
        ({"LoRA_type": "LyCORIS/LoHa", "conv_dim": 4, "factor": -1}, "network.algo", "loha", ""),
        ({"LoRA_type": "LoCon", "conv_dim": "4"}, "network.conv_dim", 4, ""),
        ({"additional_parameters": "--network_train_unet_only"}, "optim.te_lr", 0, ""),
        ({"learning_rate_te1": 1e-5}, "network.dim", 8, "other tabs"),
        ({"xformers": "none"}, "memory.attention", "none", ""),
        ({"clip_skip": 0, "noise_offset": "0", "seed": "", "min_snr_gamma": 0}, "loss.noise_offset", None, ""),
    ],
)  # fmt: skip
def test_kohya_guis_zeros_texts_and_precedence(values: dict[str, Any], key: str, value: Any, word: str) -> None:
    base = {
        "LoRA_type": "Standard",
        "max_resolution": "1024,1024",
        "lr_warmup": 0,
        "text_encoder_lr": 1e-5,
        "unet_lr": "1e-4",
    }
    imported = import_text(json.dumps(base | values), "x.json")
    assert (imported.values[key].value if key in imported.values else None) == value
    assert word in noted(imported)


def test_easy_training_of_early_2023() -> None:
    first = import_file(FIXTURES / "easy_2023_01.json")
    assert first.era == "January to March 2023"
    assert got(first, "network.dim", "network.alpha", "optim.te_lr", "optim.warmup", "length.epochs") == [
        48,
        128.0,
        9e-5,
        0.04,
        9,
    ]
    assert "gradient_acc_steps" in left(first)
    assert "not for SDXL" in noted(first)
    later = import_file(FIXTURES / "easy_2023_04.json")
    assert later.era == "March to May 2023"
    assert got(later, "network.conv_dim", "length.steps", "optim.args.betas") == [6, 500, [0.9, 0.98]]
    assert later.recipe.rounding == "floor"


def test_easy_training_toml() -> None:
    imported = import_file(FIXTURES / "easy.toml")
    assert got(imported, "name", "dataset.path", "network.conv_dim", "save.every_n_epochs") == [
        "wren_v3",
        "/sets/wren",
        8,
        2,
    ]
    assert imported.preset.optim.te_lr.te1 == 1e-4  # the backend drops a rate of 0
    assert "drops zeros" in noted(imported)
    assert "wing is repeated 2 times by its setting" in noted(imported)
    assert imported.recipe.rounding == "half-even"


def test_powershell_scripts() -> None:
    legacy = import_file(FIXTURES / "legacy.ps1")
    assert (legacy.format, legacy.recipe.rounding, legacy.recipe.base) == ("legacy-ps1", "half-even", "estimated")
    assert got(legacy, "optim.unet_lr", "length.epochs", "length.batch_size", "seed", "dataset.flip_aug") == [
        9e-5,
        12,
        3,
        23,
        True,
    ]
    assert legacy.preset.optim.te_lr.te1 == pytest.approx(3e-5)
    assert (legacy.values["network.alpha"].value, legacy.values["network.alpha"].origin) == (64.0, "unknown")
    assert "assigned again inside code" in noted(legacy)
    anon = import_file(FIXTURES / "anon.ps1")
    assert anon.format == "anon-1337"
    assert got(anon, "seed", "optim.te_lr", "network.alpha", "dataset.path") == [1337, 2e-4, 8.0, "E:\\sets\\koi\\"]
    assert left(anon) == {"my_own": "a variable of the script's own"}


def test_lora_scripts() -> None:
    imported = import_file(FIXTURES / "lora_scripts.toml")
    assert got(imported, "optim.unet_lr", "optim.te_lr", "optim.warmup") == [9e-5, 2e-5, "40 steps"]
    assert imported.preset.dataset.max_token_length == 225
    assert {"lr_restart_cycles", "model_train_type", "lycoris_algo"} <= left(imported).keys()
    adaptive = import_text(
        'lycoris_algo = "x"\noptimizer_type = "Prodigy"\nunet_lr = "1e-4"\ntext_encoder_lr = "1e-5"\n', "a.toml"
    )
    assert got(adaptive, "optim.unet_lr", "optim.te_lr") == [1.0, 1.0]


def test_dreambooth() -> None:
    imported = import_file(FIXTURES / "db_config.json")
    assert got(imported, "network.dim", "network.alpha", "optim.warmup", "length.epochs") == [16, 16.0, "80 steps", 60]
    assert {"learning_rate", "lora_txt_rank", "stop_text_encoder"} <= left(imported).keys()
    assert "no repeats" in noted(imported)


def test_onetrainer() -> None:
    imported = import_file(FIXTURES / "onetrainer.json")
    assert got(imported, "network.dim", "optim.warmup", "optim.te_lr", "precision.mixed") == [16, 0.05, 2e-5, "bf16"]
    assert "only one text encoder" in noted(imported)
    assert "ema" in left(imported)
    for value, warmup in ((200.0, "200 steps"), (1.0, None), (0, None), (0.2, 0.2)):
        text = json.dumps({"training_method": "LORA", "__version": 11, "learning_rate_warmup_steps": value})
        assert got(import_text(text, "x.json"), "optim.warmup") == [warmup]


def test_sd_scripts_toml() -> None:
    imported = import_file(FIXTURES / "koi.toml")
    assert got(imported, "network.alpha", "optim.te_lr", "optim.warmup") == [8.0, 2e-5, "0 steps"]
    told = left(imported)
    assert "100 times the run" in told["lr_warmup_steps"]
    assert "silently" in told["bogus"]
    assert "secret" in told["huggingface_token"]
    assert "hf_secret" not in imported.toml
    assert "first letter" in noted(imported)


def test_dataset_toml() -> None:
    imported = import_file(FIXTURES / "dataset.toml")
    assert imported.preset.dataset.config == str(FIXTURES / "dataset.toml")
    assert got(imported, "length.batch_size", "dataset.shuffle_caption") == [3, True]
    assert "strange" in left(imported)


def test_metadata_of_a_lora(tmp_path: Path) -> None:
    header = json.dumps({"__metadata__": METADATA}).encode()
    path = tmp_path / "koi-000004.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    imported = import_file(path)
    assert imported.format == "metadata"
    assert got(imported, "length.epochs", "seed", "network.conv_dim", "optim.type") == [7, 77, 8, "AdamW8bit"]
    assert got(imported, "optim.te_lr", "base.model") == [9e-5, "models/base.safetensors"]
    assert imported.values["optim.te_lr"].origin == "derived"
    assert imported.values["dataset.path"].origin == "unknown"
    assert "dataset.caption_extension" not in imported.values  # not stored: lorakit's own stands, and it is listed
    assert "caption_extension" in imported.toml
    assert imported.recipe.emitted == {"max_train_steps": 343}
    assert "epoch 4 of 7" in noted(imported)
    by_steps = import_text(json.dumps(METADATA | {"ss_max_train_steps": "340"}), "x.json")
    assert got(by_steps, "length.steps", "length.epochs") == [340, None]
