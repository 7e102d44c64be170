"""`lorakit plan PRESET --as …`: the same preset and folders in the hands of other trainers, side by side."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from lorakit.cli import screen
from lorakit.preset.units import format_rate

if TYPE_CHECKING:
    from rich.text import Text

    from lorakit.interop.counting import Row
    from lorakit.plan import Plan
    from lorakit.preset.models import Preset

__all__ = ["page", "print_table"]


def print_table(preset: Preset, plan: Plan, names: str, *, asked: str, as_json: bool) -> None:
    """The table of the trainers that are named. Raises UsageError for an unknown one."""
    from lorakit.interop.counting import chosen, table

    rows = table(preset, plan, chosen(names))
    if as_json:
        screen.print_json([row.to_json() for row in rows])
        return
    out = screen.console()
    screen.put(out, page(preset, plan, rows, asked=asked))


def page(preset: Preset, plan: Plan, rows: tuple[Row, ...], *, asked: str) -> list[Text]:
    """A line for each trainer, the causes of what differs below, the next command."""
    network = preset.network
    alpha = network.alpha.of(network.dim)
    lines = [
        screen.text(
            (preset.name, "strong"),
            f"  in other trainers · items are images × repeats · rates are × alpha / dim = × {alpha / network.dim:.4g}",
        ),
        screen.text(""),
    ]
    head = ["", "images", "items", "steps", "warmup", "really runs", "UNet", "TE"]
    cells: list[list[str | Text]] = [[screen.text((word, "same")) for word in head]]
    for row in rows:
        differs = row.runs != plan.total_steps
        warmup = f"{row.warmup_told} → {row.warmup}" if row.warmup_told else str(row.warmup)
        runs = str(row.runs) + (f" = {row.runs_epochs:g} epochs" if differs else "")
        steps = "–" if row.steps is None else str(row.steps)
        rates = [_rate(row.unet), _rate(row.te)]
        told = (runs, "look") if differs else (runs, "")
        cells.append([row.name, str(row.images), str(row.items), steps, warmup, screen.text(told), *rates])
    lines += screen.columns(cells, right=(1, 2, 3, 4))
    reasons = [(row.name, cause) for row in rows for cause in row.causes]
    if reasons:
        lines.append(screen.text(""))
        before = ""
        for name, cause in reasons:
            lines.append(screen.text((f"{name if name != before else '':<20}", "same"), cause))
            before = name
    lines += [screen.text(""), screen.text(("next: ", "same"), f"lorakit plan {shlex.quote(asked)}")]
    return lines


def _rate(value: float) -> str:
    return format_rate(float(f"{value:.3g}")) if value else "–"
