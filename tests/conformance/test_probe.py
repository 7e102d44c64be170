"""The real sd-scripts through the probe: the same weights, two text encoder rates, a stop and a NaN that end well."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from lorakit import protocol
from lorakit.archive.events import EventFollower
from lorakit.archive.records import state
from lorakit.archive.run import Run
from lorakit.archive.seal import verify
from lorakit.bake.bake import bake, request_stop
from lorakit.bench_model.writer import write_checkpoint
from lorakit.preset.files import load_text
from tests.conformance.checkout import needs_checkout, workspace
from tests.conformance.pictures import write_dataset

pytestmark = needs_checkout

PRESET = """
name = "probed"
seed = 42
[base]
model = "slim.safetensors"
[dataset]
path = "{data}"
resolution = 128
bucket_min = 64
bucket_max = 256
bucket_step = 32
workers = 0
[network]
dim = 4
alpha = "dim"
[optim]
type = "AdamW"
unet_lr = 1e-4
te_lr = 1e-4
schedule = "cosine"
[length]
steps = 3
batch_size = 4
[precision]
mixed = "no"
save = "float"
[sample]
prompts = "prompts.txt"
[trainer]
kind = "sd-scripts"
[launch]
cpu = true
threads = 1
"""


@dataclass(frozen=True)
class Baked:
    """A run, and what its trainer told."""

    run: Run

    @property
    def records(self) -> list[dict[str, Any]]:
        return protocol.read(self.run.attempt(1).progress)

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [record for record in self.records if record["type"] == kind]

    @property
    def weights(self) -> dict[str, npt.NDArray[np.float32]]:
        from safetensors.numpy import load_file

        return dict(load_file(self.run.weights / "probed.safetensors"))

    @property
    def metadata(self) -> dict[str, str]:
        with open(self.run.weights / "probed.safetensors", "rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        return dict(header["__metadata__"])

    def curve(self, tag: str) -> list[float]:
        files = self.run.attempt(1).events.rglob("events.out.tfevents.*")
        scalars = [scalar for path in files for scalar in EventFollower(path).poll()]
        return [scalar.value for scalar in scalars if scalar.tag == tag]


Bake = Callable[..., Baked]


@pytest.fixture(scope="module")
def baked(tmp_path_factory: pytest.TempPathFactory) -> Bake:
    """Bakes the preset with overrides; ``stop_after`` asks for a stop once so many steps are told."""
    root = tmp_path_factory.mktemp("workspace")
    write_checkpoint(root / "slim.safetensors", size="slim")
    (root / "prompts.txt").write_text("a red circle --w 64 --h 64 --s 2 --d 1\n", encoding="utf-8")
    write_dataset(root / "data")

    def run(*overrides: str, stop_after: int | None = None) -> Baked:
        resolved = load_text(PRESET.format(data=root / "data"), root / "probed.toml", overrides)

        def watch(run: Run, records: Sequence[dict[str, Any]]) -> None:
            if stop_after is not None and any(record.get("step") == stop_after for record in records):
                request_stop(run, 1)

        return Baked(bake(resolved, workspace(root), on_update=watch))

    return run


@pytest.fixture(scope="module")
def probed(baked: Bake) -> Baked:
    return baked("sample.every_n_steps=2", "save.every_n_steps=2", "validation.split=0.1", "validation.every_n_steps=2")


def test_everything_is_told_as_it_happens(probed: Baked) -> None:
    found = state(probed.run)
    assert (found.status, found.steps) == ("ok", 3)
    assert verify(probed.run) == ()
    assert probed.of("warn") == []
    (start,) = probed.of("start")
    assert (start["total_steps"], start["first_step"], start["modules"]) == (3, 0, {"unet": 722, "te1": 72, "te2": 192})
    kinds = [record["type"] for record in probed.records if record["type"] not in {"phase", "start", "memory"}]
    # The validation at the end of the epoch is the trainer's own wish.
    assert kinds == ["step", "step", "sample", "save", "validation", "step", "validation", "save", "end"]
    steps = probed.of("step")
    assert [record["step"] for record in steps] == [1, 2, 3]
    for record, factor in zip(steps, (1.0, 0.75, 0.25), strict=True):  # a cosine over three steps
        assert record["lr"] == pytest.approx(dict.fromkeys(("unet", "te1", "te2"), 1e-4 * factor))
        assert all(record["grad_norm"][part] > 0 for part in ("unet", "te1", "te2"))
        assert record["seconds"] > 0
        assert record["rss"] > 1e8
    assert [(record["kind"], record["step"]) for record in probed.of("save")] == [("step", 2), ("final", 3)]
    (sample,) = probed.of("sample")
    assert (sample["step"], sample["prompt"]) == (2, "a red circle")
    picture = probed.run.locate(sample["path"])
    assert picture is not None
    assert picture.is_file()
    assert probed.of("end")[0]["reason"] == "ok"


def test_curves_have_their_right_names(probed: Baked) -> None:
    for part in ("unet", "te1", "te2"):
        assert probed.curve(f"lr/{part}") == pytest.approx([1e-4, 0.75e-4, 0.25e-4])
        assert probed.curve(f"grad_norm/{part}") == pytest.approx(
            [record["grad_norm"][part] for record in probed.of("step")]
        )
    for tag in ("lr/textencoder", "lr/group1"):  # the trainer's own, of the same step
        assert probed.curve(tag) == pytest.approx([1e-4, 0.75e-4, 0.25e-4])
    assert probed.curve("loss/current") == pytest.approx([record["loss"] for record in probed.of("step")])


def test_the_weights_are_those_of_the_bare_script(baked: Bake) -> None:
    ours, bare = baked(), baked("trainer.probe=false")
    mine, theirs = ours.weights, bare.weights
    assert len(mine) == 3 * (722 + 72 + 192)
    assert mine.keys() == theirs.keys()
    assert [name for name in theirs if theirs[name].tobytes() != mine[name].tobytes()] == []
    # The relay that reads the bare script's log agrees on the losses.
    assert [r["loss"] for r in ours.of("step")] == pytest.approx([r["loss"] for r in bare.of("step")])


def test_text_encoders_have_rates_of_their_own(baked: Bake, probed: Baked) -> None:
    pair = baked("optim.te_lr=[1e-3, 1e-6]")
    groups = {group["name"]: (group["lr"], group["tensors"]) for group in pair.of("start")[0]["groups"]}
    assert groups == {"te1": (1e-3, 144), "te2": (1e-6, 384), "unet": (1e-4, 1444)}
    assert pair.of("step")[0]["lr"] == pytest.approx({"te1": 1e-3, "te2": 1e-6, "unet": 1e-4})
    assert pair.curve("lr/te2") == pytest.approx([1e-6, 0.75e-6, 0.25e-6])
    assert pair.metadata["ss_text_encoder_lr"] == "[0.001, 1e-06]"
    # AdamW's first steps are about as long as the rate: ten times and a hundredth of what one rate gives.
    assert moved(pair, "lora_te1_") == pytest.approx(10 * moved(probed, "lora_te1_"), rel=0.1)
    assert moved(pair, "lora_te2_") == pytest.approx(0.01 * moved(probed, "lora_te2_"), rel=0.1)


def moved(baked: Baked, part: str) -> float:
    """How far the up-projections of a part went from their zeros."""
    up = [values for name, values in baked.weights.items() if name.startswith(part) and "lora_up" in name]
    return float(np.sqrt(sum(float(np.square(values).sum()) for values in up)))


def test_a_stop_ends_after_the_step_and_saves(baked: Bake) -> None:
    stopped = baked("length.steps=60", "save.every_n_epochs=1", stop_after=1)
    found = state(stopped.run)
    assert (found.status, found.reason) == ("stopped", "stopped-by-user")
    (end,) = stopped.of("end")
    assert end["reason"] == "stopped"
    assert 1 <= end["steps"] <= 6
    assert [record["kind"] for record in stopped.of("save")] == ["final"]
    assert len(stopped.weights) == 3 * (722 + 72 + 192)
    assert (stopped.metadata["ss_steps"], stopped.metadata["ss_epoch"]) == (str(end["steps"]), "1")
    record = json.loads(stopped.run.attempt(1).ended.read_bytes())
    assert [rank["code"] for rank in record["ranks"]] == [0]


def test_a_loss_that_is_no_number_ends_the_training(baked: Bake) -> None:
    broken = baked("optim.unet_lr=1e30", "length.steps=60")
    found = state(broken.run)
    assert (found.status, found.reason) == ("failed", "nan")
    (end,) = broken.of("end")
    assert (end["reason"], end["steps"]) == ("nan", 2)
    assert "the loss became NaN or infinite at step 2" in end["message"]
    assert all(np.isfinite(values).all() for values in broken.weights.values())


def test_a_loss_that_leaves_its_size_ends_the_training_where_that_is_asked(baked: Bake) -> None:
    # A rate that rises until the LoRA comes apart; of like timesteps, so that losses are alike and a small factor shows it.
    rising = ("optim.unet_lr=1e-2", "optim.te_lr=0", "optim.schedule=constant_with_warmup", "optim.warmup=60 steps")
    alike = ("loss.min_timestep=100", "loss.max_timestep=110", "optim.max_grad_norm=0", "network.alpha=64")
    found = baked(*rising, *alike, "length.steps=60", "length.stop_at_loss_spike=1.1")
    ended = state(found.run)
    assert (ended.status, ended.reason) == ("failed", "spike"), ended.message
    assert "the loss was more than 1.1 times its median" in ended.message
    assert 20 < ended.steps < 60
    assert verify(found.run) == ()
    assert all(np.isfinite(tensor).all() for tensor in found.weights.values())
