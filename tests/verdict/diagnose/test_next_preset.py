"""The next preset: it loads, changes what is advised and nothing else, and says why."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lorakit.archive.run import Run
from lorakit.errors import PresetError, UsageError
from lorakit.preset.files import ResolvedPreset, load_preset
from lorakit.preset.units import TextEncoderRates
from lorakit.trainers.preflight import preflight
from lorakit.verdict.diagnose.diagnosis import Diagnosis, diagnose
from lorakit.verdict.diagnose.findings import ROADS, Road
from lorakit.verdict.diagnose.gather import of_run
from lorakit.verdict.diagnose.next_preset import NextPreset, plan_next, write_next
from lorakit.verdict.diagnose.thresholds import settle
from lorakit.workspace import Workspace, find_workspace
from tests.verdict.diagnose.made import similar
from tests.verdict.diagnose.made_run import base_model, made


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    (tmp_path / "lorakit.toml").touch()
    base_model(tmp_path / "models" / "base.safetensors")
    return find_workspace(tmp_path)


def diagnosed(run: Run, place: Workspace, *saw: str) -> Diagnosis:
    facts = of_run(run, place, embeddings=False, seen=saw)
    return diagnose(facts, settle(facts.scale))


def written(planned: NextPreset, place: Workspace) -> ResolvedPreset:
    """The file as it loads from disk; it also keeps every rule."""
    write_next(planned)
    loaded = load_preset(planned.path)
    assert [finding.code for finding in preflight(loaded.preset, place, "builtin")] == []
    return loaded


def changed(run: Run, loaded: ResolvedPreset) -> dict[str, object]:
    """The leaves that differ from the run's preset, but for name and description."""

    def flat(table: dict[str, object], prefix: str = "") -> dict[str, object]:
        found: dict[str, object] = {}
        for key, value in table.items():
            found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
        return found

    before = flat(load_preset(run.preset).preset.model_dump())
    after = flat(loaded.preset.model_dump())
    return {
        key: value for key, value in after.items() if value != before.get(key) and key not in {"name", "description"}
    }


def test_only_what_is_advised_changes_and_says_why(place: Workspace) -> None:
    run = made(place.runs, unet=20.0)
    loaded = written(plan_next(diagnosed(run, place), run, place, place.presets / "next.toml"), place)
    assert changed(run, loaded) == {"optim.unet_lr": 9e-4}
    text = (place.presets / "next.toml").read_text(encoding="utf-8")
    assert f'extends = "../runs/{run.id}/preset.toml"' in text
    assert "# D11 the UNet is fried" in text
    assert loaded.preset.name == "hifumi-next"


def test_new_alpha_keeps_the_rates(place: Workspace) -> None:
    run = made(place.runs, unet=20.0)
    facts = of_run(run, place, embeddings=False)
    found = diagnose(replace(facts, setup=replace(facts.setup, alpha=0.5)), settle("bench"))
    loaded = written(plan_next(found, run, place, place.presets / "next.toml"), place)
    assert loaded.preset.network.alpha.of(4) == 2
    assert set(changed(run, loaded)) == {"network.alpha"}


@pytest.mark.parametrize("road", ROADS)
def test_each_road_starts_from_the_chosen_checkpoint(place: Workspace, road: Road) -> None:
    run = made(place.runs)
    planned = plan_next(diagnosed(run, place), run, place, place.presets / "on.toml", road=road, start="hifumi-000005")
    preset = written(planned, place).preset
    assert preset.network.weights == f"runs/{run.id}/weights/hifumi-000005.safetensors"
    rates = (preset.optim.unet_lr, preset.optim.te_lr)
    still = TextEncoderRates(1e-9, 1e-9)
    assert (
        rates
        == {
            "refine-unet": (1.5e-3, still),
            "refine-te": (1e-9, TextEncoderRates(1e-5, 1e-5)),
            "anneal": (3e-4, TextEncoderRates(3e-5, 3e-5)),
        }[road]
    )
    assert preset.length.epochs == (2 if road == "anneal" else 3)


