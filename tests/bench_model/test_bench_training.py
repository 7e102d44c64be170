"""Pre-training: a killed training goes on to the same weights; the small file holds what was trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

from lorakit.bench_model.learned import unpack, write_learned
from lorakit.bench_model.pretrain import Recipe, Round, loss_weights, make_batch, noised
from lorakit.bench_model.train import Plan, train
from lorakit.bench_model.vae_training import VaeRecipe, fold_whitening, new_vae
from lorakit.bench_model.world import picture_scene
from lorakit.trainers.builtin.checkpoint import load_base
from lorakit.trainers.builtin.objective import sdxl_alphas_cumprod

PLAN = Plan(
    seed=3,
    vae=VaeRecipe(crop_steps=2, crop_batch=2, whole_steps=2, whole_batch=1, warmup=1),
    unet=Recipe(
        pictures=12,
        rounds=(Round(2, "gentle"), Round(4, "strong", blind=0.5)),
        batch=2,
        warmup=1,
        level=2,
        full_from=3,
    ),
)


class Killed(Exception):
    """Stands for kill -9: nothing after the last saved state is kept."""


def run(folder: Path, *, kill_at: tuple[str, int] | None = None) -> dict[str, torch.Tensor]:
    def progress(stage: str, done: int, total: int, remark: str) -> None:
        if (stage, done) == kill_at:
            raise Killed

    train(folder / "small.safetensors", folder / "cache", PLAN, progress, save_every=1)
    return safetensors.torch.load_file(folder / "small.safetensors")


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    folder = tmp_path_factory.mktemp("straight")
    return folder, run(folder)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kill_at", [("VAE", 3), ("UNet and text encoders", 3)])
def test_a_killed_training_ends_with_the_same_weights(
    kill_at: tuple[str, int], straight: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        run(tmp_path, kill_at=kill_at)
    resumed = run(tmp_path)
    assert resumed.keys() == straight[1].keys()
    for name, value in straight[1].items():
        assert torch.equal(resumed[name], value), name


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_checkpoint_holds_the_trained_weights(
    straight: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    folder, packed = straight
    path = tmp_path / "model.safetensors"
    assert write_learned(path, dtype=torch.float32, source=folder / "small.safetensors") == path.stat().st_size
    base = load_base(path)
    wanted = unpack(packed)
    name = "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight"
    q = base.te2.state_dict()["text_model.encoder.layers.0.self_attn.q_proj.weight"]
    assert torch.equal(q, wanted[name][:80])
    assert torch.equal(
        base.unet.get_parameter("conv_in.weight"), wanted["model.diffusion_model.input_blocks.0.0.weight"]
    )
    assert base.vae.config.norm_num_groups == 4
    assert base.unet.config.norm_num_groups == 6
    assert tuple(base.unet.config.attention_head_dim) == (1, 3, 6)
    assert base.te1.config.num_attention_heads == base.te2.config.num_attention_heads == 5


def test_whitened_latents_have_unit_size_and_decode_as_before() -> None:
    vae = new_vae(1).eval().requires_grad_(False)
    pixels = torch.rand(8, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    before = vae.decode(vae.encode(pixels).latent_dist.mean).sample
    fold_whitening(vae, pixels)
    latents = vae.encode(pixels).latent_dist.mean
    flat = (latents * vae.config.scaling_factor).permute(1, 0, 2, 3).flatten(1)
    assert torch.allclose(flat.mean(1), torch.zeros(4), atol=1e-3)
    assert torch.allclose(torch.cov(flat), torch.eye(4), atol=1e-2)
    assert torch.allclose(vae.decode(latents).sample, before, atol=1e-3)


@pytest.mark.parametrize("pull", ["gentle", "strong"])
def test_weights_of_timesteps_favour_strong_noise(pull: str) -> None:
    alphas = sdxl_alphas_cumprod()
    weights = loss_weights(alphas / (1 - alphas), pull)
    assert weights.mean().item() == pytest.approx(1.0, rel=1e-4)
    assert (weights.diff() >= 0).all()
    assert weights[-1] > 500 * weights[0]


def test_blind_examples_see_noise_alone_and_learn_what_the_caption_says() -> None:
    clean = torch.randn(8, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    scenes = [picture_scene(0, number) for number in range(8)]
    recipe = Recipe(pictures=8, rounds=(Round(1, "gentle", blind=0.5),), level=0, batch=4)
    batch = make_batch(recipe, clean, scenes, ["zorp"], seed=0, step=0)
    assert batch.blind.tolist() == [True, True, False, False]
    alphas = sdxl_alphas_cumprod()[batch.times]
    noisy, target = noised(batch, alphas)
    assert torch.equal(noisy[:2], batch.noise[:2])
    assert torch.equal(target[2:], batch.noise[2:])
    signal, spread = (value[:, None, None, None] for value in (alphas.sqrt(), (1 - alphas).sqrt()))
    # whoever predicts the target has the clean picture, as with the formula that samplers use
    assert torch.allclose((noisy - spread * target) / signal, batch.clean, atol=1e-2)


def test_the_learning_rate_warms_up_stays_and_falls_to_nothing() -> None:
    rounds = (Round(200, "gentle"), Round(400, "strong", blind=0.25))
    recipe = Recipe(rounds=rounds, warmup=100, level=200, full_from=350, learning_rate=1e-3)
    rates = [recipe.rate(step) for step in range(400)]
    assert rates[0] == pytest.approx(1e-5)
    assert rates[99] == rates[199] == rates[200] == pytest.approx(1e-3)
    assert rates[300] == pytest.approx(5e-4)
    assert 0 < rates[399] < 1e-5
    assert [recipe.round_of(step).blind for step in (0, 199, 200, 399)] == [0.0, 0.0, 0.25, 0.25]
    assert [recipe.sees_all(step) for step in (0, 1, 8, 349, 350, 399)] == [True, False, True, False, True, True]


def test_the_vae_learns_along_a_cosine() -> None:
    recipe = VaeRecipe(crop_steps=80, whole_steps=20, warmup=10, learning_rate=1e-3)
    rates = [recipe.rate(step) for step in range(100)]
    assert rates[:10] == sorted(rates[:10])
    assert rates[10] == pytest.approx(1e-3)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[99] == pytest.approx(1e-5, rel=0.1)
