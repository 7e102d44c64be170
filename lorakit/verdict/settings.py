"""The settings a run was baked with, as values that compare by what they mean (stdlib only, from its preset.toml)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorakit.archive.facts import preset_values
from lorakit.archive.run import Run, read_record
from lorakit.archive.shared import patient
from lorakit.errors import ArchiveError
from lorakit.preset.units import Alpha, TextEncoderRates, format_number, format_rate

__all__ = ["effective", "settings", "show_value"]

_RATES = ("optim.unet_lr",)


def settings(run: Run) -> dict[str, Any]:
    """Every value of a run's resolved preset by its dotted key. Raises ArchiveError when it cannot be read."""
    try:
        return preset_values(patient(lambda: run.preset.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ArchiveError(
            f"the preset of {run.id} cannot be read",
            why=str(error),
            todo=f"lorakit verify {run.short} tells what else is damaged",
        ) from error


def effective(run: Run | None, values: Mapping[str, Any]) -> dict[str, Any]:
    """The same settings by what they come to: ``dim/2`` as a number, a pair of equal rates as one, warmup in a run's steps."""
    meant = dict(values)
    try:
        if "network.alpha" in meant:
            meant["network.alpha"] = Alpha.parse(meant["network.alpha"]).of(meant["network.dim"])
        if "optim.te_lr" in meant:
            meant["optim.te_lr"] = TextEncoderRates.parse(meant["optim.te_lr"]).plain()
    except (KeyError, TypeError, ValueError):
        return dict(values)  # another version's spelling: compared as written
    plan = (read_record(run.plan) or {}) if run is not None else {}
    if "optim.warmup" in meant and isinstance(plan.get("warmup_steps"), int):
        meant["optim.warmup"] = f"{plan['warmup_steps']} steps"
    return meant


def show_value(key: str, value: Any) -> str:
    """A setting as people write it: rates as 1e-4, pairs as 5e-5/2e-5; a dash when it is not there."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "true" if value else "false"
    if key in _RATES and isinstance(value, (int, float)):
        return format_rate(value)
    if key == "optim.te_lr":
        try:
            return str(TextEncoderRates.parse(value))
        except ValueError:
            return str(value)
    if isinstance(value, (int, float)):
        return format_number(value)
    if isinstance(value, list):
        return "[" + ", ".join(show_value("", item) for item in value) + "]"
    return str(value)
