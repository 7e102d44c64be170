"""Findings on the recorded evidence of real bakes with known faults; the bakes themselves are made again by the slow test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lorakit.verdict.diagnose.diagnosis import Diagnosis, diagnose
from lorakit.verdict.diagnose.facts import Facts
from lorakit.verdict.diagnose.thresholds import settle
from tests.verdict.diagnose.bakes import BAKES, DATA


def recorded(name: str) -> Facts:
    plain: dict[str, Any] = json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))
    return Facts.from_json(plain["facts"])


def diagnosed(name: str) -> Diagnosis:
    return diagnose(recorded(name), settle("bench"))


def test_each_is_recorded_and_nothing_else() -> None:
    assert {path.stem for path in DATA.glob("*.json")} == set(BAKES)


@pytest.mark.parametrize("name", BAKES)
def test_the_right_finding_appears_and_no_other(name: str) -> None:
    found = {one.code for one in diagnosed(name).findings}
    assert BAKES[name].must <= found <= BAKES[name].must | BAKES[name].may


def test_what_is_advised_leads_back_to_what_is_healthy() -> None:
    healthy = recorded("healthy").setup
    fried = diagnosed("unet-ten").findings[0].to_json()["changes"]["optim.unet_lr"]
    weak = next(one for one in diagnosed("both-tenth").findings if one.code == "D12").to_json()["changes"][
        "optim.unet_lr"
    ]
    assert healthy.unet_lr is not None
    assert fried == pytest.approx(healthy.unet_lr, rel=0.5)
    assert 3e-4 < weak < healthy.unet_lr


def test_a_diagnosis_is_the_same_twice() -> None:
    assert json.dumps(diagnosed("te-only").to_json()) == json.dumps(diagnosed("te-only").to_json())


def test_the_recorded_runs_are_real_ones() -> None:
    for path in sorted(Path(DATA).glob("*.json")):
        plain = json.loads(path.read_text(encoding="utf-8"))
        assert len(plain["base_model_sha256"]) == 64
        assert len(plain["facts"]["losses"]) > 100
