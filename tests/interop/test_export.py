"""Presets go out as other trainers' settings and come back; what does not come back is named."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings

from lorakit import atomic
from lorakit.errors import UsageError
from lorakit.interop.export import FORMATS, export
from lorakit.interop.recognise import import_text
from lorakit.preset.dump import dump_toml
from lorakit.preset.files import load_preset
from lorakit.preset.models import Preset
from lorakit.preset.save import save_preset
from tests.cli.made_runs import make_run
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


def test_a_run_goes_out_as_the_preset_it_was_baked_from(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "lorakit.toml").write_text("")
    run = make_run(tmp_path / "runs", "hifumi")
    preset = load_preset(PRESETS / "sdxl-style.toml", ["name=hifumi", "optim.unet_lr=1.25e-4"]).preset
    for path in (run.preset, run.source):
        path.write_text(dump_toml(preset), encoding="utf-8")
    exported = json.loads(cli("-C", str(tmp_path), "export-config", run.short, "--to", "kohya-gui").out)
    assert exported["output_name"] == "hifumi"
    assert exported["unet_lr"] == 1.25e-4


def test_a_folder_that_is_read_only_is_said(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_path: Path, _text: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(atomic, "write_text", refuse)  # root may write everywhere
    (tmp_path / "lorakit.toml").write_text("")
    source, target = str(PRESETS / "sdxl-style.toml"), str(tmp_path / "out.json")
    assert (
        "cannot be written"
        in cli("-C", str(tmp_path), "export-config", source, "--to", "kohya-gui", "-o", target, code=11).err
    )
    command = "python sdxl_train_network.py --unet_lr 1e-4"
    assert (
        "cannot be written"
        in cli("-C", str(tmp_path), "import", command, "-o", str(tmp_path / "koi.toml"), code=11).err
    )
    assert not (tmp_path / "out.json").exists()


def test_an_imported_preset_keeps_the_original_text_and_where_it_came_from(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "lorakit.toml").write_text("")
    source = str(Path(__file__).parent / "fixtures" / "kohya_gui.json")
    cli("-C", str(tmp_path), "import", source, "-o", str(tmp_path / "heron.toml"))
    text = (tmp_path / "heron.toml").read_text(encoding="utf-8")
    assert "# Imported from a settings file of kohya_ss, v26" in text
    assert "dim = 24  # line 1: network_dim = 24" in text
    assert "# unknown: not in the file: what kohya_ss v26 opens with" in text
    assert "# my_box = 7: a box of the front end" in text
    # Changing a value keeps the comments of all others.
    save_preset(tmp_path / "heron.toml", {"network.dim": 16})
    after = (tmp_path / "heron.toml").read_text(encoding="utf-8")
    assert "dim = 16" in after
    assert after.count("# line") >= text.count("# line") - 1


@pytest.mark.parametrize("unset", [0, "0", "", "0.0", None])
def test_zeros_and_empty_texts_that_mean_unset(unset: object) -> None:
    base = json.loads((Path(__file__).parent / "fixtures" / "kohya_gui.json").read_text(encoding="utf-8"))
    left_out = {key: value for key, value in base.items() if key not in {"seed", "max_train_epochs"}}
    said = import_text(json.dumps({**left_out, "seed": unset, "max_train_epochs": unset}), "heron.json")
    bare = import_text(json.dumps(left_out), "heron.json")
    assert said.preset.model_dump() == bare.preset.model_dump()
    assert said.preset.seed is None


def test_numbers_as_texts_are_numbers() -> None:
    base = json.loads((Path(__file__).parent / "fixtures" / "kohya_gui.json").read_text(encoding="utf-8"))
    texts = {
        key: str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value
        for key, value in base.items()
    }
    assert (
        import_text(json.dumps(texts), "heron.json").preset.model_dump()
        == import_text(json.dumps(base), "heron.json").preset.model_dump()
    )


def test_half_of_a_json_says_where_it_breaks_off_and_takes_nothing(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "lorakit.toml").write_text("")
    whole = (Path(__file__).parent / "fixtures" / "kohya_gui.json").read_text(encoding="utf-8")
    (tmp_path / "half.json").write_text(whole[: len(whole) // 2], encoding="utf-8")
    done = cli("-C", str(tmp_path), "import", str(tmp_path / "half.json"), "-o", str(tmp_path / "half"), code=2)
    assert "not whole JSON: line" in done.err
    assert not (tmp_path / "half.toml").exists()
