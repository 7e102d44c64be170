"""The process that keeps the runs of a pack: starts their common training, ends and seals each run when it is over.

``python -m lorakit.bake.pack_keeper PACK_DIR``. As a run's own keeper it has a session of its own and survives whoever started it; when
it is killed, the training dies with it, and every run that had not ended is interrupted. A stop of one run ends that run alone;
the process itself is ended only when all that still train are asked to end by force, when nothing moves any more, or by a
signal to this keeper.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self

from lorakit.archive.records import started_record
from lorakit.archive.reserve import Reserve
from lorakit.archive.run import SCHEMA, Run, read_record
from lorakit.archive.trainer_log import log_tail
from lorakit.atomic import dump_json, write_once
from lorakit.bake.afterwards import write_page
from lorakit.bake.guard import Guard, Limits
from lorakit.bake.held_caches import HeldCaches
from lorakit.bake.keeper import end_record, oom_kills, write_end
from lorakit.bake.pack import TRAINER, Pack, PackMember
from lorakit.bake.wishes import Circumstances
from lorakit.errors import LorakitError
from lorakit.launch.accelerate import SHIM, launch_argv
from lorakit.launch.memory import free_memory
from lorakit.launch.processes import ProcessId, hold_lock
from lorakit.launch.supervisor import Launch, Outcome, RankExit, StopLevel, supervise, training_env
from lorakit.protocol import Follower

#: Lines of the process's last words that each run's log gets when it died.
_LAST_WORDS: Final = 200


@dataclass
class _Kept:
    """A run that trains: its lock, the space for its last fact, what watches over it, and the stop that was asked for."""

    number: int
    member: PackMember
    command: dict[str, Any]
    lock: int
    reserve: Reserve
    began: float
    guard: Guard
    stop_level: int = StopLevel.NONE
    hurry: float = field(default=float("inf"))

    @classmethod
    def begin(cls, number: int, member: PackMember, facts: dict[str, Any], lock: int) -> Self:
        """Write down that it started. Raises FileExistsError when it was started before."""
        attempt = member.attempt
        reserve = Reserve.keep(attempt.ended)
        try:
            record = started_record(member.run, attempt, **facts)
            write_once(attempt.started, dump_json({**record, "pack": {**facts["pack"], "number": number}}))
        except FileExistsError:
            reserve.path.unlink()
            raise
        limits = Limits.of(read_record(member.run.request))
        return cls(number, member, member.command, lock, reserve, time.monotonic(), Guard(attempt, limits))

    def look(self) -> None:
        """Notice a stop that is asked for, and do what is due for its log and memory."""
        attempt = self.member.attempt
        for level in (StopLevel.KILL, StopLevel.TERMINATE, StopLevel.GRACEFUL):
            if level > self.stop_level and attempt.stop(level).exists():
                self.stop_level = level
                within = (read_record(attempt.stop(level)) or {}).get("within")
                self.hurry = time.monotonic() + within if isinstance(within, (int, float)) else float("inf")
        if self.stop_level == StopLevel.GRACEFUL and time.monotonic() > self.hurry:
            self.stop_level = StopLevel.TERMINATE
        try:
            self.guard.poll()
        except OSError:  # a full disk, mostly: the training may still get on
            traceback.print_exc()


class _Keeper:
    def __init__(self, pack: Pack) -> None:
        self._pack = pack
        self._members = pack.members()
        self._locks = [hold_lock(member.attempt.alive) for member in self._members]
        self._left = Follower(pack.progress)
        self._kept: list[_Kept] = []
        self._sealed: list[Run] = []
        self._signalled = False
        self._rank_told = False
        self._kills = oom_kills()
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._terminate)

    def _terminate(self, number: int, frame: object) -> None:
        del number, frame
        self._signalled = True

    def keep(self, started: int) -> None:
        """Train all to their ends; a byte goes to the descriptor ``started`` once none can be lost any more."""
        leader = self._members[0]
        command = leader.command
        launch, facts = self._launch(command)
        self._kept = [
            _Kept.begin(number, member, facts, lock)
            for number, (member, lock) in enumerate(zip(self._members, self._locks, strict=True))
        ]
        os.write(started, b"1")
        os.close(started)
        caches = HeldCaches(leader.run, leader.attempt, command)
        outcome: Outcome | None = None
        fault: Exception | None = None

        def stop_level() -> int:
            caches.poll()
            return self._level()

        try:
            caches.acquire(stop=lambda: self._level() > StopLevel.NONE)
            self._tell_caches()
            outcome = supervise(launch, stop_level=stop_level, on_started=self._record_launcher)
        except (LorakitError, OSError) as error:  # recorded below, for each run
            traceback.print_exc()
            fault = error
        caches.release()
        self._end_those_that_left()
        for kept in list(self._kept):
            self._tell_last_words(kept)
            self._end(kept, outcome, fault)
        for run in self._sealed:  # pages take their time: only now, when nothing waits for this process any more
            write_page(run)

    def _launch(self, command: dict[str, Any]) -> tuple[Launch, dict[str, Any]]:
        """The launch line of the common process, and what each started.json says about it."""
        shape, path = command["shape"], self._pack.path
        argv = launch_argv(
            command["trainer"]["python"],
            self._members[0].run.accelerate,
            [*TRAINER, str(self._pack.record)],
            threads=shape["threads"],
            shim=SHIM,
        )
        cookie = f"pack:{path.name}:{os.getpid()}"
        env, changes = training_env(
            os.environ, folder=path, cookie=cookie, keeper=os.getpid(), cpu=shape["cpu"], gpu_ids=shape["gpu_ids"]
        )
        pack = {"folder": str(path), "members": [member.run.id for member in self._members]}
        facts = {"argv": list(argv), "environment": changes, "memory": free_memory(), "pack": pack, "cookie": cookie}
        return Launch(argv, env, path, cookie), facts

    def _record_launcher(self, who: ProcessId) -> None:
        write_once(self._pack.path / "launcher.json", dump_json({"schema": SCHEMA, **who.to_json()}))

    def _tell_caches(self) -> None:
        """The leader's claim is everybody's: they use the same caches."""
        first, *others = (member.attempt.caches for member in self._members)
        for path in others if first.exists() else ():
            write_once(path, first.read_bytes())

    def _tell_rank(self) -> None:
        """Write into each run who trains it, once that is known: its memory is that process's."""
        record = self._pack.ranks / "rank-0.json"
        if self._rank_told or not record.exists():
            return
        self._rank_told = True
        for kept in self._kept:
            ranks = kept.member.attempt.ranks
            ranks.mkdir(exist_ok=True)
            write_once(ranks / record.name, record.read_bytes())

    def _level(self) -> int:
        """What is wanted of the process; what is wanted of single runs the process looks for itself."""
        self._tell_rank()
        self._end_those_that_left()
        for kept in self._kept:
            kept.look()
        if self._signalled or any(kept.guard.stalled for kept in self._kept):
            return StopLevel.TERMINATE
        wanted = min((kept.stop_level for kept in self._kept), default=StopLevel.NONE)
        return wanted if wanted >= StopLevel.TERMINATE else StopLevel.NONE

    def _end_those_that_left(self) -> None:
        by_number = {kept.number: kept for kept in self._kept}
        for record in self._left.poll():
            kept = by_number.get(record.get("member", -1)) if record["type"] == "left" else None
            if kept is not None:
                seconds = time.monotonic() - kept.began
                rank = RankExit(0, int(record["code"]), None, float(record["t"]))
                self._end(kept, Outcome(0, (rank,), (), kept.stop_level, (), seconds), None)

    def _tell_last_words(self, kept: _Kept) -> None:
        """What the process said when it died with this run in it."""
        lines = log_tail(self._pack.log, _LAST_WORDS)
        if lines:
            with open(kept.member.attempt.log, "a", encoding="utf-8", errors="surrogateescape") as log:
                log.write("[lorakit: what the pack's process said]\n" + "\n".join(lines) + "\n")
        end = self._pack.ranks / "exit-0.json"
        if end.exists():
            shutil.copyfile(end, kept.member.attempt.ranks / end.name)

    def _end(self, kept: _Kept, outcome: Outcome | None, fault: Exception | None) -> None:
        """Write how a run ended and seal it. What goes wrong there is told in keeper.log and concerns no other run."""
        self._kept.remove(kept)
        kept.look()
        level = max(kept.stop_level, StopLevel.TERMINATE if self._signalled else StopLevel.NONE)
        met = Circumstances(
            stop_level=level,
            signalled=self._signalled and not kept.stop_level,
            after_checkpoint=False,
            oom_kills=oom_kills() - self._kills,
            stalled=kept.guard.stalled,
            log_dropped=kept.guard.log_dropped,
        )
        outcome = None if outcome is None else replace(outcome, stop_level=level)
        run, attempt = kept.member.run, kept.member.attempt
        try:
            record = end_record(run, attempt, kept.command, outcome=outcome, fault=fault, met=met)
            record["seconds"] = round(time.monotonic() - kept.began, 3)
            write_end(run, attempt, kept.reserve, record)
            if record["steps"]:
                self._sealed.append(run)
        except (LorakitError, OSError):
            traceback.print_exc()
        os.close(kept.lock)


def main(arguments: Sequence[str]) -> None:
    """Fork into the background, tell the caller by exit code 0 that the runs have started, keep them to their ends."""
    if len(arguments) != 1:
        sys.exit("usage: python -m lorakit.bake.pack_keeper PACK_DIR")
    ours, theirs = os.pipe()
    if os.fork():  # the caller waits for this process only until the runs have started
        os.close(theirs)
        os._exit(0 if os.read(ours, 1) == b"1" else 1)
    os.close(ours)
    try:
        _Keeper(Pack(Path(arguments[0]))).keep(theirs)
    except BaseException:  # noqa: BLE001 (the last frame of this process: keeper.log is all that can be told)
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
