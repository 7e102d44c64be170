"""A state is everything: a resumed run makes the very numbers of one that never stopped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from lorakit.errors import TrainerError
from lorakit.trainers.builtin.state import read_position
from tests.trainers.builtin.runs import Run, train, write_images

#: Everything that draws: dropouts, shuffling, flips, noise offset, VAE samples (not cached).
CHANGES: dict[str, Any] = {
    "max_train_steps": 10,
    "save_every_n_steps": 5,
    "save_state": True,
    "network_dropout": 0.2,
    "network_args": ["rank_dropout=0.1", "module_dropout=0.1"],
    "shuffle_caption": True,
    "caption_dropout_rate": 0.3,
    "flip_aug": True,
    "noise_offset": 0.05,
    "cache_latents": None,
    "lr_scheduler": "cosine",
    "lr_warmup_steps": 2,
    "text_encoder_lr": ["1e-3", "5e-4"],
}


@pytest.fixture(scope="module")
def whole(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Ten steps in one go: the first epoch has nine batches, the state at step 5 lies in its middle."""
    folder = tmp_path_factory.mktemp("whole")
    write_images(folder / "data" / "3_cat")
    return train(tiny_base, folder / "data", folder / "out", CHANGES)


def test_five_and_five_are_ten(tiny_base: Path, whole: Run, tmp_path: Path) -> None:
    data = whole.output.parent / "data"
    state = whole.output / "x-step00000005-state"
    rest = train(tiny_base, data, tmp_path, {**CHANGES, "resume": state})
    assert rest.code == 0
    assert rest.of("start")[0]["first_step"] == 5
    told = [
        (record["step"], record["epoch"], record["loss"], record["lr"], record["grad_norm"])
        for record in rest.of("step")
    ]
    assert told == [
        (record["step"], record["epoch"], record["loss"], record["lr"], record["grad_norm"])
        for record in whole.of("step")[5:]
    ]
    assert all(torch.equal(tensor, whole.weights()[name]) for name, tensor in rest.weights().items())
    ours, theirs = (json.loads((run.output / "x-state" / "train_state.json").read_text()) for run in (rest, whole))
    assert ours["losses"] == theirs["losses"]
    assert (ours["current_step"], ours["current_epoch"], ours["batches_done"]) == (10, 2, 1)


@pytest.mark.parametrize(
    ("optimizer", "accumulation"),
    [
        ("AdamW8bit", 1),
        ("Prodigy", 2),
        pytest.param("AdaFactor", 1, marks=pytest.mark.slow),
        pytest.param("Lion", 2, marks=pytest.mark.slow),
    ],
)
def test_other_optimizers_resume_as_exactly(
    tiny_base: Path, whole: Run, tmp_path: Path, optimizer: str, accumulation: int
) -> None:
    data = whole.output.parent / "data"
    changes: dict[str, Any] = {
        "max_train_steps": 4,
        "save_every_n_steps": 2,
        "save_state": True,
        "optimizer_type": optimizer,
        "gradient_accumulation_steps": accumulation,
        "network_train_unet_only": True,
    } | ({"learning_rate": 1, "network_args": None} if optimizer == "Prodigy" else {})
    at_once = train(tiny_base, data, tmp_path / "a", changes)
    rest = train(tiny_base, data, tmp_path / "b", {**changes, "resume": tmp_path / "a" / "x-step00000002-state"})
    assert rest.losses == at_once.losses[2:]
    assert [record["lr"] for record in rest.of("step")] == [record["lr"] for record in at_once.of("step")[2:]]
    assert all(torch.equal(tensor, at_once.weights()[name]) for name, tensor in rest.weights().items())


@pytest.mark.parametrize("damage", ["no info", "no optimizer", "torn model", "changed", "foreign info", "no folder"])
def test_an_incomplete_state_is_named(whole: Run, tmp_path: Path, damage: str) -> None:
    state = shutil.copytree(whole.output / "x-step00000005-state", tmp_path / "state")
    match damage:
        case "no info":
            (state / "train_state.json").unlink()
        case "no optimizer":
            (state / "optimizer.bin").unlink()
        case "torn model":
            content = (state / "model.safetensors").read_bytes()
            (state / "model.safetensors").write_bytes(content[: len(content) // 2])
        case "changed":
            flipped = bytearray((state / "scheduler.bin").read_bytes())
            flipped[len(flipped) // 2] ^= 1
            (state / "scheduler.bin").write_bytes(flipped)
        case "foreign info":
            (state / "train_state.json").write_text('{"current_epoch": 1, "current_step": 5}')
        case "no folder":
            shutil.rmtree(state)
    with pytest.raises(TrainerError) as caught:
        read_position(state)
    assert str(state) in caught.value.what
    assert caught.value.todo


def test_states_that_do_not_fit_are_refused(
    tiny_base: Path, whole: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = whole.output.parent / "data"
    state = whole.output / "x-step00000005-state"
    for change, said in (
        ({"max_train_steps": 5}, "this training ends at 5"),
        ({"train_batch_size": 3}, "within an epoch of another shape"),
        ({"network_dim": 4}, "does not fit this training"),
    ):
        run = train(tiny_base, data, tmp_path / said[:4], {**CHANGES, "resume": state, **change})
        assert run.code == 8
        assert said in capsys.readouterr().err


def test_without_a_seed_the_state_gives_it(tiny_base: Path, whole: Run, tmp_path: Path) -> None:
    data = whole.output.parent / "data"
    state = whole.output / "x-step00000005-state"
    rest = train(tiny_base, data, tmp_path, {**CHANGES, "resume": state, "seed": None})
    assert rest.losses == whole.losses[5:]
