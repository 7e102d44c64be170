"""The sum of a progress file, and of a log where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorakit.archive.progress import Progress, Saved, progress_from_log, read_progress, summarise
from lorakit.protocol import Writer


def test_no_file_is_no_progress(tmp_path: Path) -> None:
    assert read_progress(tmp_path / "none") == Progress()


def test_everything_is_summed_up(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    writer = Writer(path)
    writer.write("start", total_steps=30, epochs=3, first_step=10)
    writer.write("phase", name="cache_latents", done=3, total=9)
    assert (read_progress(path).phase, read_progress(path).phase_done, read_progress(path).steps) == (
        "cache_latents",
        3,
        10,
    )
    for step in range(11, 31):
        lr = {"unet": 1e-4, "te1": 1e-5}
        writer.write("step", step=step, epoch=1 + step // 11, loss=30.0 - step, lr=lr, seconds=0.5, rss=step, vram=None)
    writer.write("save", step=30, epoch=3, path="/a", bytes=9, kind="final")
    writer.write("sample", step=30, epoch=3, path="/b", prompt="p")
    writer.write("validation", step=30, epoch=3, loss=0.125)
    writer.write("warn", message="look")
    writer.write("end", reason="ok", steps=30, message="")
    writer.close()
    found = read_progress(path)
    assert (found.steps, found.total_steps, found.first_step, found.epochs) == (30, 30, 10, 3)
    assert (found.loss_first, found.loss_last, found.loss_average) == (14.5, 4.5, 9.5), "half of the steps"
    assert (found.steps_per_second, found.rss, found.vram, found.validation) == (2.0, 30, None, 0.125)
    assert found.saved == (Saved(30, 3, "/a", 9, "final"),)
    assert (found.samples, found.warnings, found.end_reason, dict(found.lr)) == (
        1,
        ("look",),
        "ok",
        {"unet": 1e-4, "te1": 1e-5},
    )


@pytest.mark.parametrize(
    ("epochs", "window"),
    [
        ([1] * 100, 10),
        ([1] * 5, 1),
        ([1], 1),
        ([1] * 20 + [2] * 20 + [3] * 20, 20),
        ([1] * 2 + [2] * 98, 10),
        ([1, 2], 1),
    ],
)
def test_the_first_and_last_loss_are_those_of_an_epoch(epochs: list[int], window: int) -> None:
    steps = [{"type": "step", "step": n + 1, "epoch": e, "loss": float(n)} for n, e in enumerate(epochs)]
    found = summarise(steps)
    assert found.loss_first == (window - 1) / 2
    assert found.loss_last == len(epochs) - 1 - (window - 1) / 2


def test_nan_counts_only_while_it_lasts() -> None:
    def step(number: int, loss: object) -> dict[str, object]:
        return {"type": "step", "step": number, "loss": loss}

    assert summarise([step(1, 1.0), step(2, "nan"), step(3, 1.0)]).nan_since is None
    assert summarise([step(1, 1.0), step(2, "nan"), step(3, "inf")]).nan_since == 2


def steps(*numbers: int, loss: float, first: int = 0) -> list[dict[str, object]]:
    """One attempt's records: it goes on from ``first``."""
    start = {"type": "start", "first_step": first, "total_steps": 8, "epochs": 2}
    told = [
        {"type": "step", "step": n, "epoch": 1 + (n > 4), "loss": loss + n, "seconds": 0.5, "rss": n} for n in numbers
    ]
    return [start, *told]


def test_attempts_are_one_training() -> None:
    """The first went to step 6 and was killed; the second went on from a state of step 4, so steps 5 and 6 count as it did them."""
    validation: dict[str, object] = {"type": "validation", "step": 6, "loss": 9.0}
    memory: dict[str, object] = {"type": "memory", "elapsed": 2.5, "rss": 99}
    first: list[dict[str, object]] = [
        *steps(1, 2, 3, 4, 5, loss=10),
        memory,
        *steps(6, loss=10, first=5)[1:],
        validation,
        {"type": "end"},
    ]
    second = steps(5, 6, 7, 8, loss=100, first=4)
    found = summarise(first, second)
    once = summarise(steps(1, 2, 3, 4, loss=10), steps(5, 6, 7, 8, loss=100, first=4))
    assert (found.loss_first, found.loss_last, found.loss_average) == (12.5, 106.5, 59.5)
    assert (once.loss_first, once.loss_last, once.loss_average) == (12.5, 106.5, 59.5)
    assert (found.steps, found.first_step, found.epoch, found.rss) == (8, 4, 2, 99)
    assert (found.validation, found.end_reason) == (None, None), "what came of lost steps, or of another attempt"
    assert found.seconds == 3.0 + 2.0, "as the keeper told, and the steps after it"
    assert found.steps_per_second == 2.0
    assert summarise(first, steps(first=4, loss=0)).steps == 4, "about to go on"
    assert summarise(first, []).steps == 6, "never began"
    assert summarise(steps(5, 6, 7, 8, loss=100, first=4)).loss_first == 105.0, "an attempt by itself"


def test_a_file_saved_again_counts_once() -> None:
    def saved(path: str, step: int) -> dict[str, object]:
        return {"type": "save", "path": path, "kind": "step", "step": step, "epoch": 1, "bytes": 1}

    found = summarise([saved("w/a", 2), saved("w/b", 4)], [saved("w/02/b", 4)])
    assert [one.path for one in found.saved] == ["w/a", "w/02/b"]


records = st.dictionaries(
    st.sampled_from(
        [
            "type",
            "step",
            "epoch",
            "loss",
            "lr",
            "seconds",
            "rss",
            "total_steps",
            "first_step",
            "elapsed",
            "reason",
            "bytes",
            "path",
            "done",
        ]
    ),
    st.one_of(
        st.sampled_from(["step", "start", "end", "save", "phase", "validation", "memory", "nan"]),
        st.none(),
        st.booleans(),
        st.integers(-5, 5),
        st.floats(allow_nan=False, allow_infinity=False),
        st.dictionaries(st.text(max_size=2), st.integers()),
        st.lists(st.integers(), max_size=2),
    ),
)


@given(st.lists(records, max_size=8))
def test_no_record_makes_it_raise(found: list[dict[str, object]]) -> None:
    assert isinstance(summarise(found), Progress)
    assert isinstance(summarise(found, found), Progress)


@pytest.mark.parametrize(
    ("log", "steps", "total", "loss"),
    [
        ("", 0, None, None),
        ("validation steps: 100%|██| 4/4 [00:01<00:00, 1.0it/s, val_avg_loss=0.5]", 0, None, None),
        ("steps:   0%|          | 0/3 [00:00<?, ?it/s]", 0, 3, None),
        ("steps:  33%|███▎      | 1/3 [00:00<00:00,  2.18it/s, avr_loss=1.13]", 1, 3, 1.13),
        (
            (
                "steps:  33%|███▎      | 1/3 [00:00<00:00,  2.18it/s]\rsteps:  67%|██████▋   | 2/3 [00:01<00:00,  1.45s/it, "
                "Average key norm=0.1, Keys Scaled=0, avr_loss=0.0965] INFO x"
            ),
            2,
            3,
            0.0965,
        ),
    ],
)
def test_the_bar_of_a_trainer_without_the_protocol(log: str, steps: int, total: int | None, loss: float | None) -> None:
    found = progress_from_log(log)
    assert (found.steps, found.total_steps, found.loss_average) == (steps, total, loss)


def test_a_bar_that_says_nan() -> None:
    assert progress_from_log("steps: 100%|██| 3/3 [00:01<00:00, 2.0it/s, avr_loss=nan]").nan_since == 3
