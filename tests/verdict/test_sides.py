"""What can be put side by side besides runs: LoRA files and log folders that lorakit did not make; and bad input."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from lorakit.archive.run import Run
from lorakit.cli.compare_screen import page
from lorakit.errors import ArchiveError, ModelFileError, UsageError
from lorakit.verdict.compare import Comparison, compare
from lorakit.verdict.sides import side_of
from tests.cli.made_runs import image, make_run
from tests.evidence.test_curves import logs
from tests.verdict.made_loras import lora

KOHYA = {
    "ss_network_dim": "32",
    "ss_network_alpha": "16.0",
    "ss_unet_lr": "0.0002",
    "ss_text_encoder_lr": "5e-05",
    "ss_base_model_version": "sdxl_base_v1-0",
    "ss_network_module": "networks.lora",
    "ss_sd_model_name": "other.safetensors",
    "ss_new_sd_model_hash": "fedcba9876543210",
    "ss_sd_scripts_commit_hash": "abcdef0123456789",
    "ss_steps": "343",
    "ss_max_train_epochs": "7",
}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = make_run(tmp_path / "runs", short="k3f9")
    lora(made.weights / "lora.safetensors")
    return made


def found(run: Run, *words: str) -> Comparison:
    return compare([side_of(word, run.path.parent) for word in (run.short, *words)])


def settings(comparison: Comparison) -> dict[str, tuple[str, ...]]:
    return {row.key: row.shown for row in comparison.settings}


def results(comparison: Comparison) -> dict[str, tuple[object, ...]]:
    return {row.key: row.values for row in comparison.results}


def test_a_file_tells_its_settings_by_its_metadata(run: Run, tmp_path: Path) -> None:
    path = lora(tmp_path / "theirs.safetensors", unet=5.0, metadata=KOHYA)
    told = found(run, str(path))
    assert settings(told)["optim.unet_lr"] == ("1e-4", "2e-4")
    assert "network.dim" not in settings(told)  # both 32
    assert {row.key: row.shown[1] for row in told.inputs}["base model"] == "other.safetensors fedcba98"
    assert any("base models differ" in warning for warning in told.warnings)
    assert {row.key: row.shown[1] for row in told.inputs}["trainer"] == "sd-scripts abcdef01"
    assert results(told)["weight_norm"][1] == pytest.approx((25 + 6.25 + 0.25 + 0.0625) ** 0.5)
    assert results(told)["steps"] == (343, 343)
    # What a file cannot tell differs from nothing.
    assert not {"dataset", "python", "optim.warmup"} & {row.key for row in (*told.settings, *told.inputs)}
    assert told.to_json()["runs"][1]["kind"] == "file"


def test_a_file_without_metadata_is_weights_alone(run: Run, tmp_path: Path) -> None:
    told = found(run, str(lora(tmp_path / "bare.safetensors")))
    assert told.settings == told.inputs == ()
    assert results(told)["weight_norm.te1"] == (0.5, 0.5)


def test_a_log_folder_of_a_kohya_trainer(run: Run, tmp_path: Path) -> None:
    logs(tmp_path / "logs")
    told = found(run, str(tmp_path / "logs"))
    values = {key: value[1] for key, value in results(told).items()}
    assert (values["steps"], values["seconds"], values["validation"]) == (40, 39.0, pytest.approx(0.3))
    assert values["loss_first"] == pytest.approx(0.1985)
    assert values["loss_last"] == pytest.approx(0.1625)
    assert values["steps_per_second"] == pytest.approx(1.0)
    assert page(told, width=100)


def test_a_run_may_be_named_by_its_folder(run: Run, tmp_path: Path) -> None:
    assert side_of(f"{run.path}/", tmp_path / "none").run == Run(run.path)


def test_files_of_one_name_have_labels_of_their_own(run: Run, tmp_path: Path) -> None:
    paths = [str(lora(tmp_path / folder / "same.safetensors")) for folder in "ab"]
    assert [side.label for side in found(run, *paths).sides] == ["k3f9", "same (1)", "same (2)"]


@pytest.mark.parametrize(
    ("module", "said"),
    [("lora_te_text_model_encoder_layers_0_mlp_fc1", "SD 1.5"), ("lora_unet_double_blocks_0_img_mlp_0", "Flux")],
)
def test_other_architectures_are_named_and_the_rest_is_compared(
    module: str, said: str, run: Run, tmp_path: Path
) -> None:
    told = found(run, str(lora(tmp_path / "other.safetensors", metadata=KOHYA, **{module: 1.0})))
    assert any("other.safetensors is a LoRA for" in warning and said in warning for warning in told.warnings)
    assert results(told)["weight_norm"][1] is None
    assert settings(told)["optim.unet_lr"] == ("1e-4", "2e-4")


def test_torn_and_missing_checkpoints_are_told_and_lose_nothing(run: Run, tmp_path: Path) -> None:
    torn = run.weights / "lora-000004.safetensors"
    torn.write_bytes((run.weights / "lora.safetensors").read_bytes()[:-7])
    empty = make_run(tmp_path / "runs", short="m8aa")
    (empty.weights / "lora.safetensors").unlink()
    told = found(run, "m8aa")
    assert any(warning.startswith("k3f9: weights/lora-000004.safetensors: ") for warning in told.warnings)
    assert "m8aa: no whole checkpoint" in told.warnings
    assert results(told)["weight_norm"][0] is not None


def test_a_torn_file_is_refused_by_name(run: Run, tmp_path: Path) -> None:
    path = lora(tmp_path / "torn.safetensors")
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ModelFileError, match=r"torn\.safetensors"):
        side_of(str(path), run.path.parent)
    with pytest.raises(ModelFileError, match=r"missing\.safetensors"):
        side_of("missing.safetensors", run.path.parent)


def test_a_folder_of_nothing_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ArchiveError, match="neither"):
        side_of(str(tmp_path / "nothing"), run.path.parent)


def test_empty_event_files_are_told_on_the_page(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "logs" / "events.out.tfevents.1.x"
    path.parent.mkdir()
    path.touch()
    told = found(run, str(path.parent))
    assert results(told)["loss_last"][1] is None
    assert "no points" in told.sides[1].curves().complaint


def test_losses_that_count_other_things_are_warned_of(run: Run, tmp_path: Path) -> None:
    other = make_run(tmp_path / "runs", images=[image("01.png"), image("9.png", validation=True)])
    other.preset.write_text(other.preset.read_text() + "\n[loss]\nmin_snr_gamma = 5\n")
    warnings = found(run, other.short).warnings
    assert any("loss.min_snr_gamma differs" in warning for warning in warnings)
    assert "validation losses are of different pictures" in warnings


def test_settings_tell_where_they_come_from(run: Run, tmp_path: Path) -> None:
    other = make_run(tmp_path / "runs", unet_lr="2e-4", te_lr="1e-5")
    values = {
        "optim.unet_lr": {"kind": "preset", "file": "/x/presets/hifumi.toml", "line": 14},
        "optim.te_lr": {"kind": "default"},
    }
    other.provenance.write_text(json.dumps({"values": values}))
    run.provenance.write_text(json.dumps({"values": {"optim.unet_lr": {"kind": "set", "text": "optim.unet_lr=1e-4"}}}))
    told = found(run, other.short)
    origins = told.to_json()["origins"]
    assert origins["optim.unet_lr"] == ["--set optim.unet_lr=1e-4", "hifumi.toml:14"]
    assert "1e-5 default" in "\n".join(line.plain for line in page(told, width=None))


def test_pictures_that_differ_are_named(run: Run, tmp_path: Path) -> None:
    images = [image("01.png", caption="a dog"), image("02.png"), image("03.png")]
    other = make_run(tmp_path / "runs", images=images)
    told = found(run, other.short).datasets
    assert not told[0]
    assert told[1].added == ("3_cat/02.png", "3_cat/03.png")
    assert [(one.name, one.before, one.after) for one in told[1].recaptioned] == [("3_cat/01.png", "a cat", "a dog")]


def test_the_same_file_twice_is_no_comparison(run: Run, tmp_path: Path) -> None:
    path = lora(tmp_path / "a.safetensors")
    with pytest.raises(UsageError):
        compare([side_of(str(path), run.path.parent)] * 2)


def test_large_checkpoints_are_measured_when_asked_for(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_run(tmp_path / "runs")
    lora(other.weights / "lora.safetensors")
    monkeypatch.setattr("lorakit.verdict.compare._MEASURED", 100)
    told = compare([run, other])
    assert results(told)["weight_norm"] == (None, None)
    assert any("--weights" in warning for warning in told.warnings)
    assert results(compare([run, other], measure=True))["weight_norm"][0] is not None
    assert results(compare([run, other]))["weight_norm"][0] is not None  # kept


def test_many_runs_are_lines(tmp_path: Path) -> None:
    made = [make_run(tmp_path, short=f"a{at:03d}", unet_lr=f"{1 + at}e-4", now=time.time() + at) for at in range(9)]
    lines = [line.plain for line in page(compare(made), width=100)]
    assert lines[0].split()[:3] == ["name", "unet_lr", "state"]
    assert lines[1].split()[:4] == ["a000", "hifumi", "1e-4", "ok"]
    assert max(map(len, lines[:10])) <= 100
