"""Optimizers by the trainer's names: classes, rates per part, arguments, and that each one learns."""

from __future__ import annotations

import pytest
import torch
from torch.nn import Parameter

from lorakit import schedule
from lorakit.errors import TrainerError
from lorakit.trainers.builtin.lr_schedule import build_scheduler
from lorakit.trainers.builtin.optim import (
    Group,
    adafactor_finds_its_rate,
    build_optimizer,
    effective_rates,
    group_name,
    literals,
    part_rates,
    plan_groups,
)
from lorakit.trainers.builtin.options import NetworkOptions, OptimOptions, ScheduleOptions


def parameters() -> dict[str, dict[str, Parameter]]:
    return {
        part: {"0.lora_down.weight": Parameter(torch.ones(64, 64)), "0.lora_up.weight": Parameter(torch.ones(64, 64))}
        for part in ("unet", "te2", "te1")
    }


def groups(options: OptimOptions, **network: object) -> tuple[Group, ...]:
    weights = {part: [(None, named)] for part, named in parameters().items()}
    return plan_groups(weights, options, NetworkOptions(**network))  # type: ignore[arg-type]


def test_rates_of_the_parts() -> None:
    assert part_rates(OptimOptions(learning_rate=3.0)) == {"te1": 3.0, "te2": 3.0, "unet": 3.0}
    assert part_rates(OptimOptions(unet_lr=1.0, text_encoder_lr=(2.0,))) == {"te1": 2.0, "te2": 2.0, "unet": 1.0}
    assert part_rates(OptimOptions(unet_lr=0.0, text_encoder_lr=(2.0, 4.0))) == {"te1": 2.0, "te2": 4.0, "unet": 0.0}


def test_groups_come_in_the_trainers_order_without_idle_parts() -> None:
    planned = groups(OptimOptions(unet_lr=1.0, text_encoder_lr=(0.0, 4.0)))
    assert [(group.name, group.rate, len(group.parameters)) for group in planned] == [("te2", 4.0, 2), ("unet", 1.0, 2)]


def test_lora_plus_splits_off_the_up_projections() -> None:
    args = (("loraplus_lr_ratio", "4"), ("loraplus_text_encoder_lr_ratio", "2"))
    planned = groups(OptimOptions(learning_rate=1.0), network_args=args)
    assert [(group.name, group.rate) for group in planned] == [
        ("te1", 1.0), ("te1 plus", 2.0), ("te2", 1.0), ("te2 plus", 2.0), ("unet", 1.0), ("unet plus", 4.0),
    ]  # fmt: skip


def test_blocks_of_the_unet_have_rates_of_their_own() -> None:
    args = (("mid_lr_weight", "1,0.5,0.25"), ("loraplus_lr_ratio", "4"))
    unet = [(block, named) for block in (12, 11, 3) for named in [parameters()["unet"]]]
    planned = plan_groups({"unet": unet}, OptimOptions(unet_lr=1.0), NetworkOptions(network_args=args))
    assert [(group.name, group.rate) for group in planned] == [
        ("unet_block3", 1.0), ("unet_block3 plus", 4.0), ("unet_block11", 0.5), ("unet_block11 plus", 2.0),
        ("unet_block12", 0.25), ("unet_block12 plus", 1.0),
    ]  # fmt: skip
    optimizer = build_optimizer(planned, OptimOptions(unet_lr=1.0))
    assert [group_name(group) for group in optimizer.param_groups] == [group.name for group in planned]
    # The protocol has one rate for a part: that of its first block, as the probe tells it.
    assert effective_rates(optimizer, [group.rate for group in planned]) == {"unet": 1.0}


