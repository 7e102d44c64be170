"""The LoRA network: kohya's modules, names and arithmetic, and files that other programs read."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lorakit.bench_model.shape import SIZES, tensor_shapes
from lorakit.errors import ModelFileError
from lorakit.trainers.builtin import shapes
from lorakit.trainers.builtin.checkpoint import PREFIXES, BaseModel, load_base
from lorakit.trainers.builtin.lora import LoraModule, LoraNetwork, targets
from lorakit.trainers.builtin.text import encode, size_condition
from lorakit.trainers.builtin.tokenizers import Tokenizers
from tests.bench_models import bench_checkpoint

CAPTIONS = ["a photo of a zorp", "a red circle"]


def predict(base: BaseModel, tokenizers: Tokenizers, *, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The noise predicted for two fixed latents and captions, shape (2, 4, 8, 8)."""
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5)).to(dtype)
    text = encode(base, tokenizers, CAPTIONS)
    size = [(64, 64)] * 2
    condition = {"text_embeds": text.pooled.to(dtype), "time_ids": size_condition(size, [(0, 0)] * 2, size)}
    sample = base.unet(latents, torch.tensor([10, 900]), text.hidden.to(dtype), added_cond_kwargs=condition).sample
    assert isinstance(sample, torch.Tensor)
    return sample


def network(base: BaseModel, **options: Any) -> LoraNetwork:
    torch.manual_seed(3)
    return LoraNetwork.create(base, **{"dim": 4, "alpha": 2, **options})


def trained(base: BaseModel, **options: Any) -> LoraNetwork:
    """A network whose weights are no longer zero anywhere."""
    made = network(base, **options)
    with torch.no_grad():
        for module in made.modules():
            if isinstance(module, LoraModule):
                nn.init.normal_(module.lora_up.weight, std=0.1)
    return made


def enable_checkpointing(encoder: Any) -> None:
    name = (
        "activation_checkpointing_enable"
        if hasattr(encoder, "activation_checkpointing_enable")
        else "gradient_checkpointing_enable"
    )
    getattr(encoder, name)({"use_reentrant": False})


@pytest.fixture(scope="module")
def real() -> BaseModel:
    """The real SDXL's modules, without memory for their weights."""
    size = SIZES["full"]
    real_shapes = tensor_shapes(size)
    inner = {
        part: {k.removeprefix(p): v for k, v in real_shapes.items() if k.startswith(p)} for part, p in PREFIXES.items()
    }
    path = Path("sdxl.safetensors")
    with torch.device("meta"):
        return BaseModel(
            UNet2DConditionModel(**shapes.unet_config(inner["unet"], inner["te2"], path)),
            CLIPTextModel(CLIPTextConfig(**shapes.te1_config(inner["te1"], path))),
            CLIPTextModelWithProjection(CLIPTextConfig(**shapes.te2_config(inner["te2"], path))),
            AutoencoderKL(**shapes.vae_config_ldm(inner["vae"], path)),
            path,
        )


# ---- modules and names ----


def test_the_real_sdxl_has_722_and_264_modules_in_2958_tensors(real: BaseModel) -> None:
    with torch.device("meta"):
        made = LoraNetwork.create(real, dim=1, alpha=1)
    assert {part: len(modules) for part, modules in made.parts.items()} == {"te1": 72, "te2": 192, "unet": 722}
    assert len(made.state_dict()) == 2958
    counts = {part: sum(p.numel() for p in made.parameters_of(part)) for part in made.parts}
    assert counts == {"te1": 165_888, "te2": 737_280, "unet": 2_659_840}
    made.detach()


def test_with_convolutions_the_real_sdxl_has_788_modules(real: BaseModel) -> None:
    found = targets(real, with_convolutions=True)["unet"]
    assert len(found) == 788
    assert sum(target.wide for target in found) == 38
    names = {target.name for target in found}
    assert {"lora_unet_output_blocks_2_2_conv", "lora_unet_input_blocks_3_0_op"} <= names
    assert sum(name.endswith("emb_layers_1") for name in names) == 17
    assert sum(name.endswith("skip_connection") for name in names) == 11
    with torch.device("meta"):
        made = LoraNetwork.create(real, dim=1, alpha=1, conv_dim=1)
    assert sum(p.numel() for p in made.parameters_of("unet")) == 2_659_840 + 355_840 + 58_560
    made.detach()


