"""Ending a run for certain: asked first, then ended, then killed, in bounded time, and told honestly what would not die."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from lorakit.archive.records import is_alive
from lorakit.archive.run import Attempt, Run, read_record
from lorakit.bake.bake import OnUpdate, follow, request_stop
from lorakit.launch.processes import ProcessId, kill_all, processes_with_cookie, wait_gone
from lorakit.launch.supervisor import KILL_GRACE, ORPHAN_GRACE, TERM_GRACE, StopLevel

__all__ = ["WITHIN", "Ended", "end_run", "living"]

#: Seconds a graceful stop may take before the run is ended by force, unless told otherwise.
WITHIN: Final = 600.0
#: Seconds beyond the keeper's own deadlines that it may take to find the end and write it down.
_MARGIN: Final = 10.0
#: Seconds that the seal may take after the end is written: every file is hashed.
_SEAL_SECONDS: Final = 600.0
#: Seconds that a killed process may take to be gone.
_KILL_SECONDS: Final = 5.0


@dataclass(frozen=True)
class Ended:
    """What came of it.

    ``over``: nothing of the run lives; ``survivors``: pids that not even KILL ended; ``by_force``: its keeper was dead or
    deaf, so it was killed from here and no end was recorded.
    """

    over: bool
    survivors: tuple[int, ...] = ()
    by_force: bool = False


def end_run(
    run: Run,
    level: int = StopLevel.GRACEFUL,
    *,
    within: float = WITHIN,
    on_update: OnUpdate | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Ended:
    """Ask a run to end and see to it that it does. Returns in bounded time, whatever its processes do.

    A graceful stop has ``within`` seconds, TERM 15 more; then everything is killed. Where the keeper is gone or does not act
    in time, what lives of the run is killed from here. Raises ArchiveError when the run has ended already.
    """
    request_stop(run, level, within=within)
    attempt = run.last_attempt
    patience = (within if level == StopLevel.GRACEFUL else 0.0) + TERM_GRACE + 2 * KILL_GRACE + ORPHAN_GRACE + _MARGIN
    deadline = clock() + (patience if level < StopLevel.KILL else 2 * KILL_GRACE + _MARGIN)
    sealed_by = 0.0

    def enough() -> bool:
        nonlocal sealed_by
        if run.manifest(attempt.number).exists():
            return True
        if attempt.ended.exists():
            sealed_by = sealed_by or clock() + _SEAL_SECONDS
            return clock() > sealed_by
        keeper = _keeper(attempt)
        return clock() > deadline or (keeper is not None and keeper.is_here and not keeper.is_alive())

    follow(run, on_update, until=enough)
    if attempt.ended.exists():
        told = (read_record(attempt.ended) or {}).get("survivors") or []
        return Ended(over=not told, survivors=tuple(told))
    keeper = _keeper(attempt)
    if keeper is not None and not keeper.is_here:
        return Ended(over=False)  # only that machine can do more
    rest = _kill(attempt)
    return Ended(over=not rest and not is_alive(attempt), survivors=tuple(one.pid for one in rest), by_force=True)


def _keeper(attempt: Attempt) -> ProcessId | None:
    return ProcessId.from_json((read_record(attempt.started) or {}).get("keeper"))


def living(attempt: Attempt) -> tuple[ProcessId, ...]:
    """Every process of an attempt that lives on this machine: by its records, and by the cookie that all of them carry.

    A record whose process is gone names nobody, even when a stranger has the pid now.
    """
    cookie = (read_record(attempt.started) or {}).get("cookie")
    found = set(processes_with_cookie(cookie)) if isinstance(cookie, str) and cookie else set()
    known = [_keeper(attempt), ProcessId.from_json(read_record(attempt.path / "launcher.json"))]
    ranks = attempt.ranks.glob("rank-*.json") if attempt.ranks.is_dir() else ()
    known += [ProcessId.from_json(read_record(path)) for path in ranks]
    found |= {one for one in known if one is not None and one.is_alive()}
    return tuple(sorted(found, key=lambda one: one.pid))


def _kill(attempt: Attempt) -> tuple[ProcessId, ...]:
    """Kill whatever lives of an attempt; those that outlive it."""
    rest = living(attempt)
    for _ in range(3):  # whoever forks while being killed is found in the next round
        if not rest:
            break
        kill_all(rest, signal.SIGKILL)
        wait_gone(rest, _KILL_SECONDS)
        rest = living(attempt)
    return rest