def test_arguments_are_literals() -> None:
    assert literals(["betas=0.9,0.95", "weight_decay=0.1", "name='x'", "flag=True"]) == {
        "betas": (0.9, 0.95), "weight_decay": 0.1, "name": "x", "flag": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "module", "args"),
    [
        ("", "torch.optim.adamw.AdamW", ()),
        ("adamw", "torch.optim.adamw.AdamW", ("betas=0.8,0.9", "weight_decay=0.1")),
        ("AdamW8bit", "bitsandbytes.optim.adamw.AdamW8bit", ()),
        ("PagedAdamW8bit", "bitsandbytes.optim.adamw.PagedAdamW8bit", ()),
        ("Lion", "lion_pytorch.lion_pytorch.Lion", ()),
        ("Lion8bit", "bitsandbytes.optim.lion.Lion8bit", ()),
        ("AdaFactor", "transformers.optimization.Adafactor", ()),
        ("AdaFactor", "transformers.optimization.Adafactor", ("relative_step=False", "scale_parameter=False")),
        ("Prodigy", "prodigyopt.prodigy.Prodigy", ("d_coef=2.0",)),
        ("SGDNesterov", "torch.optim.sgd.SGD", ()),
        ("RAdam", "torch.optim.radam.RAdam", ()),
        ("torch.optim.NAdam", "torch.optim.nadam.NAdam", ()),
    ],
)
def test_each_optimizer_learns(name: str, module: str, args: tuple[str, ...]) -> None:
    options = OptimOptions(optimizer_type=name, optimizer_args=args, learning_rate=1.0 if name == "Prodigy" else 0.05)
    planned = groups(options)
    optimizer = build_optimizer(planned, options)
    assert f"{type(optimizer).__module__}.{type(optimizer).__qualname__}" == module
    if name.startswith("Paged") and not torch.cuda.is_available():
        return  # paged memory is CUDA's
    every = [parameter for group in planned for parameter in group.parameters]

    def loss() -> torch.Tensor:
        return sum(((parameter - 0.5) ** 2).mean() for parameter in every)  # type: ignore[return-value]

    before = loss().item()
    for _ in range(30):
        optimizer.zero_grad()
        loss().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert loss().item() < 0.99 * before
    for key, value in literals(args).items():
        assert optimizer.param_groups[0][key] == value


def test_sgd_gets_its_momentum() -> None:
    options = OptimOptions(optimizer_type="SGDNesterov")
    optimizer = build_optimizer(groups(options), options)
    assert optimizer.param_groups[0]["momentum"] == 0.9
    assert optimizer.param_groups[0]["nesterov"]


def test_adafactor_with_relative_step_takes_no_rates() -> None:
    for args, own in (
        ((), True),
        (("relative_step=False",), False),
        (("relative_step=False", "warmup_init=True"), True),
    ):
        options = OptimOptions(optimizer_type="adafactor", optimizer_args=args, unet_lr=0.5, learning_rate=0.25)
        assert adafactor_finds_its_rate(options) is own
        optimizer = build_optimizer(groups(options), options)
        assert [group["lr"] for group in optimizer.param_groups] == ([None] * 3 if own else [0.25, 0.25, 0.5])
        if own:
            scheduler = build_scheduler(optimizer, ScheduleOptions(), options, schedule.steps(1, max_train_steps=5))
            assert scheduler.get_last_lr() == [0.25] * 3
            with pytest.raises(TrainerError, match="no warm-up"):
                build_scheduler(
                    optimizer, ScheduleOptions(lr_warmup_steps=1), options, schedule.steps(1, max_train_steps=5)
                )


def test_adafactor_tells_its_rate_even_of_a_group_without_gradients() -> None:
    options = OptimOptions(optimizer_type="AdaFactor", learning_rate=0.25)
    planned = groups(options)
    optimizer = build_optimizer(planned, options)
    scheduler = build_scheduler(optimizer, ScheduleOptions(), options, schedule.steps(1, max_train_steps=5))
    for parameter in planned[2].parameters:  # module dropout may leave the others out
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    scheduler.step()
    te1, te2, unet = scheduler.get_last_lr()
    assert (te1, te2) == (0.25, 0.25)
    assert 0 < unet < 0.25


def test_effective_rates_count_what_the_optimizer_adapts() -> None:
    options = OptimOptions(optimizer_type="Prodigy", learning_rate=1.0)
    planned = groups(options)
    optimizer = build_optimizer(planned, options)
    rates = effective_rates(optimizer, [1.0, 1.0, 0.5])
    d = optimizer.param_groups[0]["d"]
    assert rates == {"te1": d, "te2": d, "unet": 0.5 * d}


def test_what_cannot_be_built_says_why() -> None:
    for name, args, said in (
        ("Nothing", (), "there is no optimizer torch.optim.Nothing"),
        ("radam", (), "case-sensitive"),
        ("torch.nn.Linear", (), "is not an optimizer"),
        ("AdamW", ("no_such=1",), "rejects its arguments"),
    ):
        options = OptimOptions(optimizer_type=name, optimizer_args=args)
        with pytest.raises(TrainerError) as caught:
            build_optimizer(groups(options), options)
        assert said in f"{caught.value.what} {caught.value.todo}"
    with pytest.raises(TrainerError, match="nothing to train"):
        build_optimizer((), OptimOptions())
