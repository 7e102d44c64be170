"""The words of ``--pack``: what is refused, how a planned pack is told, which slots it takes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lorakit.cli import sweep_packed
from lorakit.errors import UsageError
from lorakit.sweep.pack_memory import PackPlan
from lorakit.sweep.scheduler import Slot
from lorakit.workspace import Workspace

GB = 10**9


def sweep(*trainers: str) -> Any:
    trials = [SimpleNamespace(done=None, trainer=trainer) for trainer in trainers]
    return SimpleNamespace(trials=trials)


@pytest.mark.parametrize("asked", ["0", "-1", "all", "4.5", "", "257"])
def test_what_is_no_size_is_refused(asked: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        sweep_packed.planned_pack(sweep("builtin"), Workspace(tmp_path), asked, exact=False)


def test_exact_needs_a_pack(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--exact"):
        sweep_packed.planned_pack(sweep("builtin"), Workspace(tmp_path), None, exact=True)
    assert sweep_packed.planned_pack(sweep("builtin"), Workspace(tmp_path), None, exact=False) is None


def test_sd_scripts_trains_no_packs(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="built-in trainer"):
        sweep_packed.planned_pack(sweep("sd-scripts"), Workspace(tmp_path), "auto", exact=False)
    assert sweep_packed.planned_pack(sweep(), Workspace(tmp_path), "auto", exact=False) is None


def test_a_pack_goes_with_neither_slurm_nor_jobs_of_one_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lorakit.launch.environment.has_gpu", lambda: False)
    sweep_packed.refuse_with_pack(None, 2, "slurm")
    sweep_packed.refuse_with_pack("auto", None, None)
    with pytest.raises(UsageError, match="--on"):
        sweep_packed.refuse_with_pack("auto", None, "slurm")
    with pytest.raises(UsageError, match="--jobs"):
        sweep_packed.refuse_with_pack("4", 2, None)
    monkeypatch.setattr("lorakit.launch.environment.has_gpu", lambda: True)
    sweep_packed.refuse_with_pack("4", 2, None)


def test_each_gpu_has_seats_for_a_pack() -> None:
    planned = PackPlan(2, 8, GB, 2 * GB)
    assert sweep_packed.seats((Slot(0, "0"), Slot(1, "1")), planned) == (
        Slot(0, "0"),
        Slot(1, "0"),
        Slot(2, "1"),
        Slot(3, "1"),
    )


@pytest.mark.parametrize(
    ("planned", "line"),
    [
        (PackPlan(4, 16, 3 * GB, 8 * GB), "packs 4 trials to a process, 4 learn together · about 3.0 GB of 8.0 GB, computed"),
        (PackPlan(4, 1, 3 * GB, 8 * GB), "packs 4 trials to a process, taking turns · about 3.0 GB of 8.0 GB, computed"),
        (PackPlan(1, 1, 3 * GB, 8 * GB), "packs one trial to a process · about 3.0 GB of 8.0 GB, computed"),
    ],
)  # fmt: skip
def test_a_planned_pack_is_told_in_a_line(planned: PackPlan, line: str) -> None:
    assert sweep_packed.told(planned, 4).plain == line
    assert (sweep_packed.as_json(planned) or {})["trials"] == planned.trials
    assert sweep_packed.as_json(None) is None
