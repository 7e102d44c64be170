"""Real trainings of a tiny model: files, protocol, determinism, accumulation, parts and rates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from lorakit.trainers.builtin.checkpoint import BaseModel
from lorakit.trainers.builtin.lora import LoraNetwork
from lorakit.trainers.builtin.recompute import Recomputation, checkpoint_gradients
from lorakit.trainers.builtin.text import encode_ids
from tests.trainers.builtin.runs import train, write_images


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_images(folder / "3_cat")
    return folder


def test_training_moves_weights_and_tells_everything(tiny_base: Path, data: Path, tmp_path: Path) -> None:
    run = train(
        tiny_base, data, tmp_path,
        {"max_train_steps": None, "max_train_epochs": 1, "text_encoder_lr": ["1e-3", "5e-4"], "save_precision": "fp16"},
    )  # fmt: skip
    assert run.code == 0
    (start,) = run.of("start")
    # 5 images × 3 in buckets 64² (9), 96×32 (3) and 32×96 (3), two a batch
    assert (start["batches_per_epoch"], start["total_steps"], start["epochs"], start["first_step"]) == (9, 9, 1, 0)
    assert start["modules"] == {"te1": 12, "te2": 12, "unet": 132}
    assert [record["step"] for record in run.of("step")] == list(range(1, 10))
    first = run.of("step")[0]
    assert first["lr"] == {"te1": 1e-3, "te2": 5e-4, "unet": 1e-2}
    assert set(first["grad_norm"]) == {"te1", "te2", "unet"}
    assert min(first["grad_norm"].values()) > 0
    assert first["rss"] > 2**26
    assert [record["kind"] for record in run.of("save")] == ["final"]
    assert (run.end["reason"], run.end["steps"]) == ("ok", 9)
    weights = run.weights()
    assert len(weights) == 3 * 156
    assert all(tensor.dtype == torch.float16 for tensor in weights.values())
    moved = {name[5:8]: tensor for name, tensor in weights.items() if name.endswith("lora_up.weight") and tensor.any()}
    assert {"te1", "te2", "une"} == set(moved)
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        said = file.metadata()
    assert said["ss_steps"] == "9"
    assert said["ss_epoch"] == "1"
    assert said["ss_seed"] == "1"
    assert said["ss_num_train_images"] == "15"
    assert said["ss_num_batches_per_epoch"] == "9"
    assert said["ss_optimizer"] == "torch.optim.adamw.AdamW"
    assert json.loads(said["ss_dataset_dirs"]) == {"3_cat": {"n_repeats": 3, "img_count": 5}}
    assert json.loads(said["ss_tag_frequency"])["3_cat"]["a cat"] == 5


def test_same_seed_same_numbers_whatever_the_workers(tiny_base: Path, data: Path, tmp_path: Path) -> None:
    changes = {"max_train_steps": 3, "network_dropout": 0.3, "shuffle_caption": True, "flip_aug": True}
    one = train(tiny_base, data, tmp_path / "a", changes)
    two = train(tiny_base, data, tmp_path / "b", {**changes, "max_data_loader_n_workers": 2})
    other = train(tiny_base, data, tmp_path / "c", {**changes, "seed": 2})
    assert one.losses == two.losses
    assert all(torch.equal(tensor, two.weights()[name]) for name, tensor in one.weights().items())
    assert one.losses != other.losses


def test_accumulated_batches_make_one_step(tiny_base: Path, data: Path, tmp_path: Path) -> None:
    run = train(
        tiny_base, data, tmp_path, {"max_train_steps": None, "max_train_epochs": 2, "gradient_accumulation_steps": 4}
    )
    assert run.of("start")[0]["total_steps"] == 6  # 9 batches: 4 + 4 + a short 1
    assert [record["epoch"] for record in run.of("step")] == [1, 1, 1, 2, 2, 2]


def test_only_the_text_encoders(tiny_base: Path, data: Path, tmp_path: Path) -> None:
    run = train(tiny_base, data, tmp_path, {"network_train_text_encoder_only": True, "gradient_checkpointing": True})
    assert run.of("start")[0]["modules"] == {"te1": 12, "te2": 12}
    assert set(run.of("step")[0]["grad_norm"]) == {"te1", "te2"}
    assert not [name for name in run.weights() if name.startswith("lora_unet")]


def test_checkpointing_changes_memory_not_numbers(tiny_base: Path, data: Path, tmp_path: Path) -> None:
    plain = train(tiny_base, data, tmp_path / "a", {})
    spared = train(tiny_base, data, tmp_path / "b", {"gradient_checkpointing": True})
    assert plain.losses == pytest.approx(spared.losses, rel=1e-6)


def test_checkpointing_runs_the_blocks_twice(loaded: BaseModel) -> None:
    calls = {"unet": 0, "te1": 0}

    def count(name: str) -> Any:
        def hook(*_: object) -> None:
            calls[name] += 1

        return hook

    network = LoraNetwork.create(loaded, dim=2, alpha=2)
    checkpoint_gradients(loaded, Recomputation(0, []), text=True)
    loaded.unet.down_blocks[0].resnets[0].register_forward_pre_hook(count("unet"))
    text_model: Any = getattr(loaded.te1, "text_model", loaded.te1)
    text_model.encoder.layers[0].mlp.register_forward_pre_hook(count("te1"))
    text = encode_ids(loaded, torch.full((1, 1, 77), 49407), torch.full((1, 1, 77), 49407))
    loaded.unet(
        torch.zeros(1, 4, 8, 8),
        5,
        encoder_hidden_states=text.hidden,
        added_cond_kwargs={"text_embeds": text.pooled, "time_ids": torch.zeros(1, 6)},
    ).sample.sum().backward()
    assert calls == {"unet": 2, "te1": 2}
    assert network.parameters_of("te1")[0].grad is not None


def test_a_part_at_rate_zero_stays(tiny_base: Path, data: Path, tmp_path: Path) -> None:
    run = train(tiny_base, data, tmp_path, {"text_encoder_lr": ["1e-3", "0"]})
    up = {name: tensor for name, tensor in run.weights().items() if name.endswith("lora_up.weight")}
    assert any(tensor.any() for name, tensor in up.items() if name.startswith("lora_te1"))
    assert not any(tensor.any() for name, tensor in up.items() if name.startswith("lora_te2"))
    assert set(run.of("step")[0]["lr"]) == {"te1", "unet"}


@pytest.mark.parametrize("how", ["memory", "disk"])
def test_unet_only_with_cached_text(tiny_base: Path, tmp_path: Path, how: str) -> None:
    write_images(tmp_path / "data" / "1_cat")
    name = "cache_text_encoder_outputs" + ("_to_disk" if how == "disk" else "")
    changes = {"network_train_unet_only": True, "cache_latents": None}
    latents = "cache_latents_to_disk" if how == "disk" else "cache_latents"  # on disk the draw is every seed's
    cached = train(tiny_base, tmp_path / "data", tmp_path / "a", {**changes, name: True, latents: True})
    plain = train(tiny_base, tmp_path / "data", tmp_path / "b", {**changes, latents: True})
    assert cached.of("start")[0]["modules"] == {"unet": 132}
    assert cached.losses == pytest.approx(plain.losses, rel=1e-5)  # one caption at a time rounds otherwise
    again = train(tiny_base, tmp_path / "data", tmp_path / "c", {**changes, name: True, latents: True})
    assert again.losses == cached.losses
    todo = [record["total"] for record in again.of("phase") if record["name"] == "cache_text"]
    assert todo[0] == (0 if how == "disk" else 5)


def test_bf16(tiny_base: Path, data: Path, tmp_path: Path) -> None:
    full = train(tiny_base, data, tmp_path / "a", {})
    mixed = train(tiny_base, data, tmp_path / "b", {"mixed_precision": "bf16"})
    whole = train(tiny_base, data, tmp_path / "c", {"mixed_precision": "bf16", "full_bf16": True})
    assert mixed.losses == pytest.approx(full.losses, rel=2e-2)
    assert mixed.losses != full.losses
    assert whole.losses == pytest.approx(full.losses, rel=2e-2)
    assert next(iter(mixed.weights().values())).dtype == torch.float32
    assert {tensor.dtype for tensor in whole.weights().values()} == {torch.bfloat16}


@pytest.mark.parametrize("full", [False, True])
def test_fp16_scales_the_loss(tiny_base: Path, data: Path, tmp_path: Path, *, full: bool) -> None:
    plain = train(tiny_base, data, tmp_path / "a", {"no_half_vae": True})
    half = train(
        tiny_base, data, tmp_path / "b",
        {"mixed_precision": "fp16", "no_half_vae": True, "full_fp16": full, "optimizer_type": "SGDNesterov"},
    )  # fmt: skip
    assert half.losses == pytest.approx(plain.losses, rel=2e-2)
    # the factor on the loss does not show in the gradients that are told
    told, plain_told = half.of("step")[0]["grad_norm"], plain.of("step")[0]["grad_norm"]
    assert told["unet"] == pytest.approx(plain_told["unet"], rel=0.1)
    assert {tensor.dtype for tensor in half.weights().values()} == {torch.float16 if full else torch.float32}


def test_pictures_between_steps_change_nothing(tiny_base: Path, data: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat --w 64 --h 64 --s 2 --d 1\nno seed here --w 64 --h 64 --s 1\n")
    changes = {
        "max_train_steps": 3, "network_dropout": 0.3, "cache_latents": True, "network_train_unet_only": True,
        "cache_text_encoder_outputs": True, "mixed_precision": "bf16",
    }  # fmt: skip
    plain = train(tiny_base, data, tmp_path / "a", changes)
    drawn = train(
        tiny_base, data, tmp_path / "b",
        {**changes, "sample_prompts": prompts, "sample_every_n_steps": 2, "sample_at_first": True, "sample_sampler": "euler_a"},
    )  # fmt: skip
    assert drawn.losses == plain.losses
    assert not drawn.of("warn")
    assert [(record["step"], record["prompt"]) for record in drawn.of("sample")] == [
        (step, prompt) for step in (0, 2) for prompt in ("a cat", "no seed here")
    ]
    assert all(Path(record["path"]).stat().st_size > 100 for record in drawn.of("sample"))
    assert len(list((drawn.output / "sample").glob("x_*.png"))) == 4
