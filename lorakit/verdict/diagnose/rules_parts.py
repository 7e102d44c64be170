"""Rules about UNet and text encoders: too much, too little, not at all, and which part to go on with."""

from __future__ import annotations

from typing import Any, Final

from lorakit.preset.units import format_rate
from lorakit.verdict.diagnose.facts import PARTS, Facts
from lorakit.verdict.diagnose.findings import SEEN, Advice, Evidence, Found, Table, confidence, figure
from lorakit.verdict.diagnose.series import ends, spikes
from lorakit.verdict.diagnose.thresholds import Thresholds

__all__ = ["ROAD_TABLE", "TEXT", "UNET", "fried", "rate_times", "spelled", "undercooked"]

TEXT: Final = Table("Text encoders")
UNET: Final = Table("UNet")
ROAD_TABLE: Final = Table("Where to go on")

_ENCODERS: Final = ("te1", "te2")
_ADAPTIVE: Final = ("prodigy", "dadapt")
#: Text encoders that train cannot be read from a cache.
_UNCACHED: Final = {"memory.cache_text_encoder_outputs": False, "memory.cache_text_encoder_outputs_to_disk": False}
_YOU: Final = "your eyes (--saw)"


def _weights(facts: Facts) -> str:
    return facts.last.file if facts.last else ""


def _trained_encoders(facts: Facts) -> tuple[str, ...]:
    return tuple(part for part in _ENCODERS if facts.trained(part))


def _saw(facts: Facts, *words: str) -> list[Evidence]:
    return [Evidence(SEEN[word], word, _YOU) for word in words if word in facts.seen]


def rate_times(facts: Facts, parts: tuple[str, ...], factor: float, limits: Thresholds | None = None) -> dict[str, Any]:
    """The changes that multiply the rates of parts, two digits each; ``limits`` keeps text encoders in their usual range."""
    changes: dict[str, Any] = {}
    if (facts.setup.optimizer or "").lower().startswith(_ADAPTIVE):
        return changes  # they find the rate themselves, and what is written is a factor of 1
    if "unet" in parts and facts.setup.unet_lr:
        changes["optim.unet_lr"] = _two_digits(facts.setup.unet_lr * factor)
    if set(parts) & set(_ENCODERS):
        rates = []
        for part in _ENCODERS:
            rate = facts.setup.rate(part)
            new = (rate or 0.0) * (factor if part in parts else 1.0)
            if limits is not None and part in parts and new:
                low, high = limits["te.rate_low"], limits["te.rate_high"]
                new = max(low, min(new, max(high, rate or 0.0))) if low <= high else new
            rates.append(_two_digits(new))
        if any(rates):
            changes["optim.te_lr"] = rates[0] if rates[0] == rates[1] else rates
    return changes


def _two_digits(value: float) -> float:
    return float(f"{value:.1e}")


def spelled(changes: dict[str, Any]) -> str:
    """Rates among changes as people write them."""

    def rate(value: Any) -> str:
        return "/".join(map(rate, value)) if isinstance(value, list) else format_rate(value)

    names = {"optim.unet_lr": "UNet rate", "optim.te_lr": "text encoder rate"}
    return ", ".join(f"{names[key]} {rate(value)}" for key, value in changes.items() if key in names)


