"""Names of files, when they are due, and which ones make room: the trainer's arithmetic."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lorakit.trainers.builtin.checkpoints import SavePlan
from lorakit.trainers.builtin.loss_average import LossAverage
from lorakit.trainers.builtin.max_norm import limit_norms
from lorakit.trainers.builtin.options import SaveOptions
from lorakit.trainers.builtin.scaling import LossScale
from tests.trainers.builtin.runs import train, write_images


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("x"))


def test_names_and_their_defaults() -> None:
    plan = SavePlan(SaveOptions(output_name="x"), 3)
    assert (plan.step_name(12), plan.epoch_name(2), plan.final_name) == ("x-step00000012", "x-000002", "x")
    plan = SavePlan(SaveOptions(), 3)
    assert (plan.step_name(12), plan.epoch_name(2), plan.final_name) == ("at-step00000012", "epoch-000002", "last")


def test_due() -> None:
    plan = SavePlan(SaveOptions(save_every_n_steps=10, save_every_n_epochs=2), 6)
    assert [step for step in range(1, 31) if plan.at_step(step)] == [10, 20, 30]
    assert [epoch for epoch in range(1, 7) if plan.at_epoch(epoch)] == [2, 4]  # the 6th is the final file
    assert not SavePlan(SaveOptions(), 6).at_epoch(3)
    ratio = SavePlan(SaveOptions(save_n_epoch_ratio=4, save_every_n_epochs=1), 10)
    assert ratio.every_n_epochs == 2
    assert SavePlan(SaveOptions(save_n_epoch_ratio=40), 10).every_n_epochs == 1


def test_last_n() -> None:
    plan = SavePlan(SaveOptions(save_every_n_steps=10, save_last_n_steps=30), 1)
    kept: set[int] = set()
    for step in range(10, 60, 10):
        kept.add(step)
        kept.discard(plan.step_to_remove(step) or 0)
    assert kept == {20, 30, 40, 50}  # four files, as the trainer leaves them
    plan = SavePlan(SaveOptions(save_every_n_epochs=2, save_last_n_epochs=2, save_last_n_epochs_state=1), 20)
    assert [plan.epoch_to_remove(epoch) for epoch in (2, 4, 6, 8)] == [None, None, 2, 4]
    assert [plan.epoch_to_remove(epoch, state=True) for epoch in (2, 4, 6, 8)] == [None, 2, 4, 6]
    plan = SavePlan(SaveOptions(save_every_n_steps=2, save_last_n_steps=2, save_last_n_steps_state=0), 1)
    assert (plan.step_to_remove(6), plan.step_to_remove(6, state=True)) == (2, 4)
    assert SavePlan(SaveOptions(save_last_n_steps=2), 1).step_to_remove(6) is None


def test_files_of_a_training(tiny_base: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "data" / "1_cat", ((64, 64),) * 2)
    run = train(
        tiny_base, tmp_path / "data", tmp_path / "out",
        {"max_train_steps": None, "max_train_epochs": 6, "save_every_n_epochs": 1, "save_last_n_epochs": 2,
         "save_every_n_steps": 2, "save_last_n_steps": 1, "save_last_n_steps_state": 0, "save_state": True,
         "network_train_unet_only": True},
    )  # fmt: skip
    assert names(run.output) == [
        "x-000004-state", "x-000004.safetensors", "x-000005-state", "x-000005.safetensors", "x-state",
        "x-step00000006-state", "x-step00000006.safetensors", "x.safetensors",
    ]  # fmt: skip
    kinds = [(record["kind"], record["step"], record["epoch"]) for record in run.of("save")]
    assert kinds[:4] == [("epoch", 1, 1), ("state", 1, 1), ("step", 2, 2), ("state", 2, 2)]
    assert kinds[-2:] == [("final", 6, 6), ("state", 6, 6)]
    assert not list(run.output.glob(".*"))  # nothing half-written


def test_no_steps_save_an_untrained_file(tiny_base: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "data" / "1_cat", ((64, 64),))
    run = train(tiny_base, tmp_path / "data", tmp_path / "out", {"max_train_steps": 0})
    assert (run.code, run.end["reason"], run.end["steps"]) == (0, "ok", 0)
    assert not any(tensor.any() for name, tensor in run.weights().items() if "lora_up" in name)


def test_the_average_is_of_the_latest_loss_at_each_position() -> None:
    average = LossAverage()
    assert average.average == 0
    for position, loss in enumerate((1.0, 2.0, 6.0)):
        average.add(position, loss)
    assert average.average == 3.0
    average.add(0, 4.0)
    assert average.average == 4.0
    assert LossAverage(average.losses).average == 4.0


def test_loss_scale_halves_on_overflow_and_grows_after_good_updates() -> None:
    scale = LossScale(enabled=True, factor=8.0, interval=2)
    parameter = torch.nn.Parameter(torch.ones(2))
    scale.up((parameter * torch.tensor([1.0, 2.0])).sum()).backward()  # type: ignore[no-untyped-call]
    assert parameter.grad is not None
    assert parameter.grad.tolist() == [8.0, 16.0]
    scale.down([parameter])
    assert parameter.grad.tolist() == [1.0, 2.0]
    assert [scale.judge(finite=finite) for finite in (True, False, True, True)] == [True, False, True, True]
    assert scale.factor == 8.0  # halved, then doubled
    off = LossScale(enabled=False)
    assert off.judge(finite=False)
    assert float(off.up(torch.tensor(2.0))) == 2.0


@pytest.mark.parametrize("limit", [0.5, 100.0])
def test_no_pair_grows_beyond_the_limit(limit: float) -> None:
    from lorakit.trainers.builtin.lora import LoraModule

    torch.manual_seed(0)
    modules = [LoraModule(torch.nn.Linear(12, 8), 4, 2.0), LoraModule(torch.nn.Conv2d(3, 8, 3), 4, 2.0)]
    for module in modules:
        torch.nn.init.normal_(module.lora_up.weight)

    @torch.no_grad()
    def norms() -> list[float]:
        return [float((m.lora_up.weight.flatten(1) @ m.lora_down.weight.flatten(1)).norm() * m.scale) for m in modules]

    before = norms()
    report = limit_norms(modules, limit)
    after = norms()
    assert after == pytest.approx([min(norm, limit) for norm in before], rel=1e-5)
    assert report.scaled == sum(norm > limit for norm in before)
    assert report.largest == pytest.approx(max(after), rel=1e-5)
    assert report.mean == pytest.approx(sum(after) / 2, rel=1e-5)


def test_max_norm_in_a_training(tiny_base: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "data" / "1_cat", ((64, 64),))
    changes = {"max_train_steps": 3, "network_train_unet_only": True}
    free = train(tiny_base, tmp_path / "data", tmp_path / "a", changes)
    bound = train(tiny_base, tmp_path / "data", tmp_path / "b", {**changes, "scale_weight_norms": 0.01})

    def largest(weights: dict[str, torch.Tensor]) -> float:
        pairs = [name.removesuffix(".alpha") for name in weights if name.endswith(".alpha")]
        return max(float((weights[f"{n}.lora_up.weight"] @ weights[f"{n}.lora_down.weight"]).norm()) for n in pairs)

    assert largest(free.weights()) > 0.011
    assert largest(bound.weights()) <= 0.01001
