"""Several trainings in one process around one base model: ``accelerate launch … -m lorakit.trainers.builtin.pack PACK.json``.

The file has ``members``, each with the ``attempt`` folder of its run and the ``arguments`` that would train it alone; ``rows``, the
most examples that go through the model together (1: the trials take turns, and each does exactly what it does alone).
Each trial tells its own progress and log, has its own stop files, and ends for itself; the process tells ``left`` then.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lorakit import protocol
from lorakit.dataset.scan import ScannedData
from lorakit.errors import Stopped
from lorakit.trainers.builtin.dataset import read_dataset
from lorakit.trainers.builtin.options import TrainOptions, parse
from lorakit.trainers.builtin.pack_trial import Everyone, Member, Trial
from lorakit.trainers.builtin.run import finish, read_small_files
from lorakit.trainers.builtin.stopping import Stopper

if TYPE_CHECKING:
    from lorakit.trainers.builtin.pack_learning import Turn
    from lorakit.trainers.builtin.pack_stage import Stage

__all__ = ["main"]

#: So many batches a trial may fall behind the furthest one while larger groups go first.
_LAG: Final = 8


def main(argv: Sequence[str] | None = None) -> int:
    """Train them all. Returns 0 when each has told its end, however that was."""
    (path,) = sys.argv[1:] if argv is None else argv
    record = json.loads(Path(path).read_text("utf-8"))
    writer = protocol.Writer.from_env()
    with Stopper() as stopper:
        trials = [
            Trial.open(Member.of(number, member), stopper, lambda at, code: writer.write("left", member=at, code=code))
            for number, member in enumerate(record["members"])
        ]
        try:
            _train(trials, stopper, rows=int(record.get("rows", 1)))
        except Stopped as stopped:
            for trial in _living(trials):
                trial.end("stopped", stopped.what)
        except Exception as error:  # noqa: BLE001 (what all of them share has failed: each tells it)
            for trial in _living(trials):
                trial.fail(error)
    writer.close()
    return 0


def _train(trials: list[Trial], stopper: Stopper, *, rows: int) -> None:
    known = _read(trials)
    if not known:
        return
    everyone = Everyone(trials)
    everyone.phase("import")
    from lorakit.trainers.builtin.slim import slim_imports

    with slim_imports():
        from lorakit.trainers.builtin.pack_setup import assemble
    stage = assemble(trials, known, stopper, exact=rows <= 1)
    for trial in _living(trials):
        with trial.alone():
            trial.monitor.open_curves(known[trial.number][0].tracking)
    everyone.phase("train")
    _Company(trials, stage, rows).perform()


def _read(trials: Sequence[Trial]) -> dict[int, tuple[TrainOptions, ScannedData]]:
    """Options and data of each; equal datasets are looked at once."""
    found: dict[int, tuple[TrainOptions, ScannedData]] = {}
    for trial in trials:
        with trial.alone():
            options = parse(trial.member.arguments)
            read_small_files(options)
            known = (data for other, data in found.values() if other.data == options.data)
            found[trial.number] = (options, next(known, None) or read_dataset(options, trial.monitor))
    return found


def _living(trials: Sequence[Trial]) -> list[Trial]:
    return [trial for trial in trials if not trial.over]


class _Company:
    """Leads the trials through their batches: those whose batches have one shape learn together."""

    def __init__(self, trials: Sequence[Trial], stage: Stage, rows: int) -> None:
        self._trials = trials
        self._stage = stage
        self._rows = rows

    def perform(self) -> None:
        """Until all are over."""
        for trial in _living(self._trials):
            self._advance(trial, None)
        while waiting := _living(self._trials):
            for trial in waiting:
                if trial.stopper.at_once():
                    trial.end("stopped", "ended at once: what was not saved before is lost")
                    self._stage.dismiss(trial.number)
            group = self._next([trial for trial in waiting if not trial.over])
            if group:
                self._learn(group)

    def _next(self, waiting: Sequence[Trial]) -> list[Trial]:
        """The largest group of one shape; when some have fallen behind, the largest that has one of them.

        So trials whose pictures come in different orders meet again and again, and none waits long.
        """
        from lorakit.trainers.builtin.pack_learning import can_share, shape_of

        furthest = max((trial.learnt for trial in waiting), default=0)
        groups: dict[object, list[Trial]] = {}
        for trial in sorted(waiting, key=lambda trial: trial.learnt):
            assert trial.turn is not None
            shares = self._rows > 1 and can_share(trial.turn.loop)
            groups.setdefault(shape_of(trial.turn.loaded) if shares else trial.number, []).append(trial)
        late = [group for group in groups.values() if furthest - group[0].learnt >= _LAG]
        largest = max(late or groups.values(), key=len, default=[])
        return largest[: self._fitting(largest)]

    def _fitting(self, group: Sequence[Trial]) -> int:
        """How many of them go through the model together: as many examples as allowed, but one trial at least."""
        rows = 0
        for count, trial in enumerate(group):
            rows += _turn(trial).examples
            if rows > self._rows:
                return max(1, count)
        return len(group)

    def _learn(self, group: Sequence[Trial]) -> None:
        from lorakit.trainers.builtin.pack_learning import learn

        fresh = all(weight.grad is None for trial in group for weight in _turn(trial).loop.trained)
        try:
            losses = learn([_turn(trial) for trial in group], self._stage)
        except Exception as error:  # noqa: BLE001 (told by each trial, unless it can do without the others)
            apart = len(group) > 1 and fresh
            for trial in () if apart else group:
                trial.fail(error)
                self._stage.dismiss(trial.number)
            losses = []
        if not losses:
            self._part([trial for trial in group if not trial.over])
            return
        for trial, loss in zip(group, losses, strict=True):
            trial.learnt += 1
            self._advance(trial, loss)

    def _part(self, group: Sequence[Trial]) -> None:
        """Together they cannot, mostly for want of memory: each by itself, and smaller groups from now on."""
        if not group:
            return
        for trial in group:
            for weight in _turn(trial).loop.trained:
                weight.grad = None
        self._rows = max(1, sum(_turn(trial).examples for trial in group) // 2)
        for trial in group:
            self._learn([trial])

    def _advance(self, trial: Trial, loss: float | None) -> None:
        """Let a trial go on with the loss of its batch, up to its next batch or its end."""
        from lorakit.trainers.builtin.pack_learning import Turn

        with trial.alone(), self._stage.on([(trial.number, 1)]):
            if trial.course is None:
                assert trial.loop is not None
                trial.course = trial.loop.course()
            try:
                loaded = next(trial.course) if loss is None else trial.course.send(loss)
            except StopIteration as end:
                assert trial.loop is not None
                finish(trial.loop, finished=bool(end.value))
                trial.leave()
            else:
                assert trial.loop is not None
                trial.turn = Turn(trial.number, trial.loop, loaded)
        if trial.over:
            self._stage.dismiss(trial.number)


def _turn(trial: Trial) -> Turn:
    assert trial.turn is not None
    return trial.turn


if __name__ == "__main__":
    sys.exit(main())
