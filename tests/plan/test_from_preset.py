"""Planning a preset: what is planned is what the rendered command says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lorakit.dataset.blueprint import DatasetDefaults
from lorakit.errors import DatasetError
from lorakit.plan import plan, plan_input
from lorakit.plan.from_preset import dataset_defaults
from lorakit.plan.naming import output_name
from lorakit.plan.prompts import prompt_sizes
from lorakit.preset.models import Preset
from lorakit.schedule import parse_warmup
from lorakit.trainers.catalogue import Catalogue
from lorakit.trainers.render import RenderPaths, render
from lorakit.workspace import Workspace
from tests.dataset.pictures import picture
from tests.plan.test_network import sdxl_shapes, write_header


def preset(**tables: Any) -> Preset:
    least: dict[str, Any] = {
        "name": "girl",
        "seed": 7,
        "base": {"model": "base.safetensors"},
        "dataset": {"path": "data"},
        "optim": {"unet_lr": 1e-4, "te_lr": 5e-5},
        "length": {"epochs": 3, "batch_size": 2},
    }
    for name, table in tables.items():
        least[name] = {**least.get(name, {}), **table} if isinstance(table, dict) else table
    return Preset.model_validate(least)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    for i in range(5):
        picture(tmp_path / f"data/2_girl/{i}.png", (832, 1216))
    return Workspace(tmp_path)


def test_a_plain_preset(workspace: Workspace) -> None:
    planned = plan(preset(save={"every_n_epochs": 1}), workspace)
    assert (planned.images, planned.batches_per_epoch, planned.total_steps) == (5, 5, 15)
    assert [(b.width, b.height, b.count) for b in planned.buckets] == [(832, 1216, 10)]
    assert [file.name for file in planned.checkpoints][-1] == "girl.safetensors"
    assert len(planned.checkpoints) == 3
    assert any("full-size SDXL" in warning for warning in planned.warnings)  # there is no base model yet
    assert plan(preset(), workspace, processes=2).total_steps == 9


def test_sizes_come_from_the_base_model(workspace: Workspace) -> None:
    shapes = {n: s for n, s in sdxl_shapes().items() if "resblocks" not in n or "resblocks.0." in n}
    write_header(workspace.root / "base.safetensors", shapes)
    planned = plan(preset(network={"dim": 4}), workspace)
    assert planned.network.modules == {"unet": 722, "te1": 72, "te2": 6}
    assert planned.network.parameters["te2"] == 4 * 23_040
    assert planned.warnings == ()


def test_parts_without_a_rate_are_not_in_the_plan(workspace: Workspace) -> None:
    planned = plan(preset(optim={"te_lr": 0}), workspace)
    assert set(planned.lr) == set(planned.network.modules) == {"unet"}
    planned = plan(preset(optim={"unet_lr": 0, "te_lr": [5e-5, 2e-5]}), workspace)
    assert set(planned.lr) == {"te1", "te2"}
    assert max(point.lr for point in planned.lr["te2"]) == 2e-5


PRESETS = [
    preset(),
    preset(
        dataset={
            "resolution": [832, 1216],
            "bucket_min": 128,
            "bucket_max": 1536,
            "bucket_step": 32,
            "bucket_no_upscale": True,
            "caption_extension": ".cap",
            "shuffle_caption": True,
            "keep_tokens": 2,
            "keep_tokens_separator": "|||",
            "caption_dropout_rate": 0.1,
            "caption_tag_dropout_rate": 0.2,
            "token_warmup_step": 0.5,
            "face_crop_aug_range": "2.0,4.0",
            "random_crop": True,
            "flip_aug": True,
            "caption_prefix": "-x",
        },
        validation={"split": 0.2},
        length={"epochs": None, "steps": 77, "gradient_accumulation": 3},
        optim={"schedule": "polynomial", "power": 2, "warmup": "5%"},
        save={"every_n_steps": 5, "last_n_steps": 20, "state": True},
    ),
    preset(
        dataset={"bucket": False},
        validation={"split": 0.2, "seed": 3},
        optim={
            "unet_lr": 0,
            "schedule": "warmup_stable_decay",
            "warmup": "10 steps",
            "decay": "20%",
            "min_lr_ratio": 0.1,
        },
        launch={"processes": 4},
        extra={"save_n_epoch_ratio": 3, "cache_info": True},
    ),
    preset(optim={"te_lr": 0, "schedule": "cosine_with_restarts", "cycles": 4, "warmup": "7%"}),
]


@pytest.mark.parametrize("asked", PRESETS)
def test_the_plan_reads_the_preset_as_the_command_says_it(asked: Preset, workspace: Workspace) -> None:
    paths = RenderPaths(workspace.root, workspace.runs / "w", workspace.runs / "e")
    line = vars(Catalogue.load().parser().parse_args(render(asked, paths, kind="builtin")))
    planned = plan_input(asked, workspace)
    defaults = DatasetDefaults.from_arguments(line)
    if not asked.validation.split:  # then the command leaves the seed out
        assert dataset_defaults(asked).validation_split == defaults.validation_split == 0
        defaults = DatasetDefaults.from_arguments(line | {"validation_seed": 7})
    assert dataset_defaults(asked) == defaults
    assert planned.max_train_epochs == line["max_train_epochs"]
    if planned.max_train_epochs is None:
        assert planned.max_train_steps == line["max_train_steps"]
    assert planned.gradient_accumulation_steps == line["gradient_accumulation_steps"]
    schedule = planned.schedule
    assert schedule.name == line["lr_scheduler"]
    assert schedule.base_lr == line["learning_rate"]
    assert schedule.warmup == line["lr_warmup_steps"]
    assert schedule.decay == (line["lr_decay_steps"] or 0)
    assert (schedule.num_cycles, schedule.power) == (line["lr_scheduler_num_cycles"], line["lr_scheduler_power"])
    assert (schedule.timescale, schedule.min_lr_ratio) == (
        line["lr_scheduler_timescale"],
        line["lr_scheduler_min_lr_ratio"],
    )
    for name in ("every_n_epochs", "every_n_steps", "last_n_epochs", "last_n_steps", "state", "n_epoch_ratio"):
        assert getattr(planned.saving, name) == line[f"save_{name}"], name
    assert planned.output_name == line["output_name"]
    rates = {"unet": line["unet_lr"], "te1": (line["text_encoder_lr"] or [None])[0]}
    assert {part: rate for part, rate in planned.rates.items() if part != "te2"} == {
        p: r for p, r in rates.items() if r
    }


def test_warmup_steps_are_optimizer_steps_whatever_the_processes(workspace: Workspace) -> None:
    asked = preset(optim={"warmup": "4 steps"}, launch={"processes": 2}, length={"epochs": 10})
    assert plan(asked, workspace).warmup_steps == 4
    assert plan_input(asked, workspace).schedule.warmup == parse_warmup("8")


def test_rates_that_cannot_be_told(workspace: Workspace) -> None:
    planned = plan(preset(optim={"type": "Adafactor"}), workspace)
    assert planned.lr == {}
    assert any("Adafactor" in warning for warning in planned.warnings)
    planned = plan(preset(optim={"type": "AdamWScheduleFree", "warmup": "5%"}), workspace)
    assert {point.lr for point in planned.lr["unet"]} == {1e-4}
    assert planned.warmup_steps == 0
    planned = plan(preset(extra={"lr_scheduler_type": "CosineAnnealingLR"}), workspace)
    assert planned.lr == {}
    assert any("CosineAnnealingLR" in warning for warning in planned.warnings)


def test_rates_that_are_multiplied(workspace: Workspace) -> None:
    planned = plan(preset(optim={"type": "Prodigy", "unet_lr": 1, "te_lr": 1}), workspace)
    assert planned.lr["unet"][0].lr == 1
    assert any("finds while training" in warning for warning in planned.warnings)


def test_piecewise_rules_come_from_extra(workspace: Workspace) -> None:
    rules = {"lr_scheduler_args": ["step_rules='1:5,0.1'"]}
    planned = plan(preset(optim={"schedule": "piecewise_constant"}, extra=rules), workspace)
    assert {point.step: point.lr for point in planned.lr["unet"]}[6] == pytest.approx(1e-5)


def test_datasets_that_cannot_be_planned(workspace: Workspace) -> None:
    with pytest.raises(DatasetError, match=r"extra\.in_json"):
        plan(preset(extra={"in_json": "meta.json"}), workspace)


def test_dataset_toml_and_regularisation(workspace: Workspace) -> None:
    (workspace.root / "d.toml").write_text(
        '[[datasets]]\n[[datasets.subsets]]\nimage_dir = "data/2_girl"\nnum_repeats = 3'
    )
    planned = plan(preset(dataset={"path": None, "config": "d.toml"}), workspace)
    assert planned.examples_per_epoch == 15
    picture(workspace.root / "reg/1_girl/a.png", (832, 1216))
    assert plan(preset(dataset={"reg_path": "reg"}), workspace).reg.examples == 10


def test_unreadable_images_are_skipped_when_the_preset_says_so(workspace: Workspace) -> None:
    (workspace.root / "data/2_girl/0.png").write_bytes(b"no")
    with pytest.raises(DatasetError):
        plan(preset(), workspace)
    assert plan(preset(), workspace, skip_unreadable=True).images == 4
    assert plan(preset(dataset={"skip_unreadable": True}), workspace).images == 4


def test_samples(workspace: Workspace) -> None:
    (workspace.root / "p.txt").write_text("a girl --w 832 --h 1216 --d 1\n\n# note\nb --H 100\n")
    asked = preset(sample={"prompts": "p.txt", "every_n_epochs": 1})
    assert [(m.step, m.images) for m in plan(asked, workspace).samples] == [(5, 2), (10, 2), (15, 2)]
    missing = plan(preset(sample={"prompts": "none.txt", "every_n_epochs": 1}), workspace)
    assert missing.samples == ()
    assert any("no samples are drawn" in warning for warning in missing.warnings)
    assert plan(preset(sample={"prompts": "none.txt"}), workspace).samples == ()


@pytest.mark.parametrize(
    ("name", "text", "sizes"),
    [
        ("p.txt", "a --w 832 --h 1216\n#b\n\nc --W 100", ((832, 1216), (96, 512))),
        ("p.toml", "[prompt]\nwidth = 64\n[[prompt.subset]]\nprompt = 'a'\nheight = 8\n", ((64, 64),)),
        ("p.json", '["a --w 256", {"prompt": "b", "height": 72}]', ((256, 512), (512, 72))),
        ("p.json", "{}", None),
        ("p.json", "[", None),
        ("p.toml", "[prompt]", None),
        ("p.csv", "a", None),
        ("p.txt", "", ()),
    ],
)
def test_prompt_sizes(tmp_path: Path, name: str, text: str, sizes: object) -> None:
    (tmp_path / name).write_text(text)
    assert prompt_sizes(tmp_path / name) == sizes


@pytest.mark.parametrize(
    ("name", "expected"),
    [("girl", "girl"), ("a b/c", "a_b_c"), ("--x", "x"), ("..", "lora"), ("日本 é", "日本_é"), ("x" * 500, "x" * 120)],
)
def test_output_name(name: str, expected: str) -> None:
    assert output_name(name) == expected
