"""Ways to end: a stop file, a signal, NaN, data that cannot be trained on."""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lorakit import protocol
from lorakit.dataset.scan import ScannedData, scan
from lorakit.trainers.builtin import dataset
from lorakit.trainers.builtin.lora import LoraNetwork
from lorakit.trainers.builtin.monitor import Monitor, StepReport
from lorakit.trainers.sd_scripts.probe_spikes import FEWEST, SPIKES_ENV
from tests.trainers.builtin.runs import train, write_images


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_images(folder / "3_cat")
    return folder


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, action: object) -> None:
    """Call ``action`` while the training tells about ``step``."""
    told = Monitor.step

    def tell(self: Monitor, report: StepReport) -> None:
        told(self, report)
        if report.step == step:
            action()  # type: ignore[operator]

    monkeypatch.setattr(Monitor, "step", tell)


def test_a_gradient_that_shoots_up_ends_it_with_what_there_is(tiny_base: Path, data: Path, tmp_path: Path) -> None:
    # A rate that rises until the LoRA breaks, and no clipping.
    rising = {"learning_rate": "0.4", "lr_scheduler": "constant_with_warmup", "lr_warmup_steps": 100}
    changes = {**rising, "max_train_steps": 100, "network_alpha": 64, "max_grad_norm": 0}
    run = train(tiny_base, data, tmp_path / "out", changes, environment={SPIKES_ENV: "gradient=4"})
    assert run.code == 0
    assert run.end["reason"] == "spike"
    assert run.end["message"].startswith("the gradient norm of ")
    assert FEWEST < run.end["steps"] == len(run.losses) < 100
    assert run.weights()


