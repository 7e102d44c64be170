"""Sample images: drawn with the modules in training, without disturbing the training."""

from __future__ import annotations

import argparse
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lorakit.trainers.builtin.checkpoint import BaseModel
from lorakit.trainers.builtin.lora import LoraNetwork
from lorakit.trainers.builtin.prompts import SamplePrompt
from lorakit.trainers.builtin.sampling import Sampler, due_after_epoch, due_after_step
from lorakit.trainers.builtin.tokenizers import Tokenizers
from lorakit.trainers.catalogue import Catalogue

SAMPLERS = Catalogue.load().flags["--sample_sampler"].choices or ()


@pytest.fixture
def make(loaded: BaseModel, tokenizers: Tokenizers, tmp_path: Path) -> Any:
    warnings: list[str] = []

    def build(*prompts: SamplePrompt, **options: Any) -> tuple[Sampler, list[str]]:
        return Sampler(loaded, tokenizers, prompts, tmp_path / "sample", warnings.append, **options), warnings

    return build


def pixels(path: Path) -> bytes:
    with Image.open(path) as image:
        return image.tobytes()


def small(text: str = "a zorp", **options: Any) -> SamplePrompt:
    return SamplePrompt(text, **{"width": 96, "height": 64, "steps": 3, "seed": 5, **options})


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_of_the_trainer_draws(make: Any, name: str) -> None:
    sampler, warnings = make(small(sampler=name, steps=4))
    [(path, prompt)] = sampler.draw(step=1)
    assert warnings == []
    assert prompt == "a zorp"
    with Image.open(path) as image:
        assert (image.format, image.size) == ("PNG", (96, 64))
        assert len(set(image.convert("L").tobytes())) > 3  # not one flat colour


def test_names_are_the_trainers(make: Any) -> None:
    sampler, _ = make(small(), small(seed=None), output_name="mine")
    (with_seed, _), (without, _) = sampler.draw(step=12)
    assert re.fullmatch(r"mine_000012_00_\d{14}_5\.png", with_seed.name)
    assert re.fullmatch(r"mine_000012_01_\d{14}\.png", without.name)
    (path, _), _ = make(small(), small())[0].draw(step=12, epoch=3)
    assert re.fullmatch(r"e000003_00_\d{14}_5\.png", path.name)
    assert not [item for item in path.parent.iterdir() if item.name.startswith(".")]


def test_the_same_seed_draws_the_same_picture_and_another_another(make: Any) -> None:
    def draw(sampler: Sampler, step: int = 1) -> list[bytes]:
        return [pixels(path) for path, _ in sampler.draw(step=step)]

    one, two, other = draw(make(small(), small(), small(seed=6))[0])
    assert one == two != other
    drawn, _ = make(small(seed=None), seed=1)
    assert draw(drawn) == draw(drawn)
    assert draw(drawn) != draw(drawn, step=2)


def test_guidance_and_negative_prompt_have_an_effect(make: Any) -> None:
    prompts = [small(), small(scale=1.0), small(scale=3.0), small(negative="a red circle")]
    pictures = {pixels(path) for path, _ in make(*prompts)[0].draw(step=1)}
    assert len(pictures) == 4


def test_the_lora_is_seen_in_eval_mode_and_left_as_it_was(make: Any, loaded: BaseModel) -> None:
    [(before, _)] = make(small())[0].draw(step=1)
    network = LoraNetwork.create(loaded, dim=4, alpha=4, module_dropout=1.0)
    for part in network.parts.values():
        for module in part:
            torch.nn.init.normal_(module.lora_up.weight, std=0.2)
    network.train()
    [(after, _)] = make(small(), network=network)[0].draw(step=2)
    assert network.training
    assert pixels(before) != pixels(after)  # dropped out only in training


def test_random_numbers_of_the_training_are_untouched(make: Any) -> None:
    sampler, _ = make(small(sampler="euler_a"), small(seed=None))
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    sampler.draw(step=1)
    after = (torch.rand(1).item(), random.random(), np.random.rand())  # noqa: NPY002
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    assert after == (torch.rand(1).item(), random.random(), np.random.rand())  # noqa: NPY002


def test_an_error_is_a_warning_and_the_next_prompt_is_drawn(make: Any, loaded: BaseModel) -> None:
    sampler, warnings = make(small("first", scale="high"), small("second"))
    assert [prompt for _, prompt in sampler.draw(step=1)] == ["second"]
    assert len(warnings) == 1
    assert "sample 0 ('first') failed" in warnings[0]
    with torch.no_grad():
        loaded.vae.post_quant_conv.weight.fill_(float("nan"))
    assert sampler.draw(step=2) == []
    assert "NaN" in warnings[-1]


def test_a_folder_that_cannot_be_made_is_a_warning(make: Any, tmp_path: Path) -> None:
    (tmp_path / "sample").write_text("a file")
    sampler, warnings = make(small())
    assert sampler.draw(step=1) == []
    assert len(warnings) == 1


def test_a_size_is_rounded_down_with_one_warning(make: Any) -> None:
    sampler, warnings = make(small(width=100))
    for step in (1, 2):
        [(path, _)] = sampler.draw(step=step)
        assert len(pixels(path)) == 96 * 64 * 3
    assert warnings == ["sample size 100x64 rounded down to 96x64: SDXL draws multiples of 32, at least 64"]


def test_when_samples_are_due() -> None:
    def given(**values: Any) -> argparse.Namespace:
        nothing = {"sample_at_first": False, "sample_every_n_steps": None, "sample_every_n_epochs": None}
        return argparse.Namespace(**{**nothing, **values})

    assert due_after_step(given(sample_at_first=True), 0)
    assert not due_after_step(given(sample_every_n_steps=2), 0)
    assert [step for step in range(1, 7) if due_after_step(given(sample_every_n_steps=2), step)] == [2, 4, 6]
    both = given(sample_every_n_steps=2, sample_every_n_epochs=3)
    assert not any(due_after_step(both, step) for step in range(1, 9))
    assert [epoch for epoch in range(1, 8) if due_after_epoch(both, epoch)] == [3, 6]
