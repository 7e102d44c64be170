"""What a keeper looks after while a training runs: its memory is told, its log stays within bounds and without secrets, it gets on.

Stdlib only. :meth:`Guard.poll` is called ten times a second and does little most of the time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lorakit.archive.masked import AttemptMask
from lorakit.archive.run import Attempt, read_record
from lorakit.launch.masking import Masks
from lorakit.launch.memory import gpu_memory, resident
from lorakit.protocol import Follower, Writer

__all__ = ["Guard", "Limits", "LogCap", "duration_text"]

#: Seconds between two looks at the memory; the first comes soon, to have one of a short run too.
SAMPLE_SECONDS: Final = 5.0
FIRST_SAMPLE_SECONDS: Final = 2.0
#: Seconds between two looks for secrets in event files; the log is gone through at every look.
EVENT_SECONDS: Final = 1.0
#: Bytes that a log may grow to before it is cut.
LOG_BYTES: Final = 64 << 20
#: Records that do not show that the training goes on.
_NO_PROGRESS: Final = frozenset({"memory", "warn"})


@dataclass(frozen=True)
class Limits:
    """What request.json says in ``limits``.

    Seconds without progress after which a run is ended (None: never), bytes of its log, and what ends it early (``LORAKIT_SPIKES``).
    """

    no_progress_seconds: float | None = None
    log_bytes: int = LOG_BYTES
    spikes: str = ""

    @classmethod
    def of(cls, request: Mapping[str, Any] | None) -> Limits:
        """Read them from a request; what is not there or makes no sense is the default."""
        found = (request or {}).get("limits")
        limits = found if isinstance(found, Mapping) else {}
        seconds, size = limits.get("no_progress_seconds"), limits.get("log_bytes")
        spikes = limits.get("spikes")
        return cls(
            no_progress_seconds=_positive(seconds),
            log_bytes=int(_positive(size) or LOG_BYTES),
            spikes=spikes if isinstance(spikes, str) else "",
        )


def _positive(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
        return None
    return float(value)


class LogCap:
    """Keeps a growing log file within bounds.

    When it has passed ``limit`` bytes its beginning (once) and its last part go to ``trainer.log.first`` and
    ``trainer.log.before``, a quarter of the limit each, and the file begins anew. The writers need not know: they append.
    """

    def __init__(self, log: Path, limit: int) -> None:
        self._log = log
        self._limit = limit
        self.dropped = 0

    def poll(self) -> bool:
        """Cut the log when it is due; whether it was."""
        try:
            size = self._log.stat().st_size
        except FileNotFoundError:
            return False
        if size <= self._limit:
            return False
        part = self._limit // 4
        first = self._log.with_name(f"{self._log.name}.first")
        kept = part
        with open(self._log, "r+b") as log:
            if not first.exists():
                first.write_bytes(log.read(part))
                kept += part
            log.seek(size - part)
            self._log.with_name(f"{self._log.name}.before").write_bytes(log.read(part))
            log.truncate(0)
        self.dropped += max(0, size - kept)
        with open(self._log, "ab", buffering=0) as log:
            log.write(f"[lorakit: the log was cut here; {self.dropped} bytes of it are not kept]\n".encode())
        return True


class Guard:
    """Looks after one attempt; ``clock`` gives seconds that nobody sets back or forth.

    ``stalled`` is empty, or says for how long there was no progress once that was longer than the limit. Progress is a
    record of the protocol that tells of a step, a phase, a file or a sample; until the first step, a growing log too.
    """

    def __init__(self, attempt: Attempt, limits: Limits, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._attempt = attempt
        self._limits = limits
        self._clock = clock
        self._follower = Follower(attempt.progress)
        self._log_cap = LogCap(attempt.log, limits.log_bytes)
        self._mask = AttemptMask(attempt, Masks.of(os.environ))
        self._masked_events = clock()
        self._log_size = 0
        self._stepped = False
        self._moved = clock()
        self._looked = 0.0
        self._sampled: float | None = None
        self._began: float | None = None
        self._born = clock()
        self.stalled = ""

    @property
    def log_dropped(self) -> int:
        """Bytes of the log that were not kept."""
        return self._log_cap.dropped

    def poll(self) -> None:
        """Do what is due. Raises OSError when the disk does not take it."""
        now = self._clock()
        self._hide_secrets(now)
        if self._log_cap.poll():
            self._log_size = 0
            self._mask.log_was_cut()
        if now - self._looked >= min(1.0, (self._limits.no_progress_seconds or 4.0) / 4):
            self._looked = now
            self._look_for_progress(now)
        self._sample_when_due(now)

    def _hide_secrets(self, now: float) -> None:
        self._mask.poll()
        if now - self._masked_events >= EVENT_SECONDS:
            self._masked_events = now
            self._mask.poll_events()

    def _look_for_progress(self, now: float) -> None:
        if self._limits.no_progress_seconds is None:
            return
        kinds = {record["type"] for record in self._follower.poll()} - _NO_PROGRESS
        self._stepped = self._stepped or "step" in kinds
        size = self._attempt.log.stat().st_size if self._attempt.log.exists() else 0
        if kinds or (not self._stepped and size != self._log_size):
            self._moved = now
        self._log_size = size
        if now - self._moved > self._limits.no_progress_seconds:
            self.stalled = self.stalled or duration_text(self._limits.no_progress_seconds)

    def _sample_when_due(self, now: float) -> None:
        due = FIRST_SAMPLE_SECONDS if self._sampled is None else SAMPLE_SECONDS
        since = self._sampled if self._sampled is not None else self._began
        if since is not None and now - since < due:
            return
        ranks = _ranks(self._attempt)
        if not ranks:
            return
        if self._began is None:
            self._began = now
            return
        self._sampled = now
        self._tell_memory(ranks, now - self._born)

    def _tell_memory(self, ranks: Mapping[int, int], elapsed: float) -> None:
        """Append a ``memory`` record: resident bytes of each rank with its workers, and of the GPUs where that is known.

        ``elapsed``, seconds since the attempt began, tells how long it took when nobody lives to say so.
        """
        sizes = resident(ranks.values())
        if not sizes:
            return
        per_rank = {str(rank): sizes[pid] for rank, pid in ranks.items() if pid in sizes}
        cards = [card.to_json() for card in gpu_memory(ranks.values())]
        writer = Writer(self._attempt.progress)
        try:
            writer.write("memory", elapsed=round(elapsed, 3), rss=sum(per_rank.values()), ranks=per_rank, gpus=cards)
        finally:
            writer.close()


def _ranks(attempt: Attempt) -> dict[int, int]:
    """Process ids of the ranks that have begun, which lead a process group each."""
    found = {}
    try:
        names = os.listdir(attempt.ranks)
    except FileNotFoundError:
        return {}
    for name in names:
        if name.startswith("rank-") and name.endswith(".json"):
            record = read_record(attempt.ranks / name) or {}
            rank, pid = record.get("rank"), record.get("pid")
            if isinstance(rank, int) and isinstance(pid, int):
                found[rank] = pid
    return dict(sorted(found.items()))


def duration_text(seconds: float) -> str:
    """Seconds as a person says them: ``90 s``, ``30 min``, ``2 h``."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds:g} s"
