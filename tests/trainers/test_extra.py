"""The [extra] table against the catalogue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lorakit.preset.files import load_text
from lorakit.preset.rules import Finding, TrainerKind
from lorakit.trainers.catalogue import Catalogue
from lorakit.trainers.extra import TABLE, check_extra, typed_key
from tests.preset.test_rules import PLAIN


def found(extra: dict[str, Any], *overrides: str, kind: TrainerKind = "sd-scripts") -> tuple[Finding, ...]:
    preset = load_text(PLAIN, Path("plain.toml"), overrides).preset
    return check_extra(preset.model_copy(update={"extra": extra}), kind)


def codes(extra: dict[str, Any], *overrides: str, kind: TrainerKind = "sd-scripts") -> list[str]:
    return [finding.code for finding in found(extra, *overrides, kind=kind)]


CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("LK401", {"log_prefx": "x"}, {"log_prefix": "x"}),
    ("LK402", {"vae": "x"}, {"--log_prefix": "x"}),
    ("LK402", {"network_train_unet_only": True}, {}),
    ("LK403", {"output_dir": "x"}, {}),
    ("LK403", {"wandb_api_key": "x"}, {"wandb_run_name": "x"}),
    ("LK404", {"zero_stage": "2"}, {"zero_stage": 2}),
    ("LK404", {"zero_stage": True}, {"zero_stage": 3}),
    ("LK404", {"torch_compile": 1}, {"torch_compile": False}),
    ("LK404", {"log_prefix": 3}, {"log_prefix": "3"}),
    ("LK404", {"log_prefix": ["a"]}, {"base_weights": []}),
    ("LK405", {"zero_stage": 7}, {"zero_stage": 0}),
    ("LK405", {"console_log_level": "LOUD"}, {"console_log_level": "DEBUG"}),
    ("LK406", {"log_prefix": "a", "--log_prefix": "b"}, {"log_prefix": "a"}),
    ("LK411", {"base_weights": ["x.safetensors"]}, {}),
    ("LK414", {"deepspeed": True}, {"deepspeed": False}),
    ("LK415", {"dynamo_backend": "eager"}, {"dynamo_backend": "eager", "torch_compile": True}),
    ("LK416", {"skip_cache_check": True}, {"skip_cache_check": False}),
    ("LK418", {"base_weights_multiplier": [0.5]}, {}),
]


@pytest.mark.parametrize(("code", "breaks", "keeps"), CASES, ids=str)
def test_an_option_is_checked_by_name_type_and_choices(
    code: str, breaks: dict[str, Any], keeps: dict[str, Any]
) -> None:
    assert codes(breaks) == [code]
    assert codes(keeps) == []


def test_schedulers_of_torchs_own() -> None:
    own = {"lr_scheduler_type": "CosineAnnealingLR", "lr_scheduler_args": ["T_max=100"]}
    assert codes(own) == ["LK413"]
    assert codes(own, "optim.warmup=5%") == ["LK412", "LK413"]


def test_cached_captions_and_a_split() -> None:
    assert codes({"cache_info": True}) == []
    assert codes({"cache_info": True}, "validation.split=0.1") == ["LK417"]


def test_base_weights_are_sd_scripts_own_trouble() -> None:
    assert codes({"base_weights": ["x"], "skip_cache_check": True}, kind="builtin") == []


def test_every_rule_is_covered() -> None:
    assert {rule.code for rule in TABLE.rules} == {code for code, _, _ in CASES} | {"LK412", "LK413", "LK417"}


def test_the_message_names_the_key_and_guesses() -> None:
    (finding,) = found({"text_encoder_lr": [1e-4]})
    assert finding.what.endswith("text_encoder_lr is optim.te_lr")
    (finding,) = found({"dynamo_bakend": "eager"})
    assert finding.what.endswith('"dynamo_bakend", did you mean dynamo_backend?')
    (finding,) = found({"zero_stage": 7})
    assert finding.what.endswith("zero_stage is one of 0, 1, 2, 3, not 7")


@pytest.mark.parametrize("flag", list(Catalogue.load()), ids=lambda flag: flag.dest)
def test_every_option_of_the_trainer_has_one_home(flag: Any) -> None:
    """A key, a reason for refusal, or a place under [extra]: never two of them, and a sane value passes."""
    choice = next((choice for choice in flag.choices or () if choice is not None), None)
    value = choice if choice is not None else {"bool": True, "int": 1, "float": 0.5}.get(flag.type, "x")
    errors = [one.code for one in found({flag.dest: [value] if flag.nargs == "*" else value}) if one.level == "error"]
    assert errors in ([], ["LK402"], ["LK403"], ["LK402", "LK403"])
    assert (typed_key(flag.dest) != "") == ("LK402" in errors)
