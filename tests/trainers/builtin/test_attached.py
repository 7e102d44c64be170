"""A LoRA beside a base model that stays loaded does what the training network does, under every name and at every weight."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorakit.errors import ModelFileError
from lorakit.trainers.builtin.attached import AttachedLora, read_lora
from lorakit.trainers.builtin.checkpoint import BaseModel, load_base
from lorakit.trainers.builtin.lora import LoraNetwork
from lorakit.trainers.builtin.text import encode
from lorakit.trainers.builtin.tokenizers import load_tokenizers
from tests.bench_models import bench_checkpoint
from tests.loras import write_lora


@functools.cache
def loaded() -> tuple[BaseModel, AttachedLora]:
    base = load_base(bench_checkpoint())
    return base, AttachedLora(te1=base.te1, te2=base.te2, unet=base.unet)


@pytest.fixture
def base() -> BaseModel:
    model, attached = loaded()
    attached.use(None, None)
    return model


@pytest.fixture
def attached() -> AttachedLora:
    return loaded()[1]


def outputs(base: BaseModel) -> tuple[torch.Tensor, torch.Tensor]:
    """What the text encoders say to a prompt, and the UNet to noise under a fixed condition."""
    with torch.no_grad():
        text = encode(base, load_tokenizers(), ["a red circle"])
        hidden = torch.linspace(-1, 1, text.hidden.numel()).view_as(text.hidden)
        added = {"text_embeds": torch.ones_like(text.pooled), "time_ids": torch.full((1, 6), 64.0)}
        latents = torch.linspace(-2, 2, 4 * 8 * 8).view(1, 4, 8, 8)
        seen = base.unet(latents, 500, hidden, added_cond_kwargs=added, return_dict=False)[0]
    return text.hidden, seen


def trained_network(base: BaseModel, path: Path, **sizes: Any) -> LoraNetwork:
    network = LoraNetwork.create(base, dim=4, alpha=4, **sizes)
    network.load_kohya(path)
    return network.requires_grad_(False).eval()


def test_it_does_what_the_training_network_does(tmp_path: Path, base: BaseModel, attached: AttachedLora) -> None:
    path = write_lora(tmp_path / "a.safetensors")
    bare = outputs(base)
    network = trained_network(base, path)
    expected = outputs(base)
    network.detach()
    assert attached.use(path, read_lora(path)) == 0
    attached.weigh(unet=1.0, te=1.0)
    for found, wanted, before in zip(outputs(base), expected, bare, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(found, before, atol=1e-3)
    attached.use(None, None)
    for found, before in zip(outputs(base), bare, strict=True):
        assert torch.equal(found, before)


def test_convolutions_too(tmp_path: Path, base: BaseModel, attached: AttachedLora) -> None:
    torch.manual_seed(0)
    network = LoraNetwork.create(base, dim=4, alpha=2, conv_dim=2, conv_alpha=1)
    for name, weight in network.named_parameters():
        if name.endswith("lora_up.weight"):
            torch.nn.init.normal_(weight, std=0.1)
    path = tmp_path / "locon.safetensors"
    save_file(network.kohya_state_dict(), path)
    network.requires_grad_(False).eval()
    expected = outputs(base)
    network.detach()
    assert attached.use(path, read_lora(path)) == 0
    attached.weigh(unet=1.0, te=1.0)
    for found, wanted in zip(outputs(base), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_weights_of_unet_and_text_encoders_are_apart(tmp_path: Path, base: BaseModel, attached: AttachedLora) -> None:
    path = write_lora(tmp_path / "a.safetensors")
    bare = outputs(base)
    attached.use(path, read_lora(path))
    attached.weigh(unet=1.0, te=1.0)
    both = outputs(base)
    attached.weigh(unet=0.0, te=1.0)
    assert torch.equal(outputs(base)[0], both[0])
    assert torch.equal(outputs(base)[1], bare[1])
    attached.weigh(unet=0.5, te=0.0)
    half = outputs(base)
    assert torch.equal(half[0], bare[0])
    assert not torch.allclose(half[1], bare[1], atol=1e-4)
    assert not torch.allclose(half[1], both[1], atol=1e-4)


def as_peft(base: BaseModel, path: Path, target: Path) -> Path:
    """The same LoRA under the names of diffusers and peft, without alphas."""
    from lorakit.trainers.builtin.lora import targets

    tensors = load_file(path)
    found: dict[str, torch.Tensor] = {}
    for part, model, prefix in (
        ("te1", base.te1, "text_encoder"),
        ("te2", base.te2, "text_encoder_2"),
        ("unet", base.unet, "unet"),
    ):
        paths = {id(module): name for name, module in model.named_modules()}
        for one in targets(base)[part]:
            name = f"{prefix}.{paths[id(one.module)]}"
            found[f"{name}.lora_A.weight"] = tensors[f"{one.name}.lora_down.weight"]
            found[f"{name}.lora_B.weight"] = tensors[f"{one.name}.lora_up.weight"]
    save_file(found, target)
    return target


def test_names_of_diffusers_and_peft_mean_the_same(tmp_path: Path, base: BaseModel, attached: AttachedLora) -> None:
    path = write_lora(tmp_path / "a.safetensors")
    attached.use(path, read_lora(path))
    attached.weigh(unet=1.0, te=1.0)
    expected = outputs(base)
    other = as_peft(base, path, tmp_path / "peft.safetensors")
    assert attached.use(other, read_lora(other)) == 0
    for found, wanted in zip(outputs(base), expected, strict=True):
        assert torch.equal(found, wanted)


def test_modules_that_the_base_lacks_are_counted(tmp_path: Path, base: BaseModel, attached: AttachedLora) -> None:
    tensors = load_file(write_lora(tmp_path / "a.safetensors"))
    own = {key: value for key, value in tensors.items() if "lora_te1_" in key}
    stranger = {key.replace("lora_te1_", "lora_te9_"): value.clone() for key, value in own.items()}
    save_file({**tensors, **stranger}, tmp_path / "b.safetensors")
    assert attached.use(None, read_lora(tmp_path / "b.safetensors")) == len(stranger) // 3


def test_another_base_or_architecture_is_refused(tmp_path: Path, base: BaseModel, attached: AttachedLora) -> None:
    tensors = load_file(write_lora(tmp_path / "a.safetensors"))
    narrow = {
        key: value[:, :-8].contiguous() if key.endswith("lora_down.weight") else value for key, value in tensors.items()
    }
    save_file(narrow, tmp_path / "b.safetensors")
    with pytest.raises(ModelFileError, match="made for another base model"):
        attached.use(tmp_path / "b.safetensors", read_lora(tmp_path / "b.safetensors"))
    strange = {f"lora_unet_double_blocks_0_x.lora_{side}.weight": torch.ones(4, 4) for side in ("down", "up")}
    save_file(strange, tmp_path / "c.safetensors")
    with pytest.raises(ModelFileError, match="no module of it"):
        attached.use(tmp_path / "c.safetensors", read_lora(tmp_path / "c.safetensors"))


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("lora_unet_x.hada_w1_a", "LoHa"),
        ("lora_unet_x.lokr_w1", "LoKr"),
        ("lora_unet_x.dora_scale", "DoRA"),
        ("lora_unet_x.diff", "full"),
    ],
)
def test_other_kinds_are_refused_by_name(tmp_path: Path, key: str, kind: str) -> None:
    path = tmp_path / "other.safetensors"
    save_file({key: torch.zeros(2, 2), "lora_unet_x.lora_down.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(ModelFileError, match=kind):
        read_lora(path)
    save_file({"something": torch.zeros(2)}, path)
    with pytest.raises(ModelFileError, match="is no LoRA"):
        read_lora(path)
