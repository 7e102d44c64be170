"""The curves of a training, from progress and from event files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from lorakit.archive.run import Run
from lorakit.evidence.curves import Series, curves_of_logs, curves_of_run, last_gradients, thinned
from lorakit.evidence.event_writer import scalar, write_events
from tests.cli.made_runs import make_run


def tell(run: Run, attempt: int, records: list[dict[str, Any]]) -> None:
    path = run.attempt(attempt).progress
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def step(number: int, epoch: int, loss: Any, at: float, **more: Any) -> dict[str, Any]:
    return {"type": "step", "step": number, "epoch": epoch, "loss": loss, "t": at, **more}


def test_curves_of_a_progress(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    records = [step(n, 1 + (n > 2), 1 / n, 100 + n, lr={"unet": 1e-4}, grad_norm={"te1": 0.5}) for n in (1, 2, 3, 4)]
    tell(run, 1, [*records[:2], {"type": "validation", "step": 2, "epoch": 1, "loss": 0.4, "t": 102.5}, *records[2:]])
    found = curves_of_run(run)
    assert found.source == "progress.jsonl"
    assert found.series.keys() == {"loss", "validation", "lr.unet", "grad.te1"}
    assert found.series["loss"] == Series((1, 2, 3, 4), (0.5, 1, 1.5, 2), (0, 1, 2, 3), (1, 1 / 2, 1 / 3, 1 / 4))
    assert found.series["validation"].epochs == (1.0,)


def test_a_resumed_run_is_one_curve(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    tell(run, 1, [step(n, 1, 1.0, 100 + n) for n in (1, 2, 3)])
    tell(run, 2, [step(n, 1, 2.0, 900 + n) for n in (3, 4)])
    loss = curves_of_run(run).series["loss"]
    assert list(loss.steps) == [1, 2, 3, 4]
    assert list(loss.values) == [1.0, 1.0, 2.0, 2.0]  # step 3 counts as it was last
    assert list(loss.seconds) == [0, 1, 2, 3]  # time goes on where the attempt before ended


def test_losses_that_are_no_numbers_are_gaps(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    tell(
        run,
        1,
        [step(1, 1, "nan", 1.0), step(2, 1, "odd", 2.0), step(3, 1, 0.5, 3.0), {"type": "step", "step": True, "t": 1}],
    )
    loss = curves_of_run(run).series["loss"]
    assert list(loss.steps) == [1, 3]
    assert math.isnan(loss.values[0])


def logs(folder: Path, steps: int = 40, per_epoch: int = 10) -> Path:
    """A log folder as a kohya trainer leaves it: steps from 0, an average whose step is the epoch."""
    path = folder / "20261122151733" / "network_train" / "events.out.tfevents.1795360653.vm.1.0"
    path.parent.mkdir(parents=True)
    events = []
    for at in range(steps):
        now = 1e9 + at
        events += [scalar("loss/current", 0.2 - at / 1000, at, now), scalar("loss/average", 0.2, at, now)]
        events += [scalar("lr/unet", 1e-4, at, now), scalar("lr/textencoder", 5e-5, at, now)]
        if (at + 1) % per_epoch == 0:
            events.append(scalar("loss/epoch_average", 0.2, (at + 1) // per_epoch, now))
            events.append(scalar("loss/validation/epoch_average", 0.3, (at + 1) // per_epoch, now))
    write_events(path, events)
    return path


def test_a_log_folder_that_lorakit_did_not_make(tmp_path: Path) -> None:
    logs(tmp_path)
    found = curves_of_logs([tmp_path])
    assert found.complaint == ""
    assert {"loss", "validation", "lr.unet", "lr.te1"} <= found.series.keys()
    loss = found.series["loss"]
    assert (loss.steps[0], loss.steps[-1], loss.epochs[-1], loss.seconds[-1]) == (1, 40, 4, 39)
    assert found.series["validation"].steps == (10, 20, 30, 40)


def test_a_run_without_progress_has_its_event_files(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    logs(run.attempt(1).events)
    assert len(curves_of_run(run).series["loss"].values) == 40


def test_what_cannot_be_read_of_event_files_is_told(tmp_path: Path) -> None:
    path = logs(tmp_path)
    path.write_bytes(path.read_bytes()[:-5])
    path.with_name("events.out.tfevents.1.empty").touch()
    complaint = curves_of_logs([tmp_path]).complaint
    assert "of an unfinished record" in complaint
    assert "events.out.tfevents.1.empty: no points" in complaint


def test_long_curves_are_means_of_neighbours() -> None:
    values = tuple(float(at % 10) for at in range(1000))
    few = thinned(Series(values, values, values, (math.nan, *values[1:])), 100)
    assert len(few.values) == 100
    assert few.values[1:] == (4.5,) * 99
    assert few.values[0] == 5.0  # the one that is no number is left out
    short = Series((1.0,), (1.0,), (1.0,), (1.0,))
    assert thinned(short, 100) is short


def test_the_last_gradients_come_from_the_end_of_the_file(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert last_gradients(run) == {}
    records = [step(n, 1, 0.1, n, grad_norm={"unet": 9.0 if n <= 1500 else 1.0}, pad="x" * 300) for n in range(1, 2001)]
    tell(run, 1, records)
    assert run.attempt(1).progress.stat().st_size > 5 * (64 << 10)
    assert last_gradients(run) == {"unet": 1.0}
    tell(run, 1, [step(n, 1, 0.1, n, grad_norm={"unet": 9.0 if n <= 90 else 1.0}) for n in range(1, 101)])
    assert last_gradients(run) == {"unet": 1.0}
