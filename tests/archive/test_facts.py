"""Reading a preset quickly is reading it as TOML."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lorakit.archive.facts import RESULTS, facts, flatten, preset_values
from lorakit.archive.records import state
from tests.cli.made_runs import make_run

SHIPPED = sorted((Path(__file__).parents[2] / "presets").glob("*.toml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.stem))
def test_shipped_presets(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert preset_values(text) == dict(flatten(tomllib.loads(text)))


lines = st.sampled_from(
    [
        "a = 1", "b = -0", "c = 1e-4", "d = 2.5e+3 # why", "e = true", 'f = "x # y"', "g = [5e-5, 2e-5]", "h = {}", "i = [1, 2, 3]", "# c\x01",
        "[t]", "[u]", "[a]", "[t.x]", 'j = "a\\nb"', "k = 1_000", "l = 0x1f", 'm = """', "n = 01", "o = inf", "p = 2020-01-01", 'q = ""', "  r = 1",
        "s.t = 1", '"v w" = 1', "x = 'lit'", "y = 1 ", "z = 1\t# t", "", "# comment = 3", "a = 2", "garbage", "aa = 1\r", "bb = -1.5", "h.c = 2",
    ]
)  # fmt: skip


@given(st.lists(lines | st.text(max_size=8), max_size=8).map("\n".join))
@example("a = {}\n[a]\nb = 1")
@example("[t]\nh = {}\n[t.h]\nx = 1")
def test_whatever_a_preset_holds_the_quick_reader_says_what_toml_says(text: str) -> None:
    try:
        expected = dict(flatten(tomllib.loads(text)))
    except tomllib.TOMLDecodeError:
        with pytest.raises(ValueError, match="at "):
            preset_values(text)
        return
    found = preset_values(text)
    assert found == expected
    assert [type(value) for value in found.values()] == [type(value) for value in expected.values()]


def test_the_facts_of_a_run(tmp_path: Path) -> None:
    run = make_run(tmp_path, tags=["good"], lineage={"kind": "sweep", "sweep": "9c1e"})
    run.notes.write_text("eyes\n")
    found = facts(run, state(run))
    assert found.keys() - RESULTS.keys() >= {"network.dim", "optim.unet_lr"}
    assert (found["network.alpha"], found["optim.te_lr"], found["note"], found["sweep"]) == (
        16,
        "5e-5/2e-5",
        "eyes",
        "9c1e",
    )
    assert (found["state"], found["tag"], found["loss.last"], found["sealed"]) == ("ok", ["good"], 0.104, True)


def test_damage_costs_what_is_damaged(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.preset.write_bytes(b"\xff\xfe")
    run.request.write_text("[")
    found = facts(run, state(run))
    assert "network.dim" not in found
    assert found["loss.last"] == 0.104
