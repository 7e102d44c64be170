"""Presets go out as other trainers' settings and come back; what does not come back is named."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings

from lorakit.errors import UsageError
from lorakit.interop.export import FORMATS, export
from lorakit.interop.recognise import import_text
from lorakit.preset.models import Preset
from tests.cli.running import Cli
from tests.preset.strategies import presets
from tests.trainers.presets import NAMES, PATHS, PRESETS, shipped
from tests.trainers.test_render import expected, options_of_extra

ROOT = PATHS.root
#: What surrounds a training is no other trainer's affair.
OURS = ("description", "trainer.", "launch.", "base.allow_pickle", "dataset.skip_unreadable")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("to", ["sd-scripts-toml", "kohya-gui", "easy-training"])
def test_a_shipped_preset_survives(name: str, to: str) -> None:
    lost = export(shipped(name), ROOT, to).lost
    assert [one.key for one in lost if not one.key.startswith(OURS)] == []


@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(preset=presets({("extra",): options_of_extra()}))
def test_any_preset_comes_back_from_sd_scripts_toml(preset: Preset) -> None:
    rates = preset.optim.te_lr
    assume(any((preset.optim.unet_lr, rates.te1, rates.te2)))
    assume(not (rates.is_pair and 0 in (rates.te1, rates.te2)))
    preset = preset if preset.seed is not None else preset.model_copy(update={"seed": 5})
    back = import_text(export(preset, ROOT, "sd-scripts-toml").text, "x.toml").preset
    assert _plain(back) == _plain(expected(preset))


def _plain(preset: Preset) -> Any:
    tables = preset.model_dump()
    tables["log"].pop("comment")  # an exported command names the run
    return tables


@pytest.mark.parametrize("to", list(FORMATS))
def test_what_is_lost_is_named(to: str) -> None:
    preset = shipped("sdxl-character", "trainer.kind=sd-scripts", "optim.te_lr=[5e-5, 2e-5]", "optim.warmup=5.5%")
    exported = export(preset, ROOT, to)
    lost = {one.key: one.becomes for one in exported.lost}
    assert "trainer.kind" in lost
    assert ("dataset.keep_tokens" in lost) == (to == "onetrainer")
    assert "optim.te_lr" not in lost
    assert "optim.warmup" not in lost


def test_a_box_of_kohya_ss_means_what_it_says() -> None:
    made = json.loads(export(shipped("sdxl-character", "optim.te_lr=0"), ROOT, "kohya-gui").text)
    assert (made["max_train_steps"], made["max_train_epochs"], made["text_encoder_lr"], made["lr_warmup"]) == (
        0,
        10,
        0,
        5,
    )
    uneven = json.loads(export(shipped("sdxl-character", "optim.warmup=5.5%"), ROOT, "kohya-gui").text)
    assert "--lr_warmup_steps=0.055" in uneven["additional_parameters"]


def test_subsets_are_the_folders_that_are_there(tmp_path: Path) -> None:
    for name in ("4_a", "2_b"):
        (tmp_path / "set" / name).mkdir(parents=True)
    made = tomllib.loads(export(shipped("sdxl-character", "dataset.path=set"), tmp_path, "easy-training").text)
    assert [(Path(one["image_dir"]).name, one["num_repeats"]) for one in made["subsets"]] == [("2_b", 2), ("4_a", 4)]


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(UsageError, match="no format"):
        export(shipped("sdxl-character"), ROOT, "kohya")


def test_on_the_command_line(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "lorakit.toml").write_text("")
    source, target = str(PRESETS / "sdxl-style.toml"), str(tmp_path / "out.json")
    done = cli("-C", str(tmp_path), "export-config", source, "--to", "kohya-gui", "-o", target)
    assert "lost  description" in done.out
    assert cli("-C", str(tmp_path), "import", target, "--json").json["format"] == "kohya-gui"
    assert (
        "exists already"
        in cli("-C", str(tmp_path), "export-config", source, "--to", "kohya-gui", "-o", target, code=2).err
    )
    printed = cli("-C", str(tmp_path), "export-config", source, "--to", "sd-scripts-toml")
    assert tomllib.loads(printed.out)["network_module"] == "networks.lora"
    assert "lost" in printed.err
    assert (
        "neither a preset nor a run"
        in cli("-C", str(tmp_path), "export-config", "nothing", "--to", "kohya-gui", code=2).err
    )
