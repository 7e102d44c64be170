"""Norms, spectra and ranks of LoRA files, against the full products."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from lorakit.errors import ModelFileError
from lorakit.evidence.lora_names import read_name, split_key
from lorakit.evidence.weights import _singular_values, cosine, measure

RNG = np.random.default_rng(7)
Q = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
CONV = "lora_unet_output_blocks_2_0_in_layers_2"
TE1 = "lora_te1_text_model_encoder_layers_3_mlp_fc1"


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def lora(path: Path, modules: dict[str, tuple[np.ndarray, np.ndarray]], alpha: float | None = 2.0) -> Path:
    tensors: dict[str, np.ndarray] = {}
    for name, (down, up) in modules.items():
        tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
        if alpha is not None:
            tensors[f"{name}.alpha"] = np.array(alpha, np.float32)
    save_file(tensors, path)
    return path


@pytest.fixture
def factors() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {
        Q: (normal(4, 12), normal(10, 4)),
        CONV: (normal(4, 6, 3, 3), normal(8, 4, 1, 1)),
        TE1: (normal(4, 9), np.zeros((16, 4), np.float32)),
    }


def product(down: np.ndarray, up: np.ndarray, scale: float) -> np.ndarray:
    full: np.ndarray = scale * (up.reshape(up.shape[0], -1) @ down.reshape(down.shape[0], -1))
    return full


def test_measures_are_those_of_the_full_product(
    factors: dict[str, tuple[np.ndarray, np.ndarray]], tmp_path: Path
) -> None:
    found = {module.path: module for module in measure(lora(tmp_path / "a.safetensors", factors)).modules}
    assert found.keys() == factors.keys()
    for name in (Q, CONV):
        full = product(*factors[name], scale=0.5)
        values = np.linalg.svd(full, compute_uv=False)
        shares = values[values > 1e-5] / values.sum()
        module = found[name]
        assert module.norm == pytest.approx(np.linalg.norm(full), rel=1e-4)
        assert module.spectral == pytest.approx(values.max(), rel=1e-4)
        assert module.effective_rank == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-3)
        assert (module.dim, module.alpha) == (4, 2.0)
    assert (found[TE1].norm, found[TE1].effective_rank) == (0.0, 0.0)
    assert [found[name].conv for name in (Q, CONV)] == [False, True]


def test_parts_blocks_and_dead_modules(factors: dict[str, tuple[np.ndarray, np.ndarray]], tmp_path: Path) -> None:
    weights = measure(lora(tmp_path / "a.safetensors", factors))
    assert weights.share("unet") == pytest.approx(1.0)
    assert weights.share("te1") == 0.0
    assert weights.blocks("unet") == ("IN04", "OUT02")
    assert weights.blocks("te1") == ("L03",)
    assert [module.path for module in weights.dead()] == [TE1]
    assert weights.norm() ** 2 == pytest.approx(sum(module.norm**2 for module in weights.modules))
    told = weights.to_json(modules=True)
    assert told["parts"]["unet"]["blocks"].keys() == {"IN04", "OUT02"}
    assert len(told["modules"]) == 3


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32"])
def test_every_float_type_is_read(dtype: str, tmp_path: Path) -> None:
    down, up = normal(2, 8), normal(8, 2)
    whole = measure(lora(tmp_path / "whole.safetensors", {Q: (down, up)}, alpha=None))
    path = tmp_path / "short.safetensors"
    kinds = {"F32": "<f4", "F16": "<f2"}
    data = {
        "lora_down": down.view(np.uint32) >> 16 if dtype == "BF16" else down,
        "lora_up": up.view(np.uint32) >> 16 if dtype == "BF16" else up,
    }
    parts = [value.astype(kinds.get(dtype, "<u2")).tobytes() for value in data.values()]
    entries, at = [], 0
    for (name, value), part in zip(data.items(), parts, strict=True):
        shape = list(value.shape)
        entries.append(
            f'"{Q}.{name}.weight":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{at},{at + len(part)}]}}'
        )
        at += len(part)
    header = ("{" + ",".join(entries) + "}").encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"".join(parts))
    found = measure(path)
    assert found.norm() == pytest.approx(whole.norm(), rel=2e-2)
    assert found.modules[0].alpha == 2.0  # none in the file: alpha is the rank


def test_names_of_diffusers_and_peft_are_the_same_modules(tmp_path: Path) -> None:
    down, up = normal(2, 8), normal(8, 2)
    inner = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    for names in (
        (f"unet.{inner}.lora.down.weight", f"unet.{inner}.lora.up.weight"),
        (f"unet.{inner}.lora_A.weight", f"unet.{inner}.lora_B.weight"),
        (f"base_model.model.unet.{inner}.lora_A.weight", f"base_model.model.unet.{inner}.lora_B.weight"),
        (
            f"lora_unet_{inner.replace('.', '_')}.lora_down.weight",
            f"lora_unet_{inner.replace('.', '_')}.lora_up.weight",
        ),
    ):
        path = tmp_path / "a.safetensors"
        save_file(dict(zip(names, (down, up), strict=True)), path)
        (module,) = measure(path).modules
        assert (module.part, module.block) == ("unet", "IN04")
        assert module.norm == pytest.approx(np.linalg.norm(up @ down), rel=1e-4)


@pytest.mark.parametrize(
    ("module", "block"),
    [
        ("lora_unet_middle_block_1_proj_in", "MID"),
        ("unet.mid_block.attentions.0.proj_in", "MID"),
        ("lora_unet_input_blocks_3_0_op", "IN03"),
        ("unet.down_blocks.0.downsamplers.0.conv", "IN03"),
        ("unet.up_blocks.0.attentions.2.proj_in", "OUT02"),
        ("unet.up_blocks.1.upsamplers.0.conv", "OUT05"),
        ("unet.conv_in", "IN00"),
        ("lora_unet_time_embed_0", "other"),
        ("lora_te2_text_model_encoder_layers_31_mlp_fc1", "L31"),
        ("text_encoder_2.text_model.encoder.layers.31.mlp.fc1", "L31"),
    ],
)
def test_blocks_have_the_original_numbers(module: str, block: str) -> None:
    name = read_name(module)
    assert name is not None
    assert name.block == block


def test_the_cosine_of_two_loras(tmp_path: Path) -> None:
    down, up = normal(2, 8), normal(8, 2)
    other = (normal(3, 8), normal(8, 3))
    one = lora(tmp_path / "1.safetensors", {Q: (down, up)})
    two = lora(tmp_path / "2.safetensors", {Q: other})
    full = (product(down, up, 1.0).ravel(), product(*other, scale=2 / 3).ravel())
    expected = full[0] @ full[1] / np.linalg.norm(full[0]) / np.linalg.norm(full[1])
    assert cosine(one, two)["unet"] == pytest.approx(expected, abs=1e-4)
    assert cosine(one, one) == pytest.approx({"unet": 1.0, "all": 1.0}, abs=1e-4)
    # The same product in other factors is the same LoRA.
    turned = lora(tmp_path / "3.safetensors", {Q: (-2 * down[::-1], -up[:, ::-1] / 2)})
    assert cosine(one, turned)["all"] == pytest.approx(1.0, abs=1e-4)


def test_other_kinds_are_counted_not_measured(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({f"{Q}.hada_w1_a": normal(2, 2), f"{Q}.hada_w1_b": normal(2, 2), f"{TE1}.lokr_w1": normal(2, 2)}, path)
    weights = measure(path)
    assert weights.modules == ()
    assert weights.unmeasured == {"LoHa": 1, "LoKr": 1}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("lora_te_text_model_encoder_layers_0_mlp_fc1", "SD 1.5"),
        ("lora_unet_double_blocks_0_img_attn_qkv", "Flux"),
        ("lora_unet_joint_blocks_3_x_block_attn_qkv", "SD 3"),
        ("lora_unet_down_blocks_0_attentions_0_proj_in", "SD 1.5"),
    ],
)
def test_other_architectures_are_named(name: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=f"is a LoRA for {said}"):
        measure(lora(tmp_path / "a.safetensors", {name: (normal(2, 4), normal(4, 2))}))


def test_files_that_are_no_loras_are_refused(tmp_path: Path) -> None:
    path = lora(tmp_path / "a.safetensors", {Q: (normal(2, 4), normal(4, 2))})
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ModelFileError, match="cut off"):
        measure(path)
    save_file({"conv.weight": normal(2, 2)}, path)
    with pytest.raises(ModelFileError, match="is no LoRA"):
        measure(path)
    with pytest.raises(ModelFileError, match="cannot be read"):
        measure(tmp_path / "missing.safetensors")


@given(st.integers(1, 6), st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1), st.booleans())
def test_spectra_agree_with_svds(rank: int, inputs: int, outputs: int, seed: int, dependent: bool) -> None:
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((rank, inputs)).astype(np.float32)
    b = rng.standard_normal((outputs, rank)).astype(np.float32)
    if dependent and rank > 1:
        a[-1] = a[0]
    expected = np.linalg.svd(b @ a, compute_uv=False)
    found = np.sort(_singular_values(a, b))[::-1]
    size = min(len(expected), len(found))
    assert np.allclose(found[:size], expected[:size], atol=2e-3 * expected.max() + 1e-6)
    assert np.allclose(found[size:], 0, atol=2e-3 * expected.max() + 1e-6)


@given(st.text(max_size=60))
def test_any_key_is_split_or_left(key: str) -> None:
    found = split_key(key)
    assert found is None or key.startswith(found[0])
