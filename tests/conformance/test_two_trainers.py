"""Two trainers, one meaning: the built-in trainer does what the real sd-scripts was seen to do.

What the real one did is in ``data/two_trainers.json`` (numbers and names, no code of it), so that the built-in trainer is held to it on
every machine. Where the environment names a checkout (see ``checkout``), both are trained side by side.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lorakit.bench_model.writer import write_checkpoint
from lorakit.trainers.sd_scripts import tokenizers
from tests.conformance.checkout import FULL_SIZE, needs_checkout
from tests.conformance.trainer_cases import BASE, CASES, INIT, Case, lay_out
from tests.conformance.two_trainers import (
    CURVES,
    DATA,
    TOLERANCE,
    Trained,
    one_model,
    prepare,
    recorded,
    seen,
    train_builtin,
    train_sd_scripts,
)
from tests.conformance.warm_trainer import WarmTrainer

PROJECTION = "conditioner.embedders.1.model.text_projection"
RECORDED: dict[str, Any] = recorded()["cases"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    prepare(folder)
    return folder


@pytest.fixture(scope="module")
def real() -> Iterator[WarmTrainer]:
    trainer = WarmTrainer()
    yield trainer
    trainer.close()


def test_everything_is_recorded() -> None:
    assert DATA.is_file()
    assert {name: found["digest"] for name, found in RECORDED.items()} == {n: c.digest() for n, c in CASES.items()}


QUICK = ("min-snr-v", "noise-offset-adaptive", "long-225")


def test_first_losses_are_those_recorded(root: Path) -> None:
    """Noise, targets, weights and text of the first step, one training a case and the model read once."""
    with one_model():
        for name in QUICK:
            lay_out(CASES[name], root)
            found = train_builtin(CASES[name], root, steps=1)
            assert found.losses[:1] == pytest.approx(RECORDED[name]["losses"][:1], rel=TOLERANCE["loss"]), name


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", list(CASES))
def test_it_trains_as_recorded(name: str, root: Path) -> None:
    lay_out(CASES[name], root)
    agree(seen(train_builtin(CASES[name], root)), RECORDED[name])


def agree(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Compare what ``seen`` says of two trainings."""
    assert ours["losses"] == pytest.approx(theirs["losses"], rel=TOLERANCE["loss"])
    for part, moved in theirs["moved"].items():
        assert ours["moved"][part] == pytest.approx(moved, rel=TOLERANCE["moved"]), part
    assert ours["moved"].keys() == theirs["moved"].keys()
    for tag, points in theirs["rates"].items():
        assert ours["rates"][tag] == pytest.approx(points, rel=1e-6, abs=1e-12), tag
    for key in ("files", "tensors", "metadata", "keys"):
        assert ours[key] == theirs[key], key


@pytest.mark.parametrize(
    "case", [pytest.param(name, marks=needs_checkout) for name in ("epsilon", "resized", "prior-loss")]
)
def test_side_by_side(case: str, root: Path, real: WarmTrainer) -> None:
    lay_out(CASES[case], root)
    theirs, ours = train_sd_scripts(CASES[case], root, real), train_builtin(CASES[case], root)
    assert theirs.losses == pytest.approx(RECORDED[case]["losses"], rel=TOLERANCE["loss"])
    agree(seen(ours), seen(theirs))
    mine, its = ours.weights, theirs.weights
    assert list(map(str, sorted(mine))) == sorted(its)
    assert {name: (value.shape, value.dtype) for name, value in mine.items()} == {
        name: (value.shape, value.dtype) for name, value in its.items()
    }
    # AdamW's first steps are as long as the rate, whatever the gradient: where that is near zero its sign is rounding.
    apart = [float(np.abs(mine[name] - its[name]).max()) for name in its]
    assert float(np.mean(apart)) < TOLERANCE["weights"]


LEARNED: dict[str, Any] = json.loads(CURVES.read_text(encoding="utf-8"))


def test_recorded_curves_agree_within_the_spread_of_seeds() -> None:
    within_spread(LEARNED["mean_losses"])