def test_names_are_kohyas_and_come_in_its_order(real: BaseModel) -> None:
    found = targets(real)
    assert [target.name for target in found["te1"][:6]] == [
        f"lora_te1_text_model_encoder_layers_0_{name}"
        for name in (
            "self_attn_k_proj",
            "self_attn_v_proj",
            "self_attn_q_proj",
            "self_attn_out_proj",
            "mlp_fc1",
            "mlp_fc2",
        )
    ]
    assert found["te2"][-1].name == "lora_te2_text_model_encoder_layers_31_mlp_fc2"
    start = "lora_unet_input_blocks_4_1_"
    block = start + "transformer_blocks_0_"
    assert [target.name for target in found["unet"][:11]] == [
        start + "proj_in",
        *(f"{block}attn1_{name}" for name in ("to_q", "to_k", "to_v", "to_out_0")),
        f"{block}ff_net_0_proj",
        f"{block}ff_net_2",
        *(f"{block}attn2_{name}" for name in ("to_q", "to_k", "to_v", "to_out_0")),
    ]
    assert found["unet"][-1].name == "lora_unet_output_blocks_5_1_proj_out"


def test_shapes_alphas_and_initial_weights(loaded: BaseModel) -> None:
    state = network(loaded).kohya_state_dict()
    name = "lora_unet_input_blocks_4_1_transformer_blocks_0_ff_net_0_proj"
    assert state[f"{name}.lora_down.weight"].shape == (4, 64)
    assert state[f"{name}.lora_up.weight"].shape == (512, 4)
    assert state[f"{name}.alpha"].shape == ()
    assert float(state[f"{name}.alpha"]) == 2.0
    assert not any(value.any() for key, value in state.items() if key.endswith("lora_up.weight"))
    down = state[f"{name}.lora_down.weight"]
    assert 0 < down.abs().max() <= 64**-0.5  # uniform in ±1/sqrt(fan in)
    assert network(loaded).kohya_state_dict(torch.float16)[f"{name}.alpha"].dtype == torch.float16


def test_the_unet_starts_alike_whether_text_encoders_are_trained_or_not(loaded: BaseModel) -> None:
    both, alone = network(loaded), network(loaded, train_text_encoders=False)
    assert set(alone.parts) == {"unet"}
    assert alone.parameters_of("te1") == []
    ours, theirs = alone.state_dict(), both.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert set(network(loaded, train_unet=False).parts) == {"te1", "te2"}


def test_initial_weights_are_those_of_sd_scripts() -> None:
    """The digest is of a file that the real trainer wrote untrained, for the same shapes: --seed 42 --network_dim 4."""
    base = load_base(bench_checkpoint("slim"))
    torch.manual_seed(42)
    state = LoraNetwork.create(base, dim=4, alpha=2).kohya_state_dict()
    digest = hashlib.sha256()
    for key in sorted(state):
        if key.endswith("lora_down.weight"):
            digest.update(state[key].numpy().tobytes())
    assert digest.hexdigest() == "cb4eb7d02742c5e4a4e8ba6449691d853cefcc79b371d9c644cd7796a882edf5"


def test_alpha_zero_means_alpha_equal_to_dim(loaded: BaseModel) -> None:
    made = network(loaded, alpha=0)
    assert {module.scale for module in made.parts["unet"]} == {1.0}
    assert {float(module.alpha) for module in made.parts["te1"]} == {4.0}


# ---- arithmetic ----


def test_a_fresh_network_changes_nothing_and_a_trained_one_does(loaded: BaseModel, tokenizers: Tokenizers) -> None:
    with torch.no_grad():
        before = predict(loaded, tokenizers)
        fresh = network(loaded)
        assert torch.equal(predict(loaded, tokenizers), before)
        fresh.detach()
        made = trained(loaded)
        assert not torch.allclose(predict(loaded, tokenizers), before)
        made.multiplier = 0.0
        assert torch.equal(predict(loaded, tokenizers), before)
        made.multiplier = 1.0
        made.detach()
        assert torch.equal(predict(loaded, tokenizers), before)


