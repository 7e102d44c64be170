"""Going on with a run from its last whole state, as a further attempt of the same run."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lorakit.archive.birth import flush_tree
from lorakit.archive.diagnose_log import Status, Verdict
from lorakit.archive.records import require_writable, state
from lorakit.archive.repair import repair_run
from lorakit.archive.run import SCHEMA, Attempt, Run, read_record
from lorakit.archive.states import TrainingState, training_states
from lorakit.atomic import claimed, crash_point, dump_json, move, temp_beside
from lorakit.bake.bake import OnUpdate, carry_out
from lorakit.bake.prepare import OnPrepare, Prepared, look
from lorakit.bake.rerun import archived_preset, differences, refuse_differences
from lorakit.errors import ArchiveError, DiskError
from lorakit.launch.accelerate import launch_argv
from lorakit.launch.processes import require_linux, this_host
from lorakit.trainers.choose import PROBE

if TYPE_CHECKING:
    from lorakit.workspace import Workspace

__all__ = ["Resumption", "next_attempt", "pick_state", "resume"]

#: Options that a further attempt must not repeat: a state that it would not begin from, a picture of step 0.
_DROPPED_FLAGS: Final = frozenset({"--sample_at_first", "--skip_until_initial_step"})
_DROPPED_OPTIONS: Final = frozenset({"--resume", "--initial_step", "--initial_epoch"})


@dataclass(frozen=True)
class Resumption:
    """What a run goes on from: the state, and the ones that were passed over because they are not whole."""

    state: TrainingState
    passed_over: tuple[TrainingState, ...]


def resume(
    run: Run,
    workspace: Workspace,
    *,
    anyway: bool = False,
    detach: bool = False,
    on_update: OnUpdate | None = None,
    on_prepare: OnPrepare | None = None,
    on_picked: Any = None,
    argv: Sequence[str] = (),
) -> Run:
    """Go on with a run that did not finish, from its furthest whole state; returns it however this attempt ended.

    Steps, rates, file names and curves count on where the state stands. The attempt writes into folders of its own (attempts/NN,
    weights/NN, state/NN), so that nothing an earlier seal covers changes. A run that died without a word is ended honestly and sealed
    first. ``on_picked`` is told the :class:`Resumption` before anything starts.

    Raises ArchiveError for a run that lives, has finished, or has no whole state, and when its dataset, model files or trainer are
    not what they were (``anyway`` records that instead). Raises what ``bake.prepare`` raises.
    """
    number = next_attempt(
        run, workspace, anyway=anyway, on_prepare=on_prepare, on_picked=on_picked, argv=argv
    )  # fmt: skip
    carry_out(run, number, detach=detach, on_update=on_update)
    return run


def next_attempt(
    run: Run,
    workspace: Workspace,
    *,
    anyway: bool = False,
    over: Verdict | None = None,
    on_prepare: OnPrepare | None = None,
    on_picked: Any = None,
    argv: Sequence[str] = (),
) -> int:
    """Prepare a further attempt without starting it; its number. The rest is as in :func:`resume`.

    ``over`` is how the attempt before ended, where this machine cannot tell and somebody else can.
    """
    require_linux()
    require_writable(run)
    if over is not None:
        repair_run(run, over=over)
    _refuse_state(run)
    repair_run(run)  # before a state is picked, for states that a dead keeper left behind move to their place
    picked = pick_state(run)
    if on_picked is not None:
        on_picked(picked)
    prepared = look(archived_preset(run), workspace, argv=argv, on_prepare=on_prepare)
    found = differences(run, prepared)
    if not anyway:
        refuse_differences(run, found, "resume")
    return _prepare_attempt(run, prepared, picked, found, argv)


def _refuse_state(run: Run) -> None:
    now = state(run)
    show = f"lorakit show {run.short}"
    if now.status in {Status.RUNNING, Status.PREPARED}:
        raise ArchiveError(f"{run.id} is running", todo=f"lorakit watch {run.short} looks on")
    if now.status is Status.QUEUED:
        raise ArchiveError(f"{run.id} is queued", why=now.message, todo=show)
    if now.status is Status.UNKNOWN:
        raise ArchiveError(f"{run.id} cannot be resumed from here", why=now.message, todo=show)
    if now.status is Status.OK:
        raise ArchiveError(
            f"{run.id} has finished: there is nothing left to train",
            todo=f"lorakit rerun {run.short} trains it once more, as a new run",
        )


def pick_state(run: Run) -> Resumption:
    """The furthest state that is whole, contents compared. Raises ArchiveError when a run has none to go on from."""
    found = training_states(run)
    half = [one for one in found if not one.whole]
    done: list[TrainingState] = []
    for candidate in (one for one in found if one.whole):
        (now,) = (one for one in training_states(run, thorough=True) if one.path == candidate.path)
        if not now.whole:
            half.append(now)
        elif now.total_steps is not None and (now.step or 0) >= now.total_steps:
            done.append(now)
        else:
            return Resumption(now, tuple(one for one in half if one.step is None or one.step >= (now.step or 0)))
    again = f"train again from the start with `lorakit rerun {run.short}`"
    if not found:
        raise ArchiveError(
            f"{run.id} has no training state to go on from",
            why="it kept none: save.state is off in its preset, or it ended before its first checkpoint",
            todo=f"{again}; save.state = true keeps a state with each checkpoint, save.state_on_end one when it is stopped",
        )
    if done:
        raise ArchiveError(
            f"{run.id} has trained all of its steps", why=f"{_name(run, done[0])} is at the last one", todo=again
        )
    raise ArchiveError(f"{run.id} has no whole training state", why=told_of(run, half), todo=again)


def told_of(run: Run, passed: Sequence[TrainingState]) -> str:
    """The states that were passed over, each with what is wrong with it."""
    return "; ".join(f"{_name(run, one)} is half written: {one.fault}" for one in passed if one.fault)


def _name(run: Run, one: TrainingState) -> str:
    return one.path.relative_to(run.path).as_posix()


def _prepare_attempt(
    run: Run, prepared: Prepared, picked: Resumption, found: Sequence[str], argv: Sequence[str]
) -> int:
    """Write the folder of the next attempt; it appears whole or not at all. Gives its number."""
    number = run.last_attempt.number + 1
    attempt = run.attempt(number)
    command = _command(run, number, prepared, picked.state)
    record = {
        "schema": SCHEMA,
        "run": run.id,
        "attempt": number,
        "time": time.time(),
        "host": this_host(),
        "argv": list(argv),
        "state": _name(run, picked.state),
        "step": picked.state.step,
        "passed_over": {_name(run, one): one.fault for one in picked.passed_over},
        "differences": list(found),
    }
    try:
        _make_output(run, number)
        with _staged(attempt) as staging:
            for path, value in ((attempt.resumed, record), (attempt.command, command)):
                (staging / path.name).write_bytes(dump_json(value))
                crash_point("attempt:file")
    except OSError as error:
        if attempt.path.is_dir():
            raise ArchiveError(
                f"{run.id} is being resumed by somebody else", todo=f"lorakit watch {run.short} looks on"
            ) from error
        raise DiskError(
            f"no further attempt can be written in {run.path}",
            why=error.strerror or str(error),
            todo="make room for it",
        ) from error
    return number


@contextlib.contextmanager
def _staged(attempt: Attempt) -> Iterator[Path]:
    """A hidden folder that becomes the attempt's when the block ends well, and otherwise goes."""
    staging = temp_beside(attempt.path)
    staging.mkdir()
    try:
        with claimed(staging):
            (staging / "ranks").mkdir()
            yield staging
            flush_tree(staging)
            move(staging, attempt.path)
            os.utime(attempt.path.parents[1])  # the index looks at the run folder's time
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _make_output(run: Run, number: int) -> None:
    """Where the attempt writes; samples stay together in samples/, for their names hold the time."""
    weights = run.weights_of(number)
    weights.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        (weights / "sample").symlink_to("../../samples")


