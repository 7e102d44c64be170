"""The live view: what stands on the screen, and the lines where nothing can be redrawn."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from lorakit.cli import screen
from lorakit.cli.tally import Tally
from lorakit.cli.view import STOPPING, View, frame, plain_line
from tests.cli.running import golden

NOON = 1_795_000_000.0


def record(type: str, *, t: float = NOON, **values: Any) -> dict[str, Any]:
    return {"v": 1, "t": t, "type": type, **values}


def start(**values: Any) -> dict[str, Any]:
    known = {"total_steps": 343, "epochs": 7, "batches_per_epoch": 49, "first_step": 0, "trainer": "sd-scripts"}
    return record("start", **{**known, **values})


def step(number: int, *, loss: Any = 0.1, **values: Any) -> dict[str, Any]:
    known = {
        "epoch": (number - 1) // 49 + 1,
        "lr": {"unet": 7.1e-5, "te1": 3.6e-5, "te2": 1.4e-5},
        "grad_norm": {"unet": 0.045, "te1": 0.011, "te2": 0.018},
        "seconds": 0.476,
        "rss": 4_000_000_000,
        "vram": 13_200_000_000,
    }
    return record("step", t=NOON + number * 0.5, step=number, loss=loss, **{**known, **values})


def tallied(*records: dict[str, Any]) -> Tally:
    tally = Tally()
    for one in records:
        tally.add(one)
    return tally


def shown(tally: Tally, *, width: int = 110, note: str = "", now: float = NOON) -> str:
    lines = frame(tally, "hifumi_k3f9 · sd-scripts", note=note, width=width, now=now)
    return "".join(f"{line.plain}\n" for line in lines)


def test_the_frame_of_a_bake_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen, "clock", lambda unix, now: "14:32")
    losses = [0.15 * math.exp(-n / 150) + 0.03 for n in range(1, 188)]
    save = record("save", step=147, epoch=3, path="/runs/x/weights/hifumi-000003.safetensors", bytes=228_000_000)
    samples = [record("sample", step=147, epoch=3, path="a.png", prompt="a cat")] * 4
    tally = tallied(start(), *(step(n, loss=loss) for n, loss in enumerate(losses, 1)), save, *samples)
    golden("view.txt", shown(tally) + "\n" + shown(tally, width=60) + "\n" + shown(tally, note=STOPPING[0]))


def test_the_frame_before_the_first_step() -> None:
    phase = record("phase", name="cache_latents", done=31, total=63)
    assert shown(Tally(), width=60) == "hifumi_k3f9 · sd-scripts\npreparing\n\n"
    assert shown(tallied(phase), width=60).splitlines()[1] == "caching latents  31/63     " + "━" * 20
    assert "reading_stars" not in shown(tallied(record("phase", name="reading_stars", done=0, total=1)))


def test_waiting_moves() -> None:
    lines = frame(Tally(), "x", note="", width=80, now=NOON + 65, began=NOON)
    assert lines[1].plain == "preparing     1:05"


def test_a_trainer_that_tells_little_is_shown_as_far_as_it_goes() -> None:
    assert shown(tallied({"type": "step", "step": 3})).splitlines()[1].endswith("━  3")
    assert "loss nan  ×" in shown(tallied(start(), step(1, loss="nan")))
    assert "RAM 4.0 GB" in shown(tallied(start(), step(1, vram=None)))
    assert "UNet 1e-4" in shown(tallied(start(), step(1, lr={"unet": 1e-4})))


def test_the_end_is_said_while_the_run_is_sealed() -> None:
    assert shown(tallied(start(), step(343), record("end", reason="ok")), note=STOPPING[0]).endswith(
        "sealing the run\n"
    )


RECORDS = st.fixed_dictionaries(
    {"type": st.sampled_from(["start", "phase", "step", "save", "sample", "validation", "warn", "end", "other", 3])},
    optional={
        name: st.none() | st.booleans() | st.integers(-5, 10**9) | st.floats() | st.text(max_size=20) | st.just({"unet": "inf", "te1": None})
        for name in ("t", "step", "epoch", "loss", "lr", "grad_norm", "seconds", "rss", "vram", "total_steps", "epochs", "name", "done", "total", "path", "bytes", "message")
    },
)  # fmt: skip


@settings(deadline=None)
@given(st.lists(RECORDS, max_size=12), st.integers(20, 160))
def test_no_record_breaks_the_view_and_no_line_is_too_wide(records: list[dict[str, Any]], width: int) -> None:
    tally = tallied(*records)
    for line in frame(tally, "花見_k3f9 · sd-scripts", note="", width=width, now=NOON):
        assert line.cell_len <= width
        assert "\n" not in line.plain
    out = io.StringIO()
    with View(Console(file=out, width=width), "x", clock=lambda: NOON) as view:
        view.update(records)


def test_speed_and_what_is_left_come_from_the_records() -> None:
    tally = tallied(start(), *(step(n) for n in range(1, 44)))
    assert tally.speed == pytest.approx(1 / 0.476)
    assert tally.pace == pytest.approx(0.5)  # saves and samples between the steps are counted
    assert "2:30 left" in shown(tally)


class Clock:
    now = NOON

    def __call__(self) -> float:
        return self.now


def plain_view() -> tuple[View, io.StringIO, Clock]:
    out, clock = io.StringIO(), Clock()
    console = Console(file=out, width=10_000, soft_wrap=True, highlight=False, markup=False)
    return View(console, "hifumi", clock=clock), out, clock


def test_plain_lines_where_nothing_can_be_redrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen, "clock", lambda unix, now: "14:32")
    view, out, clock = plain_view()
    with view:
        view.title("hifumi_k3f9 · sd-scripts")
        view.update([record("phase", name="cache_latents", done=n, total=63) for n in range(64)])
        view.update([start()])
        for number in range(1, 50):
            clock.now += 0.5
            view.update([step(number)])
            view.update()
        view.update([record("save", step=49, epoch=1, path="hifumi-000001.safetensors", bytes=228_000_000)])
        view.update([record("warn", message="a caption\nis long"), record("validation", step=49, epoch=1, loss=0.12)])
        view.note(STOPPING[0])
        view.update([step(343)])
    golden("view_plain.txt", out.getvalue())


def test_a_terminal_is_given_back() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, highlight=False, markup=False)
    view = View(console, "hifumi", clock=Clock())
    with view:
        view.update([start(), step(1)])
    assert out.getvalue().count("\x1b[?25l") == out.getvalue().count("\x1b[?25h") == 1  # cursor hidden, shown


def test_a_terminal_is_not_redrawn_more_often_than_the_eye_follows() -> None:
    out, clock = io.StringIO(), Clock()
    console = Console(file=out, force_terminal=True, width=80, highlight=False, markup=False)
    with View(console, "hifumi", clock=clock) as view:
        for _ in range(100):
            clock.now += 0.01
            view.update([step(1)])
    assert 9 <= out.getvalue().count("Ctrl-C stops") <= 13


def test_memory_is_shown_when_the_keeper_tells_it() -> None:
    tally = Tally()
    for record in (start(), step(1)):
        tally.add(record)
    tally.add({"type": "memory", "rss": 4_000_000_000, "gpus": [{"ours": 12_000_000_000}, {"ours": None}]})
    assert f"VRAM {screen.size(12_000_000_000)}  RAM {screen.size(4_000_000_000)}" in plain_line(tally, now=0.0).plain


def test_a_clock_that_jumps_spoils_no_pace() -> None:
    tally = Tally()
    for number, at in ((1, 1000.0), (2, 1001.0), (3, 1002.0 - 3600), (4, 1003.0 - 3600), (5, 1004.0 + 3600)):
        tally.add({"type": "step", "step": number, "loss": 0.5, "seconds": 1.0, "t": at})
    assert tally.pace == 1.0
