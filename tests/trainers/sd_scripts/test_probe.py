"""The probe around small trainers of ours: what fits is told, what does not is said and left out.

That it fits the real sd-scripts is shown in tests/conformance/test_probe.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lorakit import protocol
from lorakit.trainers.choose import PROBE

UTIL = """
import os
from types import SimpleNamespace

class LossRecorder:
    def add(self, *, epoch, step, loss):
        self.last = loss

def prepare_accelerator(args):
    return SimpleNamespace(sync_gradients=True, num_processes=1, save_state=lambda output_dir=None: os.mkdir(output_dir))

def sample_image_inference(accelerator, save_dir, prompt_dict, steps):
    open(os.path.join(save_dir, f"{steps}.png"), "wb").close()
"""

TRAINER = """
import math, os, train_util
from types import SimpleNamespace

def save_weights(file, dtype, metadata):
    with open(file, "w") as out:
        out.write(str(metadata))

class NetworkTrainer:
    def post_process_network(self, args, accelerator, network):
        pass

    def step_logging(self, accelerator, logs, global_step, epoch):
        pass

    def train(self, args):
        if not args.losses:
            return
        accelerator = train_util.prepare_accelerator(args)
        network = SimpleNamespace(save_weights=save_weights, named_parameters=lambda: [("lora_unet_a.b", 0)], prepare_optimizer_params=lambda unet_lr: [])
        self.post_process_network(args, accelerator, network)
        recorder, other, global_step = train_util.LossRecorder(), train_util.LossRecorder(), 0
        train_dataloader = args.losses
        for epoch in range(0, args.epochs):
            for step, loss in enumerate(args.losses):
                global_step += 1
                recorder.add(epoch=epoch, step=step, loss=loss)
                self.step_logging(accelerator, {"loss/validation/step_average": 0.5}, global_step, epoch + 1)
                other.add(epoch=epoch, step=step, loss=9.0)
                if global_step >= args.max_train_steps:
                    break
            if args.save_every_n_epochs and epoch + 1 < args.epochs:
                network.save_weights(f"lora-{epoch + 1:06d}.safetensors", None, {"ss_epoch": str(epoch + 1)})
            if args.sample_every_n_epochs:
                train_util.sample_image_inference(accelerator, ".", {"prompt": "p"}, global_step)
        accelerator.save_state("lora-state")
        network.save_weights("lora.safetensors", None, {"ss_epoch": str(args.epochs)})
"""

SCRIPT = """
from types import SimpleNamespace
import train_network
if __name__ == "__main__":
    args = SimpleNamespace(losses=[0.5, 0.25], epochs=2, max_train_steps=4, save_every_n_epochs=1, sample_every_n_epochs=1, text_encoder_lr=None)
    EDIT
    train_network.NetworkTrainer().train(args)
