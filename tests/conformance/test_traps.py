"""What users of sd-scripts trip over, one test for each: lorakit refuses it, renders it differently, repairs it, or tells the truth.

docs/traps.md is this file as a table. That the trainer does these things is proven in ``rule_cases`` (PROOFS and FACTS) and
``plan_cases``; here stands what lorakit does about them.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from lorakit.archive.diagnose_log import Evidence, diagnose
from lorakit.archive.run import Run
from lorakit.bake.resume import resumed_arguments
from lorakit.dataset.caches import is_cache_name
from lorakit.dataset.handover import write_view
from lorakit.errors import DatasetError, LorakitError
from lorakit.plan import plan
from lorakit.preset.models import Dataset, Precision, Preset
from lorakit.preset.rules import check
from lorakit.preset.units import Warmup
from lorakit.trainers.catalogue import Catalogue, int_or_float
from lorakit.trainers.extra import check_extra
from lorakit.trainers.file_rules import check_files
from lorakit.trainers.render import RenderPaths, render, warmup_text
from lorakit.workspace import Workspace
from tests.conformance.plan_cases import CASES, Case
from tests.conformance.plan_cases import lay_out as lay_out_case
from tests.conformance.record_rules import DATA
from tests.conformance.rule_cases import PROOFS
from tests.conformance.rule_trials import Trial, lay_out
from tests.trainers.presets import NAMES, PATHS, REPO, shipped
from tests.trainers.sd_scripts.test_probe import TRAINER, train

Keys = Mapping[str, Any]


def asked(keys: Keys | None = None) -> Preset:
    return Trial(keys or {}).preset(Path("/workspace"))


def arguments(keys: Keys | None = None) -> dict[str, Any]:
    """The command of a preset, as the trainer's parser reads it."""
    command = render(asked(keys), PATHS, kind="sd-scripts")
    return vars(Catalogue.load().parser().parse_args(command))


def refused(keys: Keys) -> set[str]:
    """Codes of the errors that keep a preset from being baked with sd-scripts."""
    preset = asked(keys)
    return {
        finding.code
        for finding in (*check(preset, "sd-scripts"), *check_extra(preset, "sd-scripts"))
        if finding.level == "error"
    }


def warned(keys: Keys) -> set[str]:
    preset = asked(keys)
    return {finding.code for finding in (*check(preset, "sd-scripts"), *check_extra(preset, "sd-scripts"))}


# The sixteen.


def test_01_no_usable_data_is_no_success(tmp_path: Path) -> None:
    lay_out_case(CASES["only-wrong-case"], tmp_path)
    with pytest.raises(DatasetError):
        plan(CASES["only-wrong-case"].preset(), Workspace(tmp_path))
    # And where the trainer finds nothing all the same, its exit code is not what is believed.
    said = diagnose(Evidence(code=0, result="missing", log=("No data found. Please verify arguments",)))
    assert (said.status.value, said.reason.value) == ("failed", "no-data")
    assert diagnose(Evidence(code=0, result="missing")).status.value == "failed"


def test_02_captions_in_txt_are_read() -> None:
    assert arguments()["caption_extension"] == ".txt"


def test_03_buckets_are_not_cut_at_1024(tmp_path: Path) -> None:
    data: dict[str, Any] = {"resolution": 1024, "bucket_min": 256, "bucket_max": 2048, "bucket_step": 64}
    assert Dataset.model_fields["bucket_max"].default == 2048
    case = Case("portrait", (("data/1_a/0.png", (832, 1216)),), {"dataset": data})
    lay_out_case(case, tmp_path)
    assert [(bucket.width, bucket.height) for bucket in plan(case.preset(), Workspace(tmp_path)).buckets] == [
        (832, 1216)
    ]
    assert arguments({f"dataset.{name}": value for name, value in data.items()})["max_bucket_reso"] == 2048


def test_04_a_cache_of_other_settings_is_not_trained_on(tmp_path: Path) -> None:
    from lorakit.bake.cache_keys import cache_sets

    lay_out(Trial(), tmp_path)
    (tmp_path / "model").write_bytes(b"model")
    on_disk = {"memory.cache_latents_to_disk": True, "memory.cache_text_encoder_outputs_to_disk": True}

    def keys(more: Keys) -> dict[str, str]:
        preset = Trial({**on_disk, **more}).preset(tmp_path)
        data = plan(preset, Workspace(tmp_path)).data
        models = {"base.model": (tmp_path / "model",)}
        sets = cache_sets(
            preset, data, kind="sd-scripts", version="1", sha256=lambda path: str(path.stat().st_size), models=models
        )
        return {one.kind: one.key for one in sets}

    first = keys({})
    assert keys({"optim.unet_lr": 0.3}) == first
    assert keys({"dataset.resolution": 128, "dataset.bucket_max": 256})["latents"] != first["latents"]
    assert keys({"dataset.max_token_length": 150})["text"] != first["text"]
    (tmp_path / "data" / "1_thing" / "00.txt").write_text("another caption", encoding="utf-8")
    assert keys({})["text"] != first["text"]


