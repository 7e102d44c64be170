"""All checks before a trainer starts, together; the page that lists them; the presets that ship."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from lorakit.errors import LorakitError
from lorakit.preset.files import load_text
from lorakit.preset.models import Preset
from lorakit.preset.rules import TrainerKind
from lorakit.trainers import builtin_support, rules_page
from lorakit.trainers.builtin.options import parse
from lorakit.trainers.catalogue import Catalogue
from lorakit.trainers.preflight import TABLE, check_builtin, preflight
from lorakit.trainers.render import render
from lorakit.workspace import Workspace
from tests.preset.strategies import presets
from tests.preset.test_rules import PLAIN
from tests.trainers.presets import NAMES, PATHS, REPO, shipped

DOCS = REPO / "docs" / "rules.md"


def preset_of(*overrides: str) -> Preset:
    return load_text(PLAIN, Path("plain.toml"), overrides).preset


def builtin(*overrides: str) -> list[str]:
    return [finding.code for finding in check_builtin(preset_of(*overrides))]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["sd-scripts", "builtin"])
def test_a_shipped_preset_has_nothing_to_say_against_it(name: str, kind: TrainerKind) -> None:
    assert preflight(shipped(name), Workspace(REPO), kind) == ()


@pytest.mark.parametrize("name", NAMES)
def test_the_built_in_trainer_takes_the_command_of_every_shipped_preset(name: str) -> None:
    assert parse(render(shipped(name), PATHS, kind="builtin")).save.output_name == name


def test_what_the_built_in_trainer_lacks_is_told_by_its_key() -> None:
    assert builtin() == []
    assert builtin("precision.fp8_base=true") == ["LK501"]
    (finding,) = check_builtin(preset_of("dataset.alpha_mask=true", "network.module=networks.dylora"))
    assert "dataset.alpha_mask: --alpha_mask is not implemented" in finding.what
    assert "network.module: --network_module is 'networks.dylora'" in finding.what


def test_what_has_no_effect_there_is_a_warning() -> None:
    assert builtin("memory.attention=xformers") == ["LK502"]
    assert builtin("memory.attention=sdpa") == []


def test_sd_scripts_is_not_measured_by_what_the_built_in_trainer_lacks(tmp_path: Path) -> None:
    preset = preset_of("precision.fp8_base=true", "memory.attention=xformers")
    assert preflight(preset, Workspace(tmp_path), "sd-scripts") == ()
    found = preflight(preset, Workspace(tmp_path), "builtin")
    assert [(finding.code, finding.level) for finding in found] == [("LK501", "error"), ("LK502", "warning")]


def test_all_checks_speak_at_once(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a --w 104 --h 64", encoding="utf-8")
    preset = preset_of(
        "base.clip_skip=2", "extra.vae=x", "sample.prompts=p.txt", "optim.te_lr=[1e-4, 0]", "sample.at_first=true"
    )
    found = preflight(preset, Workspace(tmp_path), "builtin")
    assert [finding.code for finding in found] == ["LK013", "LK323", "LK402", "LK002"]


def test_every_reason_of_the_built_in_trainer_is_reached() -> None:
    assert {rule.code for rule in TABLE.rules} == {"LK501", "LK502"}
    flags = Catalogue.load().by_dest()
    assert set(builtin_support.REFUSED) | set(builtin_support.HARMLESS) <= set(flags)
    assert not set(builtin_support.REFUSED) & set(builtin_support.HARMLESS)


def test_the_page_of_rules_is_current() -> None:
    assert DOCS.read_text(encoding="utf-8") == rules_page.page(), "run `make docs`"


def test_codes_are_unique_over_all_tables() -> None:
    codes = [rule.code for table in rules_page.ALL_TABLES for rule in table.rules]
    assert len(set(codes)) == len(codes)


#: Free text there names nothing, and would keep nearly every preset from being looked at further.
SENSIBLE: dict[tuple[str, ...], Any] = {
    ("extra",): st.just({}),
    ("network", "module"): st.just("networks.lora"),
    ("network", "args"): st.just({}),
    ("optim", "args"): st.just({}),
    ("optim", "type"): st.sampled_from(
        ["AdamW", "AdamW8bit", "Lion", "Prodigy", "AdaFactor", "SGD", "AdamWScheduleFree"]
    ),
    ("optim", "schedule"): st.sampled_from(
        ["constant", "constant_with_warmup", "cosine", "polynomial", "cosine_with_min_lr"]
    ),
    ("optim", "te_lr"): st.sampled_from([0, 5e-5, [5e-5, 1e-4], 1]),
    ("launch", "processes"): st.just(1),
    ("dataset", "resolution"): st.sampled_from([1024, [832, 1216]]),
    ("dataset", "bucket_max"): st.just(2048),
    ("dataset", "bucket_min"): st.just(256),
    ("dataset", "bucket_step"): st.sampled_from([32, 64]),
}


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(preset=presets(SENSIBLE))
def test_what_passes_here_is_never_refused_by_the_built_in_trainer(preset: Preset) -> None:
    found = preflight(preset, Workspace(Path("/nowhere")), "builtin")
    assume(not any(one.level == "error" for one in found))
    speakable = preset if preset.seed is not None else preset.model_copy(update={"seed": 1})
    try:
        parse(render(speakable, PATHS, kind="builtin"))
    except LorakitError as error:
        pytest.fail(f"no rule foresaw: {error.why or error}")


def test_namespaces_are_looked_at_not_changed() -> None:
    arguments = Catalogue.load().parser().parse_args(render(shipped("quickstart"), PATHS, kind="builtin"))
    before = Namespace(**vars(arguments))
    for rule in TABLE.rules:
        rule.look(shipped("quickstart"), arguments)
    assert arguments == before
