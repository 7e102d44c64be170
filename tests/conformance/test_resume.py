"""The real sd-scripts, interrupted and resumed, against the same training in one go: steps, names, curves, noise, weights."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorakit import protocol
from lorakit.archive.events import EventFollower
from lorakit.archive.records import state
from lorakit.archive.repair import repair_run
from lorakit.archive.run import Run, read_record
from lorakit.archive.seal import verify
from lorakit.archive.states import training_states
from lorakit.bake.bake import bake, request_stop
from lorakit.bake.resume import resume
from lorakit.bench_model.writer import write_checkpoint
from lorakit.errors import ArchiveError
from lorakit.launch.processes import ProcessId
from lorakit.preset.files import load_text
from lorakit.workspace import Workspace
from tests.conformance.checkout import needs_checkout, workspace
from tests.conformance.pictures import write_dataset
from tests.conformance.test_probe import PRESET

pytestmark = needs_checkout

#: A few pictures in batches of two make short epochs; noise and captions are random.
PICTURES = 9
COMMON = (
    "length.steps=",
    "length.epochs=3",
    "length.batch_size=2",
    "save.every_n_steps=2",
    "save.every_n_epochs=1",
    "save.state=true",
    "sample.prompts=",
    "optim.warmup=2 steps",
    "dataset.shuffle_caption=true",
    "dataset.caption_dropout_rate=0.2",
    "loss.multires_noise_iterations=2",
)

Bake = Callable[..., Run]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    root = tmp_path_factory.mktemp("workspace")
    write_checkpoint(root / "slim.safetensors", size="slim")
    for picture in write_dataset(root / "drawn", PICTURES):
        for path in (picture, picture.with_suffix(".txt")):
            (root / "few" / "1_things").mkdir(parents=True, exist_ok=True)
            shutil.copy(path, root / "few" / "1_things")
    return workspace(root)


def start(place: Workspace, *overrides: str, after: int = 0, how: str = "") -> Run:
    """Bake; once step ``after`` is told, ask for a stop or kill the keeper."""
    resolved = load_text(PRESET.format(data=place.root / "few"), place.root / "probed.toml", (*COMMON, *overrides))
    return bake(resolved, place, on_update=interrupt(after, how))


def interrupt(after: int, how: str) -> Callable[[Run, Sequence[dict[str, Any]]], None]:
    def watch(run: Run, records: Sequence[dict[str, Any]]) -> None:
        if not how or not any(record.get("step") == after and record["type"] == "step" for record in records):
            return
        if how == "stop":
            request_stop(run, 1)
        else:
            keeper = ProcessId.from_json((read_record(run.last_attempt.started) or {})["keeper"])
            assert keeper is not None
            keeper.kill(signal.SIGKILL)

    return watch


def steps(run: Run) -> dict[int, dict[str, Any]]:
    """Every step of a run, what a later attempt did over again from it."""
    found: dict[int, dict[str, Any]] = {}
    for number in range(1, run.last_attempt.number + 1):
        for record in protocol.read(run.attempt(number).progress):
            if record["type"] == "step":
                found[record["step"]] = record
    return found


def curve(run: Run, tag: str, number: int | None = None) -> dict[int, float]:
    found: dict[int, float] = {}
    for attempt in [number] if number else range(1, run.last_attempt.number + 1):
        for path in run.attempt(attempt).events.rglob("events.out.tfevents.*"):
            found.update({scalar.step: scalar.value for scalar in EventFollower(path).poll() if scalar.tag == tag})
    return found


def names(run: Run) -> set[str]:
    return {path.name for path in run.weights.rglob("*.safetensors")}


def tensors(path: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    return dict(load_file(path))


def metadata(path: Path) -> dict[str, str]:
    with open(path, "rb") as file:
        return dict(json.loads(file.read(int.from_bytes(file.read(8), "little")))["__metadata__"])


@pytest.fixture(scope="module")
def whole(place: Workspace) -> Run:
    """The training in one go."""
    run = start(place)
    assert state(run).status == "ok"
    return run


def assert_the_same(run: Run, whole: Run) -> None:
    assert state(run).status == "ok", state(run)
    assert verify(run) == ()
    assert state(run).steps == state(whole).steps
    ours, theirs = steps(run), steps(whole)
    assert sorted(ours) == sorted(theirs)
    assert {step: record["epoch"] for step, record in ours.items()} == {s: r["epoch"] for s, r in theirs.items()}
    assert {step: record["lr"] for step, record in ours.items()} == {s: r["lr"] for s, r in theirs.items()}
    assert {step: record["loss"] for step, record in ours.items()} == {s: r["loss"] for s, r in theirs.items()}
    assert names(run) == names(whole)
    for tag in ("loss/current", "loss/average", "lr/unet", "loss/epoch_average"):
        assert curve(run, tag) == curve(whole, tag), tag
    last = run.last_attempt.number
    mine = tensors(run.weights_of(last) / "probed.safetensors")
    other = tensors(whole.weights / "probed.safetensors")
    assert mine.keys() == other.keys()
    assert all(np.array_equal(mine[name], other[name]) for name in other)
    told = metadata(run.weights_of(last) / "probed.safetensors")
    assert (told["ss_steps"], told["ss_epoch"]) == (str(state(whole).steps), str(state(whole).epochs))


def test_stopped_within_an_epoch(place: Workspace, whole: Run) -> None:
    per_epoch = state(whole).steps // 3
    assert per_epoch >= 3
    run = start(place, after=per_epoch + 1, how="stop")
    assert state(run).status == "stopped"
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    resume(run, place)
    first = next(record for record in protocol.read(run.attempt(2).progress) if record["type"] == "start")
    assert (first["first_step"], first["total_steps"]) == (per_epoch + 1, state(whole).steps)
    assert min(curve(run, "lr/unet", 2)) == per_epoch + 2
    assert {path: path.read_bytes() for path in before} == before
    assert_the_same(run, whole)
    with pytest.raises(ArchiveError, match="has finished"):
        resume(run, place)


def test_killed_twice_and_a_state_half_written(place: Workspace, whole: Run) -> None:
    total = state(whole).steps
    run = start(place, after=total // 2, how="kill")
    assert state(run).status == "interrupted"
    repair_run(run)
    resume(run, place, on_update=interrupt(total - 2, "kill"))
    assert state(run).status == "interrupted"
    newest = training_states(run)[0]
    os.truncate(newest.path / "optimizer.bin", 1000)
    picked: list[Any] = []
    resume(run, place, on_picked=picked.append)
    assert [one.path.name for one in picked[0].passed_over] == [newest.path.name]
    assert picked[0].state.step < newest.step
    assert run.last_attempt.number == 3
    assert_the_same(run, whole)


def test_gradient_accumulation_and_a_bare_script(place: Workspace) -> None:
    """Accumulation is where the trainer's own skipping goes wrong; a state without the probe's record still gives steps and names."""
    options = ("length.gradient_accumulation=2", "length.batch_size=1", "length.epochs=2")
    whole = start(place, *options)
    assert state(whole).status == "ok"
    run = start(place, *options, after=state(whole).steps // 2, how="stop")
    resume(run, place)
    assert_the_same(run, whole)
    bare = start(place, *options, "trainer.probe=false", after=state(whole).steps // 2, how="kill")
    for one in training_states(bare):
        assert not one.probed
    resume(bare, place)
    assert state(bare).status == "ok"
    assert state(bare).steps == state(whole).steps
    ours, theirs = steps(bare), steps(whole)
    resumed = [r for r in protocol.read(bare.attempt(2).progress) if r["type"] == "step"]
    assert resumed
    assert all(record["lr"] == theirs[record["step"]]["lr"] for record in resumed)
    assert names(bare) == names(whole)
    assert sorted(ours) == sorted(theirs)


def test_the_state_of_a_run_that_is_stopped(place: Workspace, whole: Run) -> None:
    run = start(place, "save.state=false", "save.state_on_end=true", after=2, how="stop")
    (found,) = training_states(run)
    assert re.search(r"probed-state$", found.path.name)
    assert found.step is not None
    assert found.step >= 2
    began = time.monotonic()
    resume(run, place)
    assert time.monotonic() > began
    assert_the_same(run, whole)