"""


@dataclass(frozen=True)
class Ran:
    """How a script ended under the probe."""

    code: int
    out: str
    err: str
    records: list[dict[str, Any]]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [record for record in self.records if record["type"] == kind]


def probe(folder: Path, script: str, *arguments: str, **environment: str) -> Ran:
    """Run a script of the folder, in it, as accelerate would."""
    progress = folder / "progress.jsonl"
    env = {**os.environ, "LORAKIT_PROGRESS": str(progress), **environment}
    line = [sys.executable, str(PROBE), script, *arguments]
    done = subprocess.run(line, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=60)
    return Ran(done.returncode, done.stdout, done.stderr, protocol.read(progress))


def train(folder: Path, edit: str = "", *, util: str = UTIL, trainer: str = TRAINER, **environment: str) -> Ran:
    (folder / "train_util.py").write_text(util, encoding="utf-8")
    (folder / "train_network.py").write_text(trainer, encoding="utf-8")
    (folder / "script.py").write_text(SCRIPT.replace("EDIT", edit), encoding="utf-8")
    return probe(folder, "script.py", **environment)


def test_a_training_is_told_from_start_to_end(tmp_path: Path) -> None:
    ran = train(tmp_path)
    assert ran.code == 0, ran.err
    kinds = [record["type"] for record in ran.records if record["type"] != "warn"]
    epoch = ["step", "validation"] * 2
    assert kinds == ["phase", "start", *epoch, "save", "sample", *epoch, "sample", "save", "save", "end"]
    (start,) = ran.of("start")
    assert (start["total_steps"], start["epochs"], start["batches_per_epoch"]) == (4, 2, 2)
    assert start["modules"] == {"unet": 1}
    assert [(r["step"], r["epoch"], r["loss"]) for r in ran.of("step")] == [
        (1, 1, 0.5),
        (2, 1, 0.25),
        (3, 2, 0.5),
        (4, 2, 0.25),
    ]
    assert [(r["kind"], r["step"], Path(r["path"]).name) for r in ran.of("save")] == [
        ("epoch", 2, "lora-000001.safetensors"),
        ("state", 4, "lora-state"),
        ("final", 4, "lora.safetensors"),
    ]
    assert [(r["step"], Path(r["path"]).name, r["prompt"]) for r in ran.of("sample")] == [
        (2, "2.png", "p"),
        (4, "4.png", "p"),
    ]
    assert ran.of("end")[0] | {"t": 0} == {"v": 1, "t": 0, "type": "end", "reason": "ok", "steps": 4, "message": ""}
    # What this trainer lacks is said, a sentence for each.
    said = [record["message"] for record in ran.of("warn")]
    assert len(said) == len(set(said)) > 0
    assert all(sentence.startswith("the probe does without ") for sentence in said)


def test_a_stop_ends_after_the_step_without_what_belongs_to_whole_epochs(tmp_path: Path) -> None:
    stop = tmp_path / "stop"
    stop.touch()
    ran = train(tmp_path, LORAKIT_STOP_FILE=str(stop))
    assert ran.code == 0
    assert len(ran.of("step")) == 1
    assert [record["kind"] for record in ran.of("save")] == ["state", "final"]
    assert ran.of("sample") == []
    assert [(r["reason"], r["steps"]) for r in ran.of("end")] == [("stopped", 1)]
    assert (tmp_path / "lora.safetensors").read_text() == "{'ss_epoch': '1'}"  # not that of the planned end


def test_a_stop_at_the_last_step_is_the_end(tmp_path: Path) -> None:
    stop = tmp_path / "stop"
    stop.touch()
    ran = train(tmp_path, "args.max_train_steps = 1; args.epochs = 1", LORAKIT_STOP_FILE=str(stop))
    assert [record["reason"] for record in ran.of("end")] == ["ok"]


@pytest.mark.parametrize("loss", ["nan", "inf", "-inf"])
def test_a_loss_that_is_no_number_ends_it(tmp_path: Path, loss: str) -> None:
    ran = train(tmp_path, f"args.losses = [0.5, float('{loss}'), 0.5]; args.max_train_steps = 6")
    assert ran.code == 1
    assert [record["loss"] for record in ran.of("step")] == [0.5, loss]
    (end,) = ran.of("end")
    assert (end["reason"], end["steps"]) == ("nan", 2)
    assert "the loss became NaN or infinite at step 2" in end["message"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("def add(self, *, epoch, step, loss):", "def add(self, loss, **more):"),
        ("def prepare_accelerator(args):", "def prepare_accelerator(arguments):"),
        ("class LossRecorder:", "class Recorder:"),
    ],
)
def test_an_inside_that_does_not_fit_is_left_to_the_log(tmp_path: Path, old: str, new: str) -> None:
    assert old in UTIL
    mended = TRAINER.replace(
        "train_util.LossRecorder", "train_util." + ("Recorder" if "Recorder" in new else "LossRecorder")
    )
    ran = train(tmp_path, util=UTIL.replace(old, new), trainer=mended)
    assert ran.code == 0, ran.err
    assert {record["type"] for record in ran.records} == {"warn"}
    assert any("leaves the run protocol" in record["message"] for record in ran.records)
    assert (tmp_path / "lora.safetensors").exists()


def test_a_fault_of_the_probe_costs_the_part_not_the_training(tmp_path: Path) -> None:
    broken = TRAINER.replace("named_parameters=lambda: [", "named_parameters=lambda: 1 / 0 or [")
    ran = train(tmp_path, trainer=broken)
    assert ran.code == 0
    assert any("start" in r["message"] and "ZeroDivisionError" in r["message"] for r in ran.of("warn"))
    assert len(ran.of("step")) == 4


def test_two_rates_that_cannot_be_given_are_an_error(tmp_path: Path) -> None:
    without = TRAINER.replace(
        "def post_process_network(self, args, accelerator, network)", "def post_process_network(self, *all)"
    )
    ran = train(tmp_path, "args.text_encoder_lr = [1e-4, 1e-5]", trainer=without)
    assert ran.code == 1
    (end,) = ran.of("end")
    assert end["reason"] == "error"
    assert "the text encoders' rates differ" in end["message"]
    assert ran.of("step") == []


def test_no_data_is_not_told_as_an_end(tmp_path: Path) -> None:
    ran = train(tmp_path, "args.losses = []")
    assert ran.code == 0
    assert [record["type"] for record in ran.records if record["type"] != "warn"] == ["phase"]


def test_other_ranks_tell_nothing(tmp_path: Path) -> None:
    ran = train(tmp_path, RANK="1")
    assert (ran.code, ran.records) == (0, [])


def test_the_script_sees_what_it_would_see_alone(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    script = tmp_path / "inner" / "script.py"
    script.write_text("import sys\nprint(__name__, __file__, sys.argv, sys.path[0])\nsys.exit(int(sys.argv[2]))\n")
    for code in (0, 3):
        alone = subprocess.run(
            [sys.executable, str(script), "--x", str(code)], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        ran = probe(tmp_path, str(script), "--x", str(code))
        assert (ran.code, ran.out) == (alone.returncode, alone.stdout) == (code, alone.stdout)


def test_no_rate_is_named_before_the_first_step() -> None:
    """With accumulation the trainer logs a batch of a step to come: resumed, that would be another rate for the step before."""
    from lorakit.trainers.sd_scripts.probe import Probe

    made: Any = SimpleNamespace(
        rates=[],
        groups=[("unet",)],
        group_names=lambda: ["unet"],
        norms={},
        accelerator=SimpleNamespace(sync_gradients=False),
    )
    logs = {"loss/current": 0.5, "lr/unet": 5e-5, "lr/group0": 5e-5}
    Probe.name_curves(made, logs)
    assert logs == {"loss/current": 0.5}
    made.rates = [1e-4]
    logs = {"loss/current": 0.5, "lr/unet": 5e-5}
    Probe.name_curves(made, logs)
    assert logs == {"loss/current": 0.5, "lr/unet": 1e-4}
