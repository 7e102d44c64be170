"""The validation loss: held-back images, the same value for the same weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorakit.trainers.builtin.options import NoiseOptions
from lorakit.trainers.builtin.validation import fixed_timesteps
from tests.trainers.builtin.runs import train, write_images


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_images(folder / "2_cat", ((64, 64),) * 6)
    return folder


def test_four_timesteps_inside_the_range() -> None:
    assert fixed_timesteps(NoiseOptions()) == (200, 400, 600, 800)
    assert fixed_timesteps(NoiseOptions(min_timestep=500, max_timestep=1000)) == (600, 700, 800, 900)


@pytest.mark.parametrize("cached", [True, None])
def test_same_weights_same_value(tiny_base: Path, data: Path, tmp_path: Path, cached: bool | None) -> None:
    """Weights that stand still (a rate of almost nothing) validate alike at every step, whatever is drawn in between."""
    changes = {
        "validation_split": 0.34, "validation_seed": 3, "validate_every_n_steps": 1, "max_train_steps": 3,
        "learning_rate": "1e-30", "network_dropout": 0.5, "shuffle_caption": True, "flip_aug": True,
        "cache_latents": cached, "noise_offset": 0.1, "noise_offset_random_strength": True,
        "caption_dropout_rate": 0.5,
    }  # fmt: skip
    run = train(tiny_base, data, tmp_path, changes)
    told = run.of("validation")
    assert [(record["step"], record["epoch"]) for record in told] == [
        (1, 1),
        (2, 1),
        (3, 1),
        (3, 1),
    ]  # 3 steps, 1 epoch
    assert len({record["loss"] for record in told}) == 1
    assert run.losses[0] != run.losses[1]


def test_value_follows_the_weights_not_the_run(tiny_base: Path, data: Path, tmp_path: Path) -> None:
    changes = {"validation_split": 0.34, "validation_seed": 3, "max_train_steps": 2}
    long = train(tiny_base, data, tmp_path / "a", {**changes, "validate_every_n_steps": 2})
    short = train(tiny_base, data, tmp_path / "b", {**changes, "network_weights": tmp_path / "a" / "x.safetensors",
                                                     "learning_rate": "1e-30", "max_train_steps": 1,
                                                     "save_precision": "float"})  # fmt: skip
    assert len(long.of("validation")) == 2
    assert long.of("validation")[0]["loss"] == short.of("validation")[0]["loss"]


def test_limit_and_cadence(tiny_base: Path, data: Path, tmp_path: Path) -> None:
    changes = {"validation_split": 0.5, "validation_seed": 3, "max_train_steps": None, "max_train_epochs": 2,
               "train_batch_size": 1}  # fmt: skip
    some = train(tiny_base, data, tmp_path / "a", {**changes, "validate_every_n_epochs": 2, "max_validation_steps": 1})
    (told,) = some.of("validation")
    assert told["epoch"] == 2
    assert told["step"] == 12
