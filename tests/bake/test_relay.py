"""The run protocol told for a trainer that does not speak it, from a log and events that grow."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lorakit import protocol
from lorakit.archive.diagnose_log import Status
from lorakit.archive.progress import read_progress
from lorakit.archive.records import state
from lorakit.archive.run import Attempt, Run
from lorakit.archive.seal import verify
from lorakit.bake.bake import follow, request_stop, start
from lorakit.bake.relay import Relay
from tests.archive.made import safetensors
from tests.archive.test_events import VERSION, event, write
from tests.bake.runs import left_over, make_run, reaped, wait_for, wait_sealed

LOG = """\
INFO loading U-Net from checkpoint
caching latents.
running training / x
  num batches per epoch / x: 15
  num epochs / x: 2
"""

BAR = "\nsteps:   0%|          | 0/30 [00:00<?, ?it/s]\nepoch 1/2\nsteps:   3%|▎  | 1/30 [00:03<00:07,  3.83s/it]\n"


@pytest.fixture
def attempt(tmp_path: Path) -> Attempt:
    made = Attempt(tmp_path / "attempts" / "01")
    (made.events / "20261122" / "network_train").mkdir(parents=True)
    return made


def events(attempt: Attempt) -> Path:
    return attempt.events / "20261122" / "network_train" / "events.out.tfevents.1.host.2.0"


@pytest.fixture
def relay_of(attempt: Attempt) -> Iterator[Callable[..., Relay]]:
    """Makes the relay of the attempt, with the trainer's arguments."""
    made: list[Relay] = []

    def make(*arguments: str) -> Relay:
        made.append(Relay(attempt, arguments))
        return made[-1]

    yield make
    for relay in made:
        relay.close()


def told(attempt: Attempt) -> list[dict[str, object]]:
    return [
        {key: value for key, value in record.items() if key not in {"v", "t"}}
        for record in protocol.read(attempt.progress)
    ]


def test_damaged_events_are_told_of_once_at_the_end(attempt: Attempt, relay_of: Callable[..., Relay]) -> None:
    steps = [event(step, **{"loss/current": 0.5}) for step in (1, 2, 3)]
    ends = write(events(attempt), VERSION, *steps)
    data = bytearray(events(attempt).read_bytes())
    data[ends[1] + 12 + 9] ^= 0xFF  # inside the second step's payload
    events(attempt).write_bytes(data)
    relay = relay_of("--output_dir", "x")
    relay.poll()
    relay.finish()
    warned = [record["message"] for record in told(attempt) if record["type"] == "warn"]
    assert warned == ["1 record of its event files cannot be read: its curves have gaps"]
    assert "cannot be read" in read_progress(attempt.progress).warnings[0]


def test_log_and_events_become_the_protocol(attempt: Attempt, relay_of: Callable[..., Relay], tmp_path: Path) -> None:
    relay = relay_of("--output_dir", "x")
    relay.poll()
    assert told(attempt) == []
    attempt.log.write_text(LOG)
    relay.poll()
    assert [record["name"] for record in told(attempt)] == ["load", "cache_latents", "train"]
    bar = "\nsteps:   0%|          | 0/30 [00:00<?, ?it/s]\nepoch 1/2\n\rsteps:   3%|▎  | 1/30 [00:03<00:07,  3.83s/it]"
    attempt.log.write_text(LOG + bar)
    first = event(
        1, **{"loss/current": 0.5, "loss/average": 0.5, "lr/textencoder": 0.25, "lr/unet": 0.125, "lr/group1": 1.0}
    )
    write(events(attempt), VERSION, first)
    relay.poll()
    relay.poll()
    start, step = told(attempt)[3:]
    assert start == {
        "type": "start",
        "total_steps": 30,
        "epochs": None,
        "batches_per_epoch": 15,
        "first_step": 0,
        "trainer": "sd-scripts",
    }
    assert (step["step"], step["epoch"], step["loss"]) == (1, 1, 0.5)
    assert step["lr"] == {"te1": 0.25, "te2": 0.25, "unet": 0.125}
    final = safetensors(tmp_path / "a.safetensors", cut=4)
    with open(attempt.log, "a") as log:
        log.write(f"\nsaving checkpoint: {final}\nmodel saved.\n")
    write(events(attempt), VERSION, first, event(2, **{"loss/current": 0.25, "lr/unet": 0.125}))
    relay.poll()
    assert told(attempt)[-1]["type"] != "save", "it is not whole yet"
    safetensors(final)
    relay.finish()
    relay.end("ok", 2, "2 steps")
    found = read_progress(attempt.progress)
    assert (found.steps, found.total_steps, found.steps_per_second, found.end_reason) == (2, 30, 1.0, "ok")
    assert [(saved.kind, saved.path) for saved in found.saved] == [("final", str(final))]
    assert [record["step"] for record in told(attempt) if record["type"] == "step"] == [1, 2], "each step once"