@TEXT.rule("D01", "a text encoder is hardly trained")
def hardly_trained(facts: Facts, limits: Thresholds) -> Found | None:
    """Its gradients are small (`te.grad_te1`, `te.grad_te2`) while the UNet's are `te.grad_ratio` times larger, or text encoders are a tiny share of the squared weight norm (`te.share`). A schedule that has cut the rate at the end (`te.schedule_cut`) makes it worse."""
    encoders = _trained_encoders(facts)
    unet = facts.grads.get("unet")
    weak: list[Evidence] = []
    for part in encoders:
        if part in facts.grads and unet is not None:
            norm, ratio = facts.grads[part][0], unet[0] / max(facts.grads[part][0], 1e-12)
            if norm < limits[f"te.grad_{part}"] and ratio >= limits["te.grad_ratio"]:
                said = f"median gradient norm of {PARTS[part]} {figure(norm)}, the UNet's is {figure(ratio)} × as large"
                weak.append(Evidence(said, norm, f"{facts.source}: grad_norm.{part}"))
    known = [found for part in encoders if (found := facts.part(part)) is not None]
    share, unet_part = sum(one.share for one in known), facts.part("unet")
    # A share is no measure beside a UNet that has blown up.
    blown = unet_part is not None and (unet_part.relative or 0.0) >= limits["unet.moved_much"]
    if known and facts.trained("unet") and unet_part is not None and not blown and share < limits["te.share"]:
        said = (
            f"text encoders are {share:.2g} of the squared weight norm (usual: {figure(limits['te.share'])} and more)"
        )
        weak.append(Evidence(said, share, _weights(facts)))
    if not weak or facts.setup.goes_on:
        return None
    kinds = {one.source.split(":")[0] for one in weak}
    for part in encoders:
        peak, last = facts.rates.get(part, (0.0, 0.0))
        if peak > 0 and last < limits["te.schedule_cut"] * peak:
            said = f"the {facts.setup.schedule or 'schedule'} had cut its rate to {last / peak:.0%} at the end, which makes it worse"
            weak.append(Evidence(said, last / peak, f"{facts.source}: lr.{part}"))
            break
    changes = rate_times(facts, encoders, limits["change.more"], limits)
    more: dict[str, Any] = {}
    if facts.setup.schedule not in (None, "constant", "constant_with_warmup"):
        more["optim.schedule"] = "constant_with_warmup" if facts.setup.warmup_steps else "constant"
    if facts.setup.min_snr_gamma is None:
        more["loss.min_snr_gamma"] = 5
    if not facts.setup.noise_offset:
        more["loss.noise_offset"] = 0.05
    if facts.scale == "bench":
        more.pop("loss.noise_offset", None)  # the bench world has no dark or bright pictures to gain by it
    advice = [Advice(f"train them 2 to 4 times as fast: {spelled(changes)}", changes)] if changes else []
    if more:
        words = {
            "optim.schedule": "a constant schedule",
            "loss.min_snr_gamma": "min-SNR 5",
            "loss.noise_offset": "noise offset 0.05",
        }
        advice.append(Advice(f"and help them: {', '.join(words[key] for key in more)}", more))
    return Found(confidence(tuple(kinds)), tuple(weak), tuple(advice))


@TEXT.rule("D02", "a part is not trained")
def not_trained(facts: Facts, limits: Thresholds) -> Found | None:
    """A rate of 0: often meant, and worth knowing when words are not understood, or shapes not learned."""
    setup = facts.setup
    if setup.unet_lr is None or setup.te1_lr is None or setup.te2_lr is None or setup.goes_on:
        return None
    if setup.unet_lr and not setup.te1_lr and not setup.te2_lr:
        rate = _two_digits(setup.unet_lr * limits["te.usual_ratio"])
        return Found(
            "sure",
            (
                Evidence(
                    "the text encoders' rate was 0: a new word means what it meant before",
                    0.0,
                    "preset.toml: optim.te_lr",
                ),
            ),
            (
                Advice(
                    f"well if the samples follow your word; else train the text encoders too: rate {format_rate(rate)}",
                    {"optim.te_lr": rate, **_UNCACHED},
                ),
            ),
            title="the text encoders are not trained",
        )
    if not setup.unet_lr and (setup.te1_lr or setup.te2_lr):
        rate = limits["unet.usual_rate"]
        return Found(
            "sure",
            (
                Evidence(
                    "the UNet's rate was 0: words move, shapes that it cannot draw stay unknown",
                    0.0,
                    "preset.toml: optim.unet_lr",
                ),
            ),
            (Advice(f"train the UNet too: rate {format_rate(rate)}", {"optim.unet_lr": rate}),),
            title="the UNet is not trained",
        )
    return None


