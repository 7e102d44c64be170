"""Trials of a pack: one process, one base model, and for each of them the result that it has alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from lorakit.trainers.builtin.pack_low_rank import Pair, linear_with_pairs
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


@pytest.mark.slow
@pytest.mark.parametrize(
    "common",
    [
        {"gradient_checkpointing": True, "gradient_accumulation_steps": 2, "max_train_steps": 4},
        {"network_args": ["conv_dim=2", "conv_alpha=1"], "cache_latents": None},
        {"network_train_unet_only": True, "cache_text_encoder_outputs": True, "scale_weight_norms": 1.0},
        {"max_token_length": 150, "shuffle_caption": True, "min_snr_gamma": 5},
    ],
)
def test_other_seeds_other_orders_all_the_same(
    common: Mapping[str, Any], tiny_base: Path, pictures: Path, tmp_path: Path
) -> None:
    trials = [{"optimizer_type": "SGD", "max_train_steps": 5, "seed": seed, **common} for seed in (1, 2, 3)]
    for alone, packed in alone_and_packed(tiny_base, pictures, tmp_path, trials):
        assert packed.losses == pytest.approx(alone.losses, rel=1e-4)
        assert distance(alone.weights(), packed.weights()) < 1e-3


def test_what_ends_one_ends_no_other(tiny_base: Path, pictures: Path, tmp_path: Path) -> None:
    """Three that end early for reasons of their own, and one that does not."""
    stopped = tmp_path / "3"
    stopped.mkdir()
    (stopped / "stop").touch()
    found = train_packed(
        tiny_base,
        pictures,
        tmp_path,
        [
            {"optimizer_type": "SGD", "learning_rate": "1e38", "max_train_steps": 5},
            {"optimizer_args": ["nonsense=1"]},
            {"max_train_steps": 3},
            {"max_train_steps": 50},
            {"color_aug": True, "cache_latents": True},
        ],
    )
    assert [run.end["reason"] for run in found] == ["nan", "error", "ok", "stopped", "error"]
    assert [run.code == 0 for run in found] == [False, False, True, True, False]
    assert len(found[2].losses) == 3
    assert found[3].losses == []
    assert "rejects its arguments" in (tmp_path / "1" / "trainer.log").read_text()
    assert "step 3/3" in (tmp_path / "2" / "trainer.log").read_text()


def test_what_all_share_fails_for_all(tiny_base: Path, pictures: Path, tmp_path: Path) -> None:
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(tiny_base.read_bytes()[:5000])
    found = train_packed(torn, pictures, tmp_path, [{}, {"seed": 2}])
    assert [run.end["reason"] for run in found] == ["error", "error"]
    assert all(run.code for run in found)
    assert "torn.safetensors" in (tmp_path / "0" / "trainer.log").read_text()


@pytest.mark.parametrize("uneven", [False, True])
def test_pairs_act_on_their_own_rows(uneven: bool) -> None:
    """Forwards and backwards as one pair after another, for ranks and scales that differ, and rows of nobody."""
    torch.manual_seed(0)
    sizes = (3, 2, 3) if uneven else (3, 3, 3)
    weight, bias = torch.randn(5, 4), torch.randn(5)
    downs = [torch.randn(rank, 4, requires_grad=True) for rank in (2, 1, 3)]
    ups = [torch.randn(5, rank, requires_grad=True) for rank in (2, 1, 3)]
    x = torch.randn(sum(sizes) + 2, 4, requires_grad=True)
    starts = [sum(sizes[:at]) for at in range(3)]
    pairs = [
        Pair(start, start + size, scale, down, up)
        for start, size, scale, down, up in zip(starts, sizes, (1.0, 0.5, 2.0), downs, ups, strict=True)
    ]
    together = linear_with_pairs(x, weight, bias, pairs)
    alone = torch.nn.functional.linear(x, weight, bias)
    parts = [
        alone[pair.start : pair.stop] + pair.scale * x[pair.start : pair.stop] @ pair.down.t() @ pair.up.t()
        for pair in pairs
    ]
    expected = torch.cat([*parts, alone[sum(sizes) :]])
    torch.testing.assert_close(together, expected)
    tensors = [x, *downs, *ups]
    direction = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(together, tensors, direction),
        torch.autograd.grad(expected, tensors, direction),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)