def test_micro_batches_of_a_step_are_averaged(attempt: Attempt, relay_of: Callable[..., Relay]) -> None:
    relay = relay_of("--gradient_accumulation_steps", "2")
    attempt.log.write_text("steps: 0%| | 0/2 [00:00<?, ?it/s]\n")
    losses = [(0, 1.0), (1, 3.0), (1, 5.0), (2, 7.0)]
    write(events(attempt), VERSION, *(event(step, **{"loss/current": loss}) for step, loss in losses))
    relay.finish()
    assert [(record["step"], record["loss"]) for record in told(attempt) if record["type"] == "step"] == [
        (1, 2.0),
        (2, 6.0),
    ]


def test_samples_and_validation(attempt: Attempt, relay_of: Callable[..., Relay]) -> None:
    relay = relay_of()
    samples = attempt.path.parent.parent / "samples"
    samples.mkdir()
    image = samples / "a_000001_00.png"
    image.write_bytes(b"half")
    relay.poll()
    image.write_bytes(b"half and the rest")
    relay.poll()
    assert told(attempt) == []
    relay.poll()
    relay.poll()
    (samples / "b.png").write_bytes(b"last")
    attempt.log.write_text("steps: 0%| | 0/2 [00:00<?, ?it/s]\nepoch 1/1\n")
    write(events(attempt), event(1, **{"loss/current": 1.0}), event(1, **{"loss/validation/epoch_average": 0.75}))
    relay.finish()
    found = told(attempt)
    assert [Path(str(record["path"])).name for record in found if record["type"] == "sample"] == [image.name, "b.png"]
    assert [record for record in found if record["type"] == "validation"] == [
        {"type": "validation", "step": 1, "epoch": 1, "loss": 0.75}
    ]


def test_without_events_the_bar_tells_how_far_it_is(attempt: Attempt, relay_of: Callable[..., Relay]) -> None:
    relay = relay_of()
    attempt.log.write_text("steps: 50%|█ | 2/4 [00:01<00:01, 2.00it/s, avr_loss=0.1]\r")
    relay.poll()
    with open(attempt.log, "a") as log:
        log.write("\repoch validation steps: 100%|██| 9/9 [00:02<00:00, 2.00it/s, val_epoch_avg_loss=0.4]\n")
        log.write("steps: 100%|██| 4/4 [00:02<00:00, 2.00it/s, avr_loss=0.1]")
    relay.finish()
    assert [record.get("step") for record in told(attempt)] == [None, 2, 4]
    assert "loss" not in told(attempt)[-1]


@pytest.mark.parametrize(
    ("argument", "parts"),
    [("--network_train_unet_only", {"unet": 0.5}), ("--network_train_text_encoder_only", {"te1": 0.25, "te2": 0.25})],
)
def test_rates_belong_to_the_parts_that_are_trained(
    attempt: Attempt, relay_of: Callable[..., Relay], argument: str, parts: dict[str, float]
) -> None:
    relay = relay_of(argument)
    attempt.log.write_text("steps: 0%| | 0/2 [00:00<?, ?it/s]\n")
    write(events(attempt), event(1, **{"loss/current": 1.0, "lr/textencoder": 0.25, "lr/unet": 0.5}))
    relay.finish()
    assert told(attempt)[-1]["lr"] == parts


def test_hostile_bytes_in_a_log(attempt: Attempt, relay_of: Callable[..., Relay]) -> None:
    attempt.log.write_bytes(b"\xff\xfe\0steps: x|/\r\n" * 100 + b"saving checkpoint: /nowhere\0\n")
    with pytest.raises(ValueError, match="null"):
        Path("/nowhere\0").stat()
    relay = relay_of()
    relay.poll()
    relay.finish()
    assert told(attempt) == []


