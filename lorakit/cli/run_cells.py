"""A run's values as cells of tables, and the table of `lorakit ls`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from lorakit.archive.diagnose_log import Reason, Status
from lorakit.archive.facts import RESULTS, Kind
from lorakit.cli import screen
from lorakit.errors import ArchiveError
from lorakit.preset.units import Alpha, format_number
from lorakit.verdict.settings import settings, show_value

if TYPE_CHECKING:
    from rich.text import Text

    from lorakit.archive.facts import Value
    from lorakit.archive.records import RunState

__all__ = ["MARKS", "cell", "listing", "network_of", "results"]

MARKS: Final[Mapping[Status, tuple[str, str]]] = {
    Status.OK: ("✓", "done"),
    Status.FAILED: ("✗", "fail"),
    Status.DAMAGED: ("✗", "fail"),
    Status.STOPPED: ("■", "look"),
    Status.INTERRUPTED: ("!", "look"),
    Status.UNKNOWN: ("?", "look"),
    Status.RUNNING: ("▸", "strong"),
    Status.PREPARED: ("▸", "strong"),
    Status.QUEUED: ("·", "strong"),
}


def listing(states: Sequence[RunState], *, now: float, width: int | None) -> list[Text]:
    """The table of `lorakit ls`, in the order given."""
    head = ["run", "name", "when", "state", "steps", "loss", "dim/alpha", "UNet", "TE", "time", "tags"]
    rows: list[list[str | Text]] = [[screen.text((word, "same")) for word in head]]
    for state in states:
        network, unet, te = network_of(state)
        rows.append(
            [
                screen.text((state.run.short, "strong")),
                state.name,
                screen.moment(state.created, now=now),
                _state(state),
                _steps(state),
                _losses(state),
                network,
                unet,
                te,
                screen.duration(state.seconds),
                " ".join(state.tags),
            ]
        )
    if not any(state.tags for state in states):
        rows = [row[:-1] for row in rows]
    lines = screen.columns(rows, gap=3)
    if width is None or max(line.cell_len for line in lines) <= width:
        return lines
    return screen.columns(rows, gap=2, width=width, flexible=(1,))


def cell(key: str, value: Value | None, state: RunState, *, now: float) -> str | Text:
    """A value of a run as a table shows it."""
    if key == "state":
        return _state(state)
    if value is None:
        return "–"
    if key == "run":
        return screen.text((str(value), "strong"))
    result = RESULTS.get(key)
    if isinstance(value, (int, float)) and result is not None and not isinstance(value, bool):
        match result.kind:
            case Kind.TIME:
                return screen.moment(value, now=now)
            case Kind.DURATION:
                return screen.duration(value)
            case Kind.SIZE:
                return screen.size(value)
        if key.startswith("loss.") or key == "validation":
            return screen.loss(value)
        if key == "speed":
            return screen.speed(value)
    if isinstance(value, str):
        return " · ".join(value.splitlines())
    return " ".join(value) if isinstance(value, list) else show_value(key, value)


def network_of(state: RunState) -> tuple[str, str, str]:
    """Dim/alpha and the rates of UNet and text encoders, as far as the run's preset tells."""
    try:
        values = settings(state.run)
    except ArchiveError:
        return "–", "–", "–"
    dim, alpha = values.get("network.dim"), values.get("network.alpha", "dim")
    network = "–"
    if isinstance(dim, int):
        try:
            network = f"{dim}/{format_number(Alpha.parse(alpha).of(dim))}"
        except ValueError:
            network = f"{dim}/{alpha}"
    return (
        network,
        show_value("optim.unet_lr", values.get("optim.unet_lr")),
        show_value("optim.te_lr", values.get("optim.te_lr")),
    )


def _state(state: RunState) -> Text:
    mark, meaning = MARKS[state.status]
    if state.status is Status.RUNNING:
        share = f"{state.steps / state.total_steps:.0%}" if state.total_steps else state.phase or "starting"
        return screen.text((f"{mark} {share}", meaning))
    if state.status is Status.OK:
        return screen.text(
            (f"{mark} {'sealed' if state.sealed else 'not sealed'}", meaning if state.sealed else "look")
        )
    tells = state.status is Status.FAILED or state.reason in {Reason.PREEMPTED, Reason.TIMED_OUT, Reason.TERMINATED}
    word = state.reason.value.replace("-", " ") if tells and state.reason else state.status.value
    return screen.text((f"{mark} {word}", meaning))


def _steps(state: RunState) -> str:
    if state.total_steps is None or state.steps == state.total_steps:
        return str(state.steps)
    return f"{state.steps}/{state.total_steps}"


def _losses(state: RunState) -> str:
    if state.loss_first is None:
        return "–"
    return f"{screen.loss(state.loss_first)}→{screen.loss(state.loss_last)}"


def results(state: RunState) -> list[str | Text]:
    """Steps, losses, validation and time of a run, as cells of a table."""
    validation = screen.loss(state.validation) if state.validation is not None else "–"
    return [_steps(state), _losses(state), validation, screen.duration(state.seconds)]