@pytest.mark.parametrize("conv_dim", [None, 2])
def test_the_network_equals_merged_weights(tiny_base: Path, tokenizers: Tokenizers, conv_dim: int | None) -> None:
    """W + up @ down * alpha / dim, the meaning of a LoRA file, computed apart."""
    base, merged = load_base(tiny_base), load_base(tiny_base)
    made = trained(base, conv_dim=conv_dim, conv_alpha=1.0)
    with torch.no_grad():
        for part, found in targets(merged, with_convolutions=conv_dim is not None).items():
            for target, module in zip(found, made.parts[part], strict=True):
                up, down = module.lora_up.weight, module.lora_down.weight
                delta = (up.flatten(1) @ down.flatten(1)).view(target.module.weight.shape)
                target.module.weight += delta * module.alpha / module.dim
        assert torch.allclose(predict(base, tokenizers), predict(merged, tokenizers), atol=1e-4)


def test_gradients_reach_all_parts_and_no_base_weight(loaded: BaseModel, tokenizers: Tokenizers) -> None:
    made = network(loaded)
    torch.autograd.backward(predict(loaded, tokenizers).square().mean())
    for part in ("te1", "te2", "unet"):
        ups = [module.lora_up.weight.grad for module in made.parts[part]]
        # TE1's last layer is not part of the condition, so its gradients do not exist
        assert sum(grad is not None and bool(grad.any()) for grad in ups) >= len(ups) - 6
    assert all(parameter.grad is None for parameter in loaded.unet.parameters())


def test_gradient_checkpointing_gives_the_same_gradients(loaded: BaseModel, tokenizers: Tokenizers) -> None:
    made = trained(loaded)
    torch.autograd.backward(predict(loaded, tokenizers).square().mean())
    plain = [parameter.grad.clone() for parameter in made.parameters_of("unet") if parameter.grad is not None]
    made.zero_grad()
    loaded.unet.enable_gradient_checkpointing()
    loaded.unet.train()
    for encoder in (loaded.te1, loaded.te2):
        enable_checkpointing(encoder)
        encoder.train()
    torch.autograd.backward(predict(loaded, tokenizers).square().mean())
    checked = [parameter.grad for parameter in made.parameters_of("unet") if parameter.grad is not None]
    assert len(plain) == len(checked) == len(made.parameters_of("unet"))
    assert all(torch.allclose(one, two, atol=1e-6) for one, two in zip(plain, checked, strict=True))


@pytest.mark.parametrize("autocast", [True, False])
def test_fp32_lora_beside_a_bf16_base(tiny_base: Path, tokenizers: Tokenizers, autocast: bool) -> None:
    base = load_base(tiny_base, unet_dtype=torch.bfloat16, te_dtype=torch.bfloat16)
    made = trained(base)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        sample = predict(base, tokenizers, dtype=torch.bfloat16)
    torch.autograd.backward(sample.float().square().mean())
    assert sample.isfinite().all()
    grads = [parameter.grad for parameter in made.parameters_of("unet")]
    assert all(grad is not None and grad.dtype == torch.float32 for grad in grads)
    exact = load_base(tiny_base)
    trained(exact)
    with torch.no_grad():
        assert torch.allclose(sample.float(), predict(exact, tokenizers), atol=0.15)


# ---- dropouts ----


def single(**options: Any) -> tuple[nn.Linear, LoraModule]:
    torch.manual_seed(0)
    linear = nn.Linear(8, 6)
    module = LoraModule(linear, 4, 2.0, **options)
    nn.init.normal_(module.lora_up.weight)
    return linear, module


def test_dropouts_are_active_in_training_only() -> None:
    x = torch.randn(5, 3, 8)
    for name in ("dropout", "rank_dropout", "module_dropout"):
        _, module = single(**{name: 0.5})
        module.eval()
        plain = module(x)
        assert torch.equal(plain, module.lora_up(module.lora_down(x)) * 0.5)
        module.train()
        results = [module(x) for _ in range(20)]
        assert any(result is None or not torch.equal(result, plain) for result in results), name


