"""Every rule is proven: what it says of a combination is what the real sd-scripts did with it, as recorded.

The data hold on every machine; where there is a checkout (see ``checkout``), a share of the trials is run again.
"""

from __future__ import annotations

import functools
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lorakit.preset.rules import Rule, check
from lorakit.trainers.extra import check_extra
from lorakit.trainers.file_rules import check_files
from lorakit.trainers.rules_page import ALL_TABLES
from lorakit.workspace import Workspace
from tests.conformance.checkout import needs_checkout
from tests.conformance.record_rules import DATA, record
from tests.conformance.rule_cases import FACTS, PROOFS, TRIALS
from tests.conformance.rule_trials import Claim, Fails, Nothing, Trial, lay_out

RECORDED: dict[str, dict[str, Any]] = json.loads(DATA.read_text(encoding="utf-8"))["trials"]

#: Rules whose trials are run again where there is a checkout; "all" is some 300 of them.
AGAIN = os.environ.get("LORAKIT_RULES", "LK021 LK028 LK053 LK071 LK102 LK148 LK180 LK314 LK401 LK411").split()
RULES: dict[str, Rule[Any]] = {rule.code: rule for table in ALL_TABLES for rule in table.rules}

NAMED: dict[str, Trial] = {
    trial.name: trial for proof in PROOFS.values() for trial in (*proof.speaks, *proof.silent, *proof.trials)
}

#: Rules that warn of what fails in an environment that lacks something, which lorakit cannot see from the preset.
OF_THE_ENVIRONMENT = {"LK116"}


def told(trial: Trial) -> Mapping[str, Any]:
    return RECORDED[trial.name]


def speaks(trial: Trial) -> frozenset[tuple[str, str]]:
    """The rules that the trial's preset and files break, as code and level."""
    return _speaks(trial.name)


@functools.cache
def _speaks(name: str) -> frozenset[tuple[str, str]]:
    trial = NAMED[name]
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        lay_out(trial, folder)
        preset = trial.preset(folder)
        findings = (
            *check(preset, "sd-scripts"),
            *check_extra(preset, "sd-scripts"),
            *check_files(preset, Workspace(folder)),
        )
    return frozenset((finding.code, finding.level) for finding in findings)


def test_every_trial_was_recorded_as_it_is_now() -> None:
    assert {name: trial.digest() for name, trial in TRIALS.items()} == {
        name: record["trial"] for name, record in RECORDED.items()
    }


def test_every_rule_has_a_proof_or_a_reason_why_it_needs_none() -> None:
    assert set(PROOFS) == set(RULES)
    for proof in PROOFS.values():
        assert proof.own or (proof.speaks and proof.silent and proof.claims), proof.code


@pytest.mark.parametrize("code", PROOFS)
def test_the_rule_speaks_where_it_should(code: str) -> None:
    proof = PROOFS[code]
    for trial in proof.speaks:
        assert (code, RULES[code].level) in speaks(trial), trial.name
    for trial in proof.silent:
        assert code not in {spoken for spoken, _ in speaks(trial)}, trial.name


@pytest.mark.parametrize("code", PROOFS)
def test_what_the_rule_says_is_what_the_trainer_did(code: str) -> None:
    assert denied(PROOFS[code].claims) == []


@pytest.mark.parametrize("fact", FACTS)
def test_the_fact_is_one(fact: str) -> None:
    assert FACTS[fact]
    assert denied(FACTS[fact]) == []


def denied(claims: tuple[Claim, ...]) -> list[str]:
    return [against for claim in claims if (against := claim.denied(told))]


@pytest.mark.parametrize("code", [code for code, proof in PROOFS.items() if not proof.own])
def test_a_warning_stops_nothing_that_trains_and_an_error_nothing_that_is_right(code: str) -> None:
    """A warning is of a training that runs; an error of one that does not, or of one that is not what was asked for."""
    proof = PROOFS[code]
    ends = {trial.name for claim in proof.claims if isinstance(claim, Fails | Nothing) for trial in claim.trials}
    compared = {trial.name for claim in proof.claims for trial in claim.trials} - ends
    speaking = {trial.name for trial in proof.speaks}
    if RULES[code].level == "warning" and code not in OF_THE_ENVIRONMENT:
        assert speaking & compared
    if RULES[code].level == "error":
        assert speaking & (ends | compared)


def test_the_base_of_all_trials_breaks_no_rule() -> None:
    assert speaks(Trial()) == frozenset()
    assert told(Trial())["outcome"] == "trained"


@pytest.mark.parametrize("codes", [pytest.param(AGAIN, marks=needs_checkout)])
def test_recorded_again_the_proofs_hold(codes: list[str], tmp_path: Path) -> None:
    proofs = [proof for code, proof in PROOFS.items() if code in codes or codes == ["all"]]
    asked = {trial.name: trial for proof in proofs for trial in proof.trials}
    again = dict(record(asked.values(), tmp_path))
    for proof in proofs:
        assert [against for claim in proof.claims if (against := claim.denied(lambda trial: again[trial.name]))] == []
    for name, found in again.items():
        # Weights to the last bit are those of one machine; outcomes are those of all.
        same = ("outcome", "error", "where", "modules", "files")
        assert [found.get(key) for key in same] == [RECORDED[name].get(key) for key in same], name
