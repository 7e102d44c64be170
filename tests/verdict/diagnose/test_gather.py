"""From run folders, LoRA files and log folders to facts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lorakit.archive.run import Run
from lorakit.archive.seal import seal, verify
from lorakit.errors import ArchiveError, LorakitError, ModelFileError
from lorakit.verdict.diagnose.diagnosis import diagnose, keep
from lorakit.verdict.diagnose.facts import Facts
from lorakit.verdict.diagnose.gather import of_run
from lorakit.verdict.diagnose.targets import Target, facts_of, find_target
from lorakit.verdict.diagnose.thresholds import settle
from lorakit.workspace import Workspace, find_workspace
from tests.verdict.diagnose.made_run import base_model, lora, made


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    (tmp_path / "lorakit.toml").touch()
    base_model(tmp_path / "models" / "base.safetensors")
    return find_workspace(tmp_path)


def look(run: Run, place: Workspace) -> Facts:
    return of_run(run, place, embeddings=False)


def why(facts: Facts, what: str) -> str:
    return next(one.why for one in facts.unseen if what in one.what)


def test_everything_of_a_run(place: Workspace) -> None:
    run = made(place.runs)
    facts = look(run, place)
    assert (facts.subject, facts.scale, facts.status) == (run.id, "bench", "ok")
    assert (facts.setup.unet_lr, facts.setup.te1_lr, facts.setup.alpha, facts.setup.images) == (3e-3, 3e-4, 4, 16)
    assert len(facts.losses) == 200
    assert facts.grads["te1"] == (0.001, 0.001)
    assert [(one.file, one.step) for one in facts.checkpoints] == [
        ("weights/hifumi-000005.safetensors", 100),
        ("weights/hifumi.safetensors", 200),
    ]
    unet, te1 = facts.part("unet"), facts.part("te1")
    assert unet is not None
    assert te1 is not None
    assert unet.relative == pytest.approx(0.2, rel=1e-3)
    assert te1.relative == pytest.approx(0.1 / 200**0.5, rel=1e-3)  # two matrices of norm 10
    assert (te1.modules, te1.dead) == (2, 0)  # the last layer is never read
    assert facts.captions is not None
    assert (facts.captions.images, facts.captions.distinct) == (16, 8)
    (picture,) = facts.pictures
    assert picture.grain > 0.8
    assert picture.change == pytest.approx(60 / 255 / 2, rel=1e-3)
    assert "not asked for" in why(facts, "similarity")


def test_a_diagnosis_is_kept_where_no_seal_reaches_and_is_the_same_twice(place: Workspace) -> None:
    run = made(place.runs, unet=20.0, noise=True)
    seal(run, 1)
    kept = []
    for _ in range(2):
        facts = look(run, place)
        found = diagnose(facts, settle(facts.scale))
        keep(found, run)
        kept.append((run.analysis / "diagnosis.json").read_bytes())
    assert kept[0] == kept[1]
    assert not verify(run)
    plain = json.loads(kept[0])
    assert plain["findings"][0]["code"] == "D11"
    assert plain["findings"][0]["confidence"] == "sure"
    assert {"text", "value", "source"} == plain["findings"][0]["evidence"][0].keys()
    assert str(place.root) not in kept[0].decode()


def test_what_is_missing_is_said_and_stops_nothing(place: Workspace) -> None:
    run = made(place.runs)
    (place.root / "models" / "base.safetensors").unlink()
    (run.weights / "hifumi-000005.safetensors").write_bytes(b"torn")
    (run.samples / "last.png").write_bytes(b"no picture")
    run.dataset.unlink()
    facts = look(run, place)
    assert "its base model" in why(facts, "weights against")
    assert "not whole" in why(facts, "hifumi-000005")
    assert "last.png" in why(facts, "a sample")
    assert any(one.what == "captions" and "dataset.json" in one.why for one in facts.unseen)
    assert not any(str(place.root) in one.why for one in facts.unseen if one.what != "weights against the base model's")
    part = facts.part("unet")
    assert part is not None
    assert part.relative is None
    assert not diagnose(facts, settle(facts.scale)).findings


def test_a_run_without_anything_is_still_looked_at(place: Workspace) -> None:
    run = made(place.runs)
    for path in (run.preset, run.plan, run.attempt(1).progress, *run.weights.glob("*.safetensors")):
        path.unlink()
    facts = look(run, place)
    assert "preset.toml" in why(facts, "settings")
    assert "no whole checkpoint" in why(facts, "weights")
    diagnose(facts, settle(facts.scale))


def test_steps_gone_over_again_count_once_and_nan_is_told(place: Workspace) -> None:
    run = made(place.runs)
    with run.attempt(1).progress.open("a", encoding="utf-8") as file:
        for step in range(150, 211):
            loss = "nan" if step > 205 else 0.1
            file.write(json.dumps({"type": "step", "step": step, "epoch": 8, "loss": loss}) + "\n")
    facts = look(run, place)
    assert len(facts.losses) == 205
    assert facts.nan_since == 206
    assert {"D11", "D23"} <= {one.code for one in diagnose(facts, settle(facts.scale)).findings}


def test_norms_of_the_base_are_kept_and_measured_anew_for_another_file(place: Workspace) -> None:
    run = made(place.runs)
    look(run, place)
    (cache,) = (place.private / "base-norms").glob("*.json")
    norms = json.loads(cache.read_text())["norms"]
    te2 = "lora_te2_text_model_encoder_layers_0_"
    assert norms[f"{te2}self_attn_q_proj"] == pytest.approx(10)
    assert norms[f"{te2}self_attn_v_proj"] == pytest.approx(30)
    assert norms[f"{te2}mlp_fc1"] == pytest.approx(10)
    (place.root / "models" / "base.safetensors").write_bytes(b"torn")
    assert "cannot be measured" in why(look(run, place), "weights against")


def test_a_bare_file_tells_parts_and_settings(place: Workspace, tmp_path: Path) -> None:
    metadata = {
        "ss_unet_lr": "0.0001", "ss_text_encoder_lr": "5e-05", "ss_lr_scheduler": "cosine", "ss_lr_warmup_steps": "100", "ss_max_train_steps": "400",
        "ss_network_dim": "4", "ss_steps": "400",
    }  # fmt: skip
    path = lora(tmp_path / "mine.safetensors", width=640, metadata=metadata)
    facts = facts_of(find_target(str(path), place), place)
    assert (facts.scale, facts.setup.unet_lr, facts.setup.te1_lr, facts.setup.te2_lr) == ("sdxl", 1e-4, 5e-5, 0.0)
    assert facts.last is not None
    assert facts.last.step == 400
    assert {one.code for one in diagnose(facts, settle(facts.scale)).findings} == {"D01", "D44"}
    bare = facts_of(Target(file=lora(tmp_path / "bare.safetensors")), place)
    assert bare.setup.unet_lr is None
    assert "no metadata" in why(bare, "settings")


def test_files_that_are_no_lora_of_sdxl_are_named_as_what_they_are(place: Workspace, tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    flux, torn = tmp_path / "flux.safetensors", tmp_path / "torn.safetensors"
    name = "lora_unet_double_blocks_0_img_attn_proj"
    save_file(
        {
            f"{name}.lora_down.weight": np.ones((4, 8), np.float32),
            f"{name}.lora_up.weight": np.ones((8, 4), np.float32),
        },
        flux,
    )
    torn.write_bytes(lora(tmp_path / "whole.safetensors").read_bytes()[:-50])
    with pytest.raises(ModelFileError, match="Flux"):
        facts_of(find_target(str(flux), place), place)
    with pytest.raises(ModelFileError, match="torn"):
        facts_of(find_target(str(torn), place), place)
    with pytest.raises(ModelFileError, match="no file"):
        find_target(str(tmp_path / "nothing.safetensors"), place)


def test_a_log_folder_of_any_trainer(place: Workspace, tmp_path: Path) -> None:
    tensorboard = pytest.importorskip("tensorboard.summary.writer.event_file_writer")
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    folder = tmp_path / "logs" / "20260101120000" / "network_train"
    writer = tensorboard.EventFileWriter(str(folder))
    for step in range(200):
        loss = 0.2 + 0.001 * step + (0.004 if step % 2 else -0.004)
        for tag, value in (("loss/current", loss), ("lr/unet", 1e-4), ("lr/textencoder", 5e-5)):
            writer.add_event(
                Event(step=step, wall_time=1.0, summary=Summary(value=[Summary.Value(tag=tag, simple_value=value)]))
            )
    writer.close()
    facts = facts_of(find_target(str(tmp_path / "logs"), place), place)
    assert len(facts.losses) == 200
    assert facts.rates["unet"][0] == pytest.approx(1e-4)
    assert {one.code for one in diagnose(facts, settle(facts.scale)).findings} == {"D11", "D21"}
    second = tmp_path / "logs" / "20260102120000" / "network_train"
    second.mkdir(parents=True)
    next(iter(folder.iterdir())).rename(second / "events.out.tfevents.1.x")
    tensorboard.EventFileWriter(str(folder)).close()
    with pytest.raises(ArchiveError, match="several trainings"):
        facts_of(find_target(str(tmp_path / "logs"), place), place)


def test_an_empty_event_file_is_an_error(place: Workspace, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "events.out.tfevents.1.x").touch()
    with pytest.raises(ArchiveError, match="not one point"):
        facts_of(find_target(str(tmp_path / "logs"), place), place)


@pytest.mark.parametrize("word", ["nothing-of-that-name", "models"])
def test_a_word_that_names_nothing(place: Workspace, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made(place.runs)
    monkeypatch.chdir(place.root)
    with pytest.raises(LorakitError):
        find_target(word, place)


def test_a_run_is_found_by_its_folder_too(place: Workspace) -> None:
    run = made(place.runs)
    assert find_target(str(run.path), place).run == Run(run.path)
    assert find_target(run.short, place).run == Run(run.path)
