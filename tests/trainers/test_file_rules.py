"""Rules about what is in the files that a preset names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from lorakit.preset.files import load_text
from lorakit.trainers.file_rules import TABLE, check_files, read_lora
from lorakit.workspace import Workspace
from tests.preset.test_rules import PLAIN

WEIGHTS = "network.weights=lora.safetensors"


def codes(root: Path, *overrides: str) -> list[str]:
    preset = load_text(PLAIN, Path("plain.toml"), overrides).preset
    return [finding.code for finding in check_files(preset, Workspace(root))]


def write_lora(
    path: Path, *, dim: int = 16, alpha: float = 16, parts: tuple[str, ...] = ("unet", "te1", "te2")
) -> None:
    tensors = {}
    for part in parts:
        tensors[f"lora_{part}_a.lora_down.weight"] = np.zeros((dim, 3), np.float16)
        tensors[f"lora_{part}_a.lora_up.weight"] = np.zeros((3, dim), np.float16)
        tensors[f"lora_{part}_a.alpha"] = np.array(alpha, np.float16)
    save_file(tensors, path)


def test_files_that_are_not_there_are_anothers_business(tmp_path: Path) -> None:
    assert codes(tmp_path, WEIGHTS, "sample.prompts=p.txt", "dataset.config=d.toml") == []


def test_dim_alpha_and_parts_of_a_lora_are_read_from_its_header(tmp_path: Path) -> None:
    write_lora(tmp_path / "lora.safetensors", dim=8, alpha=4, parts=("unet", "te2"))
    found = read_lora(tmp_path / "lora.safetensors")
    assert found is not None
    assert set(found.dims.values()) == {8}
    assert set(found.alphas.values()) == {4.0}
    assert found.parts == {"unet", "te2"}


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    write_lora(path, dim=8)
    first = read_lora(path)
    write_lora(path, dim=16)
    assert first is not None
    assert read_lora(path) != first


def test_weights_have_the_presets_dim_and_alpha(tmp_path: Path) -> None:
    write_lora(tmp_path / "lora.safetensors", dim=16, alpha=8)
    assert codes(tmp_path, WEIGHTS, "network.dim=16", "network.alpha=8") == []
    assert codes(tmp_path, WEIGHTS, "network.dim=16", "network.alpha=16") == ["LK314"]
    assert codes(tmp_path, WEIGHTS, "network.dim=8", "network.alpha=8") == ["LK313"]
    assert codes(tmp_path, WEIGHTS, "network.dim_from_weights=true") == []


def test_an_alpha_rounded_to_fp16_is_the_same_alpha(tmp_path: Path) -> None:
    write_lora(tmp_path / "lora.safetensors", alpha=5.3333)
    assert codes(tmp_path, WEIGHTS, "network.alpha=dim/3") == []


def test_parts_that_are_not_trained_are_lost(tmp_path: Path) -> None:
    write_lora(tmp_path / "lora.safetensors")
    assert codes(tmp_path, WEIGHTS) == []
    assert codes(tmp_path, WEIGHTS, "optim.te_lr=0") == ["LK315"]
    assert codes(tmp_path, WEIGHTS, "optim.unet_lr=0") == ["LK315"]
    write_lora(tmp_path / "lora.safetensors", parts=("unet",))
    assert codes(tmp_path, WEIGHTS, "optim.te_lr=0") == []


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"\x10\0\0\0\0\0\0\0{}"])
def test_torn_weights_are_anothers_business(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "lora.safetensors").write_bytes(content)
    assert read_lora(tmp_path / "lora.safetensors") is None
    assert codes(tmp_path, WEIGHTS) == []


def test_weights_of_another_naming_are_told(tmp_path: Path) -> None:
    save_file({"unet.down_blocks.0.lora.down.weight": np.zeros((4, 4), np.float32)}, tmp_path / "lora.safetensors")
    assert codes(tmp_path, WEIGHTS) == ["LK312"]


def test_prompts_can_be_read_and_fit_the_model(tmp_path: Path) -> None:
    prompts = tmp_path / "p.txt"
    sampling = ("sample.prompts=p.txt", "sample.every_n_epochs=1")
    prompts.write_text("# nothing\n\n", encoding="utf-8")
    assert codes(tmp_path, *sampling) == ["LK322"]
    prompts.write_bytes(b"caf\xe9 --w 64 --h 64")
    assert codes(tmp_path, *sampling) == ["LK322"]
    prompts.write_text("a cat --w 832 --h 1216\na dog", encoding="utf-8")
    assert codes(tmp_path, *sampling) == []
    prompts.write_text("a cat --w 104 --h 72", encoding="utf-8")
    assert codes(tmp_path, *sampling) == ["LK323"]


def test_both_tokenizers_are_needed(tmp_path: Path) -> None:
    (tmp_path / "tok" / "openai_clip-vit-large-patch14").mkdir(parents=True)
    assert codes(tmp_path, "base.tokenizer_cache=tok") == ["LK303"]
    (tmp_path / "tok" / "laion_CLIP-ViT-bigG-14-laion2B-39B-b160k").mkdir()
    assert codes(tmp_path, "base.tokenizer_cache=tok") == []


@pytest.mark.parametrize(
    ("setting", "code", "cache"),
    [
        ("shuffle_caption = true", "LK341", "memory.cache_text_encoder_outputs=true"),
        ('caption_prefix = "p"', "LK341", "memory.cache_text_encoder_outputs=true"),
        ("random_crop = true", "LK342", "memory.cache_latents=true"),
    ],
)
def test_subsets_of_a_dataset_toml_leave_caches_alone(tmp_path: Path, setting: str, code: str, cache: str) -> None:
    (tmp_path / "pictures").mkdir()
    subset = f"[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'pictures'\nnum_repeats = 1\n{setting}\n"
    (tmp_path / "d.toml").write_text(subset, encoding="utf-8")
    uncached = cache.replace("true", "false")
    assert codes(tmp_path, "dataset.config=d.toml", cache, "optim.te_lr=0") == [code]
    assert codes(tmp_path, "dataset.config=d.toml", uncached, "optim.te_lr=0") == []


def test_a_subset_may_take_back_what_the_preset_sets(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    subset = "[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'pictures'\nnum_repeats = 1\n"
    setting = ("dataset.config=d.toml", "dataset.random_crop=true", "memory.cache_latents=true")
    (tmp_path / "d.toml").write_text(subset, encoding="utf-8")
    assert codes(tmp_path, *setting) == ["LK342"]
    (tmp_path / "d.toml").write_text(subset + "random_crop = false\n", encoding="utf-8")
    assert codes(tmp_path, *setting) == []


def test_a_dataset_toml_that_cannot_be_read_is_the_plans_business(tmp_path: Path) -> None:
    (tmp_path / "d.toml").write_text("[[datasets]", encoding="utf-8")
    assert codes(tmp_path, "dataset.config=d.toml", "memory.cache_text_encoder_outputs=true", "optim.te_lr=0") == []


def test_every_file_rule_is_tested_here() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    assert [rule.code for rule in TABLE.rules if f'"{rule.code}"' not in source] == []