def test_rank_dropout_masks_ranks_per_sample_and_rescales() -> None:
    _, module = single(rank_dropout=0.5)
    module.lora_up.weight.data = torch.ones(6, 4)
    x = torch.randn(200, 3, 8)
    parts = module.lora_down(x)  # (200, 3, 4)
    masks = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 4)
    result = module.train()(x)[
        ..., 0
    ]  # (200, 3): sum over the ranks that are left, times 2 (rescaled), times 0.5 (scale)
    candidates = torch.einsum("bnr,mr->bmn", parts, masks)
    misses = (candidates - result[:, None]).abs().amax(-1).amin(1)
    assert misses.max() < 1e-5
    assert torch.randn(1).isfinite()


def test_module_dropout_leaves_the_base_alone_at_its_rate() -> None:
    linear, module = single(module_dropout=0.25)
    module.attach(linear)
    module.train()
    x = torch.randn(2, 8)
    base = nn.functional.linear(x, linear.weight, linear.bias)
    skipped = sum(torch.equal(linear(x), base) for _ in range(400))
    assert 60 <= skipped <= 140


def test_rank_dropout_on_a_convolution() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, stride=2, padding=1)
    module = LoraModule(conv, 2, 2.0, rank_dropout=0.5)
    nn.init.normal_(module.lora_up.weight)
    module.attach(conv)
    assert conv(torch.randn(3, 4, 8, 8)).shape == (3, 6, 4, 4)


# ---- files ----


def test_a_file_comes_back_as_it_was(loaded: BaseModel, tokenizers: Tokenizers, tmp_path: Path) -> None:
    made = trained(loaded)
    path = tmp_path / "lora.safetensors"
    save_file(made.kohya_state_dict(), path)
    with torch.no_grad():
        expected = predict(loaded, tokenizers)
        made.detach()
        again = network(loaded)
        report = again.load_kohya(path)
        assert (report.missing, report.unexpected) == ((), ())
        assert torch.equal(predict(loaded, tokenizers), expected)


def test_parts_that_do_not_meet_are_reported(loaded: BaseModel, tmp_path: Path) -> None:
    path = tmp_path / "unet.safetensors"
    save_file(network(loaded, train_text_encoders=False).kohya_state_dict() | {"strange": torch.zeros(1)}, path)
    report = network(loaded).load_kohya(path)
    assert len(report.missing) == 24
    assert all(name.startswith("lora_te") for name in report.missing)
    assert report.unexpected == ("strange",)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"dim": 8, "alpha": 4}, "dim is 4"), ({"alpha": 8}, r"alpha is 2, the network's 8")],
)
def test_other_dim_or_alpha_is_refused(
    loaded: BaseModel, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    path = tmp_path / "lora.safetensors"
    save_file(network(loaded).kohya_state_dict(), path)
    with pytest.raises(ModelFileError) as caught:
        network(loaded, **options).load_kohya(path)
    assert re.search(message, f"{caught.value.what} {caught.value.why}")


def test_a_file_of_something_else_is_refused(loaded: BaseModel, tmp_path: Path, tiny_base: Path) -> None:
    with pytest.raises(ModelFileError, match="no LoRA module of this network"):
        network(loaded).load_kohya(tiny_base)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_diffusers_loads_the_file_and_predicts_the_same(
    tiny_base: Path, tokenizers: Tokenizers, tmp_path: Path
) -> None:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    base, other = load_base(tiny_base), load_base(tiny_base)
    made = trained(base)
    path = tmp_path / "lora.safetensors"
    save_file(made.kohya_state_dict(), path)
    with torch.no_grad():
        without = predict(other, tokenizers)
        pipeline = StableDiffusionXLPipeline(
            other.vae, other.te1, other.te2, None, None, other.unet, EulerDiscreteScheduler(), add_watermarker=False
        )
        pipeline.load_lora_weights(str(tmp_path), weight_name=path.name)
        with_lora = predict(other, tokenizers)
        ours = predict(base, tokenizers)
    assert (ours - without).abs().max() > 0.05
    assert torch.allclose(with_lora, ours, atol=1e-4)


def test_the_file_holds_nothing_but_lora_tensors(loaded: BaseModel, tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    save_file(network(loaded).kohya_state_dict(torch.bfloat16), path)
    state = load_file(path)
    assert len(state) % 3 == 0
    assert {key.split(".", 1)[1] for key in state} == {"alpha", "lora_down.weight", "lora_up.weight"}
    assert {value.dtype for value in state.values()} == {torch.bfloat16}
