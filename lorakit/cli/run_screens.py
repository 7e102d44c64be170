"""How runs are shown: the list, one run in full, and the last words of a bake."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from lorakit.archive.diagnose_log import Reason, Status
from lorakit.archive.run import read_record
from lorakit.cli import screen
from lorakit.cli.run_cells import MARKS, cell, listing, network_of, results
from lorakit.verdict.settings import settings, show_value

if TYPE_CHECKING:
    from pathlib import Path

    from rich.text import Text

    from lorakit.archive.records import RunState
    from lorakit.archive.run import Run

__all__ = [
    "can_go_on",
    "cell",
    "ending",
    "failure_hint",
    "headline",
    "listing",
    "network_of",
    "outcome",
    "results",
    "shown",
]

_LABEL: Final = 12
#: Letters of the line that names reason and evidence, so that it stays one line; `--json` has it all.
_REASON: Final = 84
#: Lines of a failed run's log that `show` ends with.
_LOG_LINES: Final = 10

#: What to try, by why a run failed.
_HINTS: Final[Mapping[Reason, str]] = {
    Reason.OOM_CUDA: "--set memory.gradient_checkpointing=true, a smaller length.batch_size, or the preset sdxl-8gb",
    Reason.OOM_KILLED: "--set dataset.workers=0, a smaller length.batch_size, or close what else needs memory",
    Reason.NAN: "a lower optim.unet_lr, --set precision.no_half_vae=true, or --set precision.mixed=bf16",
    Reason.SPIKE: "an earlier checkpoint may be good; then a lower rate, more warmup, or a lower optim.max_grad_norm",
    Reason.DISK_FULL: "free some space; lorakit plan says how much a bake needs",
    Reason.MISSING_FILE: "look at the path: relative ones count from the workspace",
    Reason.NO_DATA: "lorakit plan shows which pictures are found and why others are skipped",
    Reason.MISSING_MODULE: "install what it lacks into the trainer's environment; pip install 'lorakit[builtin]' for the built-in one",
    Reason.PORT_IN_USE: "type it again: another port is taken each time",
    Reason.BAD_ARGUMENTS: "lorakit check finds what this trainer refuses; see also [extra] in the preset",
    Reason.TIMED_OUT: "lorakit logs shows its last words; several GPUs that wait for each other: launch.ddp_timeout",
    Reason.KEEPER_LOST: "type the bake again; everything that is needed is in the run folder",
}


#: Reasons that a resumed run would meet again.
_WOULD_AGAIN: Final = frozenset({Reason.NAN, Reason.SPIKE})


def headline(state: RunState) -> Text:
    """How a run stands, in one line."""
    mark, meaning = MARKS[state.status]
    name = f"{state.name}_{state.run.short}"
    parts = [outcome(state)]
    if state.status is Status.OK or state.checkpoints:
        if state.loss_first is not None:
            parts.append(f"loss {screen.loss(state.loss_first)} → {screen.loss(state.loss_last)}")
        parts.append(screen.count(state.checkpoints, "checkpoint"))
    if state.is_final:
        parts.append("sealed" if state.sealed else "not sealed")
    return screen.text((mark, meaning), " ", (name, "strong"), "  ", " · ".join(parts))


def outcome(state: RunState) -> str:
    """What became of a run, in a few words."""
    match state.status:
        case Status.OK:
            return f"{screen.count(state.steps, 'step')} in {screen.duration(state.seconds)}"
        case Status.RUNNING:
            where = f"{state.steps}/{state.total_steps}" if state.total_steps else state.phase or "starting"
            return f"running, {where}"
        case _:
            return state.message or state.status.value


def ending(state: RunState, preset: str) -> list[Text]:
    """The last words of a bake: how it went, where it is kept, what to type next. ``preset`` is what was baked."""
    short = state.run.short
    lines = [headline(state)]
    if state.status is Status.OK:
        lines.append(_field("run", str(state.run.path)))
        rows = [
            ("look", f"lorakit show {short}"),
            ("check", f"lorakit verify {short}"),
            ("next", f"lorakit sweep {shlex.quote(preset)} --unet-lr {_around(state)}"),
        ]
    else:
        lines += [_field(label, value) for label, value in _why(state)]
        lines.append(_kept(state))
        if (hint := failure_hint(state)) is not None:
            lines.append(_field("try", hint))
        lines.append(_field("run", str(state.run.path)))
        rows = [("log", f"lorakit logs {short} --tail 40")]
        if can_go_on(state):
            rows.append(("go on", f"lorakit resume {short}"))
        elif state.status in {Status.STOPPED, Status.INTERRUPTED}:
            rows.append(("again", f"lorakit bake {shlex.quote(preset)}"))
    return [*lines, *(_field(label, command) for label, command in rows)]


def can_go_on(state: RunState) -> bool:
    """Whether `lorakit resume` has something to go on from, and a reason to: what became NaN or shot up would do it again."""
    from lorakit.archive.states import training_states  # `lorakit ls` does without

    cut_short = state.status in {Status.STOPPED, Status.INTERRUPTED, Status.FAILED} and state.reason not in _WOULD_AGAIN
    return cut_short and any(one.whole for one in training_states(state.run))


def _why(state: RunState) -> list[tuple[str, str]]:
    """The reason by its name, and what shows it."""
    if not state.reason or not state.evidence or state.status is Status.OK:
        return []
    line = f"{state.reason.value} · {state.evidence}"
    return [("reason", line if len(line) <= _REASON else f"{line[: _REASON - 1]}…")]


def failure_hint(state: RunState) -> str | None:
    """What to try after a failure of a known kind."""
    return _HINTS.get(state.reason)


def _kept(state: RunState) -> Text:
    kept = f"{screen.count(state.checkpoints, 'checkpoint')}, the full log, everything to run it again"
    return _field("kept", kept)


def _around(state: RunState) -> str:
    # The same rate with half and double of it: the first sweep that most people want.
    rate = settings(state.run).get("optim.unet_lr")
    values = [rate / 2, rate, rate * 2] if isinstance(rate, (int, float)) and rate > 0 else [5e-5, 1e-4, 2e-4]
    return ",".join(show_value("optim.unet_lr", float(f"{value:.3g}")) for value in values)


def _field(label: str, value: str) -> Text:
    return screen.text("  ", (f"{label:<{_LABEL}}", "same"), value)


def shown(state: RunState) -> list[Text]:
    """One run in full: `lorakit show`."""
    run = state.run
    request = read_record(run.request) or {}
    command = request.get("argv")
    lines = [headline(state)]
    rows: list[tuple[str, str]] = [*_why(state), ("run", str(run.path))]
    rows.append(("baked", _when(state)))
    if isinstance(command, list):
        rows.append(("asked", shlex.join(str(word) for word in command)))
    rows += [*_lineage(request.get("lineage")), *_resumed(run)]
    network, unet, te = network_of(state)
    rows.append(("network", f"dim/alpha {network}, rates UNet {unet}, TE {te}"))
    rows += _planned(run.plan)
    rows += _measured(state)
    files = _files(state)
    rows += [("weights" if not at else "", line) for at, line in enumerate(files)]
    rows += _warned(run)
    if state.tags:
        rows.append(("tags", " ".join(state.tags)))
    rows += [("notes" if not at else "", line) for at, line in enumerate(_notes(run.notes))]
    if state.status is Status.FAILED and (hint := failure_hint(state)):
        rows.append(("try", hint))
    lines += [_field(label, value) for label, value in rows]
    for problem in state.problems:
        newer = state.read_only and "newer lorakit" in problem
        lines.append(screen.text("  ", (f"{'note' if newer else 'damaged'} {problem}", "look" if newer else "fail")))
    if state.log_tail and state.status not in {Status.OK, Status.STOPPED}:
        lines.append(screen.text("  ", ("last lines of the log", "same")))
        lines += [screen.text("    ", line) for line in state.log_tail[-_LOG_LINES:]]
    short = run.short
    words = ["logs", "verify"] if state.sealed else ["logs"] if state.is_final else ["watch", "stop", "logs"]
    words = ["stop"] if state.status is Status.QUEUED else words
    if can_go_on(state):
        words.insert(0, "resume")
    commands = [f"lorakit {word} {short}" for word in words]
    lines.append(_field("next", " · ".join(commands)))
    return lines


def _lineage(lineage: Any) -> list[tuple[str, str]]:
    if not isinstance(lineage, dict):
        return []
    if lineage.get("kind") == "rerun":
        return [("rerun of", str(lineage.get("of"))), *_differs(lineage)]
    if lineage.get("kind") != "sweep":
        return []
    point = " ".join(f"{key}={value}" for key, value in (lineage.get("point") or {}).items())
    return [("sweep", f"{lineage.get('sweep')}, trial {lineage.get('index')} of {lineage.get('of')}: {point}")]


def _resumed(run: Run) -> list[tuple[str, str]]:
    """Where further attempts went on, and what had changed until then."""
    rows = []
    for number in range(2, run.last_attempt.number + 1):
        record = read_record(run.attempt(number).resumed) or {}
        if "step" in record:
            rows.append(("resumed", f"after step {record['step']}, attempt {number}"))
        rows += _differs(record)
    return rows


def _differs(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What --anyway let pass."""
    return [("differs", str(line)) for line in record.get("differences") or ()]


