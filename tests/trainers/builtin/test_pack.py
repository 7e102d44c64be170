"""Trials of a pack: one process, one base model, and for each of them the result that it has alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainers.builtin.runs import Run, train, train_packed, write_images

#: What trials of a sweep differ in.
TRIALS: tuple[Mapping[str, Any], ...] = (
    {"learning_rate": "1e-2", "network_dim": 2, "network_alpha": 2},
    {"learning_rate": "3e-3", "network_dim": 4, "network_alpha": 1, "lr_scheduler": "cosine"},
    {"learning_rate": "1e-2", "network_dim": 2, "network_alpha": 1, "text_encoder_lr": 0, "max_train_steps": 3},
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    write_images(root / "1_cat")
    return root


def alone_and_packed(
    base: Path, data: Path, folder: Path, trials: Sequence[Mapping[str, Any]], *, rows: int = 64
) -> list[tuple[Run, Run]]:
    packed = train_packed(base, data, folder / "packed", trials, rows=rows)
    alone = [train(base, data, folder / "alone" / str(at), trial) for at, trial in enumerate(trials)]
    return list(zip(alone, packed, strict=True))


def distance(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> float:
    """The largest difference of any weight, as a share of that tensor's largest."""
    assert one.keys() == other.keys()
    return max(
        float((value - other[key]).abs().max() / value.abs().max().clamp(min=1e-12)) for key, value in one.items()
    )


def test_taking_turns_every_trial_has_the_bits_it_has_alone(tiny_base: Path, pictures: Path, tmp_path: Path) -> None:
    trials = [*TRIALS, {"seed": 2, "network_dropout": 0.3, "network_args": ["rank_dropout=0.2", "module_dropout=0.2"]}]
    for alone, packed in alone_and_packed(tiny_base, pictures, tmp_path, trials, rows=1):
        assert packed.code == 0
        assert packed.losses == alone.losses
        assert distance(alone.weights(), packed.weights()) == 0.0


def test_learning_together_differs_by_rounding_alone(tiny_base: Path, pictures: Path, tmp_path: Path) -> None:
    trials = [{"optimizer_type": "SGD", **trial} for trial in TRIALS]
    for alone, packed in alone_and_packed(tiny_base, pictures, tmp_path, trials):
        assert packed.losses == pytest.approx(alone.losses, rel=1e-5)
        assert distance(alone.weights(), packed.weights()) < 1e-4