def test_05_a_second_text_encoder_rate_is_not_dropped() -> None:
    pair = {"optim.te_lr": [1e-4, 5e-5]}
    assert "LK014" in refused(pair)
    with pytest.raises(LorakitError):
        arguments(pair)
    assert arguments({**pair, "trainer.probe": True})["text_encoder_lr"] == [1e-4, 5e-5]
    assert "LK014" not in refused({**pair, "trainer.probe": True})


def test_06_a_rate_of_0_is_never_rendered() -> None:
    for keys in ({"optim.te_lr": 0}, {"optim.unet_lr": 0, "optim.te_lr": 1e-4}, {"optim.te_lr": 1e-4}):
        read = arguments(keys)
        rates = [read["learning_rate"], read["unet_lr"], *(read["text_encoder_lr"] or [])]
        assert 0 not in rates
        assert read["network_train_unet_only"] == (keys.get("optim.te_lr") == 0)
        assert read["network_train_text_encoder_only"] == (keys.get("optim.unet_lr") == 0)
    assert "LK013" in refused({"optim.te_lr": [0, 1e-4]})


@pytest.mark.parametrize("warmup", ["0.05", "5%", "99%", "1 steps", "100 steps", "33.3%", "1e-3", "0 steps"])
def test_07_a_warmup_is_spelled_so_that_the_trainer_reads_it(warmup: str) -> None:
    asked_for = Warmup.parse(warmup)
    read = int_or_float(warmup_text(asked_for))
    assert read == (asked_for.steps if asked_for.ratio is None else pytest.approx(asked_for.ratio))
    constant = {"optim.schedule": "constant", "optim.warmup": warmup}
    assert ("LK102" in refused(constant)) == (asked_for != Warmup(steps=0))


def test_08_a_validation_split_always_has_a_seed() -> None:
    assert arguments({"validation.split": 0.5})["validation_seed"] == 7
    assert arguments({"validation.split": 0.5, "validation.seed": 3})["validation_seed"] == 3


def resumed(folder: Path) -> list[str]:
    """The command that goes on with a run that was baked with the trials' preset."""
    first = render(asked(), RenderPaths(folder, folder / "weights", folder / "events"), kind="sd-scripts")
    return resumed_arguments(
        first,
        output=folder / "weights" / "02",
        events=folder / "events" / "02",
        state=folder / "a-state",
        run=Run(folder),
    )


def test_09_a_resumed_run_counts_on(tmp_path: Path) -> None:
    # By the probe, which is always there when a run is resumed; none of the trainer's own ways to count can be asked for.
    for name in ("resume", "initial_step", "initial_epoch", "skip_until_initial_step"):
        assert "LK403" in refused({"extra": {name: True if name.startswith("skip") else 1}})
    command = resumed(tmp_path)
    assert command[-2:] == ["--resume", str(tmp_path / "a-state")]
    assert not {"--initial_step", "--initial_epoch", "--skip_until_initial_step"} & set(command)


def test_10_a_resumed_run_has_the_rates_it_had(tmp_path: Path) -> None:
    # The trainer would ignore others, so there is no way to give them: the command is the first one's but for its folders.
    first = render(asked(), RenderPaths(tmp_path, tmp_path / "weights", tmp_path / "events"), kind="sd-scripts")
    changed = {"output_dir", "logging_dir", "resume"}
    parser = Catalogue.load().parser()
    before, after = vars(parser.parse_args(first)), vars(parser.parse_args(resumed(tmp_path)))
    assert {name for name in before if before[name] != after[name]} == changed


def test_11_base_weights_are_told_to_add_modules() -> None:
    assert "LK411" in warned({"extra": {"base_weights": ["a.safetensors"]}})


def test_12_samples_that_would_kill_the_training_are_refused(tmp_path: Path) -> None:
    trial = next(trial for trial in PROOFS["LK323"].speaks)
    lay_out(trial, tmp_path)
    assert [
        finding.code for finding in check_files(trial.preset(tmp_path), Workspace(tmp_path)) if finding.level == "error"
    ] == ["LK323"]
    assert "LK180" in refused({"sample.every_n_epochs": 1})


def test_13_an_output_folder_is_always_given() -> None:
    assert arguments()["output_dir"] == str(PATHS.output_dir)
    assert arguments()["output_name"] == "rule"
    assert "LK403" in refused({"extra": {"output_dir": "elsewhere"}})


def test_14_the_format_of_the_file_is_always_given() -> None:
    for name in NAMES:
        assert "--save_precision" in render(shipped(name), PATHS, kind="sd-scripts"), name
    assert Precision().save == "fp16"


