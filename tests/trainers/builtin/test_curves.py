"""TensorBoard curves and printed lines: the trainer's own tags, and those that name each part."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lorakit.trainers.builtin.monitor import rate_tags
from tests.trainers.builtin.runs import train, write_images


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    (file,) = folder.rglob("events*")
    reader = EventAccumulator(str(file), size_guidance={"scalars": 0})
    reader.Reload()
    return {tag: [(event.step, event.value) for event in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def test_curves_of_a_training(tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path / "data" / "1_cat", ((64, 64),) * 6)
    run = train(
        tiny_base, tmp_path / "data", tmp_path / "out",
        {"max_train_steps": None, "max_train_epochs": 2, "gradient_accumulation_steps": 2, "train_batch_size": 1,
         "text_encoder_lr": ["1e-3", "5e-4"], "logging_dir": tmp_path / "logs", "log_prefix": "p-",
         "scale_weight_norms": 1.0, "validation_split": 0.34, "validation_seed": 1, "validate_every_n_steps": 2},
    )  # fmt: skip
    (folder,) = (tmp_path / "logs").iterdir()
    assert folder.name.startswith("p-20")
    assert (folder / "network_train").is_dir()
    found = curves(tmp_path / "logs")
    # 4 training images: two steps an epoch, two batches a step; the first batch of a step belongs to the one before
    assert [step for step, _ in found["loss/current"]] == [0, 1, 1, 2, 2, 3, 3, 4]
    losses = [value for _, value in found["loss/current"]]
    assert [(losses[i] + losses[i + 1]) / 2 for i in (0, 2, 4, 6)] == pytest.approx(run.losses, rel=1e-6)
    averages = [value for _, value in found["loss/average"]]
    assert averages[3] == pytest.approx(sum(losses[:4]) / 4, rel=1e-6)
    assert averages[5] == pytest.approx(sum(losses[2:6]) / 4, rel=1e-6)
    assert found["loss/epoch_average"] == [(1, averages[3]), (2, averages[7])]
    for tag, value in {
        "lr/te1": 1e-3, "lr/te2": 5e-4, "lr/unet": 1e-2, "lr/textencoder": 1e-3, "lr/group1": 1e-2,
    }.items():  # fmt: skip
        assert [step for step, _ in found[tag]] == [1, 2, 3, 4]
        assert [rate for _, rate in found[tag]] == pytest.approx([value] * 4), tag
    assert {"max_norm/keys_scaled", "max_norm/max_key_norm", "norm/avg_key_norm"} <= set(found)
    assert [step for step, _ in found["grad_norm/te2"]] == [1, 2, 3, 4]
    assert {"grad_norm/unet", "grad_norm/te1"} <= set(found)
    assert [step for step, _ in found["loss/validation/step_average"]] == [2, 4]
    assert [step for step, _ in found["loss/validation/epoch_average"]] == [1, 2]
    difference = found["loss/validation/epoch_average"][0][1] - averages[3]
    assert found["loss/validation/epoch_divergence"][0][1] == pytest.approx(difference, abs=1e-6)
    said = capsys.readouterr().out.splitlines()
    for line in (
        "  num train images * repeats: 4", "  num validation images * repeats: 2", "  num reg images: 0",
        "  num batches per epoch: 4", "  num epochs: 2", "  batch size per device: 1",
        "  gradient accumulation steps = 2", "  total optimization steps: 4", "epoch 1/2", "epoch 2/2", "model saved.",
    ):  # fmt: skip
        assert line in said


def test_rate_tags_name_the_parts_and_the_trainers_groups() -> None:
    both = (("te1", 1.0, None), ("te2", 2.0, None), ("unet", 3.0, None))
    assert rate_tags(both) == {"lr/te1": 1.0, "lr/te2": 2.0, "lr/textencoder": 1.0, "lr/unet": 3.0, "lr/group1": 3.0}
    assert rate_tags((("unet", 3.0, 0.5),)) == {
        "lr/unet": 3.0, "lr/group0": 3.0, "lr/d*lr/unet": 1.5, "lr/d*lr/group0": 1.5,
    }  # fmt: skip
    plus = (("te1", 1.0, None), ("te1 plus", 2.0, None), ("unet", 3.0, None), ("unet plus", 4.0, None))
    assert rate_tags(plus) == {
        "lr/te1": 1.0, "lr/te1 plus": 2.0, "lr/textencoder": 1.0, "lr/textencoder plus": 2.0, "lr/group1": 2.0,
        "lr/unet": 3.0, "lr/group2": 3.0, "lr/unet plus": 4.0, "lr/group3": 4.0,
    }  # fmt: skip
