"""A sweep: trials in order, and what its axes moved."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorakit.archive.run import Run
from lorakit.verdict.diagnose.diagnosis import diagnose
from lorakit.verdict.diagnose.sweeps import SweepDiagnosis, Trial, effects
from lorakit.verdict.diagnose.thresholds import settle
from tests.verdict.diagnose.made import checkpoint, facts


def trial(unet_lr: str, te_lr: str, *, unet: float, te1: float) -> Trial:
    made = facts(checkpoints=(checkpoint(unet=unet, te1=te1, te2=0.05),))
    return Trial(
        {"optim.unet_lr": unet_lr, "optim.te_lr": te_lr},
        Run(Path(f"2026-11-22_0701_x_{unet_lr[0]}{te_lr[0]}aa")),
        diagnose(made, settle("sdxl")),
    )


GRID = [
    trial("1e-4", "1e-5", unet=0.05, te1=0.02),
    trial("1e-4", "5e-5", unet=0.06, te1=0.19),
    trial("9e-4", "1e-5", unet=0.9, te1=0.02),
    trial("9e-4", "5e-5", unet=0.8, te1=0.3),
]  # fmt: skip


def test_each_axis_names_what_it_moved() -> None:
    found = {(one.axis, one.evidence): one for one in effects(GRID)}
    assert set(found) == {("optim.unet_lr", "UNet moved"), ("optim.te_lr", "TE1 moved")}
    unet = found["optim.unet_lr", "UNet moved"]
    assert dict(unet.means) == {"1e-4": pytest.approx(0.055), "9e-4": pytest.approx(0.85)}
    assert unet.share > 0.98


def test_one_trial_for_each_value_tells_nothing() -> None:
    assert list(effects(GRID[:1] + GRID[2:3])) == []
    assert list(effects([])) == []


def test_a_weight_counts_how_sure_findings_are() -> None:
    assert [one.weight for one in GRID] == [0, 0, 2, 4]


def test_what_all_share_is_told() -> None:
    found = SweepDiagnosis("s4", tuple(GRID), tuple(effects(GRID)), 1)
    assert found.shared == (("D11", "the UNet is fried", 2), ("D03", "a text encoder is overcooked", 1))
    plain = found.to_json()
    assert plain["waiting"] == 1
    assert plain["trials"][0]["evidence"]["UNet moved"] == 0.05
