"""The line of every key, in every way TOML lets a key be written."""

from __future__ import annotations

import json
import tomllib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lorakit.preset.toml_lines import dotted, key_lines, parse_key

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn

    from lorakit.preset.toml_lines import KeyPath

TEXT = '''\
# a comment with [brackets] and key = 1
name = "a # no comment"  # a comment

optim.unet_lr = 1e-4
"optim" . 'te_lr' = [5e-5, # one
  2e-5, # two
]
note = """
[not.a.table]
x = 1 \\"""
""""
raw = \'\'\'
y = 2 '\'\'\'\'

[network]  # here
  dim = 16
args = { "conv_dim" = 4, inner = { deep = [ { lost = 1 } ] }, last = 'it''}

[[many]]
one = 1
[[many]]
one = 2
[a.'b.c'."d\\u0065"]
when = 2026-11-22 07:01:00
'''.replace("'it''}", "'it'}").replace("y = 2 ''''", "y = 2 '''")


def test_lines_of_keys() -> None:
    tomllib.loads(TEXT)
    assert key_lines(TEXT) == {
        ("name",): 2,
        ("optim",): 4,
        ("optim", "unet_lr"): 4,
        ("optim", "te_lr"): 5,
        ("note",): 8,
        ("raw",): 12,
        ("network",): 15,
        ("network", "dim"): 16,
        ("network", "args"): 17,
        ("network", "args", "conv_dim"): 17,
        ("network", "args", "inner"): 17,
        ("network", "args", "inner", "deep"): 17,
        ("network", "args", "last"): 17,
        ("many",): 19,
        ("many", "one"): 20,
        ("a",): 23,
        ("a", "b.c"): 23,
        ("a", "b.c", "de"): 23,
        ("a", "b.c", "de", "when"): 24,
    }


def test_windows_line_ends() -> None:
    text = 'name = "a"\r\n\r\n[network]\r\ndim = 3\r\n'
    assert key_lines(text) == {("name",): 1, ("network",): 3, ("network", "dim"): 4}


_keys = st.from_regex(r"[A-Za-z0-9_-]{1,4}", fullmatch=True) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=4
)
_strings = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8)
_literal = _strings.filter(lambda text: "'" not in text)


@st.composite
def _value(draw: DrawFn, depth: int = 2) -> str:
    """A TOML value, spelled in one of its ways."""
    kind = draw(st.integers(0, 7 if depth else 4))
    if kind == 0:
        return draw(st.sampled_from(["1", "-0.5", "true", "1e-4", "0x1F", "2026-11-22 07:01:00", "07:01:00"]))
    if kind == 1:
        return _basic(draw(_strings))
    if kind == 2:
        return f"'{draw(_literal)}'"
    if kind == 3:
        body = draw(st.sampled_from(["", "\n[x]\ny = 1\n", 'a "" b', "\\n\\\\", "a\\\n  b", "#"]))
        return f'"""{body}"""' + draw(st.sampled_from(["", '"'])) * (not body.endswith("\\"))
    if kind == 4:
        return "'''" + draw(st.sampled_from(["", "\n[x]\ny = 1\n", "a '' b", "\\", "#"])) + "'''"
    items = draw(st.lists(_value(depth=depth - 1), max_size=3))
    if kind == 5:
        return (
            "["
            + draw(st.sampled_from(["", "\n", " # c ]\n"]))
            + ", \n".join(items)
            + draw(st.sampled_from(["", "\n"]))
            + "]"
        )
    names = draw(st.lists(_keys, min_size=len(items), max_size=len(items), unique=True))
    return "{ " + ", ".join(f"{_basic(name)} = {item}" for name, item in zip(names, items, strict=True)) + " }"


def _basic(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


@st.composite
def _documents(draw: DrawFn) -> tuple[str, dict[KeyPath, int]]:
    """A TOML text, and the line of each key at the top and in a table."""
    text = ""
    lines: dict[KeyPath, int] = {}
    tables = ["", *draw(st.lists(_keys.map(lambda key: f"t{key}"), max_size=3, unique=True))]
    for table in tables:
        prefix: KeyPath = (table,) if table else ()
        if table:
            lines[prefix] = text.count("\n") + 1
            text += f"[ {_basic(table)} ] # comment\n"
        for key in draw(st.lists(_keys.filter(lambda key: key not in tables), max_size=3, unique=True)):
            text += draw(st.sampled_from(["", "\n", "# x = 1\n", "  "]))
            lines[*prefix, key] = text.count("\n") + 1
            text += f"{_basic(key)} = {draw(_value())}" + draw(st.sampled_from(["\n", " # c\n", "\n\n"]))
    return text, lines


@settings(max_examples=150, deadline=None)
@given(_documents())
def test_any_document(document: tuple[str, dict[KeyPath, int]]) -> None:
    text, lines = document
    data = tomllib.loads(text)
    found = key_lines(text)
    assert {path: line for path, line in found.items() if path in lines} == lines
    assert set(found) == set(_paths(data, ()))


def _paths(data: dict[str, Any], prefix: KeyPath) -> list[KeyPath]:
    found = []
    for key, value in data.items():
        found.append((*prefix, key))
        if isinstance(value, dict):
            found += _paths(value, (*prefix, key))
    return found


@settings(deadline=None)
@given(st.lists(st.text(max_size=5), min_size=1, max_size=4).map(tuple))
def test_a_dotted_key_reads_back(path: KeyPath) -> None:
    if not any("\ud800" <= letter <= "\udfff" for part in path for letter in part):
        assert parse_key(dotted(path)) == path
        assert "\n" not in dotted(path)


@pytest.mark.parametrize("text", ["", " ", "a b", "a.", ".a", "a..b", "a=b", '"a', "a\nb", "é", '"\\q"', "[a]", "-"])
def test_what_is_not_a_key(text: str) -> None:
    assert parse_key(text) == (("-",) if text == "-" else None)


@settings(deadline=None)
@given(st.text(max_size=30))
@example('"\\')
@example("[[")
@example("a.=")
@example("a = {")
def test_hostile_text_is_read_or_refused_with_value_error(text: str) -> None:
    parse_key(text)
    try:
        tomllib.loads(text)
    except ValueError:
        return
    key_lines(text)