def test_stop_file_ends_after_the_step(
    tiny_base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = tmp_path / "stop"
    at_step(monkeypatch, 2, stop.touch)
    changes = {"max_train_steps": 20, "save_state_on_train_end": True}
    run = train(tiny_base, data, tmp_path / "out", changes, environment={protocol.STOP_ENV: str(stop)})
    assert run.code == 0
    assert (run.end["reason"], run.end["steps"]) == ("stopped", 3)  # asked for after step 2 was counted
    assert run.weights()
    stop.unlink()
    rest = train(
        tiny_base, data, tmp_path / "rest", {**changes, "max_train_steps": 4, "resume": tmp_path / "out" / "x-state"}
    )
    assert [record["step"] for record in rest.of("step")] == [4]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_after_the_step(
    tiny_base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    before = signal.getsignal(number)
    at_step(monkeypatch, 1, lambda: os.kill(os.getpid(), number))
    run = train(tiny_base, data, tmp_path, {"max_train_steps": 20})
    assert run.code == 0
    assert (run.end["reason"], run.end["steps"]) == ("stopped", 2)
    assert (tmp_path / "x.safetensors").is_file()
    assert signal.getsignal(number) == before


def test_second_sigint_interrupts(tiny_base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def twice() -> None:
        ours = signal.getsignal(signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        while signal.getsignal(signal.SIGINT) is ours:  # a second one that comes before the first is heard is one
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)

    at_step(monkeypatch, 1, twice)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        run = train(tiny_base, data, tmp_path, {"max_train_steps": 20})
    finally:
        signal.signal(signal.SIGINT, before)
    assert run.code == 130
    assert (run.end["reason"], run.end["message"]) == ("stopped", "interrupted")


def test_stop_before_the_first_step_saves_nothing(tiny_base: Path, data: Path, tmp_path: Path) -> None:
    stop = tmp_path / "stop"
    stop.touch()
    run = train(tiny_base, data, tmp_path, environment={protocol.STOP_ENV: str(stop)})
    assert run.code == 0
    assert (run.end["reason"], run.end["steps"]) == ("stopped", 0)
    assert not (tmp_path / "x.safetensors").exists()


def test_nan_ends_the_run_and_spares_the_checkpoints(
    tiny_base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    network: list[LoraNetwork] = []
    initialise = LoraNetwork.__init__

    def remember(self: LoraNetwork, *values: Any) -> None:
        initialise(self, *values)
        network.append(self)

    def poison() -> None:
        with torch.no_grad():
            network[0].parameters_of("unet")[0].fill_(float("nan"))

    monkeypatch.setattr(LoraNetwork, "__init__", remember)
    at_step(monkeypatch, 3, poison)
    run = train(tiny_base, data, tmp_path, {"max_train_steps": 20, "save_every_n_steps": 2})
    assert run.code == 10
    assert run.end["reason"] == "nan"
    assert "step 4" in run.end["message"]
    assert run.end["steps"] == 3
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == ["x-step00000002.safetensors"]
    assert "NaN or infinite at step 4" in capsys.readouterr().err


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_breaks_during_training_is_named(
    tiny_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    workers: int,
) -> None:
    image = write_images(tmp_path / "data" / "1_cat", ((64, 64),)) / "0.png"
    measured = scan

    def breaks_after_the_scan(*values: Any, **options: Any) -> ScannedData:
        data = measured(*values, **options)
        content = image.read_bytes()
        image.write_bytes(content[: len(content) // 2])
        return data

    monkeypatch.setattr(dataset, "scan", breaks_after_the_scan)
    run = train(
        tiny_base, tmp_path / "data", tmp_path / "out", {"cache_latents": None, "max_data_loader_n_workers": workers}
    )
    said = capsys.readouterr().err
    assert run.code == 6
    assert f"the image {image} cannot be read" in said
    assert "Traceback" not in said


def test_bad_data_shows_before_the_model_is_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train(tmp_path / "no such model", tmp_path / "nothing", tmp_path / "out")
    assert run.code == 6
    assert str(tmp_path / "nothing") in capsys.readouterr().err
    assert run.end["reason"] == "error"


@pytest.mark.parametrize("name", ["sample_prompts", "metadata_thumbnail"])
def test_small_files_are_missed_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    run = train(tmp_path / "no such model", tmp_path / "no data", tmp_path / "out", {name: tmp_path / "missing.txt"})
    assert run.code == 8
    assert "missing.txt" in capsys.readouterr().err
    assert not run.of("phase")


def test_missing_model_and_unwritable_output(
    tiny_base: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path / "none.safetensors", data, tmp_path / "a").code == 7
    (tmp_path / "file").touch()
    run = train(tiny_base, data, tmp_path / "b", {"output_dir": tmp_path / "file" / "out"})
    assert run.code == 11
    assert "cannot be written" in capsys.readouterr().err


def test_nan_latents_are_not_trained_on(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lorakit.trainers.builtin import latents

    monkeypatch.setattr(latents, "read_pixels", lambda *_, **__: torch.full((3, 64, 64), float("nan")))
    folder = tmp_path / "data" / "1_cat"
    folder.mkdir(parents=True)
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(folder / "a.png")
    run = train(tiny_base, tmp_path / "data", tmp_path / "out")
    assert run.code == 10
    assert "--no_half_vae" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), 10, "out of GPU memory"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
            10,
            "out of memory",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), 11, "the disk refused to take more"),
    ],
)
def test_errors_of_the_machine_are_explained(
    tiny_base: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    code: int,
    said: str,
) -> None:
    def fail() -> None:
        raise error

    at_step(monkeypatch, 1, fail)
    run = train(tiny_base, data, tmp_path)
    assert run.code == code
    assert (run.end["reason"], run.end["message"]) == ("error", said)
    told = capsys.readouterr().err
    assert said in told
    assert "Traceback" not in told


def test_a_bug_leaves_its_traceback_and_a_sentence(
    tiny_base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise ZeroDivisionError("what nobody foresaw")

    at_step(monkeypatch, 1, fail)
    with pytest.raises(ZeroDivisionError):
        train(tiny_base, data, tmp_path)
    (end,) = [record for record in protocol.read(tmp_path / "progress.jsonl") if record["type"] == "end"]
    assert (end["reason"], end["message"]) == ("error", "ZeroDivisionError: what nobody foresaw")
