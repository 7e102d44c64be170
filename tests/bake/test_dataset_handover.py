"""Datasets that the trainer cannot be given as they are: relative folders in a TOML, unreadable images."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import pytest

from lorakit.archive.records import Status, state
from lorakit.archive.run import Run
from lorakit.bake.bake import bake
from lorakit.bake.prepare import prepare
from lorakit.dataset.blueprint import DatasetDefaults, from_folders, from_toml
from lorakit.dataset.scan import ScannedData, scan
from lorakit.errors import DatasetError
from lorakit.preset.files import load_preset
from lorakit.trainers.catalogue import Catalogue
from lorakit.workspace import Workspace

TOML = """
[[datasets]]
batch_size = 1
[[datasets.subsets]]
image_dir = "datasets/things/2_thing"
num_repeats = 3
"""


def command(run: Run) -> Namespace:
    return Catalogue.load().parser().parse_args(json.loads(run.command_json.read_text())["arguments"])


def as_the_trainer_sees_it(run: Run) -> ScannedData:
    asked = command(run)
    defaults = DatasetDefaults.from_arguments(vars(asked))
    if asked.dataset_config:
        return scan(from_toml(asked.dataset_config, defaults, root=Path("/")))
    return scan(from_folders(asked.train_data_dir, asked.reg_data_dir, defaults))


def break_one(workspace: Workspace) -> None:
    (workspace.datasets / "things" / "2_thing" / "1.png").write_bytes(b"no image")


def test_folders_as_they_are_need_nothing(workspace: Workspace) -> None:
    run = prepare(load_preset(workspace.presets / "small.toml"), workspace)
    assert command(run).train_data_dir == str(workspace.datasets / "things")
    assert not (run.path / "dataset").exists()


def test_folders_of_a_toml_count_from_the_workspace(workspace: Workspace) -> None:
    (workspace.root / "data.toml").write_text(TOML)
    run = prepare(load_preset(workspace.presets / "small.toml", ['dataset.config="data.toml"']), workspace)
    seen = as_the_trainer_sees_it(run)
    assert seen.batches_per_epoch == json.loads(run.plan.read_text())["batches_per_epoch"] == 12
    assert {image.path.parent for image in seen.datasets[0].train} == {workspace.datasets / "things" / "2_thing"}


def test_unreadable_images_stop_it_unless_they_may_be_skipped(workspace: Workspace) -> None:
    break_one(workspace)
    with pytest.raises(DatasetError):
        prepare(load_preset(workspace.presets / "small.toml"), workspace)
    run = prepare(load_preset(workspace.presets / "small.toml", ["dataset.skip_unreadable=true"]), workspace)
    seen = as_the_trainer_sees_it(run)
    planned = json.loads(run.plan.read_text())
    assert (seen.images, seen.batches_per_epoch) == (planned["images"], planned["batches_per_epoch"])
    assert [Path(item["path"]).name for item in planned["skipped"]] == ["1.png"]


def test_a_bake_without_its_unreadable_image(workspace: Workspace) -> None:
    break_one(workspace)
    (workspace.root / "data.toml").write_text(TOML)
    overrides = ['dataset.config="data.toml"', "dataset.skip_unreadable=true", "length.steps=1"]
    run = bake(load_preset(workspace.presets / "small.toml", overrides), workspace)
    assert state(run).status is Status.OK
    assert as_the_trainer_sees_it(run).images == 3
