"""Loading base models: every form of the file, and every way in which one can be wrong."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from lorakit.bench_model.shape import SIZES, tensor_shapes
from lorakit.errors import ModelFileError
from lorakit.trainers.builtin import shapes
from lorakit.trainers.builtin.checkpoint import PREFIXES, BaseModel, load_base, load_vae
from lorakit.trainers.builtin.tensorfile import check_safetensors, open_tensors

Tensors = dict[str, torch.Tensor]


def parts(base: BaseModel) -> dict[str, torch.nn.Module]:
    return {"unet": base.unet, "te1": base.te1, "te2": base.te2, "vae": base.vae}


def assert_same(one: BaseModel, two: BaseModel) -> None:
    for name, module in parts(one).items():
        left, right = module.state_dict(), parts(two)[name].state_dict()
        assert left.keys() == right.keys(), name
        assert all(torch.equal(left[key], right[key]) for key in left), name


@pytest.fixture
def changed(tiny_base: Path, tmp_path: Path) -> Callable[[Callable[[Tensors], object]], Path]:
    """Writes the tiny model after ``change`` has worked on its tensors."""

    def write(change: Callable[[Tensors], object]) -> Path:
        tensors = load_file(tiny_base)
        change(tensors)
        path = tmp_path / "changed.safetensors"
        save_file(tensors, path)
        return path

    return write


@pytest.fixture(scope="module")
def folder(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as a diffusers folder, the UNet in several shards."""
    path = tmp_path_factory.mktemp("diffusers")
    base = load_base(tiny_base)
    base.unet.save_pretrained(path / "unet", max_shard_size="4MB")
    base.te1.save_pretrained(path / "text_encoder")
    base.te2.save_pretrained(path / "text_encoder_2")
    base.vae.save_pretrained(path / "vae")
    assert (path / "unet" / "diffusion_pytorch_model.safetensors.index.json").exists()
    return path


# ---- what is read ----


def test_the_real_sdxl_configuration_comes_from_its_shapes() -> None:
    real = tensor_shapes(SIZES["full"])
    by_part = {part: {k.removeprefix(p): v for k, v in real.items() if k.startswith(p)} for part, p in PREFIXES.items()}
    path = Path("sdxl.safetensors")
    unet = shapes.unet_config(by_part["unet"], by_part["te2"], path)
    assert unet["block_out_channels"] == (320, 640, 1280)
    assert unet["transformer_layers_per_block"] == (1, 2, 10)
    assert unet["attention_head_dim"] == (5, 10, 20)
    assert unet["cross_attention_dim"] == 2048
    assert (unet["addition_time_embed_dim"], unet["projection_class_embeddings_input_dim"]) == (256, 2816)
    assert unet["use_linear_projection"] is True
    assert unet["down_block_types"] == ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D")
    assert unet["up_block_types"] == ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")
    te1, te2 = shapes.te1_config(by_part["te1"], path), shapes.te2_config(by_part["te2"], path)
    assert (te1["hidden_size"], te1["num_hidden_layers"], te1["num_attention_heads"]) == (768, 12, 12)
    assert (te1["hidden_act"], te2["hidden_act"]) == ("quick_gelu", "gelu")
    assert (te2["hidden_size"], te2["num_hidden_layers"], te2["num_attention_heads"]) == (1280, 32, 20)
    assert te2["projection_dim"] == 1280
    vae = shapes.vae_config_ldm(by_part["vae"], path)
    assert (vae["block_out_channels"], vae["layers_per_block"]) == ((128, 256, 512, 512), 2)
    assert vae["scaling_factor"] == 0.13025


def test_a_file_may_say_how_its_layers_are_divided(tiny_base: Path, tmp_path: Path) -> None:
    path = tmp_path / "narrow.safetensors"
    divisions = shapes.Divisions(head_dim=16, unet_groups=8, vae_groups=4)
    save_file(load_file(tiny_base), path, divisions.to_metadata())
    base = load_base(path)
    assert tuple(base.unet.config.attention_head_dim) == (2, 4, 8)
    assert (base.unet.config.norm_num_groups, base.vae.config.norm_num_groups) == (8, 4)
    assert base.te1.config.num_attention_heads == base.te2.config.num_attention_heads == 4
    assert load_vae(path).config.norm_num_groups == 4


@pytest.mark.parametrize("entry", ['{"head_dim": 0}', '{"head_dim": "16"}', '{"heads": 3}', "[16]", "{"])
def test_a_damaged_entry_about_divisions_is_refused(entry: str, tiny_base: Path, tmp_path: Path) -> None:
    path = tmp_path / "narrow.safetensors"
    save_file(load_file(tiny_base), path, {"lorakit.divisions": entry})
    with pytest.raises(ModelFileError, match=r"lorakit\.divisions is damaged"):
        load_base(path)


