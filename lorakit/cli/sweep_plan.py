"""A sweep before it starts: the table of its trials with their plans and warnings, steps, time and disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from lorakit.cli import screen

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.text import Text

    from lorakit.sweep.estimate import Forecast
    from lorakit.sweep.look import Trial
    from lorakit.sweep.trials import Sweep
    from lorakit.workspace import Workspace

__all__ = ["forecast_told", "heads", "plan_json", "plan_page", "seed_told", "shape"]

#: Rows of trials that a screen shows; --json has them all.
_ROWS: Final = 40
#: Runs that are named as the source of an estimate.
_NAMED: Final = 3


def plan_page(sweep: Sweep, workspace: Workspace, width: int | None, *, at_once: int = 1) -> list[Text]:
    """The trials, what is refused, and a last line that sums up; ``at_once`` is how many will be baked side by side."""
    left = [trial for trial in sweep.trials if trial.done is None]
    times = _forecast(left, workspace)
    seconds = {trial.identity: one for trial, one in zip(left, times.seconds, strict=True)}
    table: list[list[str | Text]] = [
        [screen.text((word, "same")) for word in ["trial", *heads(sweep), "images", "steps", "time", "writes", ""]]
    ]
    if any(trial.findings for trial in sweep.trials):
        table[0].append(screen.text(("warnings", "same")))
    for at, trial in enumerate(sweep.trials[:_ROWS], 1):
        plan = trial.plan
        done = screen.text((f"✓ done: {trial.done.short}", "done")) if trial.done else screen.text("to bake")
        row: list[str | Text] = [str(at), *(value for _, value in trial.point), str(plan.images), str(plan.total_steps)]
        row += [screen.duration(seconds.get(trial.identity)), screen.size(plan.disk.needed), done]
        if codes := " ".join(finding.code for finding in trial.findings):
            row.append(screen.text((codes, "look")))
        table.append(row)
    lines = screen.columns(table, gap=3, width=width, flexible=range(1, 1 + len(sweep.axes)))
    if len(sweep.trials) > _ROWS:
        lines.append(screen.text((f"… {len(sweep.trials) - _ROWS} more; --dry-run --json has them all", "same")))
    for refused in sweep.refused[:_ROWS]:
        lines.append(screen.text(("✗ refused  ", "fail"), f"{refused.told}: {refused.why}"))
    if len(sweep.refused) > _ROWS:
        lines.append(screen.text((f"… {len(sweep.refused) - _ROWS} more refused", "same")))
    return [*lines, *_sums(sweep, left, times, at_once)]


def _sums(sweep: Sweep, left: Sequence[Trial], times: Forecast, at_once: int) -> list[Text]:
    from lorakit.sweep.trials import bytes_of

    steps = sum(trial.plan.total_steps for trial in left)
    told = [f"{shape(sweep)} · {len(left)} of {len(sweep.trials)} to bake, {steps:,} steps{seed_told(sweep)}"]
    told += [f"{sweep.left_out} left out by --where"] if sweep.left_out else []
    told += [f"{sweep.merged} mean the same as another and count once"] if sweep.merged else []
    told += [f"{len(sweep.refused)} refused"] if sweep.refused else []
    lines = [screen.text(" · ".join(told))]
    if left:
        free = screen.size(min(trial.plan.disk.free for trial in left))
        lines.append(screen.text(("time  ", "same"), forecast_told(times, at_once)))
        lines.append(screen.text(("disk  ", "same"), f"{screen.size(bytes_of(left))} of {free} free"))
    return lines


def forecast_told(times: Forecast, at_once: int = 1) -> str:
    """How long it will take, and which runs say so; or that nobody knows yet."""
    total = times.at_once(at_once)
    if total is None:
        return "unknown: no run of this shape was baked on this machine yet"
    named = ", ".join(times.runs[:_NAMED]) + (
        f" and {len(times.runs) - _NAMED} more" if len(times.runs) > _NAMED else ""
    )
    known = len(times.seconds) - times.unknown
    of = f" for {known} of {len(times.seconds)} (no run had the shape of the others)" if times.unknown else ""
    beside = f", {at_once} at once if each is as fast as alone" if at_once > 1 else ""
    return f"about {screen.duration(total)}{of}{beside} · measured on {named}"


def _forecast(trials: Sequence[Trial], workspace: Workspace) -> Forecast:
    from lorakit.sweep.estimate import forecast

    return forecast([(trial.shape, trial.plan.total_steps) for trial in trials], workspace)


def plan_json(sweep: Sweep, workspace: Workspace) -> dict[str, Any]:
    """The same in plain values."""
    from lorakit.sweep.trials import bytes_of

    left = [trial for trial in sweep.trials if trial.done is None]
    times = _forecast(left, workspace)
    seconds = {trial.identity: one for trial, one in zip(left, times.seconds, strict=True)}
    return {
        "sweep": sweep.id,
        "preset": str(sweep.preset),
        "seed": sweep.seed,
        "left_out": sweep.left_out,
        "merged": sweep.merged,
        "seconds": times.total,
        "seconds_unknown": times.unknown,
        "measured_on": list(times.runs),
        "bytes": bytes_of(left),
        "trials": [_trial_json(trial, seconds) for trial in sweep.trials],
        "refused": [{"point": dict(one.point), "why": one.why} for one in sweep.refused],
    }


def _trial_json(trial: Trial, seconds: Mapping[str, float | None]) -> dict[str, Any]:
    return {
        "name": trial.resolved.preset.name,
        "point": dict(trial.point),
        "trial": trial.identity,
        "trainer": trial.trainer,
        "seed": trial.resolved.preset.seed,
        "total_steps": trial.plan.total_steps,
        "seconds": seconds.get(trial.identity),
        "bytes": trial.plan.disk.needed,
        "findings": [finding.code for finding in trial.findings],
        "done": trial.done.id if trial.done else None,
    }


def heads(sweep: Sweep) -> list[str]:
    """Its axes, as a table's heads."""
    from lorakit.sweep.axes import label

    return [label(axis.key) for axis in sweep.axes]


def shape(sweep: Sweep) -> str:
    """How many values each axis has: ``2 × 3``."""
    return " × ".join(str(len(axis.values)) for axis in sweep.axes)


def seed_told(sweep: Sweep) -> str:
    """The seed that was drawn for all of it, where one was."""
    return f" · seed {sweep.seed}, drawn for all" if sweep.seed_drawn else ""
