"""What was measured of a run's checkpoints is kept, and measured again when the file is another."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from lorakit.errors import ModelFileError
from lorakit.evidence import measured
from lorakit.evidence.measured import of_checkpoint, of_file
from tests.cli.made_runs import make_run
from tests.verdict.made_loras import lora


def test_a_checkpoint_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path)
    path = lora(run.weights / "a.safetensors", unet=3.0, text=0.5)
    assert of_checkpoint(run, path, measure_now=False) is None
    found = of_checkpoint(run, path)
    assert found is not None
    assert found.parts["unet"].norm == pytest.approx((9 + 2.25) ** 0.5)
    assert found.parts["unet"].blocks == pytest.approx({"IN04": 3.0, "OUT02": 1.5})
    carrier = found.carrier
    assert carrier is not None
    part, share = carrier
    assert part == "unet"
    assert share == pytest.approx(11.25 / (11.25 + 0.25 + 0.0625))

    def never(path: Path) -> None:
        raise AssertionError(path)

    monkeypatch.setattr(measured, "of_file", never)
    assert of_checkpoint(run, path) == found
    lora(path, unet=4.0)
    os.utime(path, ns=(1, 1))
    assert of_checkpoint(run, path, measure_now=False) is None


def test_a_damaged_record_is_measured_anew(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    path = lora(run.weights / "a.safetensors")
    found = of_checkpoint(run, path)
    record = json.loads((run.analysis / "weights.json").read_text())
    record["files"]["weights/a.safetensors"]["parts"] = {"unet": 3}
    (run.analysis / "weights.json").write_text(json.dumps(record))
    assert of_checkpoint(run, path) == found
    (run.analysis / "weights.json").write_text("[")
    assert of_checkpoint(run, path) == found


def test_what_is_no_lora_of_sdxl_is_named(tmp_path: Path) -> None:
    flux = lora(tmp_path / "a.safetensors", lora_unet_double_blocks_0_img_attn_qkv=1.0)
    with pytest.raises(ModelFileError, match="Flux"):
        of_file(flux)


def test_nothing_carries_a_lora_that_changes_nothing(tmp_path: Path) -> None:
    assert of_file(lora(tmp_path / "a.safetensors", unet=0.0, text=0.0)).carrier is None
