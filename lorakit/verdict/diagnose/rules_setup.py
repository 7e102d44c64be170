"""Rules about captions, waste and traps: what was asked for, held against what it comes to."""

from __future__ import annotations

from typing import Final

from lorakit.preset.units import format_number, format_rate
from lorakit.verdict.diagnose.facts import PARTS, Facts
from lorakit.verdict.diagnose.findings import Advice, Evidence, Found, Table, figure
from lorakit.verdict.diagnose.rules_parts import fried, undercooked
from lorakit.verdict.diagnose.rules_training import fewer
from lorakit.verdict.diagnose.series import plateau
from lorakit.verdict.diagnose.thresholds import Thresholds

__all__ = ["CAPTIONS", "WASTE"]

CAPTIONS: Final = Table("Captions")
WASTE: Final = Table("Waste and traps")


@CAPTIONS.rule("D31", "the captions are nearly all the same")
def collapsed(facts: Facts, limits: Thresholds) -> Found | None:
    """At most `captions.distinct` different ones for each image: whatever all pictures share is then learned as the meaning of that one sentence."""
    found = facts.captions
    if found is None or found.images < 4:
        return None
    if found.distinct > max(1, limits["captions.distinct"] * found.images):
        return None
    share = found.distinct / found.images
    different = "caption" if found.distinct == 1 else "different captions"
    said = f"{found.distinct} {different} for {found.images} images, the most frequent: “{found.most_frequent[:60]}”"
    return Found(
        "sure",
        (Evidence(said, share, "dataset.json: captions"),),
        (
            Advice(
                "say in each caption what differs from picture to picture, so that only what stays becomes your word"
            ),
        ),
    )


@WASTE.rule("D41", "modules never learned anything")
def dead(facts: Facts, limits: Thresholds) -> Found | None:
    """B is zero until it is trained: such modules are as they began. TE1's last layer, which SDXL never reads, is not counted."""
    del limits
    evidence = [
        Evidence(
            f"{found.dead} of {found.modules} modules of {PARTS[part]} are as they began",
            found.dead,
            facts.last.file if facts.last else "",
        )
        for part in PARTS
        if facts.trained(part) and (found := facts.part(part)) is not None and found.dead
    ]
    advice = Advice("give their part a rate above 0, or leave them out of the network: they only take room")
    return Found("sure", tuple(evidence), (advice,)) if evidence else None


@WASTE.rule("D42", "TE2 got no rate of its own")
def second_rate_ignored(facts: Facts, limits: Thresholds) -> Found | None:
    """sd-scripts alone gives the first encoder's rate to both."""
    del limits
    setup = facts.setup
    if not setup.pair or setup.te1_lr == setup.te2_lr or setup.te1_lr is None or setup.te2_lr is None:
        return None
    asked = f"asked for {format_rate(setup.te1_lr)}/{format_rate(setup.te2_lr)}"
    advice = (
        Advice("leave the probe on, or use the built-in trainer: both give TE2 its own rate", {"trainer.probe": True}),
    )
    first, second = facts.rates.get("te1"), facts.rates.get("te2")
    if first and second and first[0] > 0 and abs(second[0] / first[0] - 1) < 0.01:
        said = f"{asked}, but both were trained at {format_rate(first[0])}"
        return Found("sure", (Evidence(said, second[0], f"{facts.source}: lr"),), advice)
    if setup.trainer == "sd-scripts" and not setup.probe:
        said = f"{asked}, but the probe was off: sd-scripts trains both at the first"
        return Found("sure", (Evidence(said, setup.te2_lr, "preset.toml: trainer.probe"),), advice)
    return None


