"""The bake: prepare a run, start its keeper, watch it, stop it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lorakit.archive.diagnose_log import Status
from lorakit.archive.records import RunState, is_alive, require_writable, state
from lorakit.archive.run import Run
from lorakit.atomic import dump_json, write_once
from lorakit.errors import ArchiveError, LorakitError, RunFailed, Stopped
from lorakit.launch.processes import hold_lock, require_linux
from lorakit.launch.supervisor import module_argv, spawn_detached
from lorakit.protocol import Follower

if TYPE_CHECKING:
    from lorakit.bake.prepare import OnPrepare
    from lorakit.preset.files import ResolvedPreset
    from lorakit.workspace import Workspace

__all__ = ["OnUpdate", "bake", "carry_out", "follow", "interrupts", "request_stop", "start", "trouble"]

#: Called with the run and the new protocol records (often none) about twenty times a second, first when the run is born.
#: ``{"type": "stop", "level": n}`` is lorakit's own record: somebody asked for a stop.
OnUpdate = Callable[[Run, Sequence[dict[str, Any]]], None]

_TICK: Final = 0.05
_START_SECONDS: Final = 60.0


def bake(
    resolved: ResolvedPreset,
    workspace: Workspace,
    *,
    detach: bool = False,
    on_update: OnUpdate | None = None,
    lineage: dict[str, Any] | None = None,
    argv: Sequence[str] = (),
    allow_warnings: bool = True,
    on_prepare: OnPrepare | None = None,
) -> Run:
    """Bake a preset: check, prepare the run folder, train, seal. Returns the run however its training ended.

    The training belongs to a keeper process of its own: it goes on when this process or its terminal ends. With ``detach`` the
    call returns once it has started. In the main thread Ctrl-C asks the run to stop, then to hurry, then kills it.
    ``lineage`` says what the run descends from (sweep, parent, replicate of), ``argv`` how lorakit was called; ``on_prepare`` is told
    how far the looking and hashing before the run is.

    Raises LorakitError for everything that keeps the run from starting; how it ended is in ``archive.records.state(run)``
    and, as an error, in :func:`trouble`.
    """
    from lorakit.bake.prepare import prepare

    require_linux()
    run = prepare(resolved, workspace, lineage=lineage, argv=argv, allow_warnings=allow_warnings, on_prepare=on_prepare)
    carry_out(run, detach=detach, on_update=on_update)
    return run


def carry_out(run: Run, attempt: int = 1, *, detach: bool = False, on_update: OnUpdate | None = None) -> None:
    """Start an attempt that was prepared and, unless ``detach``, watch it to its end; see :func:`bake`."""
    with _interrupts(run):  # from before the start: a Ctrl-C must not leave a run that nobody knows of
        if on_update is not None:
            on_update(run, ())
        start(run, attempt)
        if not detach:
            follow(run, on_update)


def start(run: Run, attempt: int = 1) -> None:
    """Start the keeper of an attempt that was prepared; returns once it cannot be lost any more.

    Raises ArchiveError when the keeper cannot do its work, with what it said.
    """
    folder = run.attempt(attempt)
    argv = module_argv("lorakit.bake.keeper", str(run.path), str(attempt))
    lock = hold_lock(
        folder.alive
    )  # until the keeper holds it: in between nobody may take the run for one that never started
    try:
        process = spawn_detached(argv, cwd=run.path, env=os.environ, output=folder.keeper_log)
        try:
            code = process.wait(timeout=_START_SECONDS)
        except BaseException:
            process.kill()
            process.wait()
            raise
    finally:
        os.close(lock)
    if code != 0:
        raise ArchiveError(
            f"{run.id} could not be started",
            why=_last_line(folder.keeper_log),
            todo=f"the whole story is in {folder.keeper_log}",
        )


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "its keeper ended without a word"


def follow(
    run: Run,
    on_update: OnUpdate | None = None,
    *,
    from_start: bool = True,
    until: Callable[[], bool] = lambda: False,
) -> None:
    """Watch a run until nothing of it lives, or ``until`` says so, handing on its progress. Returns at once when it has ended.

    ``from_start`` hands on the records written before the call as well.
    """
    attempt = run.last_attempt
    follower = Follower(attempt.progress)
    if not from_start:
        follower.poll()
    stops: set[int] = set()
    while True:
        alive = is_alive(attempt) and not until()  # asked before reading, so that the last records are not missed
        asked = [level for level in (1, 2, 3) if level not in stops and attempt.stop(level).exists()]
        stops.update(asked)
        records = [{"type": "stop", "level": level} for level in asked] + follower.poll()
        if on_update is not None:
            on_update(run, records)
        if not alive:
            return
        time.sleep(_TICK)


def request_stop(run: Run, level: int = 1, *, within: float | None = None) -> None:
    """Ask a run to end: 1 after this step with everything saved, 2 now (TERM, then KILL after a while), 3 KILL.

    Asking twice is asking once. With ``within`` its keeper goes from 1 to 2 by itself after so many seconds. Returns at once;
    ``bake.ending.end_run`` waits and makes sure. Raises ArchiveError when the run has ended, or is of a newer lorakit.
    """
    attempt = run.last_attempt
    require_writable(run)
    if state(run).is_final:
        raise ArchiveError(f"{run.id} has ended", todo=f"lorakit show {run.short}")
    record = {"schema": 1, "level": level, "time": time.time(), "pid": os.getpid(), "within": within}
    with contextlib.suppress(FileExistsError):
        write_once(attempt.stop(level), dump_json(record))


def _interrupts(run: Run) -> contextlib.AbstractContextManager[None]:
    """While a run is watched, Ctrl-C is for the run: once, twice, thrice."""

    def ask(level: int) -> None:
        with contextlib.suppress(ArchiveError):  # it ended by itself meanwhile
            request_stop(run, level)

    return interrupts(ask)


@contextlib.contextmanager
def interrupts(ask: Callable[[int], None]) -> Iterator[None]:
    """In the main thread, Ctrl-C asks for level 1, 2 and then 3 for as long as the block runs, in place of ending it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed = 0

    def on_interrupt(number: int, frame: object) -> None:
        nonlocal pressed
        del number, frame
        pressed = min(3, pressed + 1)
        ask(pressed)

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def trouble(found: RunState) -> LorakitError | None:
    """What a finished run has to say by its exit code: None when it is well, RunFailed, or Stopped."""
    if found.status is Status.OK:
        return None
    kept = f"kept: {found.checkpoints} checkpoints, full log, everything to run it again"
    log = f"lorakit logs {found.run.short}"
    if found.status is Status.STOPPED:
        return Stopped(f"{found.run.id} was {found.message}", why=kept, todo=log)
    return RunFailed(f"{found.run.id} {found.message}", why=kept, todo=log)
