"""Every number that a finding depends on: what it is, its value for SDXL and for the bench models, and where that comes from."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from lorakit.errors import UsageError

__all__ = ["BY_KEY", "TABLE", "Scale", "Threshold", "Thresholds", "settle"]

#: Which family of models a LoRA was made for: rates and weights of the small bench models are of another size.
Scale = Literal["sdxl", "bench"]


@dataclass(frozen=True)
class Threshold:
    """One number: ``sdxl`` and ``bench`` are its values by scale, None where nothing is told by it at that scale."""

    key: str
    sdxl: float | None
    bench: float | None
    meaning: str
    origin: str


#: Where values come from that several thresholds share.
_PRACTICE: Final = "practice of SDXL trainers; not measured here"
_BAKES: Final = "bakes of the learned bench model (docs/diagnose.md, what was seen)"
_ESTIMATE: Final = "SDXL: carried over by arithmetic, not measured; bench: "

TABLE: Final[tuple[Threshold, ...]] = (
    Threshold("te.grad_te1", 0.01, None, "median gradient norm of TE1 below which it is hardly trained",
              f"{_PRACTICE}; a healthy bench bake has 0.0013, so nothing is told there"),
    Threshold("te.grad_te2", 0.03, None, "the same of TE2", f"{_PRACTICE}; bench as TE1"),
    Threshold("te.grad_ratio", 5, None, "and the UNet's is at least so many times larger", _PRACTICE),
    Threshold("te.share", 0.005, 1e-4, "text encoders' share of the squared weight norm below which they are hardly trained",
              f"{_ESTIMATE}0.0007 to 0.0009 in healthy bakes, 6e-6 with their rate × 0.1"),
    Threshold("te.schedule_cut", 0.7, 0.7, "share of its peak below which the rate at the end makes that worse", _PRACTICE),
    Threshold("te.rate_low", 1e-5, None, "lower end of the usual range of text encoder rates", _PRACTICE),
    Threshold("te.rate_high", 5e-5, None, "upper end of the usual range of text encoder rates", _PRACTICE),
    Threshold("te.usual_ratio", 0.5, 0.1, "the text encoder rate that is usual, as a share of the UNet's",
              "the presets that ship: sdxl-character, bench/x1"),
    Threshold("unet.usual_rate", 1e-4, 3e-3, "the UNet rate that is usual", "the presets that ship: sdxl-character, bench/x1"),
    Threshold("te.moved_much", 0.2, 0.2, "‖ΔW‖/‖W‖ of a text encoder from which on it is overcooked",
              f"{_ESTIMATE}0.25 to 0.9 with the rate × 30, where the judge sees others fall from 0.92 to 0.41; 0.14 in text-encoder-only bakes, which keep them"),
    Threshold("unet.moved_much", 0.6, 0.6, "‖ΔW‖/‖W‖ of the UNet from which on it is fried",
              f"{_ESTIMATE}4.0 to 5.8 with the rate × 10, which draws nothing any more; 0.14 to 0.18 in healthy bakes"),
    Threshold("unet.moved_little", 0.005, 0.08, "‖ΔW‖/‖W‖ of the UNet below which it is undercooked",
              f"{_ESTIMATE}0.037 with the rate × 0.1, which shows next to nothing of the concept"),
    Threshold("unet.grad_burst", 30, 30, "largest gradient norm of the UNet over its median, from which on the training was thrown off",
              "bench: 39,000 and more when fried, below 3 when healthy; SDXL: carried over, not measured"),
    Threshold("loss.window", 100, 100, "steps at the start and at the end whose means are compared (at most half of the run each)", _PRACTICE),
    Threshold("loss.noise", 2, 2, "standard errors that a difference of mean losses must exceed to be more than noise",
              "statistics: about 95 % of chance differences are smaller"),
    Threshold("loss.steps", 40, 40, "fewer steps than this tell nothing of the loss", "house rule: two windows of 20 are as few as an error can be given for"),
    Threshold("loss.rise", 4, 4, "standard errors by which a rising loss shows a fried UNet", f"{_BAKES}: 5 and more when fried"),
    Threshold("loss.spike", 8, 8, "times the median of the 50 steps before it, from which on a loss is a spike",
              "bench: 4.4 at most in healthy bakes; SDXL: carried over, not measured"),
    Threshold("loss.spikes", 0.01, 0.01, "share of steps with spikes that shows a fried UNet", "house rule: a single spike is one odd picture"),
    Threshold("validation.rise", 0.05, 0.05, "by how much of its lowest value the validation loss must have risen at the end", "house rule, not measured"),
    Threshold("pictures.grain", 0.45, 0.45, "correlation of pixels eight apart below which a sample is noise",
              "bench: 0.25 to 0.32 when fried, 0.62 to 0.85 when healthy; SDXL: carried over, not measured"),
    Threshold("pictures.flat", 0.01, 0.01, "standard deviation of a sample's pixels (0 … 1) below which it is one colour", "house rule: black and single-coloured pictures have 0"),
    Threshold("pictures.same", 0.01, 0.01, "mean change of a sample's pixels (0 … 1) against the one before the first step, below which it stayed at the base",
              "house rule; bench: 0.06 and more in healthy bakes"),
    Threshold("embedding.te1_risk", 0.9, 0.9, "TE1: mean pairwise similarity of captions above which it risks being overfitted", _PRACTICE),
    Threshold("embedding.te1_diversity", 0.05, 0.05, "TE1: diversity (1 − similarity) below which it is overfitted", _PRACTICE),
    Threshold("embedding.te2_watch", 0.8, 0.8, "TE2: mean pairwise similarity of captions above which it is to be watched", _PRACTICE),
    Threshold("embedding.collapse", 0.15, 0.15, "diversity of both encoders below which captions have collapsed into each other", _PRACTICE),
    Threshold("embedding.rise", 0.02, 0.02, "by how much the LoRA must have raised the similarity over the base model's",
              "house rule: captions that are alike to begin with are no fault of the training"),
    Threshold("captions.distinct", 0.1, 0.1, "distinct captions for each image at or below which captions have collapsed", f"house rule; {_BAKES}"),
    Threshold("plateau.share", 0.75, 0.75, "share of the run behind the place where the loss stopped falling, from which on it is wasted",
              "bench: 0.6 to 0.7 in healthy bakes of 20 epochs; at 50 epochs their loss still falls; 0.8 with the text encoders alone"),
    Threshold("plateau.windows", 10, 10, "windows of equal length into which the loss is cut to find a plateau", "house rule"),
    Threshold("warmup.share", 0.1, 0.1, "share of the run above which a warmup is long", _PRACTICE),
    Threshold("scale.low", 0.25, 0.25, "alpha / dim below which rates act far smaller than written", "the presets that ship have 0.5 and 1"),
    Threshold("scale.high", 1, 1, "alpha / dim above which rates act larger than written", "the presets that ship have 0.5 and 1"),
    Threshold("batch.share", 0.5, 0.5, "pictures in a step over pictures in the dataset, from which on every step sees nearly all", "house rule"),
    Threshold("change.less", 0.3, 0.3, "what a rate that was too high is multiplied with (at most)", _PRACTICE),
    Threshold("change.more", 3, 3, "what a rate that was too low is multiplied with", _PRACTICE),
    Threshold("change.rest", 0.1, 0.1, "what rates are multiplied with to anneal", _PRACTICE),
    Threshold("change.refine_te", 1e-6, 1e-5, "the text encoder rate of a refinement", f"{_PRACTICE}; bench: as much of the usual rate"),
)  # fmt: skip

BY_KEY: Final[Mapping[str, Threshold]] = {one.key: one for one in TABLE}


@dataclass(frozen=True)
class Thresholds:
    """The numbers in force for one diagnosis; ``overridden`` are those that somebody set."""

    scale: Scale
    values: Mapping[str, float | None]
    overridden: Mapping[str, float]

    def __getitem__(self, key: str) -> float:
        """The value; NaN where it tells nothing at this scale: no comparison with it holds."""
        value = self.values[key]
        return math.nan if value is None else value


def settle(scale: Scale, table: Mapping[str, Any] | None = None, words: Sequence[str] = ()) -> Thresholds:
    """The thresholds of a scale with those of lorakit.toml's ``[diagnose]`` and of ``KEY=VALUE`` words in their place.

    Raises UsageError for an unknown key and for what is no finite number.
    """
    given = {key: _number(key, value, "lorakit.toml [diagnose]") for key, value in _flat(table or {}).items()}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise UsageError(f"--set {word}: this is not KEY=VALUE", todo="such as --set unet.moved_much=0.4")
        given[key.strip()] = _number(key.strip(), value, "--set")
    values = {one.key: one.sdxl if scale == "sdxl" else one.bench for one in TABLE}
    return Thresholds(scale, {**values, **given}, given)


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def _number(key: str, value: Any, where: str) -> float:
    if key not in BY_KEY:
        near = difflib.get_close_matches(key, BY_KEY, n=1)
        todo = f"did you mean {near[0]}?" if near else "docs/diagnose.md lists them"
        raise UsageError(f"{where}: there is no threshold {key}", todo=todo)
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"{where}: {key} = {value} is no number", why=BY_KEY[key].meaning)
    return number
