"""Operations written out for speed give what torch's own give: attention, a linear layer beside its LoRA, recomputation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lorakit.trainers.builtin import convolution
from lorakit.trainers.builtin.attention import attend, quicken_attention
from lorakit.trainers.builtin.checkpoint import BaseModel
from lorakit.trainers.builtin.convolution import convolve
from lorakit.trainers.builtin.lora import LoraModule, LoraNetwork
from lorakit.trainers.builtin.low_rank import linear_with_pair
from lorakit.trainers.builtin.recompute import Recomputation, checkpoint_gradients, spare_memory
from lorakit.trainers.builtin.text import encode_ids


def gradients(function: Callable[..., Tensor], inputs: list[Tensor]) -> list[Tensor]:
    """The result for ``inputs`` and the gradients of all of them, for one fixed gradient of the result."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    out = function(*leaves)
    direction = torch.sin(torch.arange(out.numel(), dtype=torch.float32)).view(out.shape)
    return [out.detach(), *torch.autograd.grad(out, leaves, direction.to(out.dtype))]


def assert_alike(ours: list[Tensor], theirs: list[Tensor], tolerance: float) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype
        assert (one.float() - other.float()).norm() <= tolerance * other.float().norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("tokens", "keys", "causal"), [(9, 9, True), (9, 7, False), (5, 130, False)])
def test_attention_is_torchs(dtype: torch.dtype, tokens: int, keys: int, causal: bool) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(2, 3, count, 8).to(dtype) for count in (tokens, keys, keys)]
    theirs = gradients(
        lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, scale=0.3, is_causal=causal), inputs
    )
    ours = gradients(lambda q, k, v: attend(q, k, v, 0.3, causal=causal), inputs)
    assert torch.equal(ours[0], theirs[0])
    assert_alike(ours, theirs, 1e-6 if dtype == torch.float32 else 1e-2)


