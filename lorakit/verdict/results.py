"""What came of runs: losses, speed, memory, gradient and weight norms by part, under the names that all outputs share."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from lorakit.archive.records import RunState
from lorakit.evidence.curves import last_gradients
from lorakit.evidence.measured import WeightSummary
from lorakit.evidence.weights import PARTS
from lorakit.verdict.sides import Side

__all__ = ["RESULTS", "results"]

#: Results by key: what they are, and which function of ``cli.screen`` writes them.
RESULTS: Final[Mapping[str, tuple[str, str]]] = {
    "state": ("state", "plain"),
    "steps": ("steps", "plain"),
    "loss_first": ("loss, first epoch", "loss"),
    "loss_last": ("loss, last epoch", "loss"),
    "loss_average": ("loss, average", "loss"),
    "validation": ("validation", "loss"),
    "steps_per_second": ("speed", "speed"),
    "seconds": ("time", "duration"),
    "peak_vram": ("peak VRAM", "size"),
    "peak_rss": ("peak RAM", "size"),
    **{
        f"grad_norm.{part}": (f"grad norm {name}", "norm")
        for part, name in (("unet", "UNet"), ("te1", "TE1"), ("te2", "TE2"))
    },
    "weight_norm": ("‖ΔW‖", "norm"),
    **{
        f"weight_norm.{part}": (f"‖ΔW‖ {name}", "norm")
        for part, name in (("unet", "UNet"), ("te1", "TE1"), ("te2", "TE2"))
    },
    "carried_by": ("carried by", "plain"),
}
_NAMES: Final = {"unet": "UNet", "te1": "TE1", "te2": "TE2"}
_OF_STATE: Final[Mapping[str, Callable[[RunState], Any]]] = {
    "state": lambda found: found.status.value,
    "steps": lambda found: found.steps,
    "loss_first": lambda found: found.loss_first,
    "loss_last": lambda found: found.loss_last,
    "loss_average": lambda found: found.loss_average,
    "validation": lambda found: found.validation,
    "steps_per_second": lambda found: found.steps_per_second,
    "seconds": lambda found: found.seconds,
    "peak_vram": lambda found: found.vram,
    "peak_rss": lambda found: found.rss,
}


def results(sides: Sequence[Side], weights: Sequence[WeightSummary | None]) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Every result by key, one value per side, None where there is none."""
    told = [_of_side(side, weight) for side, weight in zip(sides, weights, strict=True)]
    for key in RESULTS:
        yield key, tuple(each.get(key) for each in told)


def _of_side(side: Side, weight: WeightSummary | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if side.state is not None and side.run is not None:
        found = {key: value_of(side.state) for key, value_of in _OF_STATE.items()}
        found |= {f"grad_norm.{part}": value for part, value in last_gradients(side.run).items()}
    elif side.kind == "logs":
        found = _of_logs(side)
    elif side.metadata.get("ss_steps", "").isdecimal():
        found = {"steps": int(side.metadata["ss_steps"])}
    if weight is not None:
        found["weight_norm"] = weight.norm
        found |= {f"weight_norm.{part}": weight.parts[part].norm for part in PARTS if part in weight.parts}
        if weight.carrier is not None:
            part, share = weight.carrier
            found["carried_by"] = f"{_NAMES[part]} {share:.0%}"
    return found


def _of_logs(side: Side) -> dict[str, Any]:
    """From a log folder's curves: the loss over its first and last tenth, as no more is known of epochs."""
    series = side.curves().series
    found: dict[str, Any] = {}
    if (loss := series.get("loss")) is not None and loss.values:
        window = max(1, len(loss.values) // 10)
        spent = loss.seconds[-1] - loss.seconds[0]
        steps = int(loss.steps[-1])
        found = {
            "steps": steps,
            "loss_first": statistics.fmean(loss.values[:window]),
            "loss_last": statistics.fmean(loss.values[-window:]),
            "loss_average": statistics.fmean(loss.values),
            "seconds": spent,
            "steps_per_second": (len(set(loss.steps)) - 1) / spent if spent > 0 else None,
        }
    if (validation := series.get("validation")) is not None and validation.values:
        found["validation"] = validation.values[-1]
    return found
