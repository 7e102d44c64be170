"""The bakes with known faults, made again: the finding, the judge that knows nothing of it, and what the next preset comes to."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorakit import api
from lorakit.archive.run import Run
from lorakit.preset.files import load_preset
from lorakit.verdict.diagnose.diagnosis import Diagnosis, diagnose
from lorakit.verdict.diagnose.gather import of_run
from lorakit.verdict.diagnose.next_preset import plan_next, write_next
from lorakit.verdict.diagnose.thresholds import settle
from lorakit.workspace import Workspace, find_workspace
from tests.verdict.diagnose.bakes import BAKES, Place, sets_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
pytest.importorskip("torch")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return find_workspace(Place(tmp_path_factory.mktemp("bakes")).prepare())


@pytest.fixture(scope="module")
def baked(place: Workspace) -> dict[str, Run]:
    """The runs by name, each baked when it is first asked for."""
    return {}


def bake(name: str, place: Workspace, baked: dict[str, Run]) -> Run:
    if name not in baked:
        wanted = BAKES[name]
        baked[name] = api.bake(load_preset(place.presets / f"{wanted.preset}.toml", sets_of(wanted)), workspace=place)
    return baked[name]


def diagnosed(run: Run, place: Workspace) -> Diagnosis:
    facts = of_run(run, place)
    return diagnose(facts, settle(facts.scale))


@pytest.mark.parametrize("name", BAKES)
def test_the_right_finding_appears_and_a_healthy_bake_has_none(
    name: str, place: Workspace, baked: dict[str, Run]
) -> None:
    found = {one.code for one in diagnosed(bake(name, place, baked), place).findings}
    assert BAKES[name].must <= found <= BAKES[name].must | BAKES[name].may


def score(run: Run, place: Workspace) -> tuple[float, float]:
    """How much of the concept its pictures show, and the share of other prompts that are still right: the judge's word."""
    from lorakit.bench_model.score import score_lora, subject_of

    subject = subject_of(str(run.path), base=place.root / "models" / "bench-sdxl.safetensors")
    found = score_lora(subject.base, subject.lora, subject.concept)
    return found.concept.mean, found.others.mean


def test_the_judge_agrees(place: Workspace, baked: dict[str, Run]) -> None:
    concept, others = score(bake("healthy", place, baked), place)
    fried = score(bake("unet-ten", place, baked), place)
    weak = score(bake("both-tenth", place, baked), place)
    text = score(bake("te-thirty", place, baked), place)
    assert fried[1] < others - 0.5  # nothing is right any more
    assert weak[0] < concept - 0.1  # the concept is not there
    assert weak[1] > others - 0.1
    assert text[1] < others - 0.2  # training content where it was not asked for


def test_what_is_advised_mends_it(place: Workspace, baked: dict[str, Run]) -> None:
    run = bake("unet-ten", place, baked)
    planned = plan_next(diagnosed(run, place), run, place, place.presets / "next.toml")
    write_next(planned)
    again = api.bake(load_preset(Path(planned.path)), workspace=place)
    assert "D11" not in {one.code for one in diagnosed(again, place).findings}
    assert score(again, place)[1] > 0.5
