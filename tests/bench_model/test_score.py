"""Scores: what real pictures of the world score, and LoRA files on a model."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lorakit.bench_model.contact import contact_sheet
from lorakit.bench_model.sampling import sample
from lorakit.bench_model.score import Drawn, attach_lora, bootstrap, other_scenes, score_drawn, subject_of, zorp_scenes
from lorakit.bench_model.world import Scene, draw
from lorakit.errors import ModelFileError
from lorakit.trainers.builtin.checkpoint import load_base
from lorakit.trainers.builtin.lora import LoraNetwork
from lorakit.trainers.builtin.tokenizers import load_tokenizers
from tests.bench_models import bench_checkpoint


def drawn(scenes: tuple[Scene, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.stack([draw(scene, random.Random(index)) for index, scene in enumerate(scenes)])


def test_real_pictures_score_full_marks() -> None:
    others = drawn(other_scenes())
    score = score_drawn("zorp", Drawn(drawn(zorp_scenes()), others), Drawn(others[:16], others))
    assert score.concept.mean >= 0.97
    assert score.others.mean == 1.0
    assert score.drift.mean == 0.0


def test_pictures_of_something_else_do_not() -> None:
    others = drawn(other_scenes())
    plain = tuple(
        Scene("circle", "red" if scene.background != "red" else "blue", scene.background) for scene in zorp_scenes()
    )
    score = score_drawn("zorp", Drawn(drawn(plain), others[::-1].copy()), Drawn(drawn(plain), others))
    assert score.concept.mean < 0.1
    assert score.others.mean < 0.2
    assert score.drift.mean > 0.1


def test_an_interval_holds_its_mean_and_narrows_with_more_pictures() -> None:
    few, many = bootstrap([0.0, 1.0] * 8), bootstrap([0.0, 1.0] * 200)
    for interval in (few, many):
        assert interval.low < interval.mean < interval.high
        assert interval.mean == 0.5
    assert many.high - many.low < few.high - few.low
    assert bootstrap([0.25] * 9).low == bootstrap([0.25] * 9).high == 0.25


def test_a_lora_changes_the_pictures_until_it_is_detached(tmp_path: Path) -> None:
    base, tokenizers = load_base(bench_checkpoint()), load_tokenizers()
    torch.manual_seed(0)
    network = LoraNetwork.create(base, dim=4, alpha=2.0, train_text_encoders=False)
    network.detach()
    tensors = network.kohya_state_dict()
    path = tmp_path / "lora.safetensors"
    save_file({name: value + 0.3 if name.endswith("up.weight") else value for name, value in tensors.items()}, path)

    def picture() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        return sample(base, tokenizers, ["a photo"], seed=1, steps=2)

    before = picture()
    assert before.shape == (1, 128, 128, 3)
    attached = attach_lora(base, path)
    assert (picture() != before).any()
    attached.multiplier = 0.0
    assert (picture() == before).all()
    attached.multiplier = 1.0
    attached.detach()
    assert (picture() == before).all()


def test_pictures_do_not_depend_on_the_size_of_batches() -> None:
    base, tokenizers = load_base(bench_checkpoint()), load_tokenizers()
    prompts = ["a photo", "a drawing", ""]
    together = sample(base, tokenizers, prompts, seed=2, steps=2, batch=3).astype(int)
    apart = sample(base, tokenizers, prompts, seed=2, steps=2, batch=1).astype(int)
    assert np.abs(together - apart).max() <= 1


def test_a_file_that_is_no_lora_and_a_run_without_one(tmp_path: Path) -> None:
    base = load_base(bench_checkpoint())
    with pytest.raises(ModelFileError, match="not a LoRA"):
        attach_lora(base, bench_checkpoint())
    (tmp_path / "weights").mkdir()
    (tmp_path / "preset.toml").write_text('[base]\nmodel = "x.safetensors"\n[dataset]\npath = "a/vexed"\n')
    with pytest.raises(ModelFileError, match="no LoRA"):
        subject_of(str(tmp_path))


def test_a_contact_sheet_has_a_row_for_each_name() -> None:
    import io

    from PIL import Image

    pictures = drawn(other_scenes(3))
    sheet = Image.open(io.BytesIO(contact_sheet([("before", pictures), ("after", pictures)], ["one", "two", "three"])))
    assert sheet.width > 3 * 128
    assert sheet.height > 2 * 128