def test_all_modules_are_frozen_in_eval_mode_and_hold_the_files_values(tiny_base: Path, loaded: BaseModel) -> None:
    file = load_file(tiny_base)
    assert loaded.path == tiny_base
    assert loaded.vae_path is None
    for module in parts(loaded).values():
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())
        assert not any(tensor.is_meta for tensor in [*module.parameters(), *module.buffers()])
        assert all(parameter.dtype == torch.float32 for parameter in module.parameters())
    key = "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
    ours = loaded.unet.get_parameter("down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight")
    assert torch.equal(ours, file[PREFIXES["unet"] + key].float())
    fused = file[PREFIXES["te2"] + "transformer.resblocks.1.attn.in_proj_weight"].float()
    attention = loaded.te2.get_submodule("text_model.encoder.layers.1.self_attn")
    joined = torch.cat([attention.get_parameter(f"{name}_proj.weight") for name in "qkv"])
    assert torch.equal(joined, fused)


def test_dtypes_are_chosen_per_part(tiny_base: Path) -> None:
    base = load_base(tiny_base, unet_dtype=torch.float16, te_dtype=torch.bfloat16, vae_dtype=torch.float32)
    kinds = {name: {parameter.dtype for parameter in module.parameters()} for name, module in parts(base).items()}
    assert kinds == {
        "unet": {torch.float16},
        "te1": {torch.bfloat16},
        "te2": {torch.bfloat16},
        "vae": {torch.float32},
    }


def test_a_text_projection_is_stored_transposed(changed: Callable[..., Path]) -> None:
    """OpenCLIP multiplies by the matrix from the right, a Linear layer by its transpose."""
    key = PREFIXES["te2"] + "text_projection"
    matrix = torch.randn(64, 64, generator=torch.Generator().manual_seed(1))
    base = load_base(changed(lambda tensors: tensors.__setitem__(key, matrix)))
    x = torch.randn(3, 64)
    assert torch.allclose(base.te2.text_projection(x), x @ matrix, atol=1e-5)


def test_a_diffusers_folder_gives_the_same_tensors(folder: Path, loaded: BaseModel) -> None:
    assert_same(load_base(folder), loaded)


def test_a_folder_with_only_a_variant_is_read(folder: Path, tmp_path: Path, loaded: BaseModel) -> None:
    loaded.vae.save_pretrained(tmp_path / "vae", variant="fp16")
    assert [path.name for path in tmp_path.glob("vae/*.safetensors")] == ["diffusion_pytorch_model.fp16.safetensors"]
    assert torch.equal(load_vae(tmp_path).quant_conv.weight, loaded.vae.quant_conv.weight)


def test_a_vae_apart_in_every_form(tiny_base: Path, folder: Path, tmp_path: Path, changed: Callable[..., Path]) -> None:
    def double(tensors: Tensors) -> None:
        for key in tensors:
            if key.startswith(PREFIXES["vae"]):
                tensors[key] = tensors[key] * 2

    full = changed(double)
    bare = tmp_path / "bare.safetensors"
    prefix = PREFIXES["vae"]
    only = {key.removeprefix(prefix): value for key, value in load_file(full).items() if key.startswith(prefix)}
    save_file(only | {"loss.logvar": torch.zeros(1)}, bare)
    expected = load_base(tiny_base).vae.quant_conv.weight * 2
    assert torch.equal(load_vae(full).quant_conv.weight, expected)
    assert torch.equal(load_vae(bare).quant_conv.weight, expected)
    base = load_base(tiny_base, vae_path=bare)
    assert base.vae_path == bare
    assert torch.equal(base.vae.quant_conv.weight, expected)
    single = folder / "vae" / "diffusion_pytorch_model.safetensors"
    for place in (folder, folder / "vae", single):
        assert torch.equal(load_vae(place).quant_conv.weight, expected / 2)


# ---- what is refused ----


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no such file") as caught:
        load_base(tmp_path / "none.safetensors")
    assert caught.value.exit_code == 7
    for name in ("x" * 300, "a\0b"):
        with pytest.raises(ModelFileError, match="no such file"):
            load_base(tmp_path / name)
    with pytest.raises(ModelFileError, match="not a file"):
        load_base(Path(os.devnull))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 0.9999))
def test_a_file_cut_off_anywhere_is_refused(tiny_base: Path, tmp_path: Path, share: float) -> None:
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(tiny_base.read_bytes())
    os.truncate(torn, int(torn.stat().st_size * share))
    with pytest.raises(ModelFileError):
        load_base(torn)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.one_of(st.binary(max_size=200), st.binary(max_size=60).map(lambda b: len(b).to_bytes(8, "little") + b))
)
def test_garbage_is_refused_with_a_model_file_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "garbage.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelFileError):
        load_base(path)


@pytest.mark.parametrize(
    "header",
    [
        b"[1, 2]",
        b'{"a": 1}',
        b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, "x"]}}',
        b'{"a": {}}',
        b"null",
    ],
)
def test_a_damaged_header_is_refused(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ModelFileError):
        load_base(path)


def test_a_header_that_lies_about_a_tensor_is_refused(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [100], "data_offsets": [0, 4]}}).encode()
    path = tmp_path / "lie.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)
    with pytest.raises(ModelFileError, match="cannot be read as safetensors"):
        load_base(path)


