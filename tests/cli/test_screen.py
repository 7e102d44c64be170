"""Units, bars and columns as people read them."""

from __future__ import annotations

import io
import json
import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from lorakit.cli import screen


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (228_000_000, "228 MB"),
        (999_600_000, "1.0 GB"),
        (1_600_000_000, "1.6 GB"),
        (412e9, "412 GB"),
        (7e15, "7000 TB"),
    ],
)
def test_size(count: float, text: str) -> None:
    assert screen.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0.04, "0.0 s"),
        (4.21, "4.2 s"),
        (9.96, "0:10"),
        (31, "0:31"),
        (169, "2:49"),
        (3723, "1:02:03"),
        (184_440, "2 d 03:14"),
        (math.inf, "–"),
    ],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert screen.duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.1039, "0.104"),
        (0.01234, "0.0123"),
        (0.0123456, "0.0123"),
        (1.0962, "1.10"),
        (12345.6, "1.23e+04"),
        (math.nan, "nan"),
    ],
)
def test_loss(value: float | None, text: str) -> None:
    assert screen.loss(value) == text


def test_speed() -> None:
    assert screen.speed(2.13) == "2.1 it/s"
    assert screen.speed(0.25) == "4.0 s/it"


def test_moments_are_told_by_their_distance() -> None:
    now = time.mktime((2026, 11, 22, 15, 0, 0, 0, 0, -1))
    assert screen.moment(now - 1800, now=now) == "14:30"
    assert screen.moment(now - 86400, now=now) == "Nov 21 15:00"
    assert screen.moment(now - 400 * 86400, now=now) == "2025-10-18"
    assert screen.moment(None, now=now) == "–"
    assert screen.clock(now + 60, now=now) == "15:01"
    assert screen.clock(now + 86400, now=now) == "Mon 15:00"


def test_sparkline_goes_from_low_to_high() -> None:
    assert screen.sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert screen.sparkline([1, 1, 1]) == "▄▄▄"
    assert screen.sparkline([]) == ""
    assert screen.sparkline([1.0, math.nan, 2.0]) == "▁×█"
    assert screen.sparkline([math.inf]) == "×"
    assert screen.sparkline([0.5, 1.0], from_zero=True) == "▅█"


@given(st.lists(st.floats(), max_size=300), st.integers(1, 40))
def test_a_sparkline_fits(values: list[float], width: int) -> None:
    assert len(screen.sparkline(values, width)) == min(len(values), width)


@given(st.floats(-1, 2), st.integers(1, 60))
def test_bars_fit(share: float, width: int) -> None:
    assert len(screen.bar(share, width)) <= width
    assert screen.progress_bar(share, width).cell_len == width
    assert screen.bar(0, width) == ""
    assert screen.bar(1, width) == "█" * width
    assert screen.bar(1e-9, width) != ""


def test_control_characters_are_made_visible() -> None:
    assert screen.plain("a\nb\x1b[31m\u202e") == r"a\nb\x1b[31m\u202e"
    assert screen.plain("花見 ü €") == "花見 ü €"


@given(st.text())
def test_plain_text_moves_no_cursor(value: str) -> None:
    assert all(char.isprintable() or char == "\u3000" for char in screen.plain(value))


@given(st.lists(st.lists(st.text(max_size=12), min_size=1, max_size=4), min_size=1, max_size=6))
def test_columns_align_whatever_stands_in_them(rows: list[list[str]]) -> None:
    marked = [[*row, "|"] for row in rows]
    full = [row for row in marked if len(row) == max(map(len, marked))]
    lines = [line.plain for line in screen.columns(full)]
    assert len({cell_len(line) for line in lines}) == 1  # the marks stand below each other


def test_columns_count_wide_characters_as_drawn() -> None:
    lines = [line.plain for line in screen.columns([["花見", "1"], ["ab", "22"]], right=(1,), gap=1, indent=1)]
    assert lines == [" 花見  1", " ab   22"]


def test_only_flexible_columns_give_way() -> None:
    rows = [["a" * 30, "b" * 10], ["x", "y"]]
    lines = [line.plain for line in screen.columns(rows, width=25, flexible=(0,))]
    assert lines[0] == "a" * 12 + "…  " + "b" * 10
    assert screen.columns(rows, width=25)[0].plain == "a" * 30 + "  " + "b" * 10


def test_markup_in_names_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    screen.console().print(screen.text("[red]x[/red] :smile: [/]"))
    assert capsys.readouterr().out == "[red]x[/red] :smile: [/]\n"


def test_nothing_is_cut_or_coloured_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    screen.console().print(screen.text(("long " * 100, "fail")))
    assert capsys.readouterr().out == "long " * 100 + "\n"


def test_sentences_are_folded_on_a_terminal_and_commands_are_not() -> None:
    out = io.StringIO()
    made = Console(
        file=out, force_terminal=True, width=20, color_system=None, markup=False, highlight=False, soft_wrap=True
    )
    lines = [
        screen.text("  words that go on and on"),
        screen.text("next: lorakit bake a-long-name"),
        screen.text("short"),
    ]
    screen.put(made, lines)
    assert out.getvalue() == "  words that go\n    on and on\nnext: lorakit bake a-long-name\nshort\n"


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    screen.console().print(screen.text(("red", "fail")))
    coloured = capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    screen.console().print(screen.text(("red", "fail")))
    assert "\x1b[31m" in coloured
    assert "31" not in capsys.readouterr().out


def test_json_keeps_unicode_unless_it_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    screen.print_json({"name": "花見"})
    assert "花見" in capsys.readouterr().out
    screen.print_json({"name": "\udc80"})
    assert json.loads(capsys.readouterr().out) == {"name": "\udc80"}
