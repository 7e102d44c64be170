"""Sizes of LoRA files, from headers or for the real SDXL."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorakit.errors import ModelFileError
from lorakit.plan.network import REAL_SDXL, BaseShapes, Layer, PartShapes, _block, network_size, read_base_shapes
from lorakit.preset.blocks import block_of
from lorakit.trainers.builtin.names import UnetStructure

PARTS = ("unet", "te1", "te2")


def sdxl_shapes() -> dict[str, list[int]]:
    """The tensors of the full-size SDXL that a LoRA attaches to, and some that it does not, by their public layout."""
    shapes: dict[str, list[int]] = {}
    unet = "model.diffusion_model."

    def transformer(prefix: str, channels: int, depth: int) -> None:
        for name in ("proj_in", "proj_out"):
            shapes[f"{prefix}.{name}.weight"] = [channels, channels]
        shapes[f"{prefix}.norm.weight"] = [channels]
        for i in range(depth):
            block = f"{prefix}.transformer_blocks.{i}"
            for attention, context in (("attn1", channels), ("attn2", 2048)):
                shapes[f"{block}.{attention}.to_q.weight"] = [channels, channels]
                shapes[f"{block}.{attention}.to_k.weight"] = [channels, context]
                shapes[f"{block}.{attention}.to_v.weight"] = [channels, context]
                shapes[f"{block}.{attention}.to_out.0.weight"] = [channels, channels]
                shapes[f"{block}.{attention}.to_out.0.bias"] = [channels]
            shapes[f"{block}.ff.net.0.proj.weight"] = [8 * channels, channels]
            shapes[f"{block}.ff.net.2.weight"] = [channels, 4 * channels]
            shapes[f"{block}.norm1.weight"] = [channels]

    def residual(prefix: str, into: int, out: int) -> None:
        shapes[f"{prefix}.in_layers.0.weight"] = [into]
        shapes[f"{prefix}.in_layers.2.weight"] = [out, into, 3, 3]
        shapes[f"{prefix}.out_layers.3.weight"] = [out, out, 3, 3]
        shapes[f"{prefix}.emb_layers.1.weight"] = [out, 1280]
        if into != out:
            shapes[f"{prefix}.skip_connection.weight"] = [out, into, 1, 1]

    shapes[f"{unet}input_blocks.0.0.weight"] = [320, 4, 3, 3]
    shapes[f"{unet}time_embed.0.weight"] = [1280, 320]
    inputs = [(320, 320, 0), (320, 320, 0), (320, 640, 2), (640, 640, 2), (640, 1280, 10), (1280, 1280, 10)]
    for number, (into, out, depth) in zip((1, 2, 4, 5, 7, 8), inputs, strict=True):
        residual(f"{unet}input_blocks.{number}.0", into, out)
        if depth:
            transformer(f"{unet}input_blocks.{number}.1", out, depth)
    shapes[f"{unet}input_blocks.3.0.op.weight"] = [320, 320, 3, 3]
    shapes[f"{unet}input_blocks.6.0.op.weight"] = [640, 640, 3, 3]
    residual(f"{unet}middle_block.0", 1280, 1280)
    transformer(f"{unet}middle_block.1", 1280, 10)
    residual(f"{unet}middle_block.2", 1280, 1280)
    outputs = [(2560, 1280, 10), (2560, 1280, 10), (1920, 1280, 10), (1920, 640, 2), (1280, 640, 2), (960, 640, 2)]
    outputs += [(960, 320, 0), (640, 320, 0), (640, 320, 0)]
    for number, (into, out, depth) in enumerate(outputs):
        residual(f"{unet}output_blocks.{number}.0", into, out)
        if depth:
            transformer(f"{unet}output_blocks.{number}.1", out, depth)
    shapes[f"{unet}output_blocks.2.2.conv.weight"] = [1280, 1280, 3, 3]
    shapes[f"{unet}output_blocks.5.2.conv.weight"] = [640, 640, 3, 3]
    shapes[f"{unet}out.2.weight"] = [4, 320, 3, 3]
    for i in range(12):
        layer = f"conditioner.embedders.0.transformer.text_model.encoder.layers.{i}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes[f"{layer}.self_attn.{name}.weight"] = [768, 768]
        shapes[f"{layer}.mlp.fc1.weight"] = [3072, 768]
        shapes[f"{layer}.mlp.fc2.weight"] = [768, 3072]
        shapes[f"{layer}.layer_norm1.weight"] = [768]
    for i in range(32):
        layer = f"conditioner.embedders.1.model.transformer.resblocks.{i}"
        shapes[f"{layer}.attn.in_proj_weight"] = [3840, 1280]
        shapes[f"{layer}.attn.in_proj_bias"] = [3840]
        shapes[f"{layer}.attn.out_proj.weight"] = [1280, 1280]
        shapes[f"{layer}.mlp.c_fc.weight"] = [5120, 1280]
        shapes[f"{layer}.mlp.c_proj.weight"] = [1280, 5120]
    shapes["first_stage_model.decoder.mid.attn_1.proj_out.weight"] = [512, 512, 1, 1]
    return shapes


def write_header(path: Path, shapes: dict[str, list[int]], *, data: bytes = b"") -> Path:
    table = {n: {"dtype": "F16", "shape": s, "data_offsets": [0, 0]} for n, s in shapes.items()}
    header = json.dumps({"__metadata__": {"format": "pt"}, **table}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return path


def test_header_of_the_real_sdxl_gives_the_known_numbers(tmp_path: Path) -> None:
    found = read_base_shapes(write_header(tmp_path / "sdxl.safetensors", sdxl_shapes()))
    assert found is not None
    assert layers(found) == layers(REAL_SDXL)
    unet = REAL_SDXL["unet"]
    assert (unet.per_rank, unet.modules) == (2_659_840, 722)
    assert [(part.per_rank, part.modules) for part in (REAL_SDXL["te1"], REAL_SDXL["te2"])] == [
        (165_888, 72),
        (737_280, 192),
    ]
    conv, extra = unet.of("conv"), unet.of("extra")
    assert (len(conv), sum(layer.out + layer.into for layer in conv)) == (38, 355_840)
    assert (len(extra), sum(layer.out + layer.into for layer in extra)) == (28, 58_560)
    blocks = Counter(layer.block for layer in unet.of("attention", "linear"))
    assert blocks == {5: 22, 6: 22, 8: 102, 9: 102, 11: 102, 13: 102, 14: 102, 15: 102, 16: 22, 17: 22, 18: 22}


def layers(shapes: BaseShapes) -> dict[str, Counter[Layer]]:
    return {part: Counter(found.layers) for part, found in shapes.items()}


def test_rank_32_of_everything_is_the_well_known_228_mb() -> None:
    size = network_size(REAL_SDXL, PARTS, 32)
    assert size.total_modules == 986
    assert size.total_parameters * 2 == pytest.approx(228e6, rel=0.001)


def test_unet_only_and_convolutions() -> None:
    assert network_size(REAL_SDXL, ["unet"], 4).parameters == {"unet": 4 * 2_659_840}
    with_conv = network_size(REAL_SDXL, PARTS, 8, conv_dim=2)
    assert with_conv.modules == {"unet": 788, "te1": 72, "te2": 192}
    assert with_conv.parameters["unet"] == 8 * (2_659_840 + 58_560) + 2 * 355_840


def test_nothing_to_read(tmp_path: Path) -> None:
    assert read_base_shapes(tmp_path / "none.safetensors") is None
    (tmp_path / "old.ckpt").write_bytes(b"\x80\x02")
    assert read_base_shapes(tmp_path / "old.ckpt") is None
    assert read_base_shapes(tmp_path) is None


def test_a_lora_is_no_base_model(tmp_path: Path) -> None:
    path = write_header(tmp_path / "lora.safetensors", {"lora_te1_x.lora_down.weight": [4, 8]})
    with pytest.raises(ModelFileError, match="not an SDXL checkpoint") as caught:
        read_base_shapes(path)
    assert "unet and te1 and te2" in caught.value.why


def test_a_cut_off_file_is_told_by_its_size(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F16", "shape": [50], "data_offsets": [0, 100]}}).encode()
    path = tmp_path / "cut.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"x" * 99)
    with pytest.raises(ModelFileError, match="cut off"):
        read_base_shapes(path)


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 8, b"\xff" * 8, b"\x05\0\0\0\0\0\0\0{", b"\x02\0\0\0\0\0\0\0[]", b"<html>"]
)
def test_damaged_headers(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(data)
    with pytest.raises(ModelFileError):
        read_base_shapes(path)


json_values = st.recursive(
    st.none() | st.integers(-5, 5) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["shape", "data_offsets", "a"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(json_values | st.dictionaries(st.text(max_size=4), json_values, max_size=2))
def test_any_header_is_refused_in_words(tmp_path_factory: pytest.TempPathFactory, table: object) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    header = json.dumps(table).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ModelFileError):
        read_base_shapes(path)


def test_diffusers_folder(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    assert read_base_shapes(tmp_path) is None
    for name in ("text_encoder", "text_encoder_2"):
        (tmp_path / name).mkdir()
        layer = "text_model.encoder.layers.0"
        write_header(
            tmp_path / name / "model.safetensors",
            {f"{layer}.self_attn.q_proj.weight": [8, 8], f"{layer}.mlp.fc1.weight": [32, 8], "x.weight": [9, 9]},
        )
    block = "down_blocks.1.attentions.0"
    shapes = {
        f"{block}.proj_in.weight": [16, 16],
        f"{block}.transformer_blocks.0.attn2.to_k.weight": [16, 24],
        "down_blocks.1.resnets.0.conv1.weight": [16, 8, 3, 3],
        "down_blocks.1.resnets.0.time_emb_proj.weight": [16, 64],
        "down_blocks.1.downsamplers.0.conv.weight": [16, 16, 3, 3],
        "conv_in.weight": [8, 4, 3, 3],
        "time_embedding.linear_1.weight": [64, 8],
    }
    write_header(tmp_path / "unet/diffusion_pytorch_model.fp16.safetensors", shapes)
    text = PartShapes((Layer("attention", 8, 8), Layer("linear", 32, 8)))
    found = read_base_shapes(tmp_path)
    assert found is not None
    assert layers(found) == layers(
        {
            "unet": PartShapes(
                (
                    Layer("linear", 16, 16, 4), Layer("attention", 16, 24, 4), Layer("conv", 16, 72, 4),
                    Layer("extra", 16, 64, 4), Layer("conv", 16, 144, 5),
                )
            ),
            "te1": text,
            "te2": text,
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("down_blocks.0.resnets.1.conv1", 3), ("down_blocks.0.downsamplers.0.conv", 4), ("down_blocks.2.attentions.1.proj_in", 9),
        ("mid_block.resnets.0.conv2", 10), ("mid_block.attentions.0.proj_in", 11), ("mid_block.resnets.1.conv2", 12),
        ("up_blocks.0.attentions.0.proj_in", 13), ("up_blocks.0.upsamplers.0.conv", 15), ("up_blocks.2.resnets.2.conv1", 21),
    ],
)  # fmt: skip
def test_blocks_of_diffusers_are_those_of_the_original(name: str, block: int) -> None:
    assert _block(f"{name}.weight", 2) == block
    structure = UnetStructure(2, (False, True, True))
    assert block_of(structure.to_ldm(name)) == block
