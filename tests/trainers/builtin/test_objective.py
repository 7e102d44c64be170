"""The objective against hand-computed values and independent formulas."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr
from diffusers.training_utils import compute_snr

from lorakit.trainers.builtin.objective import (
    Draw,
    NoiseSchedule,
    Objective,
    draw_noise,
    draw_timesteps,
    elementwise_loss,
    huber_thresholds,
    loss_weights,
    pyramid_noise,
)
from lorakit.trainers.builtin.options import LossOptions, NoiseOptions

STEPS = torch.tensor([0, 10, 250, 500, 999])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def reference() -> DDPMScheduler:
    return DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000)


def test_schedule_is_sdxls(reference: DDPMScheduler) -> None:
    schedule = NoiseSchedule.sdxl()
    torch.testing.assert_close(schedule.alphas_cumprod, reference.alphas_cumprod)
    torch.testing.assert_close(schedule.snr[STEPS], compute_snr(reference, STEPS), rtol=1e-4, atol=0)
    latents, noise = torch.randn(5, 4, 8, 8), torch.randn(5, 4, 8, 8)
    torch.testing.assert_close(schedule.noisy(latents, noise, STEPS), reference.add_noise(latents, noise, STEPS))
    torch.testing.assert_close(schedule.velocity(latents, noise, STEPS), reference.get_velocity(latents, noise, STEPS))


def test_zero_terminal_snr_changes_the_noise_and_not_the_weights(reference: DDPMScheduler) -> None:
    schedule = NoiseSchedule.sdxl(zero_terminal_snr=True)
    betas = rescale_zero_terminal_snr(reference.betas)
    torch.testing.assert_close(schedule.alphas_cumprod, torch.cumprod(1 - betas, 0), rtol=1e-4, atol=1e-6)
    assert schedule.alphas_cumprod[-1] == 0
    assert torch.equal(schedule.snr, NoiseSchedule.sdxl().snr)


def test_timesteps_are_uniform_in_their_range() -> None:
    drawn = draw_timesteps(20_000, NoiseOptions(min_timestep=100, max_timestep=200), generator())
    assert (int(drawn.min()), int(drawn.max())) == (100, 199)
    counts = torch.bincount(drawn - 100, minlength=100).float()
    assert ((counts - 200) ** 2 / 200).sum() < 160  # χ² with 99 degrees of freedom: 160 is beyond the 0.9999 quantile
    assert draw_timesteps(3, NoiseOptions(min_timestep=500, max_timestep=300), generator()).tolist() == [300] * 3
    assert int(draw_timesteps(10_000, NoiseOptions(), generator()).max()) == 999


def test_offset_is_one_number_per_channel() -> None:
    latents = torch.zeros(2, 4, 16, 16)
    plain = draw_noise(latents, NoiseOptions(), generator(1))
    shifted = draw_noise(latents, NoiseOptions(noise_offset=0.5), generator(1))
    offset = shifted - plain
    torch.testing.assert_close(offset, offset[:, :, :1, :1].expand_as(offset), rtol=0, atol=1e-6)
    assert len(set(offset[:, :, 0, 0].flatten().tolist())) == 8


@pytest.mark.parametrize(("level", "scale", "expected"), [(0.5, 0.2, 0.2), (-0.5, 0.2, 0.2), (0.5, -0.5, 0.0)])
def test_adaptive_offset_follows_the_level(level: float, scale: float, expected: float) -> None:
    latents = torch.full((1, 4, 8, 8), level)
    plain, fixed, adapted = (
        draw_noise(latents, options, generator(2))
        for options in (
            NoiseOptions(),
            NoiseOptions(noise_offset=0.1),
            NoiseOptions(noise_offset=0.1, adaptive_noise_scale=scale),
        )
    )
    torch.testing.assert_close((adapted - plain) * 0.1, (fixed - plain) * expected, rtol=1e-3, atol=1e-5)


def test_random_strength_is_at_most_the_offset() -> None:
    latents = torch.zeros(1, 1, 1, 1)
    ratios = []
    for seed in range(200):
        state = generator(seed)
        plain = torch.randn(1, 1, 1, 1, generator=state)
        strength = torch.rand(1, generator=state)
        noise = draw_noise(latents, NoiseOptions(noise_offset=0.5, noise_offset_random_strength=True), generator(seed))
        offset = torch.randn(1, 1, 1, 1, generator=state)
        ratios.append(float((noise - plain) / offset))
        assert ratios[-1] == pytest.approx(0.5 * float(strength), rel=1e-2, abs=1e-4)
    assert 0 <= min(ratios) < 0.05
    assert 0.45 < max(ratios) <= 0.5


def test_pyramid_has_unit_variance_and_more_low_frequencies() -> None:
    state = generator(3)
    plain = torch.randn(64, 4, 16, 16, generator=state)
    noise = pyramid_noise(plain, 6, 0.3, state)
    assert float(noise.std()) == pytest.approx(1.0, abs=1e-5)
    low, plain_low = (float(torch.nn.functional.avg_pool2d(x, 8).var()) for x in (noise, plain))
    assert plain_low == pytest.approx(1 / 64, rel=0.1)
    assert 1.3 * plain_low < low < 1.7 * plain_low  # sd-scripts' own pyramid: 0.0233 against 0.0156
    torch.testing.assert_close(pyramid_noise(plain, 6, 0.0, generator()), draw_like(plain), rtol=1e-5, atol=1e-5)


def draw_like(plain: torch.Tensor) -> torch.Tensor:
    """A discount of 0 leaves one fresh fine level (0⁰ = 1) on top of the noise."""
    state = generator()
    torch.rand(1, generator=state)
    both = plain + torch.randn(plain.shape, generator=state)
    return both / both.std()


@pytest.mark.parametrize("v_prediction", [False, True])
def test_input_perturbation_is_not_in_the_target(*, v_prediction: bool) -> None:
    schedule, latents = NoiseSchedule.sdxl(), torch.randn(2, 4, 8, 8, generator=generator(9))
    at = torch.tensor([300, 700])
    plain = Objective(schedule, NoiseOptions(), LossOptions(), v_prediction=v_prediction)
    perturbed = Objective(schedule, NoiseOptions(ip_noise_gamma=0.1), LossOptions(), v_prediction=v_prediction)
    one, two = plain.draw(latents, generator(4), at), perturbed.draw(latents, generator(4), at)
    assert torch.equal(one.target, two.target)
    extra = (two.noisy - one.noisy) / (1 - schedule.alphas_cumprod[at]).sqrt().reshape(-1, 1, 1, 1)
    assert float(extra.std()) == pytest.approx(0.1, rel=0.15)
    noise = one.target if not v_prediction else None
    if noise is not None:
        torch.testing.assert_close(one.noisy, schedule.noisy(latents, noise, at))


def test_elementwise_losses_by_hand() -> None:
    prediction = torch.tensor([3.0, -1.0]).reshape(1, 2, 1, 1)
    target = torch.zeros_like(prediction)
    delta = torch.tensor([0.5])

    def loss(kind: str) -> list[float]:
        return elementwise_loss(prediction, target, kind, delta).flatten().tolist()

    assert loss("l2") == [9.0, 1.0]
    assert loss("l1") == [3.0, 1.0]
    root = [math.sqrt(9.25) - 0.5, math.sqrt(1.25) - 0.5]
    assert loss("huber") == pytest.approx([2 * 0.5 * value for value in root])
    assert loss("smooth_l1") == pytest.approx([2 * value for value in root])
    with pytest.raises(ValueError, match="needs a threshold"):
        elementwise_loss(prediction, target, "huber")


def test_huber_thresholds() -> None:
    schedule = NoiseSchedule.sdxl()

    def threshold(kind: str, scale: float = 1.0) -> list[float]:
        options = LossOptions(loss_type="huber", huber_schedule=kind, huber_c=0.1, huber_scale=scale)
        found = huber_thresholds(schedule, STEPS, options)
        assert found is not None
        return found.tolist()

    assert threshold("constant", 2.0) == pytest.approx([0.2] * 5)
    assert threshold("exponential", 3.0) == pytest.approx([3 * 0.1 ** (step / 1000) for step in STEPS.tolist()])
    sigma = ((1 - schedule.alphas_cumprod) / schedule.alphas_cumprod).sqrt()[STEPS]
    expected = [0.9 / (1 + s) ** 2 + 0.1 for s in sigma.tolist()]
    assert threshold("snr") == pytest.approx(expected)
    assert threshold("snr", 5.0) == threshold("snr")
    assert huber_thresholds(schedule, STEPS, LossOptions()) is None
    end = NoiseSchedule.sdxl(zero_terminal_snr=True)  # σ is infinite at the last step
    last = huber_thresholds(end, torch.tensor([999]), LossOptions(loss_type="smooth_l1"))
    assert last is not None
    assert last.tolist() == pytest.approx([0.1])


@pytest.mark.parametrize(
    ("options", "v_prediction", "weight"),
    [
        (LossOptions(), False, lambda snr: 1.0),
        (LossOptions(min_snr_gamma=5.0), False, lambda snr: min(snr, 5) / snr),
        (LossOptions(min_snr_gamma=5.0), True, lambda snr: min(snr, 5) / (snr + 1)),
        (LossOptions(min_snr_gamma=0.0), False, lambda snr: 1.0),
        (LossOptions(scale_v_pred_loss_like_noise_pred=True), True, lambda snr: min(snr, 1000) / (min(snr, 1000) + 1)),
        (LossOptions(v_pred_like_loss=0.3), False, lambda snr: 1 + 0.3 * (min(snr, 1000) + 1) / min(snr, 1000)),
        (LossOptions(debiased_estimation_loss=True), False, lambda snr: 1 / math.sqrt(min(snr, 1000))),
        (LossOptions(debiased_estimation_loss=True), True, lambda snr: 1 / (min(snr, 1000) + 1)),
        (
            LossOptions(min_snr_gamma=5.0, debiased_estimation_loss=True),
            False,
            lambda snr: min(snr, 5) / snr / math.sqrt(min(snr, 1000)),
        ),
    ],
)
def test_weights_by_formula(options: LossOptions, v_prediction: bool, weight: object) -> None:
    snr = NoiseSchedule.sdxl().snr[STEPS]
    expected = [weight(value) for value in snr.tolist()]  # type: ignore[operator]
    assert loss_weights(snr, options, v_prediction=v_prediction).tolist() == pytest.approx(expected, rel=1e-5)


def test_loss_of_a_batch_is_weighted_per_sample() -> None:
    schedule = NoiseSchedule.sdxl()
    objective = Objective(schedule, NoiseOptions(), LossOptions(min_snr_gamma=5.0))
    at = torch.tensor([50, 900])
    target = torch.zeros(2, 4, 2, 2)
    prediction = torch.stack([torch.full((4, 2, 2), 2.0), torch.full((4, 2, 2), 3.0)])
    losses = objective.per_sample(prediction, Draw(at, target, target), torch.tensor([1.0, 0.5]))
    snr = schedule.snr[at]
    assert losses.tolist() == pytest.approx([4 * float(5 / snr[0]), 9 * 0.5], rel=1e-5)
    assert losses.dtype == torch.float32
    half = objective.per_sample(prediction.to(torch.bfloat16), Draw(at, target, target), torch.ones(2))
    assert half.dtype == torch.float32
