"""Muon: directions that all count the same, one rate for all parameters, and a state that goes on."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from lorakit.bench_model.muon import Muon, orthogonalized


@pytest.mark.parametrize("shape", [(2, 16, 48), (1, 48, 16), (3, 12, 12)])
def test_singular_values_come_near_one(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 1e-3
    values = torch.linalg.svdvals(orthogonalized(matrices))
    assert values.median().item() == pytest.approx(1.0, abs=0.3)
    assert values.max().item() < 1.4


def small_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(32, 16))


def gradients(network: nn.Module, number: int) -> Tensor:
    x = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(number))
    network.zero_grad()
    loss: Tensor = (network(x) - 1.0).square().mean()
    torch.autograd.backward(loss)
    return loss


def test_it_learns() -> None:
    network = small_network()
    optimizer = Muon(network.parameters())
    losses = []
    for number in range(30):
        losses.append(gradients(network, number % 3).item())
        optimizer.step(0.01)
    assert losses[-1] < 0.3 * losses[0]


def test_a_matrix_moves_as_far_as_a_step_of_adam_whatever_the_size_of_its_gradient() -> None:
    moved = []
    for scale in (1e-4, 1e4):
        matrix = nn.Parameter(torch.zeros(16, 64))
        matrix.grad = scale * torch.randn(16, 64, generator=torch.Generator().manual_seed(1))
        Muon([matrix, nn.Parameter(torch.zeros(3))]).step(0.1)
        moved.append(matrix.detach().square().mean().sqrt().item())
    assert moved[0] == pytest.approx(moved[1], rel=0.02)
    assert moved[0] == pytest.approx(0.1 * 0.2, rel=0.3)


def test_a_parameter_without_a_gradient_stays_as_it_is() -> None:
    network = small_network()
    gradients(network, 0)
    last = network.get_parameter("4.weight")
    last.grad = None
    kept = last.detach().clone()
    Muon(network.parameters()).step(0.1)
    assert torch.equal(last, kept)


def test_a_loaded_state_goes_on_as_if_nothing_had_happened() -> None:
    straight, resumed = small_network(), small_network()
    first, second = Muon(straight.parameters()), Muon(resumed.parameters())
    for number in range(4):
        gradients(straight, number)
        first.step(0.01)
        if number == 1:
            resumed.load_state_dict({name: value.clone() for name, value in straight.state_dict().items()})
            second.load_state_dict(copy.deepcopy(first.state_dict()))
        elif number > 1:
            gradients(resumed, number)
            second.step(0.01)
    assert all(torch.equal(one, other) for one, other in zip(straight.parameters(), resumed.parameters(), strict=True))
