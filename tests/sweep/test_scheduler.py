"""One trial after another: what fails does not stop the rest, what is stopped does."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from lorakit.archive.run import Run
from lorakit.errors import DiskError, Stopped
from lorakit.sweep import scheduler
from lorakit.sweep.scheduler import Ended, exit_code
from lorakit.sweep.trials import Sweep, Trial
from tests.cli.made_runs import OUT_OF_MEMORY, make_run

STOPPED = {"status": "stopped", "reason": "stopped-by-user", "message": "stopped by the user"}


class Plan:
    """As much of a sweep as the scheduler looks at."""

    def __init__(self, count: int, done: dict[int, Run]) -> None:
        unknown = cast("Any", None)
        self.trials = [Trial((("n", str(n)),), unknown, unknown, "builtin", str(n), done.get(n)) for n in range(count)]

    def lineage(self, trial: Trial) -> dict[str, Any]:
        return {"trial": trial.identity}


def ends(tmp_path: Path, *what: Any, done: dict[int, Run] | None = None) -> list[scheduler.Outcome]:
    asked = iter(what)

    def bake(trial: Trial, lineage: dict[str, Any]) -> Run:
        assert lineage == {"trial": trial.identity}
        one = next(asked)
        if isinstance(one, BaseException):
            raise one
        return make_run(tmp_path, ended=one)

    return list(scheduler.run(cast("Sweep", Plan(len(what) + len(done or {}), done or {})), bake))


def test_a_failed_trial_does_not_stop_the_rest(tmp_path: Path) -> None:
    outcomes = ends(tmp_path, {}, OUT_OF_MEMORY, DiskError("full"), {})
    assert [one.ended for one in outcomes] == [Ended.BAKED, Ended.FAILED, Ended.FAILED, Ended.BAKED]
    assert outcomes[1].run is not None
    assert outcomes[2].run is None
    assert outcomes[2].error is not None
    assert exit_code(outcomes) == 10


def test_done_trials_are_not_baked_again(tmp_path: Path) -> None:
    done = make_run(tmp_path)
    outcomes = ends(tmp_path, {}, done={0: done})
    assert [one.ended for one in outcomes] == [Ended.SKIPPED, Ended.BAKED]
    assert outcomes[0].run == done
    assert exit_code(outcomes) == 0


@pytest.mark.parametrize("stop", [STOPPED, KeyboardInterrupt(), Stopped("enough")])
def test_a_stop_ends_the_sweep(stop: Any, tmp_path: Path) -> None:
    outcomes = ends(tmp_path, {}, stop, {}, {})
    assert [one.ended for one in outcomes] == [Ended.BAKED, Ended.STOPPED, Ended.NOT_STARTED, Ended.NOT_STARTED]
    assert exit_code(outcomes) == 130


def test_an_error_that_nobody_foresaw_is_not_swallowed(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        ends(tmp_path, ZeroDivisionError())