def test_15_nothing_reaches_the_trainer_unchecked() -> None:
    assert "LK403" in refused({"extra": {"config_file": "more.toml"}})
    with pytest.raises(ValidationError):
        asked({"optim.learning_rate": 1e-4})
    with pytest.raises(ValidationError):
        asked({"optim.unet_lr": True})
    with pytest.raises(ValidationError):
        asked({"precision.mixed": "fp32"})


def test_16_the_rate_of_the_unet_is_not_called_that_of_a_text_encoder() -> None:
    # The bare script calls its first group so, which is the UNet's where text encoders are there and have no rate.
    for keys in ({"optim.te_lr": 0}, {"optim.te_lr": 1e-4}):
        read = arguments(keys)
        assert read["network_train_unet_only"] or read["text_encoder_lr"]
    recorded = json.loads(DATA.read_text(encoding="utf-8"))["trials"]
    for trial in (Trial(), Trial({"optim.te_lr": 0.1})):
        told = {tag for tag in recorded[trial.name]["tags"] if not tag.startswith("lr/group")}
        assert told == {"lr/unet", *(["lr/textencoder"] if trial.keys else [])}


# Found beside them.


def test_17_no_text_encoder_stands_still_among_clipped_gradients() -> None:
    for keys in ({"optim.te_lr": [0.0, 1e-4]}, {"optim.te_lr": [1e-4, 0.0]}):
        with pytest.raises(LorakitError):
            arguments(keys)


def test_18_a_checkpoint_of_a_step_tells_its_own_epoch(tmp_path: Path) -> None:
    saving = TRAINER.replace(
        "                if global_step >= args.max_train_steps:",
        '                network.save_weights(f"lora-step{global_step:08d}.safetensors", None, {"ss_epoch": str(epoch)})\n'
        "                if global_step >= args.max_train_steps:",
    )
    assert train(tmp_path, trainer=saving).code == 0
    told = [path.read_text() for path in sorted(tmp_path.glob("lora-step*.safetensors"))]
    assert told == ["{'ss_epoch': '1'}"] * 2 + ["{'ss_epoch': '2'}"] * 2


def test_19_a_cache_of_a_longer_name_is_not_taken_for_a_pictures_own(tmp_path: Path) -> None:
    lay_out(Trial(), tmp_path)
    folder = tmp_path / "data" / "1_thing"
    (folder / "000_0999x0999_sdxl.npz").write_bytes(b"of another picture")
    data = plan(Trial().preset(tmp_path), Workspace(tmp_path)).data
    assert {(image.width, image.height) for dataset in data.datasets for image in dataset.train} == {(64, 64)}
    assert data.stray_caches == 1  # why the folders are handed over as a view
    moved = write_view(data, tmp_path / "view")
    assert sorted(path.name for path in moved[folder].iterdir()) == ["00.png", "00.txt", "01.png", "01.txt"]
    assert is_cache_name("000_0999x0999_sdxl.npz")


def test_20_debug_dataset_cannot_be_asked_for() -> None:
    assert "LK403" in refused({"extra": {"debug_dataset": True}})


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_21_a_relative_link_to_a_model_is_followed_from_where_it_stands(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "real.safetensors").write_bytes(b"")
    (tmp_path / "slim.safetensors").symlink_to("models/real.safetensors")
    preset = asked()
    command = render(preset, RenderPaths.of(Workspace(tmp_path), preset, tmp_path / "run"), kind="sd-scripts")
    given = command[command.index("--pretrained_model_name_or_path") + 1]
    assert Path(given) == (tmp_path / "models" / "real.safetensors").resolve()


def test_22_checkpoints_are_not_offloaded() -> None:
    assert "LK022" in refused({"memory.cpu_offload_checkpointing": True, "memory.gradient_checkpointing": True})


def test_23_weights_are_gone_on_with_at_their_own_strength(tmp_path: Path) -> None:
    (trial,) = PROOFS["LK314"].speaks
    lay_out(trial, tmp_path)
    assert "LK314" in {f.code for f in check_files(trial.preset(tmp_path), Workspace(tmp_path)) if f.level == "error"}


def test_24_no_more_than_all_pictures_are_held_out() -> None:
    with pytest.raises(ValidationError):
        asked({"validation.split": 1.5})
    assert "LK071" in refused({"validation.split": 1.0})


def test_25_captions_stay_with_their_pictures_in_a_split() -> None:
    assert "LK417" in refused({"extra": {"cache_info": True}, "validation.split": 0.5})


# The page.


def test_the_page_has_every_trap_and_its_test() -> None:
    page = (REPO / "docs" / "traps.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (.+?) \| (.+?) \| `(test_\w+)` \|$", page, re.MULTILINE)
    here = [
        name
        for name, _ in inspect.getmembers(sys.modules[__name__], inspect.isfunction)
        if re.match(r"test_\d\d_", name)
    ]
    assert [int(number) for number, *_ in rows] == list(range(1, len(rows) + 1))
    assert sorted(test for *_, test in rows) == sorted(here)
    for number, _, _, test in rows:
        assert test.startswith(f"test_{int(number):02}_")