@TEXT.rule("D03", "a text encoder is overcooked")
def overcooked(facts: Facts, limits: Thresholds) -> Found | None:
    """It moved far against its own weights (`te.moved_much`), or you saw `unrelated-content` or `ignores-prompt`."""
    encoders = _trained_encoders(facts)
    limit = limits["te.moved_much"]
    far = {
        part: found.relative
        for part in encoders
        if (found := facts.part(part)) is not None and found.relative is not None and found.relative >= limit
    }
    seen = _saw(facts, "unrelated-content", "ignores-prompt") if encoders else []
    measured = [
        Evidence(
            f"{PARTS[part]} moved by {value:.0%} of its own weights (healthy below {limit:.0%})", value, _weights(facts)
        )
        for part, value in far.items()
    ]
    if not measured and not seen:
        return None
    factor = min(limits["change.less"], limit / max(far.values(), default=limit))
    changes = rate_times(facts, tuple(far) or encoders, factor)
    return Found(
        confidence([bool(measured), bool(seen)] if measured and seen else [1]) if measured else "possible",
        (*measured, *seen),
        (Advice(f"lower it: {spelled(changes)}", changes),) if changes else (),
    )


@TEXT.rule("D04", "the text encoders are undercooked")
def undercooked_text(facts: Facts, limits: Thresholds) -> Found | None:
    """You saw `weak-trigger`: no program sees that a trigger works at high weights alone."""
    seen = _saw(facts, "weak-trigger")
    encoders = _trained_encoders(facts)
    if not seen:
        return None
    if not encoders:
        rate = _two_digits((facts.setup.unet_lr or 0.0) * limits["te.usual_ratio"])
        changes: dict[str, Any] = {"optim.te_lr": rate, **_UNCACHED} if rate else {}
    else:
        changes = rate_times(facts, encoders, limits["change.more"], limits)
    return Found("likely", tuple(seen), (Advice(f"raise the text encoder rate: {spelled(changes)}", changes),))


@UNET.rule("D11", "the UNet is fried")
def fried(facts: Facts, limits: Thresholds) -> Found | None:
    """It moved far against its own weights (`unet.moved_much`), the loss rose (`loss.rise`) or has spikes (`loss.spike`, `loss.spikes`), gradients burst (`unet.grad_burst`), samples are noise or flat (`pictures.grain`, `pictures.flat`), or you saw `noise`."""
    if not facts.trained("unet"):
        return None
    strong: list[Evidence] = []
    weak: list[Evidence] = []
    part, limit = facts.part("unet"), limits["unet.moved_much"]
    factor = limits["change.less"]
    if part is not None and part.relative is not None and part.relative >= limit:
        first = next(
            ((one.parts["unet"].relative, one.step) for one in facts.checkpoints[:-1] if "unet" in one.parts),
            (None, None),
        )
        grew = f"; {first[0]:.0%} at step {first[1]}" if None not in first else ""
        said = f"the UNet moved by {part.relative:.0%} of its own weights (healthy below {limit:.0%}{grew})"
        strong.append(Evidence(said, part.relative, _weights(facts)))
        factor = min(factor, limit / part.relative)
    found = ends(facts.losses, round(limits["loss.window"])) if len(facts.losses) >= limits["loss.steps"] else None
    if found is not None and found.fell <= -limits["loss.rise"]:
        said = f"the loss rose: {figure(found.first)} → {figure(found.last)}, {figure(-found.fell)} × its noise"
        strong.append(Evidence(said, found.last / found.first, f"{facts.source}: loss"))
    if facts.nan_since is not None:
        strong.append(
            Evidence(f"the loss was no number from step {facts.nan_since} on", facts.nan_since, f"{facts.source}: loss")
        )
    median, largest = facts.grads.get("unet", (0.0, 0.0))
    if median > 0 and largest >= limits["unet.grad_burst"] * median:
        said = f"a gradient of the UNet was {figure(largest / median)} × its median"
        weak.append(Evidence(said, largest / median, f"{facts.source}: grad_norm.unet"))
    count = spikes(facts.losses, limits["loss.spike"])
    if facts.losses and count > limits["loss.spikes"] * len(facts.losses):
        said = f"{count} of {len(facts.losses)} losses are spikes (over {figure(limits['loss.spike'])} × those before)"
        weak.append(Evidence(said, count, f"{facts.source}: loss"))
    gone = [
        one for one in facts.pictures if one.grain < limits["pictures.grain"] or one.spread < limits["pictures.flat"]
    ]
    if gone and 2 * len(gone) >= len(facts.pictures):
        said = f"{len(gone)} of {len(facts.pictures)} samples of step {gone[0].step} are noise or one flat colour"
        strong.append(Evidence(said, gone[0].grain, gone[0].file))
    strong += _saw(facts, "noise")
    if not strong and not weak:
        return None
    level = "possible" if not strong else confidence([*strong, *weak])
    changes = rate_times(facts, ("unet",), factor)
    advice = [Advice(f"lower it: {spelled(changes)}", changes)] if changes else []
    earlier = facts.checkpoints[:-1]
    healthy = [
        one
        for one in earlier
        if (known := one.parts.get("unet")) and known.relative is not None and known.relative < limit
    ]
    if healthy and strong:
        advice.append(Advice(f"or take fewer steps: {healthy[-1].file} was not yet there", start=healthy[-1].file))
    return Found(level, (*strong, *weak), tuple(advice))