SILENT = """
import argparse, json, struct, sys, time
from pathlib import Path
parser = argparse.ArgumentParser()
parser.add_argument("--output_dir", type=Path)
parser.add_argument("--output_name")
asked, _ = parser.parse_known_args()
header = json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
print("running training")
for step in range(1, 4001):
    time.sleep(0.02)
    print(f"\\rsteps:  1%|x| {step}/4000 [00:00<00:00, 50it/s, avr_loss=0.1]", end="", file=sys.stderr, flush=True)
    if step % 50 == 0:
        path = asked.output_dir / f"{asked.output_name}-step{step:08d}.safetensors"
        print(f"\\nsaving checkpoint: {path}", flush=True)
        path.write_bytes(struct.pack("<Q", len(header)) + header + b"1234")
"""


def test_a_trainer_that_cannot_stop_ends_after_its_next_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).with_name("quick")))
    script = tmp_path / "silent.py"
    script.write_text(SILENT)
    run = silent_run(tmp_path / "runs", script)
    with reaped(run):
        start(run)
        wait_for(lambda: state(run).steps >= 1)
        saved = len(list(run.weights.glob("*.safetensors")))
        request_stop(run)
        seen: list[dict[str, object]] = []
        follow(run, lambda _, records: seen.extend(records))
        found = wait_sealed(run)
        assert found.status is Status.STOPPED
        assert "stopped by the user" in found.message
        assert "right after a checkpoint" in found.message
        assert found.checkpoints > saved
        assert found.steps < 4000
        assert any(
            "cannot save on request" in str(record.get("message")) for record in seen if record["type"] == "warn"
        )
        assert seen[-1]["type"] == "end"
        assert seen[-1]["reason"] == "stopped"
        assert verify(run) == ()
        assert left_over(run) == ()


def silent_run(runs_dir: Path, script: Path) -> Run:
    run = make_run(runs_dir)
    command = json.loads(run.command_json.read_text())
    command["trainer"] = {**command["trainer"], "kind": "sd-scripts", "program": [str(script)]}
    run.command_json.write_text(json.dumps(command))
    return dataclasses.replace(run)


@pytest.fixture
def probed(attempt: Attempt) -> Iterator[Relay]:
    relay = Relay(attempt, (), probed=True)
    yield relay
    relay.close()


def test_where_the_trainer_speaks_the_relay_is_silent(attempt: Attempt, probed: Relay) -> None:
    probe = protocol.Writer(attempt.progress)
    probe.write("warn", message="something does not fit")
    probed.poll(stop_asked=True)
    probe.write("phase", name="load")
    attempt.log.write_text(LOG + BAR, encoding="utf-8")
    probed.poll(stop_asked=True)
    probe.write("start", total_steps=30)
    probe.write("step", step=1, epoch=1, loss=0.5)
    probed.poll(stop_asked=True)
    probe.write("end", reason="stopped", steps=1, message="m")
    probed.finish()
    probed.end("stopped", 1, "m")
    probe.close()
    assert [record["type"] for record in told(attempt)] == ["warn", "phase", "start", "step", "end"]
    assert not probed.saved_after_stop


def test_a_trainer_that_spoke_and_died_still_has_an_end(attempt: Attempt, probed: Relay) -> None:
    probe = protocol.Writer(attempt.progress)
    probe.write("phase", name="load")
    probe.close()
    attempt.log.write_text(LOG, encoding="utf-8")
    probed.finish()
    probed.end("error", 0, "killed")
    assert [record["type"] for record in told(attempt)] == ["phase", "end"]


def test_where_the_probe_fits_nothing_the_relay_tells_it(attempt: Attempt, probed: Relay) -> None:
    probe = protocol.Writer(attempt.progress)
    probe.write("warn", message="the probe leaves the run protocol to the log")
    attempt.log.write_text(LOG + BAR, encoding="utf-8")
    probed.poll(stop_asked=True)
    probed.poll(stop_asked=True)
    probe.close()
    kinds = [record["type"] for record in told(attempt)]
    assert {"start", "step"} <= set(kinds)
    assert kinds.count("warn") == 2  # the second: it can only be ended after its next checkpoint