@WASTE.rule("D43", "steps after a plateau")
def after_plateau(facts: Facts, limits: Thresholds) -> Found | None:
    """The loss fell no further for the last `plateau.share` of the run. Where a validation loss still fell, nothing is said."""
    # A fried or undercooked training has no use for fewer steps: that is another finding's to say.
    if len(facts.losses) < limits["loss.steps"] or fried(facts, limits) or undercooked(facts, limits):
        return None
    at = plateau(facts.losses, round(limits["plateau.windows"]), limits["loss.noise"])
    if at is None or 1 - at / len(facts.losses) < limits["plateau.share"]:
        return None
    step = facts.first_step + at - 1
    if facts.validation and min(facts.validation, key=lambda point: (point[1], point[0]))[0] > step:
        return None
    rest = 1 - at / len(facts.losses)
    said = f"the loss fell no further after step {step} of {facts.first_step + len(facts.losses) - 1}"
    return Found(
        "possible",
        (Evidence(said, rest, f"{facts.source}: loss"),),
        (
            fewer(facts, step, "if samples and validation agree, end there"),
            Advice("training loss says little of pictures: look at the samples of those steps before you cut them"),
        ),
    )


@WASTE.rule("D44", "a long warmup")
def long_warmup(facts: Facts, limits: Thresholds) -> Found | None:
    """More than `warmup.share` of the run."""
    warmup, total = facts.setup.warmup_steps, facts.setup.total_steps
    if not warmup or not total or warmup / total <= limits["warmup.share"]:
        return None
    said = f"{warmup} of {total} steps are warmup, {warmup / total:.0%} of the run"
    return Found(
        "sure",
        (Evidence(said, warmup / total, "plan.json: warmup_steps"),),
        (Advice("5 % is enough", {"optim.warmup": "5%"}),),
    )


@WASTE.rule("D45", "alpha / dim changes the rates")
def scale(facts: Facts, limits: Thresholds) -> Found | None:
    """The scale, alpha / dim, is below `scale.low` or above `scale.high`: rates act smaller or larger than they are written."""
    setup = facts.setup
    if not setup.dim or setup.alpha is None or setup.goes_on:
        return None
    value = setup.alpha / setup.dim
    if limits["scale.low"] <= value <= limits["scale.high"]:
        return None
    acts = ""
    if rate := setup.unet_lr or setup.te1_lr:
        acts = f": {format_rate(rate)} acts as {format_rate(float(f'{rate * value:.2g}'))} would at alpha = dim"
    said = f"alpha {format_number(setup.alpha)} / dim {format_number(setup.dim)} = {figure(value)}{acts}"
    return Found(
        "sure",
        (Evidence(said, value, "preset.toml: network.alpha"),),
        (Advice("alpha = dim/2 is the usual companion of usual rates", {"network.alpha": "dim/2"}),),
    )


@WASTE.rule("D46", "a step sees nearly the whole dataset")
def large_batch(facts: Facts, limits: Thresholds) -> Found | None:
    """Pictures in a step (batch × accumulation × processes) over pictures in the dataset: `batch.share` and more."""
    setup = facts.setup
    if not setup.batch_size or not setup.images:
        return None
    pictures = setup.batch_size * setup.accumulation * setup.processes
    if pictures < 2 or pictures / setup.images < limits["batch.share"]:
        return None
    parts = [
        f"{count} {word}"
        for count, word in ((setup.accumulation, "accumulated"), (setup.processes, "processes"))
        if count > 1
    ]
    said = f"{pictures} pictures in a step ({' × '.join([f'batch {setup.batch_size}', *parts])}), {setup.images} in the dataset"
    evidence = [Evidence(said, pictures / setup.images, "plan.json: images")]
    if setup.short_batches and setup.batches_per_epoch:
        said = f"{setup.short_batches} of {setup.batches_per_epoch} batches are not full"
        evidence.append(Evidence(said, setup.short_batches / setup.batches_per_epoch, "plan.json: short_batches"))
    smaller = max(1, setup.images // 8 // max(1, setup.accumulation * setup.processes))
    changes = {"length.batch_size": min(smaller, setup.batch_size)} if smaller < setup.batch_size else {}
    return Found("sure", tuple(evidence), (Advice(f"batch {smaller}, or more pictures", changes),))