def _command(run: Run, number: int, prepared: Prepared, chosen: TrainingState) -> dict[str, Any]:
    """The launch line of the attempt: the first one's, in other folders, from the state."""
    first = read_record(run.command_json) or {}
    arguments, trainer, shape = first.get("arguments"), first.get("trainer"), first.get("shape")
    if not isinstance(arguments, list) or not isinstance(trainer, Mapping) or not isinstance(shape, Mapping):
        raise ArchiveError(
            f"{run.id} cannot be resumed",
            why="its command.json cannot be read",
            todo=f"lorakit rerun {run.short} trains it again from the start",
        )
    choice = prepared.choice
    program = choice.program
    if choice.kind == "sd-scripts" and not choice.probe:
        program = (str(PROBE), *program)  # alone it would count steps, names and curves from 0 again
    line = resumed_arguments(
        [str(word) for word in arguments],
        output=run.weights_of(number),
        events=run.attempt(number).events,
        state=chosen.path,
        run=run,
    )
    argv = launch_argv(str(choice.python), run.accelerate, [*program, *line], threads=int(shape.get("threads") or 1))
    result = Path(str(first.get("result", "")))
    return {
        **first,
        "argv": list(argv),
        "trainer": {
            **trainer,
            "python": str(choice.python),
            "program": list(program),
            "probe": choice.kind == "sd-scripts",
        },
        "arguments": line,
        "result": (run.weights_of(number) / result.name).relative_to(run.path).as_posix(),
    }


def resumed_arguments(arguments: Sequence[str], *, output: Path, events: Path, state: Path, run: Run) -> list[str]:
    """The trainer's arguments for a further attempt: other folders, the state to go on from, nothing that starts anew.

    A run folder that was moved is followed: paths below the place where it was become paths below the place where it is.
    """
    words = _joined(arguments)
    at = next((value for name, value in words if name == "--output_dir"), None)
    before = os.path.dirname(at) if at else ""

    def here(value: str) -> str:
        return str(run.path) + value[len(before) :] if before and value.startswith(before + os.sep) else value

    line: list[str] = []
    given = {"--output_dir": str(output), "--logging_dir": str(events)}
    skipping = False
    for name, value in words:
        if name is not None:
            skipping = name in _DROPPED_FLAGS | _DROPPED_OPTIONS
        if skipping:
            continue
        if name is None:
            line.append(here(value or ""))
        elif name in given:
            line += [name, given[name]]
        elif value is None:
            line.append(name)
        else:
            line += [f"{name}={here(value)}"] if value.startswith("-") else [name, here(value)]
    return [*line, "--resume", str(state)]


def _joined(arguments: Sequence[str]) -> list[tuple[str | None, str | None]]:
    """Options with their first value; further values and words of their own stand as (None, word)."""
    found: list[tuple[str | None, str | None]] = []
    waiting = False
    for word in arguments:
        if word.startswith("--"):
            name, tied, value = word.partition("=")
            found.append((name, value if tied else None))
            waiting = not tied
        elif waiting:
            found[-1] = (found[-1][0], word)
            waiting = False
        else:
            found.append((None, word))
    return found
