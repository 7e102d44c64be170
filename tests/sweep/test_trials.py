"""What makes a trial the same as an earlier one, and which preset and seed a sweep takes."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from lorakit.archive.run import Run
from lorakit.dataset.scan import scan
from lorakit.errors import DiskError, PresetError, RuleError, UsageError
from lorakit.sweep import trials
from lorakit.sweep.axes import Axis
from lorakit.sweep.contents import refuse_changed
from lorakit.sweep.definition import Definition
from lorakit.sweep.folder import create
from lorakit.sweep.identity import Identifier
from lorakit.sweep.trials import Sweep, default_preset, prepare
from lorakit.workspace import Workspace, find_workspace
from tests.bench_models import bench_checkpoint
from tests.cli.made_runs import THEN, make_run

REPO = Path(__file__).parents[2]
RATES = Axis("optim.unet_lr", ("1e-4", "2e-4"))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """The quickstart, without a seed, in a folder of its own."""
    for name in ("presets", "datasets/demo"):
        shutil.copytree(REPO / name, tmp_path / name)
    (tmp_path / "models").mkdir()
    shutil.copy(bench_checkpoint(), tmp_path / "models" / "bench-sdxl.safetensors")
    (tmp_path / "lorakit.toml").write_text("")
    return find_workspace(tmp_path)


def swept(workspace: Workspace, *axes: Axis, sets: tuple[str, ...] = ("seed=",), preset: str = "quickstart") -> Sweep:
    return prepare(workspace.presets / f"{preset}.toml", Definition.of(axes or (RATES,), fixed=sets), workspace)


def identities(sweep: Sweep) -> list[str]:
    return [trial.identity for trial in sweep.trials]


def baked(workspace: Workspace, sweep: Sweep, at: int = 0, **more: Any) -> Run:
    """A run as if a trial had been baked."""
    return make_run(workspace.runs, lineage=sweep.lineage(sweep.trials[at]), **more)


def test_trials_are_planned_named_and_share_one_drawn_seed(workspace: Workspace) -> None:
    sweep = swept(workspace)
    assert [trial.resolved.preset.name for trial in sweep.trials] == ["quickstart-unet1e-4", "quickstart-unet2e-4"]
    assert [trial.resolved.preset.optim.unet_lr for trial in sweep.trials] == [1e-4, 2e-4]
    assert {trial.resolved.preset.seed for trial in sweep.trials} == {sweep.seed}
    assert sweep.seed_drawn
    assert str(sweep.trials[0].resolved.provenance["seed"]) == "derived: drawn for the whole sweep"
    assert all(trial.plan.total_steps > 0 and trial.done is None for trial in sweep.trials)


def test_typed_again_it_finds_what_is_done_and_its_seed(workspace: Workspace) -> None:
    first = swept(workspace)
    run = baked(workspace, first)
    again = swept(workspace)
    assert again.id == first.id
    assert [trial.done for trial in again.trials] == [run, None]
    assert again.seed == first.seed
    wider = swept(workspace, Axis("optim.unet_lr", ("1e-4", "2e-4", "4e-4")))
    assert [trial.done for trial in wider.trials] == [run, None, None]
    assert wider.seed == first.seed


def test_a_failed_trial_is_not_done(workspace: Workspace) -> None:
    baked(workspace, swept(workspace), ended={"status": "failed", "reason": "nan"})
    assert [trial.done for trial in swept(workspace).trials] == [None, None]


def test_a_trial_that_is_being_baked_is_neither_done_nor_in_the_way(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = baked(workspace, swept(workspace))
    run.attempt(1).ended.unlink()
    monkeypatch.setattr("lorakit.archive.records.is_locked", lambda path: True)
    assert [trial.done for trial in swept(workspace).trials] == [None, None]  # the scheduler waits for it


def test_a_given_seed_is_part_of_the_trial(workspace: Workspace) -> None:
    one, two = (swept(workspace, sets=(f"seed={seed}",)) for seed in (1, 2))
    assert not one.seed_drawn
    assert not set(identities(one)) & set(identities(two))
    replicates = swept(workspace, Axis("seed", ("1", "2")))
    assert not replicates.seed_drawn
    assert [trial.resolved.preset.seed for trial in replicates.trials] == [1, 2]


@pytest.mark.parametrize(
    "sets",
    [
        ("name=other",),
        ("description=other",),
        ("network.alpha=8",),
        ("network.alpha=dim/1",),
        ("optim.te_lr=[3e-4,0.0003]",),
    ],
)
def test_words_and_spellings_make_no_other_trial(sets: tuple[str, ...], workspace: Workspace) -> None:
    assert identities(swept(workspace, sets=("seed=", *sets))) == identities(swept(workspace))


@pytest.mark.parametrize(
    "sets",
    [("network.dim=4",), ("network.alpha=4",), ("length.batch_size=2",), ("optim.te_lr=1e-4",), ("save.state=true",)],
)
def test_another_value_is_another_trial(sets: tuple[str, ...], workspace: Workspace) -> None:
    assert not set(identities(swept(workspace, sets=("seed=", *sets)))) & set(identities(swept(workspace)))


def test_a_value_that_a_later_lorakit_knows_makes_no_other_trial(workspace: Workspace) -> None:
    (trial, _) = swept(workspace).trials
    preset = trial.resolved.preset.model_copy(update={"seed": None, "later": "a table of tomorrow"})
    assert Identifier(workspace).identify(preset, trial.plan.data, trial.trainer) == trial.identity


def test_files_count_by_what_is_in_them(workspace: Workspace) -> None:
    before = identities(swept(workspace))
    model = workspace.root / "models" / "bench-sdxl.safetensors"
    model.rename(model.with_name("moved.safetensors"))
    (workspace.datasets / "demo" / "zorp").rename(workspace.datasets / "moved")
    sets = ("seed=", "base.model=models/moved.safetensors", "dataset.path=datasets/moved")
    assert identities(swept(workspace, sets=sets)) == before
    caption = next((workspace.datasets / "moved").rglob("*.txt"))
    caption.write_text("another caption")
    recaptioned = identities(swept(workspace, sets=sets))
    assert recaptioned != before
    moved = model.with_name("moved.safetensors")
    data = bytearray(moved.read_bytes())
    data[-1] ^= 1
    moved.write_bytes(bytes(data))
    assert identities(swept(workspace, sets=sets)) not in (before, recaptioned)


def test_values_that_mean_the_same_are_one_trial(workspace: Workspace) -> None:
    sweep = swept(workspace, Axis("network.alpha", ("8", "dim", "4")))
    assert [dict(trial.point)["network.alpha"] for trial in sweep.trials] == ["8", "4"]
    assert sweep.merged == 1


def test_replicates_follow_the_seed_of_the_preset(workspace: Workspace) -> None:
    preset = workspace.presets / "quickstart.toml"
    for fixed, seeds in (((), [42, 43, 44]), (("seed=7",), [7, 8, 9]), (("seed=",), [1, 2, 3])):
        sweep = prepare(preset, Definition.of([], fixed=fixed, seeds=3), workspace)
        assert [trial.resolved.preset.seed for trial in sweep.trials] == seeds
        assert not sweep.seed_drawn


def test_conditions_leave_trials_out(workspace: Workspace) -> None:
    preset = workspace.presets / "quickstart.toml"
    axes = [Axis("optim.te_lr", ("5e-5", "1e-4", "2e-4/1e-5"))]
    found = prepare(preset, Definition.of(axes, fixed=["optim.unet_lr=2e-4"], where=["te_lr <= unet_lr/2"]), workspace)
    assert [trial.point[0][1] for trial in found.trials] == ["5e-5", "1e-4"]
    assert found.left_out == 1
    with pytest.raises(UsageError, match="no trial is left"):
        prepare(preset, Definition.of(axes, where=["te2_lr > 1"]), workspace)
    with pytest.raises(UsageError, match="there is no key nonsense"):
        prepare(preset, Definition.of(axes, where=["nonsense > 1"]), workspace)


def test_refused_trials_can_be_left_out(workspace: Workspace) -> None:
    preset = workspace.presets / "quickstart.toml"
    asked = Definition.of([Axis("network.dim", ("8", "x", "0", "16"))])
    with pytest.raises(PresetError, match=r"network.dim=x cannot be baked.*2 of 4 trials are refused"):
        prepare(preset, asked, workspace)
    found = prepare(preset, asked, workspace, skip_refused=True)
    assert [trial.point[0][1] for trial in found.trials] == ["8", "16"]
    assert [refused.told for refused in found.refused] == ["network.dim=x", "network.dim=0"]
    with pytest.raises(PresetError, match="cannot be baked"):
        prepare(preset, Definition.of([Axis("network.dim", ("x",))]), workspace, skip_refused=True)


def test_the_dataset_is_looked_at_once_for_all_trials(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[object] = []

    def counted(*args: Any, **more: Any) -> Any:
        looks.append(args)
        return scan(*args, **more)

    monkeypatch.setattr("lorakit.dataset.scan.scan", counted)
    assert len(swept(workspace, Axis("network.dim", ("2", "4", "8")), RATES).trials) == 6
    assert len(looks) == 1
    swept(workspace, Axis("seed", ("1", "2")), sets=())  # the seed also draws what is validated on
    assert len(looks) == 3


def test_every_trial_is_checked_before_the_first_starts(workspace: Workspace) -> None:
    with pytest.raises(RuleError, match=r"the trial optim.unet_lr=0 optim.te_lr=0 cannot be baked"):
        swept(workspace, Axis("optim.unet_lr", ("1e-4", "0")), Axis("optim.te_lr", ("0",)))
    with pytest.raises(PresetError, match=r"the trial network.dim=x cannot be baked"):
        swept(workspace, Axis("network.dim", ("8", "x")))


def test_a_sweep_that_does_not_fit_the_disk_is_refused(workspace: Workspace) -> None:
    sweep = swept(workspace)
    plan = sweep.trials[0].plan
    half = dataclasses.replace(plan.disk, free=plan.disk.needed + 1)
    tight = [dataclasses.replace(trial, plan=dataclasses.replace(plan, disk=half)) for trial in sweep.trials]
    with pytest.raises(DiskError, match="the sweep needs"):
        trials._check_disk(tight)


def test_lineage_tells_where_a_run_comes_from(workspace: Workspace) -> None:
    sweep = swept(workspace)
    lineage = json.loads(json.dumps(sweep.lineage(sweep.trials[1])))
    assert lineage["point"] == {"optim.unet_lr": "2e-4"}
    assert (lineage["index"], lineage["of"], lineage["sweep"]) == (2, 2, sweep.id)
    assert lineage["preset"] == str(workspace.presets / "quickstart.toml")


def test_a_sweep_without_a_preset_takes_the_default_then_that_of_the_latest_run(workspace: Workspace) -> None:
    with pytest.raises(PresetError, match="no preset was named"):
        default_preset(workspace)
    latest = make_run(workspace.runs)
    assert default_preset(workspace) == (latest.preset, f"the preset of the latest run, {latest.short}")
    trial = baked(workspace, swept(workspace), now=THEN + 60)
    path, why = default_preset(workspace)
    assert path == workspace.presets / "quickstart.toml"
    assert trial.short in why
    (workspace.presets / "default.toml").write_text("")
    assert default_preset(workspace) == (workspace.presets / "default.toml", "presets/default.toml")


def test_a_seed_that_decides_what_is_held_out_is_no_change_of_the_data_set(workspace: Workspace) -> None:
    asked = Definition.of((RATES,), fixed=("seed=", "validation.split=0.3"))
    sweep = prepare(workspace.presets / "quickstart.toml", asked, workspace)
    folder = create(sweep, asked.to_json(), workspace, [])
    for trial in folder.trials():
        assert trial.drawn
        refuse_changed(trial, workspace)
