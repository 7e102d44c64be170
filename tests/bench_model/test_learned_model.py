"""The weights that ship: the file is the one that was measured, loads everywhere, and draws what it is told."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from lorakit.bench_model.learned import shipped_file, write_learned
from lorakit.bench_model.learner import embedding_table
from lorakit.bench_model.pretrain import Recipe, train_unet
from lorakit.bench_model.quality import easy_scenes, held_out_scenes, measure, vae_quality
from lorakit.bench_model.shape import LEARNED
from lorakit.bench_model.train import SEED
from lorakit.bench_model.vae_training import to_tensor
from lorakit.bench_model.world import picture
from lorakit.trainers.builtin.checkpoint import BaseModel, load_base

SHA256 = "35e46530be7308bed0c6491d36818676cc56fa0ce01a07bec4d99dbc4ebe6491"

#: Of the table of the second text encoder, the first half of a SHA-256.
TABLE = "8a94993f1170e5c0"
#: The mean loss after the first and the second step, when the shipped weights were trained.
FIRST_LOSSES = (1.0299, 1.0299)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("learned") / "bench-sdxl.safetensors"
    write_learned(path)
    return path


@pytest.fixture(scope="module")
def learned(checkpoint: Path) -> BaseModel:
    return load_base(checkpoint)


def test_the_file_is_small_and_the_one_that_was_measured() -> None:
    content = shipped_file().read_bytes()
    assert len(content) < 12_000_000
    assert hashlib.sha256(content).hexdigest() == SHA256
    with safetensors.safe_open(shipped_file(), framework="pt") as file:
        facts = json.loads((file.metadata() or {})["lorakit"])
    assert facts["plan"]["seed"] == SEED
    assert facts["plan"]["unet"]["rounds"][-1]["end"] == Recipe().steps
    assert facts["vae_psnr"] >= 35.0


def test_diffusers_loads_the_single_file_as_it_loads_the_real_one(
    checkpoint: Path, learned: BaseModel, tmp_path: Path
) -> None:
    for name, module, kind in (("unet", learned.unet, UNet2DConditionModel), ("vae", learned.vae, AutoencoderKL)):
        module.save_config(tmp_path / name)
        theirs = kind.from_single_file(str(checkpoint), config=str(tmp_path), subfolder=name, torch_dtype=torch.float32)
        ours = module.state_dict()
        assert theirs.state_dict().keys() == ours.keys()
        assert all(torch.equal(value, ours[key]) for key, value in theirs.state_dict().items())


def test_embedding_tables_are_made_from_a_seed(learned: BaseModel) -> None:
    table = embedding_table("te2", LEARNED.te2[0])
    assert hashlib.sha256(table.numpy().tobytes()).hexdigest()[:16] == TABLE
    assert torch.equal(learned.te2.text_model.embeddings.token_embedding.weight, table.half().float())
    assert not torch.equal(embedding_table("te1", LEARNED.te1[0]), table)


def test_easy_prompts_come_out_right(learned: BaseModel) -> None:
    found = measure(learned, easy_scenes(8), steps=8)
    assert found.attributes["background"] == 1.0
    assert found.attributes["shape"] >= 0.875
    assert found.attributes["colour"] >= 0.875


def test_the_vae_gives_pictures_back(learned: BaseModel) -> None:
    decibels, judged = vae_quality(learned, 16)
    assert decibels >= 34.0
    assert judged.attributes["colour"] == 1.0


class Enough(Exception):
    """Ends a training after the steps that a test wants to see."""


def test_the_first_steps_of_the_training_are_those_of_the_shipped_weights(learned: BaseModel, tmp_path: Path) -> None:
    recipe = Recipe()
    latents = torch.zeros(recipe.pictures, 4, 16, 16)
    for step in range(2):
        rng = random.Random(f"{SEED}/pretrain/{step}")  # as make_batch draws
        chosen = [rng.randrange(recipe.pictures) for _ in range(recipe.batch)]
        pixels = to_tensor(np.stack([picture(SEED, number).pixels for number in chosen]))
        with torch.no_grad():
            latents[chosen] = learned.vae.encode(pixels).latent_dist.mean * learned.vae.config.scaling_factor
    told: list[float] = []

    def progress(done: int, total: int, remark: str) -> None:
        told.append(float(remark.removeprefix("loss ")))
        if done == 2:
            raise Enough

    with pytest.raises(Enough):
        train_unet(recipe, latents, SEED, tmp_path, progress)
    assert told == pytest.approx(FIRST_LOSSES, rel=0.002)


# ---- measured in full; the table in docs/bench-model.md has the numbers ----


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_what_it_draws_is_as_good_as_the_model_card_says(learned: BaseModel) -> None:
    easy, held_out = measure(learned, easy_scenes(208)), measure(learned, held_out_scenes(208))
    assert easy.everything >= 0.98
    assert held_out.everything >= 0.90
    for name, share in held_out.attributes.items():
        assert share >= 0.95, name


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_vae_is_as_good_as_the_model_card_says(learned: BaseModel) -> None:
    decibels, judged = vae_quality(learned, 256)
    assert decibels >= 36.0
    assert judged.everything >= 0.98
