"""Names of UNet modules: both directions, for any depth."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit.bench_model.shape import SIZES
from lorakit.trainers.builtin.names import UnetStructure, lora_name


@pytest.fixture(scope="module")
def real_names() -> list[str]:
    with torch.device("meta"):
        return list(UNet2DConditionModel(**SIZES["full"].unet_config()).state_dict())


def test_every_parameter_of_the_real_unet_has_its_own_original_name_and_comes_back(real_names: list[str]) -> None:
    structure = UnetStructure.from_diffusers(real_names)
    assert structure == UnetStructure(2, (False, True, True))
    originals = [structure.to_ldm(name) for name in real_names]
    assert len(set(originals)) == len(real_names) == 1680
    assert [structure.to_diffusers(name) for name in originals] == real_names
    assert UnetStructure.from_ldm(originals) == structure


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("conv_in.weight", "input_blocks.0.0.weight"),
        ("time_embedding.linear_2.bias", "time_embed.2.bias"),
        ("add_embedding.linear_1.weight", "label_emb.0.0.weight"),
        ("down_blocks.0.resnets.1.conv_shortcut.weight", "input_blocks.2.0.skip_connection.weight"),
        ("down_blocks.0.downsamplers.0.conv.weight", "input_blocks.3.0.op.weight"),
        (
            "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight",
            "input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight",
        ),
        ("mid_block.attentions.0.proj_in", "middle_block.1.proj_in"),
        ("mid_block.resnets.1.time_emb_proj", "middle_block.2.emb_layers.1"),
        ("up_blocks.0.attentions.2.proj_out", "output_blocks.2.1.proj_out"),
        ("up_blocks.0.upsamplers.0.conv.bias", "output_blocks.2.2.conv.bias"),
        ("up_blocks.2.resnets.2.norm2.weight", "output_blocks.8.0.out_layers.0.weight"),
        ("conv_norm_out.weight", "out.0.weight"),
        ("conv_out.bias", "out.2.bias"),
    ],
)
def test_names_of_the_real_unet(ours: str, theirs: str) -> None:
    structure = UnetStructure(2, (False, True, True))
    assert structure.to_ldm(ours) == theirs
    assert structure.to_diffusers(theirs) == ours


def test_a_strange_name_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        UnetStructure(2, (False, True, True)).to_ldm("down_blocks.7.resnets.0.conv1.weight")


def test_lora_names_have_no_dots() -> None:
    path = "input_blocks.4.1.transformer_blocks.0.attn1.to_out.0"
    assert lora_name("lora_unet", path) == "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_out_0"


@settings(max_examples=40, deadline=None)
@given(layers=st.integers(1, 3), attention=st.lists(st.booleans(), min_size=1, max_size=4))
def test_any_structure_is_read_back_from_its_own_names(layers: int, attention: list[bool]) -> None:
    structure = UnetStructure(layers, tuple(attention))
    paths = [f"{block.diffusers}.{block.inner[0][0] if block.inner else 'norm'}.weight" for block in structure.blocks()]
    originals = [structure.to_ldm(path) for path in paths]
    assert len(set(originals)) == len(paths)
    assert [structure.to_diffusers(name) for name in originals] == paths
    assert UnetStructure.from_diffusers(paths) == structure
    assert UnetStructure.from_ldm(originals) == structure
