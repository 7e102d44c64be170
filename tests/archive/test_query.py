"""The grammar of filters: what is understood, what it selects, and where errors point."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit.archive.facts import Kind, Value
from lorakit.archive.literals import meaning
from lorakit.archive.query import And, Comparison, Has, Node, Not, Or, keys_of, parse, select
from lorakit.errors import UsageError

NOW = time.mktime((2026, 11, 22, 12, 0, 0, 0, 0, -1))
RUNS: dict[int, dict[str, Value]] = {
    1: {"network.dim": 32, "loss.last": 0.09, "tag": ["good", "hands"], "sealed": True, "name": "hifumi", "optim.te_lr": "5e-5/2e-5"},
    2: {"network.dim": 16, "loss.last": 0.12, "sealed": True, "name": "Style", "optim.te_lr": 5e-5, "created": NOW - 3600},
    3: {"network.dim": 32, "sealed": False, "name": "hifumi two", "tag": ["bad"], "created": NOW - 86400, "seconds": 169.0, "vram": 13e9},
}  # fmt: skip


def chosen(text: str) -> set[int]:
    node = parse(text)
    assert node is not None

    def column(key: str) -> dict[int, Value]:
        return {number: values[key] for number, values in RUNS.items() if key in values}

    return set(select(node, column, frozenset(RUNS), text=text, now=NOW))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("network.dim==32 and loss.last<0.1 and tag:good", {1}),
        ("network.dim == 32", {1, 3}),
        ("dim=16", {2}),
        ("network.dim!=16", {1, 3}),
        ("network.dim in (8, 16)", {2}),
        ("network.dim not in (8, 16)", {1, 3}),
        ("loss.last>=9e-2", {1, 2}),
        ("loss.last<=9%", {1}),
        ("loss.last!=0.09", {2}),  # 3 has none, so it fits no comparison
        ("not loss.last==0.09", {2, 3}),
        ("loss.last", {1, 2}),
        ("not loss.last", {3}),
        ("tag:good tag:hands", {1}),
        ("tag:good or tag:bad", {1, 3}),
        ("tag", {1, 3}),
        ("sealed", {1, 2}),
        ("not sealed", {3}),
        ("sealed==no", {3}),
        ("name:HIFUMI", {1, 3}),
        ('name=="hifumi two"', {3}),
        ("name:style or network.dim==32 and sealed", {1, 2}),
        ("(name:style or network.dim==32) and not sealed", {3}),
        ("optim.te_lr==5e-5", {2}),
        ("optim.te_lr==5e-5/2e-5", {1}),
        ("created==today", {2}),
        ("created==2026-11-21", {3}),
        ("created>2026-11-21", {2}),
        ("created<today", {3}),
        ("created>2h", {2}),
        ("created<='2026-11-21 12:00'", {3}),
        ("seconds>2m and seconds<2:50", {3}),
        ("vram>=13GB", {3}),
        ("NOT sealed AND vram", {3}),
    ],
)
def test_what_is_selected(text: str, expected: set[int]) -> None:
    assert chosen(text) == expected


@pytest.mark.parametrize(
    ("text", "column", "what"),
    [
        ("network.dim ==", 15, "a value is expected"),
        ("network.dim == and tag:good", 16, "a value is expected"),
        ("(sealed", 1, "never closed"),
        ("sealed)", 7, "never opened"),
        ("sealed && tag", 8, "write and"),
        ("sealed || tag", 8, "write or"),
        ("dim in 32", 8, "in brackets"),
        ("dim in (32", 8, "never closed"),
        ("dim in (32 16)", 12, "commas"),
        ('"hifumi"', 1, "a key is expected"),
        ('name=="hifumi', 7, "never closed"),
        ("not", 4, "missing"),
        ("loss.last<abc", 11, "a number, and abc is none"),
        ("network.dim==abc", 14, "a number, and abc is none"),
        ("name<3", 6, "no meaning"),
        ("tag>3", 5, "no meaning"),
        ("sealed==maybe", 9, "yes or no"),
        ("created>soon", 9, "a moment, and soon is none"),
        ("loss.last:3", 11, "looks inside"),
        ("(" * 60 + "sealed" + ")" * 60, 51, "as deep as this"),
        ("not " * 60 + "sealed", 241, "so many nots"),
    ],
)
def test_errors_point_at_the_place(text: str, column: int, what: str) -> None:
    with pytest.raises(UsageError) as caught:
        chosen(text)
    assert f"column {column}:" in caught.value.what
    assert what in caught.value.what
    shown, mark = caught.value.why.split("\n")
    begin = mark.index("^")
    assert shown[begin:] == text[column - 1 :][: len(shown[begin:])]


words = st.text(min_size=1, max_size=12)
keys = st.from_regex(r"[a-z_]{1,6}(\.[a-z0-9_]{1,6})?", fullmatch=True).filter(
    lambda key: key not in {"and", "or", "not", "in"}
)
comparisons = st.builds(
    Comparison,
    keys.map(lambda key: f"x.{key}"),
    st.sampled_from(["==", "!=", "<", "<=", ">", ">=", ":"]),
    st.tuples(words),
) | st.builds(
    Comparison, keys.map(lambda key: f"x.{key}"), st.just("in"), st.lists(words, min_size=1, max_size=3).map(tuple)
)
leaves: st.SearchStrategy[Node] = comparisons | st.builds(Has, keys.map(lambda key: f"x.{key}"))
nodes: st.SearchStrategy[Node] = st.recursive(
    leaves,
    lambda inner: (
        st.builds(Not, inner)
        | st.builds(And, st.lists(inner, min_size=2, max_size=3).map(tuple))
        | st.builds(Or, st.lists(inner, min_size=2, max_size=3).map(tuple))
    ),
    max_leaves=8,
)


@settings(max_examples=30)
@given(nodes)
def test_a_filter_that_is_written_out_reads_back(node: Node) -> None:
    assert parse(str(node)) == node


@given(st.text(max_size=60) | st.text(alphabet="ab.=<>!:()\"', andornti5", max_size=40))
def test_anything_typed_is_understood_or_refused_in_words(text: str) -> None:
    try:
        node = parse(text)
    except UsageError as error:
        told = error
    else:
        assert node is None or keys_of(node)
        return
    assert "column" in told.what
    assert "^" in told.why


@settings(max_examples=30)
@given(nodes, st.lists(st.booleans(), min_size=2, max_size=2))
def test_not_is_the_complement(node: Node, having: list[bool]) -> None:
    columns: dict[str, dict[int, Value]] = {}

    def column(key: str) -> dict[int, Value]:
        return columns.setdefault(key, {n: "word" for n, has in enumerate(having) if has})

    everything = frozenset({0, 1})
    try:
        fitting = select(node, column, everything, text="")
    except UsageError:
        return
    assert select(Not(node), column, everything, text="") == everything - fitting


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_mean_themselves(number: float) -> None:
    found = meaning(repr(number), Kind.NUMBER)
    assert found is not None
    assert found.low == found.high == number


@given(st.text(max_size=20), st.sampled_from(list(Kind)))
def test_no_word_breaks_a_literal(word: str, kind: Kind) -> None:
    found = meaning(word, kind, now=NOW)
    assert found is None or found.low <= found.high
