"""How long bakes will take: from runs of the same shape on this machine, and from no others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lorakit.archive.run import Run
from lorakit.launch.processes import this_host
from lorakit.preset.dump import dump_toml
from lorakit.sweep.estimate import Forecast, forecast
from lorakit.sweep.look import Trial
from lorakit.workspace import Workspace
from tests.cli.made_runs import make_run
from tests.sweep.test_trials import swept
from tests.sweep.test_trials import workspace as _workspace

workspace = _workspace


def ran(
    workspace: Workspace, trial: Trial, *, seconds: float = 30.0, speed: float = 2.0, host: str = "", **more: Any
) -> Run:
    """A run of a trial's preset as a bake leaves it, so fast."""
    ended = {"steps": 20, "seconds": seconds, "steps_per_second": speed, **more}
    run = make_run(workspace.runs, ended=ended, sealed=False)
    trainer = trial.resolved.preset.trainer.model_copy(update={"kind": trial.trainer})
    launch = trial.resolved.preset.launch.model_copy(update={"cpu": True, "threads": 1})
    preset = trial.resolved.preset.model_copy(update={"trainer": trainer, "launch": launch})
    run.preset.write_text(dump_toml(preset))
    run.plan.write_text(json.dumps(trial.plan.to_json()))
    run.dataset.write_text(json.dumps({"models": {}}))
    record = json.loads(run.request.read_text()) | {"host": host or this_host()}
    run.request.write_text(json.dumps(record))
    return run


def expected(workspace: Workspace, trial: Trial, steps: int = 100, **changed: Any) -> Forecast:
    shape = {**trial.shape, "base": None, **changed}
    return forecast([(shape, steps)], workspace)


def test_nothing_was_baked_so_nobody_knows(workspace: Workspace) -> None:
    trial = swept(workspace).trials[0]
    found = expected(workspace, trial)
    assert found.seconds == (None,)
    assert (found.total, found.unknown, found.at_once(2)) == (None, 1, None)


def test_steps_and_what_comes_on_top_of_them(workspace: Workspace) -> None:
    trial = swept(workspace).trials[0]
    runs = [ran(workspace, trial, seconds=seconds) for seconds in (30.0, 31.0, 90.0)]
    found = expected(workspace, trial)
    assert found.total == pytest.approx(21.0 + 100 / 2.0)  # the median of 20, 21 and 80 s beside 20 steps at 2 a second
    assert set(found.runs) == {run.short for run in runs}


@pytest.mark.parametrize(
    "changed",
    [
        {"length.batch_size": 2},
        {"memory.gradient_checkpointing": True},
        {"precision.mixed": "bf16"},
        {"optim.type": "AdamW8bit"},
        {"trainer.kind": "sd-scripts"},
        {"network.module": "networks.dylora"},
        {"base.model": "models/other.safetensors"},
        {"base": "of another content"},
        {"dim": 64},
        {"parts": [True, False, False]},
        {"pixels": 1 << 20},
        {"launch.threads": 8},
    ],
)
def test_a_run_of_another_shape_says_nothing(changed: dict[str, Any], workspace: Workspace) -> None:
    trial = swept(workspace).trials[0]
    ran(workspace, trial)
    assert expected(workspace, trial).total is not None
    assert expected(workspace, trial, **changed).total is None


def test_other_machines_and_failures_say_nothing(workspace: Workspace) -> None:
    trial = swept(workspace).trials[0]
    ran(workspace, trial, host="elsewhere")
    ran(workspace, trial, status="failed", reason="nan")
    assert expected(workspace, trial).total is None


def test_a_damaged_record_says_nothing_and_stops_nothing(workspace: Workspace) -> None:
    trial = swept(workspace).trials[0]
    ran(workspace, trial).plan.write_text("{")
    Path(ran(workspace, trial).plan).write_text('{"buckets": [{"width": 1}]}')
    assert expected(workspace, trial).total is None


def test_side_by_side_the_longest_is_begun_first() -> None:
    found = Forecast((10.0, 10.0, 20.0, None), ("k3f9",))
    assert found.total == 40.0
    assert found.at_once(2) == 20.0
    assert found.at_once(9) == 20.0
    assert found.unknown == 1
