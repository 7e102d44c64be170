"""The plan is what happens: lorakit's planner against what the real sd-scripts did, as recorded, with no difference.

The data hold on every machine; where the oracle's variables are set (see ``record_plan``), a few cases are recorded again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lorakit.errors import LorakitError
from lorakit.plan import plan
from lorakit.workspace import Workspace
from tests.conformance.checkout import needs_checkout
from tests.conformance.plan_cases import CASES, Case, lay_out
from tests.conformance.record_plan import DATA, record

RECORDED: dict[str, dict[str, Any]] = json.loads(DATA.read_text(encoding="utf-8"))["cases"]

#: Cases that are recorded again where there is a checkout.
AGAIN = ("reg-two-folders", "mixed-case", "toml-two-datasets", "lr-restarts", "files-last", "lr-constant-warmup")

#: TensorBoard keeps rates as 32-bit floats.
FLOAT32 = 1e-6

#: What sd-scripts trains on all the same: two images with one caption and one cache file, a subset that it leaves out in silence.
REFUSED_ON_PURPOSE = {"one-stem", "toml-zero-repeats"}


def planned(case: Case, root: Path) -> dict[str, Any]:
    """The plan in the words of the record."""
    lay_out(case, root)
    try:
        found = plan(case.preset(), Workspace(root))
    except LorakitError:
        return {"outcome": "refused"}
    told: dict[str, Any] = {
        "outcome": "started",
        "images": sum(folder.examples for folder in found.folders if not folder.is_reg),
        # sd-scripts validates on what its rounding puts into both halves, too.
        "validation": found.validation.images + found.validation.overlap,
        "reg": found.reg.found,
        "batches": found.batches_per_epoch,
        "epochs": found.epochs,
        "accumulation": found.counts.gradient_accumulation_steps,
        "steps": found.total_steps,
        "buckets": [
            [bucket.width, bucket.height, bucket.count]
            for bucket in found.buckets
            if found.data.datasets[bucket.dataset].spec.enable_bucket  # it tells no others
        ],
    }
    if case.trains:
        weights = [file for file in found.checkpoints if not file.kind.endswith("state")]
        told["saved"] = [file.name for file in weights]
        told["kept"] = sorted(file.name for file in found.checkpoints if file.kept)
    return told


def test_every_case_was_recorded_as_it_is_now() -> None:
    assert len(CASES) >= 40
    assert {name: case.digest() for name, case in CASES.items()} == {
        name: record["case"] for name, record in RECORDED.items()
    }


@pytest.mark.parametrize("name", CASES)
def test_the_plan_is_what_happened(name: str, tmp_path: Path) -> None:
    happened = RECORDED[name]
    told = planned(CASES[name], tmp_path)
    if name in REFUSED_ON_PURPOSE:
        assert (told["outcome"], happened["outcome"]) == ("refused", "started")
        return
    assert told == {key: happened[key] for key in told}


@pytest.mark.parametrize("name", [name for name, happened in RECORDED.items() if "lr" in happened])
def test_every_group_had_its_planned_rate_at_every_step(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    lay_out(case, tmp_path)
    found = plan(case.preset(), Workspace(tmp_path))
    curves = RECORDED[name]["lr"]
    pair = case.preset().optim.te_lr.is_pair
    groups = [part for part in ("te1", "te2", "unet") if part in found.lr and (part != "te2" or pair)]
    seen: set[tuple[str, int]] = set()
    for tag, points in curves.items():
        part = part_of(tag, groups)
        rates = {point.step: point.lr for point in found.lr[part]}
        for step, rate in points:
            used = int(step) + (0 if case.preset().trainer.probe else 1)
            if 1 <= used <= found.total_steps:
                assert rate == pytest.approx(rates[used], rel=FLOAT32, abs=1e-15), (tag, used)
                seen.add((part, used))
    # The bare script has no point of the first step where nothing is accumulated.
    first = 1 if case.preset().trainer.probe or found.counts.gradient_accumulation_steps > 1 else 2
    told = {*groups, "te2"} if "lr/te2" in curves else groups  # the probe tells it even of a group of both
    assert seen == {(part, step) for part in told for step in range(first, found.total_steps + 1)}


def part_of(tag: str, groups: list[str]) -> str:
    """Whose rate a tag of TensorBoard tells, of the optimizer's groups in their order; ``textencoder`` is always the first one.

    Text encoders that share a rate are one group.
    """
    kind = tag.removeprefix("lr/")
    if kind == "textencoder":
        return groups[0]
    if kind.startswith("group"):
        return groups[int(kind.removeprefix("group"))]
    return kind


@pytest.mark.parametrize("names", [pytest.param(AGAIN, marks=needs_checkout)])
def test_recorded_again_it_is_the_same(names: tuple[str, ...], tmp_path: Path) -> None:
    found = dict(record([CASES[name] for name in names], tmp_path))
    assert found == {name: RECORDED[name] for name in names}
