"""Each rule with evidence on both sides of each of its thresholds."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lorakit.verdict.diagnose.diagnosis import TABLES, diagnose
from lorakit.verdict.diagnose.facts import CaptionFacts, Facts
from lorakit.verdict.diagnose.findings import SEEN
from lorakit.verdict.diagnose.thresholds import settle
from tests.verdict.diagnose.made import checkpoint, codes, diagnosed, facts, falling, finding, picture, similar


def test_a_healthy_training_has_no_finding_and_says_what_was_looked_at() -> None:
    found = diagnosed()
    assert found.findings == ()
    assert len(found.healthy) == 5
    assert found.carried == pytest.approx({"unet": 0.9, "te1": 0.06, "te2": 0.04})


def test_nothing_known_is_nothing_found() -> None:
    assert diagnose(Facts("x", "sdxl"), settle("sdxl")).findings == ()


GRADS = {"unet": (0.05, 0.2), "te1": (0.02, 0.1), "te2": (0.05, 0.1)}

#: Changes that give a finding, and the nearest that do not.
SIDES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("D01", {"grads": {**GRADS, "te1": (0.0099, 0.1)}}, {"grads": {**GRADS, "te1": (0.0101, 0.1)}}),
    ("D01", {"grads": {**GRADS, "unet": (0.2, 0.3), "te2": (0.029, 0.1)}}, {"grads": {**GRADS, "unet": (0.2, 0.3), "te2": (0.031, 0.1)}}),
    ("D01", {"grads": {**GRADS, "te1": (0.009, 0.1)}}, {"grads": {**GRADS, "unet": (0.044, 0.2), "te1": (0.009, 0.1)}}),
    ("D01", {"checkpoints": (checkpoint(te_share=0.004),)}, {"checkpoints": (checkpoint(te_share=0.006),)}),
    ("D02", {"setup": {"te1_lr": 0.0, "te2_lr": 0.0}}, {"setup": {"te1_lr": 0.0}}),
    ("D02", {"setup": {"unet_lr": 0.0}}, {"setup": {"unet_lr": 0.0, "goes_on": True}}),
    ("D03", {"checkpoints": (checkpoint(te1=0.21),)}, {"checkpoints": (checkpoint(te1=0.19),)}),
    ("D03", {"checkpoints": (checkpoint(te2=0.21),)}, {"checkpoints": (checkpoint(te2=None),)}),
    ("D03", {"seen": ("unrelated-content",)}, {"seen": ("poor-images",)}),
    ("D03", {"seen": ("ignores-prompt",)}, {"seen": ("ignores-prompt",), "setup": {"te1_lr": 0.0, "te2_lr": 0.0}}),
    ("D04", {"seen": ("weak-trigger",)}, {"seen": ("fine",)}),
    ("D05", {"embeddings": (similar(te1=0.91),)}, {"embeddings": (similar(te1=0.89),)}),
    ("D05", {"embeddings": (similar(te1=0.91, te2=0.5),)}, {"embeddings": (similar(te1=0.91, te2=0.5, base=0.9),)}),
    ("D05", {"embeddings": (similar(te2=0.81),)}, {"embeddings": (similar(te2=0.79),)}),
    ("D05", {"embeddings": (similar(te1=0.9, te2=0.81),)}, {"embeddings": (similar(te1=0.9, te2=0.79),)}),
    ("D11", {"checkpoints": (checkpoint(unet=0.61),)}, {"checkpoints": (checkpoint(unet=0.59),)}),
    ("D11", {"losses": falling(first=0.10, last=0.11)}, {"losses": falling(first=0.10, last=0.105)}),
    ("D11", {"grads": {**GRADS, "unet": (0.05, 1.51)}}, {"grads": {**GRADS, "unet": (0.05, 1.49)}}),
    ("D11", {"losses": (*falling(395), *([2.0] * 5))}, {"losses": (*falling(397), *([2.0] * 3))}),
    ("D11", {"nan_since": 41}, {"nan_since": None}),
    ("D11", {"pictures": (picture(grain=0.44),)}, {"pictures": (picture(grain=0.46),)}),
    ("D11", {"pictures": (picture(grain=1.0, spread=0.009),)}, {"pictures": (picture(grain=1.0, spread=0.011),)}),
    ("D11", {"pictures": (picture(0.1), picture())}, {"pictures": (picture(0.1), picture(), picture())}),
    ("D11", {"seen": ("noise",)}, {"seen": ("noise",), "setup": {"unet_lr": 0.0}}),
    ("D12", {"checkpoints": (checkpoint(unet=0.0049),)}, {"checkpoints": (checkpoint(unet=0.0051),)}),
    ("D12", {"pictures": (picture(change=0.009),)}, {"pictures": (picture(change=0.009), picture(change=0.011))}),
    ("D12", {"seen": ("like-base",)}, {"seen": ("like-base",), "setup": {"goes_on": True}}),
    ("D21", {"losses": falling(first=0.1, last=0.1)}, {"losses": falling(first=0.104, last=0.1)}),
    ("D21", {"losses": falling(40, first=0.1, last=0.1)}, {"losses": falling(39, first=0.1, last=0.1)}),
    ("D22", {"validation": ((40, 0.12), (80, 0.100), (400, 0.1051))}, {"validation": ((40, 0.12), (80, 0.100), (400, 0.1049))}),
    ("D22", {"validation": ((40, 0.1), (80, 0.11), (400, 0.12))}, {"validation": ((40, 0.1), (400, 0.12))}),
    ("D23", {"status": "failed", "message": "CUDA out of memory"}, {"status": "stopped"}),
    ("D31", {"captions": CaptionFacts(40, 4)}, {"captions": CaptionFacts(40, 5)}),
    ("D31", {"captions": CaptionFacts(4, 1)}, {"captions": CaptionFacts(3, 1)}),
    ("D31", {"captions": CaptionFacts(8, 1)}, {"captions": CaptionFacts(8, 2)}),
    ("D41", {"checkpoints": (checkpoint(dead=1),)}, {"checkpoints": (checkpoint(dead=1),), "setup": {"unet_lr": 0.0}}),
    ("D42", {"setup": {"pair": True, "te2_lr": 2e-5}}, {"setup": {"pair": True, "te2_lr": 2e-5}, "rates": {"te1": (5e-5, 0.0), "te2": (2e-5, 0.0)}}),
    ("D42", {"setup": {"pair": True, "te2_lr": 2e-5, "trainer": "sd-scripts", "probe": False}, "rates": {}},
     {"setup": {"pair": True, "te2_lr": 2e-5, "trainer": "sd-scripts", "probe": True}, "rates": {}}),
    ("D43", {"losses": (*falling(40, 0.3, 0.1), *falling(360, 0.1, 0.1))}, {"losses": (*falling(120, 0.3, 0.1), *falling(280, 0.1, 0.1))}),
    ("D43", {"losses": (*falling(40, 0.3, 0.1), *falling(360, 0.1, 0.1))},
     {"losses": (*falling(40, 0.3, 0.1), *falling(360, 0.1, 0.1)), "validation": ((100, 0.12), (400, 0.11))}),
    ("D44", {"setup": {"warmup_steps": 41}}, {"setup": {"warmup_steps": 40}}),
    ("D45", {"setup": {"alpha": 7.9}}, {"setup": {"alpha": 8.0}}),
    ("D45", {"setup": {"alpha": 32.1}}, {"setup": {"alpha": 32.0}}),
    ("D46", {"setup": {"images": 8}}, {"setup": {"images": 9}}),
    ("D46", {"setup": {"images": 8, "batch_size": 2, "accumulation": 2}}, {"setup": {"images": 8, "batch_size": 3}}),
    ("D46", {"setup": {"images": 8, "batch_size": 1, "processes": 4}}, {"setup": {"images": 1, "batch_size": 1}}),
    ("D51", {"seen": ("poor-images",)}, {"seen": ()}),
    ("D52", {"seen": ("text-not-understood",)}, {"seen": ()}),
    ("D53", {"seen": ("fine",)}, {"seen": ()}),
]  # fmt: skip


@pytest.mark.parametrize(("code", "ill", "well"), SIDES, ids=[f"{code}-{at}" for at, (code, _, _) in enumerate(SIDES)])
def test_a_finding_appears_on_one_side_alone(code: str, ill: dict[str, Any], well: dict[str, Any]) -> None:
    assert code in codes(**ill)
    assert code not in codes(**well)


def test_every_rule_is_among_the_above_and_its_code_is_its_own() -> None:
    known = [rule.code for table in TABLES for rule in table.rules]
    assert len(known) == len(set(known))
    assert set(known) == {code for code, _, _ in SIDES}


def test_every_finding_has_numbered_evidence_with_its_source() -> None:
    for _, ill, _ in SIDES:
        for one in diagnosed(**ill).findings:
            assert one.evidence
            assert all(each.text and each.source for each in one.evidence)
            assert one.to_json()["confidence"] in {"sure", "likely", "possible"}


@pytest.mark.parametrize("word", SEEN)
def test_whatever_is_seen_is_answered(word: str) -> None:
    assert diagnosed(seen=(word,)).findings


def test_two_kinds_of_evidence_are_surer_than_one() -> None:
    one = finding("D11", checkpoints=(checkpoint(unet=0.7),))
    two = finding("D11", checkpoints=(checkpoint(unet=0.7),), losses=falling(first=0.1, last=0.2))
    weak = finding("D11", grads={**GRADS, "unet": (0.05, 5.0)})
    assert (weak.confidence, one.confidence, two.confidence) == ("possible", "likely", "sure")


def test_the_loss_alone_never_speaks_of_pictures() -> None:
    found = finding("D21", losses=falling(first=0.1, last=0.1))
    assert found.confidence == "possible"
    assert found.to_json()["changes"] == {}
    assert "validation" in found.advice[0].text
    assert "samples" in found.advice[0].text
    assert not {"D11", "D12"} & codes(losses=falling(first=0.1, last=0.1))


def test_the_rates_that_are_advised() -> None:
    def changes(code: str, **given: Any) -> Any:
        return finding(code, **given).to_json()["changes"]

    assert changes("D11", checkpoints=(checkpoint(unet=0.61),)) == {"optim.unet_lr": 3e-5}
    # Far beyond, the rate that would just not have been too high.
    assert changes("D11", checkpoints=(checkpoint(unet=6.0),)) == {"optim.unet_lr": 1e-5}
    assert changes("D12", checkpoints=(checkpoint(unet=0.001),)) == {"optim.unet_lr": 3e-4}
    assert changes("D03", checkpoints=(checkpoint(te2=0.3),)) == {"optim.te_lr": [5e-5, 1.5e-5]}
    weak = changes("D01", setup={"te1_lr": 5e-6, "te2_lr": 5e-6}, checkpoints=(checkpoint(te_share=0.001),))
    assert weak == {
        "optim.te_lr": 1.5e-5,
        "optim.schedule": "constant_with_warmup",
        "loss.min_snr_gamma": 5,
        "loss.noise_offset": 0.05,
    }
    # SDXL's text encoders are not sent beyond their usual range.
    assert (
        changes("D01", setup={"te1_lr": 3e-5, "te2_lr": 3e-5}, checkpoints=(checkpoint(te_share=0.001),))["optim.te_lr"]
        == 5e-5
    )
    assert changes("D05", embeddings=(similar(te1=0.96, te2=0.9),))["optim.te_lr"] == 2e-5
    assert changes("D04", seen=("weak-trigger",), setup={"te1_lr": 0.0, "te2_lr": 0.0})["optim.te_lr"] == 5e-5


def test_a_schedule_that_cut_the_rate_is_named() -> None:
    given = {"checkpoints": (checkpoint(te_share=0.001),)}
    cut = finding("D01", **given, rates={"te1": (5e-5, 3.4e-5)})
    kept = finding("D01", **given, rates={"te1": (5e-5, 3.6e-5)})
    assert any("68%" in one.text for one in cut.evidence)
    assert len(kept.evidence) == len(cut.evidence) - 1


def test_an_overfitted_encoder_names_the_last_healthy_checkpoint() -> None:
    series = tuple(
        similar(te1=value, file=f"hifumi-{step:06d}.safetensors")
        for step, value in ((100, 0.7), (200, 0.85), (400, 0.96))
    )
    found = finding("D05", embeddings=series)
    assert found.confidence == "likely"
    assert [(one.road, one.start) for one in found.advice if one.start] == [
        ("refine-unet", "weights/hifumi-000200.safetensors")
    ]
    assert finding("D05", embeddings=(similar(te1=0.91),)).confidence == "possible"
    ill = tuple(similar(te1=0.96, file=name) for name in ("a", "b"))
    assert "begin again" in finding("D05", embeddings=ill).advice[-1].text


def test_a_fried_unet_names_the_checkpoint_before() -> None:
    found = finding("D11", checkpoints=(checkpoint(200, unet=0.4), checkpoint(400, unet=0.9)))
    assert any("hifumi-000200" in one.text for one in found.advice)


def test_a_rising_validation_names_the_checkpoint_and_fewer_epochs() -> None:
    found = finding("D22", validation=((100, 0.12), (200, 0.1), (400, 0.11)))
    assert found.advice[0].start == "weights/hifumi-000200.safetensors"
    assert found.to_json()["changes"] == {"length.epochs": 6}


def test_a_tiny_share_beside_a_blown_up_unet_is_no_evidence() -> None:
    assert "D01" not in codes(checkpoints=(checkpoint(unet=5.0, te_share=1e-6),))


def test_steps_after_a_plateau_are_not_told_of_a_fried_or_undercooked_training() -> None:
    losses = (*falling(40, 0.3, 0.1), *falling(360, 0.1, 0.1))
    assert "D43" not in codes(losses=losses, checkpoints=(checkpoint(unet=0.001),))


def test_the_scale_that_acts_is_said() -> None:
    assert "1e-4 acts as 3.1e-6" in finding("D45", setup={"alpha": 1.0}).evidence[0].text


def test_optimizers_that_find_their_rate_are_not_told_another() -> None:
    found = finding("D11", checkpoints=(checkpoint(unet=0.9),), setup={"optimizer": "Prodigy", "unet_lr": 1.0})
    assert "optim.unet_lr" not in found.to_json()["changes"]


def test_thresholds_can_be_set() -> None:
    assert "D11" in codes(["unet.moved_much=0.04"])
    assert diagnosed(["unet.moved_much=0.04"]).to_json()["overridden"] == {"unet.moved_much": 0.04}


def test_the_same_facts_give_the_same_diagnosis_and_facts_survive_json() -> None:
    import json

    before = facts(checkpoints=(checkpoint(unet=0.9),), validation=((1, 0.1), (2, 0.2)))
    after = Facts.from_json(json.loads(json.dumps(before.to_json())))
    assert after == before
    assert diagnose(after, settle("sdxl")).to_json() == diagnose(before, settle("sdxl")).to_json()


def test_numbers_in_json_are_finite() -> None:
    plain = diagnosed(nan_since=3, losses=(0.1,) * 100).to_json()
    values = [each["value"] for one in plain["findings"] for each in one["evidence"]]
    assert all(not isinstance(value, float) or math.isfinite(value) for value in values)