def _notes(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except FileNotFoundError:
        return []


def _when(state: RunState) -> str:
    now = time.time()
    parts = [screen.moment(state.started or state.created, now=now)]
    if state.seconds is not None:
        parts.append(f"for {screen.duration(state.seconds)}")
    if state.attempt > 1:
        parts.append(f"attempt {state.attempt}")
    return ", ".join(parts)


def _planned(path: Any) -> list[tuple[str, str]]:
    plan = read_record(path) or {}
    images, steps, epochs = plan.get("images"), plan.get("total_steps"), plan.get("epochs")
    if not (isinstance(images, int) and isinstance(steps, int) and isinstance(epochs, int)):
        return []
    warmup = plan.get("warmup_steps")
    extra = f", warmup {warmup}" if warmup else ""
    length = f"{screen.count(steps, 'step')} over {screen.count(epochs, 'epoch')}"
    return [("planned", f"{screen.count(images, 'image')}, {length}{extra}")]


def _measured(state: RunState) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    if state.loss_average is not None:
        parts = f"first {screen.loss(state.loss_first)}, last {screen.loss(state.loss_last)}, average {screen.loss(state.loss_average)}"
        rows.append(("loss", f"{parts}  (over the first and the last epoch)"))
    if state.validation is not None:
        rows.append(("validation", screen.loss(state.validation)))
    if state.steps_per_second:
        memory = (
            f", VRAM {screen.size(state.vram)}"
            if state.vram
            else f", RAM {screen.size(state.rss)}"
            if state.rss
            else ""
        )
        rows.append(("speed", f"{screen.speed(state.steps_per_second)}{memory}"))
    return rows


def _warned(run: Run) -> list[tuple[str, str]]:
    """What its trainings warned of, in one line, each warning once."""
    records = [read_record(run.attempt(number).ended) or {} for number in range(1, run.last_attempt.number + 1)]
    told = [str(text) for record in records for text in record.get("warnings") or ()]
    if not told:
        return []
    first, *others = dict.fromkeys(told)
    return [("warned", first + (f"  (and {len(others)} more: lorakit logs {run.short})" if others else ""))]


def _files(state: RunState) -> list[str]:
    """Every weights file with its size, and what is wrong with a torn one."""
    from lorakit.archive.states import checkpoints

    lines = []
    for entry in checkpoints(state.run):
        torn = f"  torn: {entry['fault']}" if "fault" in entry else ""
        lines.append(f"{entry['path'].removeprefix('weights/')}  {screen.size(entry['bytes'])}{torn}")
    return lines
