"""Values and replicates for a sweep that is there."""

from __future__ import annotations

import pytest

from lorakit.archive.run import list_runs
from lorakit.errors import UsageError
from lorakit.sweep import scheduler
from lorakit.sweep.adding import widened
from lorakit.sweep.axes import Axis
from lorakit.sweep.definition import Definition
from lorakit.sweep.folder import Folder, create
from lorakit.sweep.report import cells, default_measure
from lorakit.sweep.standing import standing
from lorakit.sweep.trials import prepare
from lorakit.workspace import Workspace
from tests.cli.made_runs import make_run
from tests.sweep.test_trials import workspace as _workspace

workspace = _workspace
RATES = Axis("optim.unet_lr", ("1e-4", "2e-4"))
DIMS = Axis("network.dim", ("2", "4"))


def begun(workspace: Workspace, *fixed: str) -> Folder:
    asked = Definition.of([RATES, DIMS], fixed=fixed)
    sweep = prepare(workspace.presets / "quickstart.toml", asked, workspace)
    return create(sweep, asked.to_json(), workspace, ["lorakit", "sweep"])


def added(folder: Folder, workspace: Workspace, *axes: Axis, seeds: int | None = None) -> list[dict[str, str]]:
    found = widened(folder, Definition.of(axes, seeds=seeds), workspace)
    assert folder.add(found.trials) == len(found.trials)
    return [dict(trial.point) for trial in found.trials]


def baked(folder: Folder, workspace: Workspace) -> int:
    def bake(trial, lineage, slot):  # type: ignore[no-untyped-def]
        return make_run(workspace.runs, trial.name, lineage=lineage, sealed=False)

    return sum(one.ended == "baked" for one in scheduler.run(folder, workspace, bake))


def test_a_value_brings_its_row_of_the_grid(workspace: Workspace) -> None:
    folder = begun(workspace)
    assert added(folder, workspace, Axis("optim.unet_lr", ("4e-4", "1e-4"))) == [
        {"optim.unet_lr": "4e-4", "network.dim": "2"},
        {"optim.unet_lr": "4e-4", "network.dim": "4"},
    ]
    assert added(folder, workspace, Axis("network.dim", ("8",))) == [
        {"optim.unet_lr": rate, "network.dim": "8"} for rate in ("1e-4", "2e-4", "4e-4")
    ]
    assert folder.axes == {"optim.unet_lr": ["1e-4", "2e-4", "4e-4"], "network.dim": ["2", "4", "8"]}
    assert added(folder, workspace, Axis("network.dim", ("8",))) == []


@pytest.mark.parametrize("fixed", ["seed=7", "seed="])
def test_replicates_go_on_from_the_seed_that_there_is(fixed: str, workspace: Workspace) -> None:
    folder = begun(workspace, fixed)
    baked(folder, workspace)
    seed = folder.trials()[0].seed
    assert seed is not None
    points = added(folder, workspace, seeds=3)
    assert len(points) == 8
    assert {point["seed"] for point in points} == {str(seed + 1), str(seed + 2)}
    assert baked(folder, workspace) == 8
    now = standing(folder, workspace.runs)
    assert {len(cell.trials) for cell in cells(now, default_measure(now))} == {3}
    later = added(folder, workspace, Axis("network.dim", ("8",)))
    assert len(later) == 6  # two rates, three seeds: as many replicates as the others have
    assert len(list_runs(workspace.runs)) == 12


def test_what_a_running_sweep_is_given_it_bakes(workspace: Workspace) -> None:
    folder = begun(workspace)
    seen: list[str] = []

    def bake(trial, lineage, slot):  # type: ignore[no-untyped-def]
        if not seen:
            added(Folder(folder.path), workspace, Axis("network.dim", ("8",)))
        seen.append(trial.point["network.dim"])
        return make_run(workspace.runs, trial.name, lineage=lineage, sealed=False)

    list(scheduler.run(folder, workspace, bake))
    assert seen.count("8") == 2
    assert len(seen) == 6


def test_what_does_not_belong_is_refused(workspace: Workspace) -> None:
    folder = begun(workspace)
    with pytest.raises(UsageError, match="is no axis"):
        widened(folder, Definition.of([Axis("length.epochs", ("1",))]), workspace)
    with pytest.raises(UsageError, match="no values to add"):
        widened(folder, Definition.of([]), workspace)


@pytest.mark.parametrize("fixed", ["seed=7", "seed="])
def test_a_preset_or_a_data_set_that_changed_since_is_refused(fixed: str, workspace: Workspace) -> None:
    folder = begun(workspace, fixed)
    more = Definition.of([Axis("network.dim", ("8",))])
    caption = next((workspace.root / "datasets/demo/zorp").rglob("*.txt"))
    before = caption.read_text()
    caption.write_text("something else")
    with pytest.raises(UsageError, match="would not be the same today"):
        widened(folder, more, workspace)
    caption.write_text(before)
    assert len(widened(folder, more, workspace).trials) == 2
    preset = workspace.presets / "quickstart.toml"
    preset.write_text(preset.read_text().replace("batch_size = 4", "batch_size = 2"))
    with pytest.raises(UsageError, match="would not be the same today"):
        widened(folder, more, workspace)