def test_the_models_attend_as_before(loaded: BaseModel) -> None:
    ids = torch.arange(1, 78).view(1, 1, 77)

    def run() -> tuple[Tensor, Tensor]:
        text = encode_ids(loaded, ids, ids)
        conditions = {"text_embeds": text.pooled, "time_ids": torch.zeros(1, 6)}
        latents = torch.linspace(-1, 1, 4 * 16 * 16).view(1, 4, 16, 16)
        with torch.no_grad():
            image: Tensor = loaded.unet(latents, 5, text.hidden, added_cond_kwargs=conditions).sample
        return text.hidden, image

    before = run()
    quicken_attention(loaded)
    for ours, theirs in zip(run(), before, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_with_its_pair_is_the_sum(scale: float, bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(6, 5, bias=bias).requires_grad_(requires_grad=False)
    inputs = [torch.randn(2, 3, 6), torch.randn(2, 6), torch.randn(5, 2)]
    theirs = gradients(lambda x, down, up: layer(x) + scale * (x @ down.T) @ up.T, inputs)
    ours = gradients(
        lambda x, down, up: linear_with_pair(x, layer.weight, layer.bias, down=down, up=up, scale=scale), inputs
    )
    assert_alike(ours, theirs, 1e-6)


def test_a_convolution_over_few_pixels_is_torchs() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 5, 3, padding=1).requires_grad_(requires_grad=False)
    inputs = [torch.randn(2, 6, 4, 3)]
    assert_alike(gradients(lambda x: convolve(x, layer.weight, layer.bias), inputs), gradients(layer, inputs), 1e-6)


def test_only_wide_convolutions_in_bf16_over_few_pixels_become_products(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []

    def spy(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        seen.append(tuple(x.shape))
        return functional.conv2d(x, weight, bias, padding=1)

    monkeypatch.setattr(convolution, "convolve", spy)
    wide, narrow = (nn.Conv2d(channels, 1, 3, padding=1).bfloat16() for channels in (1024, 16))
    strided = nn.Conv2d(1024, 1, 3, padding=1, stride=2).bfloat16()
    exact = nn.Conv2d(1024, 1, 3, padding=1)
    layers = nn.ModuleList([wide, narrow, strided, exact]).requires_grad_(requires_grad=False)
    convolution.quicken_convolutions(layers)
    for layer in (wide, narrow, strided, exact):
        for side in (2, 17):
            layer(torch.zeros(1, layer.in_channels, side, side, dtype=layer.weight.dtype))
    assert seen == [(1, 1024, 2, 2)]


def test_under_autocast_the_pair_is_in_its_format_and_gradients_in_their_own() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(6, 5).bfloat16().requires_grad_(requires_grad=False)
    inputs = [torch.randn(4, 6), torch.randn(2, 6), torch.randn(5, 2)]
    exact = gradients(lambda x, down, up: functional.linear(x, layer.weight.float(), layer.bias.float()) + x @ down.T @ up.T, inputs)  # fmt: skip
    with torch.autocast("cpu", torch.bfloat16):
        ours = gradients(
            lambda x, down, up: linear_with_pair(x, layer.weight, layer.bias, down=down, up=up, scale=1.0), inputs
        )
    assert [tensor.dtype for tensor in ours] == [torch.bfloat16, *[torch.float32] * 3]
    assert_alike([tensor.float() for tensor in ours], exact, 2e-2)


def test_a_frozen_down_projection_gets_no_gradient() -> None:
    layer, pair = nn.Linear(3, 3), LoraModule(nn.Linear(3, 3), 2, 2)
    pair.lora_down.requires_grad_(requires_grad=False)
    pair.attach(layer)
    layer(torch.ones(1, 3)).sum().backward()
    assert pair.lora_down.weight.grad is None
    assert pair.lora_up.weight.grad is not None


def test_what_drops_or_mixes_formats_goes_the_long_way() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(4, 4)
    dropping = LoraModule(layer, 2, 2, dropout=0.5)
    nn.init.ones_(dropping.lora_up.weight)
    handle = dropping.attach(layer)
    x = torch.ones(64, 4)
    assert len(layer(x).unique(dim=0)) > 1  # rows are dropped one by one
    dropping.eval()
    assert len(layer(x).unique(dim=0)) == 1
    handle.remove()
    half = nn.Linear(4, 4).bfloat16()
    LoraModule(half, 2, 2).attach(half)
    assert half(x.bfloat16()).dtype == torch.bfloat16  # fp32 LoRA weights, no autocast


@pytest.mark.parametrize("budget", [0, 200_000, 2**40])
def test_a_budget_changes_what_is_computed_twice_and_no_number(loaded: BaseModel, budget: int) -> None:
    ids = torch.arange(1, 78).view(1, 1, 77)

    def learn(network: LoraNetwork) -> list[Tensor]:
        network.zero_grad()
        text = encode_ids(loaded, ids, ids)
        conditions = {"text_embeds": text.pooled, "time_ids": torch.zeros(1, 6)}
        loaded.unet(
            torch.ones(1, 4, 8, 8), 5, text.hidden, added_cond_kwargs=conditions
        ).sample.square().mean().backward()
        return [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]

    torch.manual_seed(0)
    network = LoraNetwork.create(loaded, dim=2, alpha=2)
    plain = learn(network)
    weights = [weight for part in (loaded.unet, loaded.te1, loaded.te2) for weight in part.parameters()]
    recomputation = Recomputation(budget, [*weights, *network.parameters()])
    checkpoint_gradients(loaded, recomputation, text=True)
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    for module in loaded.unet.modules():
        if type(module).__name__ in ("ResnetBlock2D", "BasicTransformerBlock"):
            module.register_forward_pre_hook(count)
    twice = []
    for _ in range(2):
        recomputation.begin("one shape")
        before = calls
        for ours, theirs in zip(learn(network), plain, strict=True):
            assert torch.equal(ours, theirs)
        twice.append(calls - before)
    blocks = sum(type(m).__name__ in ("ResnetBlock2D", "BasicTransformerBlock") for m in loaded.unet.modules())
    assert twice[0] == twice[1]
    if budget == 0:
        assert twice[0] == 2 * blocks - 1  # no gradient reaches the first one: there is no LoRA before it
    elif budget == 2**40:
        assert twice[0] == blocks
    else:
        assert blocks < twice[0] <= 2 * blocks


def test_spare_memory_shrinks_with_need_and_processes() -> None:
    one = spare_memory(0, 1)
    assert 0 <= one <= 4 * 2**30
    assert spare_memory(2**60, 1) == 0
    assert spare_memory(0, 1000) < 2**30