def test_a_file_that_is_too_long_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    path = tmp_path / "long.safetensors"
    path.write_bytes(tiny_base.read_bytes() + b"\0")
    with pytest.raises(ModelFileError, match="longer than its header says"):
        check_safetensors(path)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("cond_stage_model.transformer.text_model.embeddings.position_ids", "Stable Diffusion 1.x"),
        ("cond_stage_model.model.ln_final.weight", "Stable Diffusion 2.x"),
        ("double_blocks.0.img_attn.qkv.weight", "Flux"),
        ("model.diffusion_model.double_blocks.0.img_attn.qkv.weight", "Flux"),
        ("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight", "Stable Diffusion 3"),
        ("conditioner.embedders.0.model.ln_final.weight", "refiner"),
        ("lora_unet_mid.alpha", "a LoRA"),
        ("first_stage_model.encoder.conv_in.weight", "lone VAE"),
        ("something", "something else"),
    ],
)
def test_another_architecture_is_named(tmp_path: Path, key: str, name: str) -> None:
    path = tmp_path / "other.safetensors"
    save_file({key: torch.zeros(1)}, path)
    with pytest.raises(ModelFileError, match=name):
        load_base(path)


@pytest.mark.parametrize("part", ["unet", "te1", "te2", "vae"])
def test_missing_extra_and_misshapen_tensors_are_named(changed: Callable[..., Path], part: str) -> None:
    key = {
        "unet": "model.diffusion_model.input_blocks.5.1.transformer_blocks.0.attn1.to_q.weight",
        "te1": "conditioner.embedders.0.transformer.text_model.encoder.layers.1.self_attn.q_proj.bias",
        "te2": "conditioner.embedders.1.model.transformer.resblocks.1.mlp.c_fc.weight",
        "vae": "first_stage_model.decoder.mid.block_1.conv1.weight",
    }[part]
    with pytest.raises(ModelFileError, match="missing"):
        load_base(changed(lambda tensors: tensors.pop(key)))
    strange = key.rsplit(".", 1)[0] + ".strange"
    with pytest.raises(ModelFileError, match="no place for"):
        load_base(changed(lambda tensors: tensors.__setitem__(strange, torch.zeros(1))))
    with pytest.raises(ModelFileError, match="has the shape"):
        load_base(changed(lambda tensors: tensors.__setitem__(key, torch.zeros(3, 5, 7))))


def test_index_tables_of_published_files_are_no_strangers(changed: Callable[..., Path], loaded: BaseModel) -> None:
    key = "conditioner.embedders.0.transformer.text_model.embeddings.position_ids"
    assert_same(load_base(changed(lambda tensors: tensors.__setitem__(key, torch.arange(77)[None]))), loaded)


def test_a_pickle_is_refused_unless_allowed(tiny_base: Path, tmp_path: Path, loaded: BaseModel) -> None:
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": load_file(tiny_base)}, path)
    with pytest.raises(ModelFileError, match="pickled checkpoint is refused"):
        load_base(path)
    assert_same(load_base(path, allow_pickle=True), loaded)


def test_an_old_style_pickle_is_read_too(tiny_base: Path, tmp_path: Path, loaded: BaseModel) -> None:
    path = tmp_path / "model.ckpt"
    torch.save(load_file(tiny_base), path, _use_new_zipfile_serialization=False)
    assert_same(load_base(path, allow_pickle=True), loaded)


def test_an_inpainting_model_is_refused(changed: Callable[..., Path]) -> None:
    key = "model.diffusion_model.input_blocks.0.0.weight"
    with pytest.raises(ModelFileError) as caught:
        load_base(changed(lambda tensors: tensors.__setitem__(key, torch.zeros(32, 9, 3, 3))))
    assert "inpainting" in caught.value.why


def test_an_allowed_pickle_still_runs_nothing(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
            return os.system, (f"touch {tmp_path / 'pwned'}",)

    path = tmp_path / "evil.ckpt"
    path.write_bytes(pickle.dumps({"state_dict": Evil()}, protocol=2))
    with pytest.raises(ModelFileError, match="more than tensors"):
        load_base(path, allow_pickle=True)
    assert not (tmp_path / "pwned").exists()


def test_an_incomplete_folder_says_what_is_missing(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="not a diffusers folder"):
        load_base(tmp_path)
    for name in ("unet", "text_encoder", "text_encoder_2", "vae"):
        (tmp_path / name).mkdir()
    with pytest.raises(ModelFileError, match=r"config\.json"):
        load_base(tmp_path)
    (tmp_path / "unet" / "config.json").write_text((folder / "unet" / "config.json").read_text())
    with pytest.raises(ModelFileError, match=r"no \.safetensors weights"):
        load_base(tmp_path)


def test_a_file_without_a_vae_is_refused_as_one(tmp_path: Path) -> None:
    path = tmp_path / "no-vae.safetensors"
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ModelFileError, match="no VAE"):
        load_vae(path)


def test_open_tensors_strips_a_prefix(tiny_base: Path) -> None:
    with open_tensors(tiny_base) as file:
        assert "ln_final.weight" in file.tensors(PREFIXES["te2"])
        assert all(key.startswith(PREFIXES["te2"]) for key in file.tensors(PREFIXES["te2"], keep_prefix=True))