@pytest.mark.parametrize("case", [pytest.param(LEARNED["case"], marks=needs_checkout)])
def test_curves_agree_within_the_spread_of_seeds(case: str, root: Path, real: WarmTrainer) -> None:
    """With chance left in, both trainers' mean losses differ by no more than those of the seeds of one."""
    lay_out(CASES[case], root)
    steps = LEARNED["steps"]
    losses: dict[str, list[float]] = {"builtin": [], "sd-scripts": []}
    for seed in LEARNED["seeds"]:
        words = ("--seed", str(seed))
        losses["builtin"].append(mean(train_builtin(CASES[case], root, *words, steps=steps, fixed=False)))
        losses["sd-scripts"].append(mean(train_sd_scripts(CASES[case], root, real, *words, steps=steps, fixed=False)))
    within_spread(losses)
    assert losses["sd-scripts"] == pytest.approx(LEARNED["mean_losses"]["sd-scripts"], rel=1e-3)


def within_spread(losses: Mapping[str, list[float]]) -> None:
    ours, theirs = losses["builtin"], losses["sd-scripts"]
    spread = min(max(ours) - min(ours), max(theirs) - min(theirs))
    assert abs(np.mean(ours) - np.mean(theirs)) <= spread, losses


def mean(trained: Trained) -> float:
    return math.fsum(trained.losses) / len(trained.losses)


@pytest.mark.parametrize("case", [pytest.param("epsilon", marks=needs_checkout)])
def test_the_text_projection_is_read_the_other_way_round(
    case: str, root: Path, real: WarmTrainer, tmp_path: Path
) -> None:
    """What sd-scripts reads as stored, the built-in trainer reads transposed: given each other's, they agree."""
    for name in (INIT, "tokenizers"):
        (tmp_path / name).symlink_to(root / name)
    lay_out(CASES[case], tmp_path)
    tensors = load_file(root / BASE)
    stored = tensors[PROJECTION] + np.triu(np.full_like(tensors[PROJECTION], 0.1), 1)
    save_file({**tensors, PROJECTION: stored}, tmp_path / BASE)
    theirs = train_sd_scripts(CASES[case], tmp_path, real, steps=1)
    save_file({**tensors, PROJECTION: np.ascontiguousarray(stored.T)}, tmp_path / BASE)
    ours = train_builtin(CASES[case], tmp_path, steps=1)
    assert ours.losses == pytest.approx(theirs.losses, rel=TOLERANCE["loss"])
    assert ours.losses[0] != pytest.approx(RECORDED[case]["losses"][0], rel=TOLERANCE["loss"])


@pytest.mark.full_size
@pytest.mark.parametrize("case", [pytest.param("full-size", marks=needs_checkout)])
def test_full_size(case: str, tmp_path: Path, real: WarmTrainer) -> None:
    """The real widths, random weights, bf16, one step: bf16 rounds to 1 in 256, and the two add in another order."""
    if FULL_SIZE:
        (tmp_path / BASE).symlink_to(Path(FULL_SIZE).resolve())
    else:
        write_checkpoint(tmp_path / BASE, size="full", dtype="bf16")
    tokenizers.fill(tmp_path / "tokenizers", tokenizers.merges_of_package())
    tables: dict[str, dict[str, Any]] = {
        "network": {"dim": 4, "alpha": 4, "weights": None},
        "precision": {"mixed": "bf16", "save": "float"},
        "memory": {"gradient_checkpointing": True},
        "length": {"steps": 1, "batch_size": 1},
    }
    asked = Case(case, tables)
    lay_out(asked, tmp_path)
    theirs = train_sd_scripts(asked, tmp_path, real)
    ours = train_builtin(asked, tmp_path)
    assert ours.losses == pytest.approx(theirs.losses, rel=TOLERANCE["bf16"])
    assert sorted(ours.weights) == sorted(theirs.weights)


PAGE = Path(__file__).parents[2] / "docs" / "two-trainers.md"


def test_the_page_tells_what_was_measured() -> None:
    text = PAGE.read_text(encoding="utf-8")
    told = {
        line.split("|")[1].strip(" `"): line.split("|")[2].strip()
        for line in text.splitlines()
        if line.startswith("| `")
    }
    measured = recorded()["measured"]
    assert {name for name in told if name in CASES} == set(CASES)
    for name in CASES:
        assert told[name] == f"{measured[name]['loss']:.0e}", name
        assert measured[name]["loss"] <= TOLERANCE["loss"], name
        assert measured[name]["moved"] <= TOLERANCE["moved"], name
    for kind, losses in LEARNED["mean_losses"].items():
        assert f"{kind} {np.mean(losses):.3f} ({min(losses):.3f} to {max(losses):.3f})" in text
    assert json.loads(DATA.read_text(encoding="utf-8"))["commit"][:7] in text