@pytest.mark.parametrize(
    ("word", "road"), [("poor-images", "refine-unet"), ("text-not-understood", "refine-te"), ("fine", "anneal")]
)
def test_what_was_seen_chooses_the_road(place: Workspace, word: str, road: str) -> None:
    run = made(place.runs)
    planned = plan_next(diagnosed(run, place, word), run, place, place.presets / "on.toml")
    assert written(planned, place).preset.name == f"hifumi-{road}"
    assert planned.start == run.weights / "hifumi.safetensors"


def test_the_last_healthy_checkpoint_is_the_one_to_go_on_from(place: Workspace) -> None:
    run = made(place.runs)
    told = (similar(0.6, 0.6, file="hifumi-000005.safetensors"), similar(0.97, 0.9, file="hifumi.safetensors"))
    found = diagnose(replace(of_run(run, place, embeddings=False), embeddings=told), settle("bench"))
    assert [one.code for one in found.findings] == ["D05"]
    lower = plan_next(found, run, place, place.presets / "lower.toml")
    assert {one.key: one.value for one in lower.changes} == {"optim.te_lr": 1.2e-4}
    on = plan_next(found, run, place, place.presets / "on.toml", road="refine-unet")
    assert on.start == run.weights / "hifumi-000005.safetensors"


def test_a_lora_of_the_unet_alone_is_refined_without_text_encoders(place: Workspace) -> None:
    run = made(place.runs, te_lr="0")
    for path in run.weights.glob("*.safetensors"):
        from safetensors.numpy import load_file, save_file

        save_file({key: value for key, value in load_file(path).items() if "unet" in key}, path)
    planned = plan_next(diagnosed(run, place), run, place, place.presets / "on.toml", road="refine-unet")
    assert written(planned, place).preset.optim.te_lr == TextEncoderRates(0, 0)


def test_text_encoders_that_act_are_not_read_from_a_cache(place: Workspace) -> None:
    run = made(place.runs, te_lr="0", cached=True)
    assert load_preset(run.preset).preset.memory.cache_text_encoder_outputs
    planned = plan_next(diagnosed(run, place), run, place, place.presets / "te.toml")  # D02: they were not trained
    assert not written(planned, place).preset.memory.cache_text_encoder_outputs
    planned = plan_next(diagnosed(run, place), run, place, place.presets / "on.toml", road="refine-unet")
    assert not written(planned, place).preset.memory.cache_text_encoder_outputs


def test_it_is_never_written_over_another(place: Workspace) -> None:
    run = made(place.runs, unet=20.0)
    planned = plan_next(diagnosed(run, place), run, place, place.presets / "next.toml")
    write_next(planned)
    with pytest.raises(UsageError, match="exists"):
        write_next(planned)


def test_nothing_to_change_and_no_such_checkpoint(place: Workspace) -> None:
    run = made(place.runs)
    found = diagnosed(run, place)
    with pytest.raises(UsageError, match="change nothing"):
        plan_next(found, run, place, place.presets / "x.toml")
    with pytest.raises(UsageError, match="no checkpoint hifumi-9"):
        plan_next(found, run, place, place.presets / "x.toml", road="anneal", start="hifumi-9")
    with pytest.raises(UsageError, match="says how"):
        plan_next(found, run, place, place.presets / "x.toml", start="hifumi")
    assert not place.presets.exists()


def test_a_run_of_another_version_is_refused_in_its_words(place: Workspace) -> None:
    run = made(place.runs, unet=20.0)
    run.preset.write_text(run.preset.read_text(encoding="utf-8") + "\n[of_tomorrow]\nx = 1\n", encoding="utf-8")
    with pytest.raises(PresetError):
        plan_next(diagnosed(run, place), run, place, place.presets / "x.toml")
