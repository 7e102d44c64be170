"""A folder that TensorBoard can show: chosen runs under short names, and what it needs for its hparams table."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from lorakit.evidence.curves import curves_of_run
from lorakit.evidence.event_writer import scalar, session, write_events
from lorakit.evidence.events import event_files
from lorakit.preset.units import TextEncoderRates
from lorakit.verdict.settings import show_value
from lorakit.verdict.sides import Side

__all__ = ["lay_out"]

#: Settings that are shown although all runs agree in them: what a LoRA is asked about first.
_ALWAYS: Final = ("network.dim", "network.alpha", "optim.unet_lr", "optim.te_lr", "optim.type", "length.batch_size")
#: Words about a run; its row has a name already.
_NOT_SHOWN: Final = frozenset({"name", "description"})
_RESULTS: Final = ("loss_first", "loss_last", "loss_average", "validation", "steps_per_second")
#: How the curves of a progress file are called in event files.
_TAGS: Final = {"loss": "loss/current", "validation": "loss/validation/epoch_average"}


def lay_out(sides: Sequence[Side], folder: Path) -> dict[str, Path]:
    """Make a folder for each run, with links to its event files and its row of the hparams table; returns them by name.

    A run without event files gets its curves from its progress. Links show a run that is being trained as it grows. Raises OSError.
    """
    told = {side: {key: value for key, value in side.meant.items() if key not in _NOT_SHOWN} for side in sides}
    differing = [
        key
        for key in dict.fromkeys(key for values in told.values() for key in values)
        if key in _ALWAYS or len({str(values.get(key)) for values in told.values()}) > 1
    ]
    made = {}
    for side in sides:
        name = _short(side)
        target = folder / name
        target.mkdir(parents=True)
        for at, path in enumerate(_events(side)):
            os.symlink(path.resolve(), target / f"{path.name}.{at}")
        began = (side.state.started if side.state is not None else None) or 0.0
        values = {key: _plain(key, told[side][key]) for key in differing if told[side].get(key) is not None}
        events = [session(_rates_apart(values, told[side]), group=name, began=began)]
        write_events(target / "events.out.tfevents.0.lorakit", [*events, *_results(side, began)])
        made[name] = side.path
    return made


def _events(side: Side) -> Sequence[Path]:
    if side.run is None:
        return event_files(side.path) if side.kind == "logs" else ()
    attempts = range(1, side.run.last_attempt.number + 1)
    return [path for number in attempts for path in event_files(side.run.attempt(number).events)]


def _short(side: Side) -> str:
    """``k3f9-unet2.5e-4``: its four characters and as much of its name as a list has place for."""
    name = re.sub(r"[^\w.+-]+", "-", side.name).strip("-.")
    label = re.sub(r"[^\w.+-]+", "-", side.label).strip("-.") or "run"
    return label if not name or name == label else f"{label}-{name[-28:].lstrip('-_.')}"


def _plain(key: str, value: Any) -> bool | float | str:
    if isinstance(value, (bool, str)):
        return value
    return float(value) if isinstance(value, (int, float)) else show_value(key, value)


def _rates_apart(values: dict[str, bool | float | str], told: Mapping[str, Any]) -> dict[str, bool | float | str]:
    """The text encoders' rates as two numbers: a pair is no number that the table's axes could show."""
    try:
        rates = TextEncoderRates.parse(told["optim.te_lr"])
    except (KeyError, TypeError, ValueError):
        return values
    rest = {key: value for key, value in values.items() if key != "optim.te_lr"}
    return {**rest, "optim.te1_lr": float(rates.te1), "optim.te2_lr": float(rates.te2)}


def _results(side: Side, began: float) -> list[bytes]:
    """The run's results as single points, for the table's columns; and its curves, where it has no event files."""
    if side.run is None or side.state is None:
        return []
    state = side.state
    found = [
        scalar(f"result/{key}", value, state.steps, state.ended or began)
        for key in _RESULTS
        if isinstance(value := getattr(state, key), (int, float)) and math.isfinite(value)
    ]
    if not _events(side):
        for name, series in curves_of_run(side.run).series.items():
            tag = _TAGS.get(name, name.replace(".", "/"))
            points = zip(series.steps, series.values, series.seconds, strict=True)
            found += [scalar(tag, value, int(step), began + seconds) for step, value, seconds in points]
    return found