@UNET.rule("D12", "the UNet is undercooked")
def undercooked(facts: Facts, limits: Thresholds) -> Found | None:
    """It hardly moved against its own weights (`unet.moved_little`), samples stay as before the first step (`pictures.same`), or you saw `like-base`."""
    if not facts.trained("unet") or facts.setup.goes_on:
        return None
    pieces: list[Evidence] = []
    part, limit = facts.part("unet"), limits["unet.moved_little"]
    if part is not None and part.relative is not None and part.relative < limit:
        said = f"the UNet moved by {part.relative:.2%} of its own weights (usual: {limit:.2%} and more)"
        pieces.append(Evidence(said, part.relative, _weights(facts)))
    changed = [one.change for one in facts.pictures if one.change is not None]
    if changed and max(changed) < limits["pictures.same"]:
        said = f"samples moved by {max(changed):.2%} of full scale from those before the first step"
        pieces.append(Evidence(said, max(changed), facts.pictures[-1].file))
    pieces += _saw(facts, "like-base")
    if not pieces:
        return None
    changes = rate_times(facts, ("unet",), limits["change.more"])
    advice = [Advice(f"raise it: {spelled(changes)}", changes)] if changes else []
    return Found(confidence(pieces), tuple(pieces), (*advice, Advice("or train two to three times as many steps")))


def _go_on(facts: Facts) -> str | None:
    return facts.last.file if facts.last else None


@ROAD_TABLE.rule("D51", "the text is understood, the pictures are poor")
def to_refine_unet(facts: Facts, limits: Thresholds) -> Found | None:
    """You saw `poor-images`: go on with the UNet."""
    del limits
    seen = _saw(facts, "poor-images")
    advice = Advice(
        "go on with the UNet, the text encoders held still (refine-unet)", road="refine-unet", start=_go_on(facts)
    )
    return Found("likely", tuple(seen), (advice,)) if seen else None


@ROAD_TABLE.rule("D52", "the pictures are good, the text is not understood")
def to_refine_te(facts: Facts, limits: Thresholds) -> Found | None:
    """You saw `text-not-understood`: go on with the text encoders."""
    seen = _saw(facts, "text-not-understood")
    rate = format_rate(limits["change.refine_te"])
    advice = Advice(
        f"go on with the text encoders at {rate}, the UNet held still (refine-te)",
        road="refine-te",
        start=_go_on(facts),
    )
    return Found("likely", tuple(seen), (advice,)) if seen else None


@ROAD_TABLE.rule("D53", "text and pictures are fine: let it come to rest")
def to_anneal(facts: Facts, limits: Thresholds) -> Found | None:
    """You saw `fine`: go on with everything at a tenth."""
    del limits
    seen = _saw(facts, "fine")
    advice = Advice("go on for a little while at a tenth of all rates (anneal)", road="anneal", start=_go_on(facts))
    return Found("likely", tuple(seen), (advice,)) if seen else None
