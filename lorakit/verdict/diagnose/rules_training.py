"""Rules about how the training went: loss, validation, its end, and how alike the text encoders have made the captions."""

from __future__ import annotations

import math
from typing import Final

from lorakit.verdict.diagnose.facts import PARTS, EmbeddingFacts, Facts
from lorakit.verdict.diagnose.findings import Advice, Evidence, Found, Table, figure
from lorakit.verdict.diagnose.rules_parts import TEXT, rate_times, spelled
from lorakit.verdict.diagnose.series import ends
from lorakit.verdict.diagnose.thresholds import Thresholds

__all__ = ["COURSE", "fewer", "overfitted_signs"]

COURSE: Final = Table("The course of the training")

_EMBEDDINGS: Final = "analysis/embeddings.json"
#: Training loss depends on timesteps and noise more than on what pictures look like.
_LOOK: Final = Advice(
    "training loss says little of what pictures look like: look at the validation loss and at the samples"
)


def overfitted_signs(one: EmbeddingFacts, limits: Thresholds) -> tuple[tuple[str, Evidence], ...]:
    """What is too alike at a checkpoint, each with how grave it is: watch, risk, overfitted, collapsed; only what the LoRA itself has raised counts."""
    found: list[tuple[str, Evidence]] = []

    def rose(part: str) -> bool:
        return one.similarity[part] - one.base[part] > limits["embedding.rise"]

    def told(part: str, word: str) -> Evidence:
        said = f"{PARTS[part]}: captions are {one.similarity[part]:.3f} alike, {one.base[part]:.3f} in the base model ({word})"
        return Evidence(said, one.similarity[part], f"{_EMBEDDINGS}: {one.file}")

    if "te1" in one.similarity and rose("te1"):
        if 1 - one.similarity["te1"] < limits["embedding.te1_diversity"]:
            found.append(
                ("overfitted", told("te1", f"diversity below {figure(limits['embedding.te1_diversity'])}: overfitted"))
            )
        elif one.similarity["te1"] > limits["embedding.te1_risk"]:
            found.append(("risk", told("te1", f"above {figure(limits['embedding.te1_risk'])}: at risk")))
    if "te2" in one.similarity and rose("te2") and one.similarity["te2"] > limits["embedding.te2_watch"]:
        found.append(("watch", told("te2", f"above {figure(limits['embedding.te2_watch'])}: to be watched")))
    base = 1 - sum(one.base.values()) / len(one.base)
    if one.diversity < limits["embedding.collapse"] and base - one.diversity > limits["embedding.rise"]:
        said = f"diversity of both encoders {one.diversity:.3f}, {base:.3f} in the base model: captions have collapsed into each other"
        found.append(("collapsed", Evidence(said, one.diversity, f"{_EMBEDDINGS}: {one.file}")))
    return tuple(found)


@TEXT.rule("D05", "a text encoder is overfitted")
def overfitted(facts: Facts, limits: Thresholds) -> Found | None:
    """Captions that should differ have become alike to it (`embedding.…`), and more so than to the base model (`embedding.rise`)."""
    if not facts.embeddings:
        return None
    signs = overfitted_signs(facts.embeddings[-1], limits)
    if not signs:
        return None
    parts = tuple(part for part in ("te1", "te2") if facts.trained(part))
    grave = any(kind in ("overfitted", "collapsed") for kind, _ in signs)
    # 5e-5 → 2e-5 is the usual step.
    changes = rate_times(facts, parts, 0.4)
    advice = [Advice(f"lower the text encoder rate: {spelled(changes)} (as 5e-5 → 2e-5)", changes)] if changes else []
    healthy = [one.file for one in facts.embeddings[:-1] if not overfitted_signs(one, limits)]
    if healthy:
        start = next((one.file for one in facts.checkpoints if one.file.endswith(f"/{healthy[-1]}")), healthy[-1])
        advice.append(
            Advice(
                f"or go on with the UNet alone from the last healthy checkpoint, {start}",
                road="refine-unet",
                start=start,
            )
        )
    elif len(facts.embeddings) > 1:
        advice.append(Advice("no checkpoint of this run is healthy: begin again"))
    else:
        advice.append(
            Advice(
                "there is one checkpoint alone: save more often to have an earlier one to go on from",
                {"save.every_n_epochs": 1},
            )
        )
    return Found("likely" if grave else "possible", tuple(evidence for _, evidence in signs), tuple(advice))


