"""`lorakit bake`, `watch`, `stop`: start a bake, look on, end it."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from lorakit.cli.batching import On, bake_in_job, refuse_place, stopped
from lorakit.cli.options import Json, PresetName, RunName, Set, TrainerKind, workspace
from lorakit.errors import RunFailed, UsageError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from lorakit.archive.records import RunState
    from lorakit.archive.run import Run
    from lorakit.bake.ending import Ended
    from lorakit.cli.view import View
    from lorakit.preset.files import ResolvedPreset
    from lorakit.workspace import Workspace

__all__ = ["bake", "bake_in_view", "follow_in_view", "in_view", "stop", "tell_end", "watch", "words_typed"]

#: Lines of a flooded log that are shown at once.
_MOST_LINES: Final = 200


def bake(
    preset: PresetName,
    *,
    sets: Set = None,
    trainer: TrainerKind = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return once it has started; it goes on by itself.")] = False,
    on: On = None,
    as_json: Json = False,
) -> None:
    """Train a preset into a sealed run folder.

    The folder keeps everything about the training, so that it can be compared and done again. Ctrl-C stops after the current step and saves what is trained; a second one is faster, a third one kills.
    """
    from lorakit.archive.records import state
    from lorakit.cli import run_screens, screen
    from lorakit.cli.presets import load

    place = workspace()
    resolved = load(preset, sets, place, trainer)
    out = screen.console(err=as_json)  # with --json, stdout is for the JSON alone
    _print_warnings(resolved, place, out)
    if on is not None:
        refuse_place(on)
        bake_in_job(resolved, place, out, as_json=as_json)
        return
    if detach:
        _detached(resolved, place, out, as_json=as_json)
        return
    found = state(bake_in_view(resolved, place, out))
    if as_json:
        screen.print_json(found.to_json())
    else:
        screen.put(out, run_screens.ending(found, preset))
    _exit_as(found)


def watch(run: RunName = "latest") -> None:
    """Look on while a run trains; Ctrl-C looks away."""
    from lorakit.archive.records import state
    from lorakit.archive.run import open_run
    from lorakit.cli import run_screens, screen

    found = open_run(workspace().runs, run)
    if not state(found).is_final:
        follow_in_view(found, 0)
    screen.put(screen.console(), [run_screens.headline(state(found))])


def follow_in_view(run: Run, tail: int | None) -> None:
    """The live view of a run under way, its log's last ``tail`` lines (None: 20) and all new ones above; with 0 no log at all.

    Ctrl-C looks away: the run goes on.
    """
    from lorakit.archive.trainer_log import LogFollower, log_tail
    from lorakit.bake.bake import follow
    from lorakit.cli import screen
    from lorakit.cli.view import View

    log = run.last_attempt.log
    lines = None if tail == 0 else LogFollower(log, offset=log.stat().st_size)
    with View(screen.console(), run.name, hint=f"Ctrl-C looks away; lorakit stop {run.short} stops it") as view:
        view.title(_title(run))
        if lines is not None:
            view.say(log_tail(log, 20 if tail is None else tail))

        def on_update(run: Run, records: Sequence[dict[str, Any]]) -> None:
            del run
            if lines is not None:
                view.say(_newest(lines.poll()))
            _show(view, records)

        with contextlib.suppress(KeyboardInterrupt):  # that is how one looks away
            follow(run, on_update)


def _newest(lines: Iterable[str]) -> list[str]:
    """The last of many lines: a flood is not for the eye, and must not fill the memory."""
    kept: deque[str] = deque(maxlen=_MOST_LINES)
    count = 0
    for line in lines:
        kept.append(line)
        count += 1
    skipped = [f"… {count - len(kept)} lines …"] if count > len(kept) else []
    return [*skipped, *kept]


def stop(
    run: RunName = "latest",
    *,
    now: Annotated[bool, typer.Option("--now", help="Do not wait for the step or save what is trained.")] = False,
    kill: Annotated[bool, typer.Option("--kill", help="Kill it at once.")] = False,
    within: Annotated[
        str, typer.Option("--within", metavar="TIME", help="End it by force when it has not stopped by then.")
    ] = "10m",
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Only ask, and return at once.")] = False,
    as_json: Json = False,
) -> None:
    """Stop a run with what is trained saved.

    It is ended by force when it does not stop in time. Returns when nothing of it lives any more, in bounded time; a process that not even KILL ended is named. Ctrl-C looks away: the run stops all the same.
    """
    from lorakit.archive.records import state
    from lorakit.archive.run import open_run
    from lorakit.bake.bake import request_stop
    from lorakit.cli import run_screens, screen
    from lorakit.cli.view import STOPPING

    found = open_run(workspace().runs, run)
    level = 3 if kill else 2 if now else 1
    seconds = _within(within)
    out = screen.console(err=as_json)
    if stopped(found, level, seconds, out, as_json=as_json):
        return
    told = STOPPING[level - 1].split(";")[0]
    line = screen.text((f"{found.name}_{found.short}", "strong"), f"  {told}")
    if no_wait:
        request_stop(found, level, within=seconds)
        out.print(line)
        if as_json:
            screen.print_json({"id": found.id, "level": level})
        return
    ended = _stop_in_view(found, level, seconds, out, line)
    if ended is None:
        return
    now_is = state(found)
    if as_json:
        screen.print_json({**now_is.to_json(), "level": level, "survivors": list(ended.survivors)})
    else:
        screen.put(out, [run_screens.headline(now_is)])
        if run_screens.can_go_on(now_is):
            out.print(screen.text("  ", ("go on  ", "same"), f"lorakit resume {found.short}"))
    if ended.survivors:
        pids = ", ".join(map(str, ended.survivors))
        raise RunFailed(
            f"could not kill pid {pids}",
            why="the kernel holds on to it (a stuck disk, network mount or driver), or it is another user's",
            todo=f"ps -o pid,stat,wchan:30,cmd -p {pids.replace(' ', '')} tells more; it goes when the kernel lets it",
        )


def _within(text: str) -> int:
    from lorakit.preset.spans import seconds

    try:
        return seconds(text)
    except ValueError as error:
        raise UsageError(f"--within {text} cannot be meant", why=str(error), todo="write --within 10m") from None


def _stop_in_view(run: Run, level: int, within: int, out: Console, line: Text) -> Ended | None:
    """End a run and show how it goes; None when the user looked away."""
    from lorakit.bake.ending import end_run
    from lorakit.cli.view import View

    with View(out, run.name, hint="Ctrl-C looks away; it stops all the same") as view:
        view.title(_title(run))
        view.note(line.plain.rpartition("  ")[2] if out.is_terminal else line.plain)
        try:
            return end_run(run, level, within=within, on_update=lambda _, records: _show_quietly(view, records))
        except KeyboardInterrupt:
            return None


def _show_quietly(view: View, records: Sequence[dict[str, Any]]) -> None:
    """Show what comes; of the past only what counts for the view, without a line for each."""
    view.update([record for record in records if record.get("type") not in {"warn", "stop"}])


def bake_in_view(
    resolved: ResolvedPreset, workspace: Workspace, out: Console, *, lineage: dict[str, Any] | None = None
) -> Run:
    """Bake and show how it goes until it has ended; returns the run, whatever became of it."""
    from lorakit.bake.bake import bake as bake_of

    def work(**watching: Any) -> Run:
        return bake_of(resolved, workspace, lineage=lineage, argv=words_typed(), **watching)

    return in_view(resolved.preset.name, out, work)


def words_typed() -> list[str]:
    """The command line, as a run keeps it."""
    return ["lorakit", *sys.argv[1:]]


def in_view(name: str, out: Console, work: Callable[..., Run]) -> Run:
    """Do ``work(on_update=…, on_prepare=…)``, which starts a training, and show how it goes until the work ends."""
    from lorakit.cli.presets import PATIENCE_SECONDS
    from lorakit.cli.view import View

    began = time.monotonic()
    born: list[Run] = []
    with View(out, name) as view:

        def on_prepare(name: str, done: int, total: int) -> None:
            if time.monotonic() - began > PATIENCE_SECONDS and total:
                # Counted in percent: the hashing of a model is told in bytes.
                view.update([{"type": "phase", "name": name, "done": 100 * done // total, "total": 100}])

        def on_update(run: Run, records: Sequence[dict[str, Any]]) -> None:
            if not born:
                view.title(_title(run))
                born.append(run)
            _show(view, records)

        return work(on_update=on_update, on_prepare=on_prepare)


def tell_end(run: Run, out: Console, *, detach: bool = False, as_json: bool = False) -> None:
    """How a run stands after a command that trained it, and the exit code for that."""
    from lorakit.archive.records import state
    from lorakit.cli import run_screens, screen

    found = state(run)
    if as_json:
        screen.print_json(found.to_json())
    elif detach:
        _tell_detached(run, out)
    else:
        screen.put(out, run_screens.ending(found, _preset_of(run)))
    if not detach:
        _exit_as(found)


def _preset_of(run: Run) -> str:
    """What to type for the preset that a run was baked from; the archived one where that file is gone."""
    from lorakit.archive.run import read_record

    asked = (read_record(run.request) or {}).get("preset")
    path = Path(asked) if isinstance(asked, str) and asked else run.preset
    if not path.is_file():
        return str(run.preset)
    return path.stem if path.parent == workspace().presets else str(path)


def _show(view: View, records: Sequence[dict[str, Any]]) -> None:
    from lorakit.cli.view import STOPPING

    for record in records:
        if record.get("type") == "stop":
            view.note(STOPPING[min(3, max(1, int(record.get("level", 1)))) - 1])
    view.update(records)


def _title(run: Run) -> str:
    from lorakit.archive.run import read_record
    from lorakit.cli.presets import trainer_name

    trainer = (read_record(run.command_json) or {}).get("trainer") or {}
    return f"{run.name}_{run.short} · {trainer_name(str(trainer.get('kind', '')))}"


def _detached(resolved: ResolvedPreset, workspace: Workspace, out: Console, *, as_json: bool) -> None:
    from lorakit.archive.records import state
    from lorakit.bake.bake import bake as bake_of
    from lorakit.cli import screen

    run = bake_of(resolved, workspace, detach=True, argv=words_typed())
    if as_json:
        screen.print_json(state(run).to_json())
        return
    _tell_detached(run, out)


def _tell_detached(run: Run, out: Console) -> None:
    from lorakit.cli import screen

    out.print(
        screen.text(("▸ ", "strong"), (f"{run.name}_{run.short}", "strong"), "  has started and goes on by itself")
    )
    rows = (("run", str(run.path)), ("look", f"lorakit watch {run.short}"), ("stop", f"lorakit stop {run.short}"))
    for label, value in rows:
        out.print(screen.text("  ", (f"{label:<8}", "same"), value))


def _print_warnings(resolved: ResolvedPreset, workspace: Workspace, out: Console) -> None:
    from lorakit.cli import screen
    from lorakit.cli.plan_screen import finding_lines
    from lorakit.cli.presets import baker_of
    from lorakit.trainers.preflight import preflight

    kind = baker_of(resolved, workspace).kind
    screen.put(out, finding_lines(one for one in preflight(resolved.preset, workspace, kind) if one.level == "warning"))


def _exit_as(found: RunState) -> None:
    from lorakit.bake.bake import trouble

    error = trouble(found)
    if error is not None:  # told already, in the last lines of the bake
        raise typer.Exit(error.exit_code)
