"""Trials find together to packs, one pack at a time to a place; how many fit is computed."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lorakit.archive.run import Run
from lorakit.errors import ArchiveError, RuleError, Stopped
from lorakit.preset.files import ResolvedPreset, load_text
from lorakit.sweep import packs
from lorakit.sweep.pack_memory import Elements, Need, PackPlan, fit, room
from lorakit.sweep.packs import Packer, pack_key
from lorakit.workspace import Workspace
from tests.sweep.folders import PRESET

GB = 10**9
FOUR = PackPlan(trials=4, rows=64, needed=0, available=0)


def resolved(*changes: str) -> ResolvedPreset:
    return load_text(PRESET, Path("t.toml"), changes)


class Yard:
    """Stands in for everything that would train: notes which runs start together, and ends them when told."""

    def __init__(self) -> None:
        self.started: list[list[str]] = []
        self.going = threading.Semaphore(0)
        self.at_once = 0
        self.most = 0
        self.lock = threading.Lock()

    def prepare(self, resolved: ResolvedPreset, workspace: Workspace, **_: Any) -> Run:
        if resolved.preset.name == "bad":
            raise RuleError("it breaks a rule")
        return Run(workspace.runs / f"2026-11-22_1320_{resolved.preset.name}_abcd")

    def start_pack(self, runs: list[Run], folder: Path, *, rows: int) -> None:
        del folder, rows
        if any(run.name == "unlucky" for run in runs):
            raise ArchiveError("it could not be started")
        self._begin([run.name for run in runs])

    def start(self, run: Run) -> None:
        self._begin([run.name])

    def _begin(self, names: list[str]) -> None:
        with self.lock:
            self.started.append(sorted(names))
            self.at_once += len(names)
            self.most = max(self.most, self.at_once)

    def follow(self, run: Run, on_update: Any) -> None:
        del run, on_update
        self.going.acquire()
        with self.lock:
            self.at_once -= 1


@pytest.fixture
def yard(monkeypatch: pytest.MonkeyPatch) -> Yard:
    made = Yard()
    monkeypatch.setattr("lorakit.bake.prepare.prepare", made.prepare)
    monkeypatch.setattr("lorakit.bake.pack.start_pack", made.start_pack)
    monkeypatch.setattr("lorakit.bake.bake.start", made.start)
    monkeypatch.setattr("lorakit.bake.bake.follow", made.follow)
    monkeypatch.setattr("lorakit.trainers.choose.choose", lambda preset, _: SimpleNamespace(kind=preset.trainer.kind))
    monkeypatch.setattr(packs, "_SETTLED", 0.2)
    monkeypatch.setattr(packs, "_TICK", 0.01)
    return made


def baked(yard: Yard, tmp_path: Path, *trials: ResolvedPreset, release: int | None = None) -> list[Any]:
    """What became of trials that are handed out at once: runs, or errors."""
    packer = Packer(tmp_path / "packs", FOUR)
    for _ in range(len(trials) if release is None else release):
        yard.going.release()
    with ThreadPoolExecutor(len(trials)) as pool:
        futures = [pool.submit(packer.bake, trial, Workspace(tmp_path)) for trial in trials]
    return [future.exception() or future.result() for future in futures]


def named(name: str, *changes: str) -> ResolvedPreset:
    return resolved(f"name={name}", "trainer.kind=builtin", *changes)


def test_as_many_as_fit_start_together_and_the_rest_after_them(yard: Yard, tmp_path: Path) -> None:
    found = baked(yard, tmp_path, *(named(f"t{at}", f"seed={at}", "optim.unet_lr=2e-4") for at in range(6)))
    assert all(isinstance(one, Run) for one in found)
    assert sorted(map(len, yard.started)) == [2, 4]
    assert yard.most == 4


def test_what_cannot_share_a_process_trains_alone_and_not_meanwhile(yard: Yard, tmp_path: Path) -> None:
    trials = [named("a"), named("b"), named("c", "dataset.resolution=512"), named("d", "trainer.kind=sd-scripts")]
    baked(yard, tmp_path, *trials)
    assert sorted(yard.started) == [["a", "b"], ["c"], ["d"]]
    assert yard.most == 2


def test_one_that_cannot_be_prepared_fails_alone(yard: Yard, tmp_path: Path) -> None:
    found = baked(yard, tmp_path, named("bad"), named("a"), named("b"), release=2)
    assert isinstance(found[0], RuleError)
    assert yard.started == [["a", "b"]]


def test_a_pack_that_cannot_be_started_fails_as_a_whole_and_makes_room(yard: Yard, tmp_path: Path) -> None:
    found = baked(yard, tmp_path, named("unlucky"), named("a"), named("c", "dataset.resolution=512"), release=1)
    assert [type(one) for one in found] == [ArchiveError, ArchiveError, Run]


def test_a_sweep_that_is_stopped_begins_no_pack(yard: Yard, tmp_path: Path) -> None:
    packer = Packer(tmp_path, FOUR, stopped=lambda: True)
    with pytest.raises(Stopped):
        packer.bake(named("a"), Workspace(tmp_path))
    assert yard.started == []


@pytest.mark.parametrize(
    ("change", "shares"),
    [
        ("optim.unet_lr=1e-3", True),
        ("network.dim=64", True),
        ("network.alpha=1", True),
        ("network.dropout=0.1", True),
        ("optim.schedule=constant", True),
        ("seed=99", True),
        ("base.model=other.safetensors", False),
        ("dataset.resolution=768", False),
        ("precision.mixed=fp16", False),
        ("memory.gradient_checkpointing=true", False),
    ],
)
def test_trials_share_a_process_where_they_share_the_base(change: str, shares: bool) -> None:
    assert (pack_key(resolved().preset) == pack_key(resolved(change).preset)) is shares
    assert pack_key(resolved("launch.processes=2").preset) is None


def test_how_many_fit() -> None:
    need = Need(base=5 * GB, trial=GB, example=GB // 2)
    assert fit(need, 4 * GB, batch=1).trials == 1
    assert fit(need, 8 * GB, batch=1) == PackPlan(2, 2, 8 * GB, 8 * GB)
    many = fit(need, 40 * GB, batch=2)
    assert (many.trials, many.rows, many.together(2)) == (16, 32, 16)
    assert many.needed <= many.available
    asked = fit(need, 8 * GB, batch=1, trials=6)
    assert (asked.trials, asked.rows) == (6, 1)


@pytest.mark.parametrize("size", range(6, 40, 3))
def test_a_planned_pack_fits(size: int) -> None:
    need = Need(base=5 * GB, trial=GB // 3, example=GB // 2)
    found = fit(need, size * GB, batch=1)
    assert found.needed <= found.available
    assert fit(need, (size + 3) * GB, batch=1).trials >= found.trials


def test_room_is_what_nobody_else_needs() -> None:
    assert room(8 * GB, gpu=True) == 8 * GB - 8 * GB // 10
    assert room(10 * GB, gpu=False) == 7 * GB
    assert room(0, gpu=False) == 0


def test_a_model_without_a_readable_header_counts_as_sdxl(tmp_path: Path) -> None:
    assert Elements.of(tmp_path / "none.safetensors") == Elements()
    (tmp_path / "torn").write_bytes(b"\xff" * 20)
    assert Elements.of(tmp_path / "torn") == Elements()