@COURSE.rule("D21", "the loss did not fall")
def loss_not_falling(facts: Facts, limits: Thresholds) -> Found | None:
    """The mean of the last `loss.window` steps is not below that of the first by `loss.noise` standard errors. Never called more than possible."""
    if len(facts.losses) < limits["loss.steps"]:
        return None
    found = ends(facts.losses, round(limits["loss.window"]))
    if found is None or found.fell >= limits["loss.noise"]:
        return None
    way = "rose" if found.fell < 0 else "fell"
    means = f"mean of the first {found.window} steps {figure(found.first)}, of the last {figure(found.last)}"
    said = f"{means}: it {way} by {figure(abs(found.fell))} × the noise of that difference"
    return Found("possible", (Evidence(said, found.last - found.first, f"{facts.source}: loss"),), (_LOOK,))


@COURSE.rule("D22", "the validation loss rose")
def validation_rose(facts: Facts, limits: Thresholds) -> Found | None:
    """At its end it stands above its lowest value by `validation.rise`."""
    if len(facts.validation) < 3:
        return None
    step, lowest = min(facts.validation, key=lambda point: (point[1], point[0]))
    last_step, last = facts.validation[-1]
    if lowest <= 0 or last < lowest * (1 + limits["validation.rise"]):
        return None
    at = f"{facts.source}: validation"
    evidence = Evidence(
        f"validation loss {figure(lowest)} at step {step}, {figure(last)} at step {last_step}", last / lowest - 1, at
    )
    near = [one for one in facts.checkpoints if one.step is not None and one.step <= step]
    advice = [Advice(f"take {near[-1].file}, saved at step {near[-1].step}", start=near[-1].file)] if near else []
    advice.append(fewer(facts, step, "train no longer than it fell"))
    return Found("likely", (evidence,), tuple(advice))


@COURSE.rule("D23", "the training did not end well")
def ended_badly(facts: Facts, limits: Thresholds) -> Found | None:
    """It failed, was interrupted, or its loss became no number."""
    del limits
    if facts.nan_since is not None or facts.reason == "nan":
        since = f" from step {facts.nan_since} on" if facts.nan_since is not None else ""
        changes = {**rate_times(facts, ("unet", "te1", "te2"), 0.3), "precision.no_half_vae": True}
        return Found(
            "sure",
            (Evidence(f"the loss was no number{since}", facts.nan_since, f"{facts.source}: loss"),),
            (Advice("lower all rates to a third, and keep the VAE in fp32, which overflows in fp16", changes),),
            title="the loss became no number",
        )
    if facts.status not in {"failed", "interrupted", "damaged"}:
        return None
    said = facts.message or facts.reason or facts.status
    return Found(
        "sure",
        (Evidence(said, facts.status, "attempts: ended.json"),),
        (Advice("mend this first: lorakit show and lorakit logs have the reason"),),
    )


def fewer(facts: Facts, step: int, why: str) -> Advice:
    """Train until a step: in epochs where they are known, a tenth longer than the step, since runs differ."""
    setup = facts.setup
    if setup.epochs and setup.total_steps:
        epochs = max(1, min(setup.epochs, math.ceil(1.1 * step / setup.total_steps * setup.epochs)))
        if epochs < setup.epochs:
            return Advice(f"{why}: {epochs} of {setup.epochs} epochs", {"length.epochs": epochs})
    return Advice(f"{why}: about {step} steps")
