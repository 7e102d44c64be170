"""Filters over runs: ``network.dim==32 and loss.last<0.1 and tag:good``. A small typed grammar with a parser of its own (stdlib only).

    filter  = or
    or      = and {"or" and}
    and     = not {["and"] not}          two terms side by side are joined by and
    not     = {"not"} term
    term    = "(" or ")" | key | key operator value | key ["not"] "in" "(" value {"," value} ")"
    operator: == (or =)  !=  <  <=  >  >=  :  (has: a tag of a list, a part of a text)
    value   : a number, 5%, 2026-11-22, today, 7d, 2:49, 8GB, a word, or a text in quotes

A run that has no such value fits no comparison. A bare key asks whether there is a value that is not false, 0 or empty.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from lorakit.archive.facts import RESULTS, Kind, Value, canonical
from lorakit.archive.literals import Range, flag, meaning
from lorakit.errors import UsageError

__all__ = ["And", "Comparison", "Has", "Node", "Not", "Or", "keys_of", "parse", "select"]

_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+)*")
_OPERATOR: Final = re.compile(r"==|!=|<=|>=|<>|=<|=>|[=<>:~]")
_WORD: Final = re.compile(r"""[^\s(),"'=<>!]+""")
_QUOTED: Final = re.compile(r""""((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'""", re.DOTALL)
_SPACE: Final = re.compile(r"\s*")
_RESERVED: Final = frozenset({"and", "or", "not", "in"})
#: Deeper brackets are no filter that anybody typed.
_DEEPEST: Final = 50
_ORDER: Final = frozenset({"<", "<=", ">", ">="})


@dataclass(frozen=True)
class Has:
    """A bare key: there is a value, and it is not false, 0 or empty."""

    key: str
    at: int = field(default=0, compare=False)

    def __str__(self) -> str:
        return self.key


@dataclass(frozen=True)
class Comparison:
    """``key operator values``; several values where the operator is ``in``. ``at`` and ``value_at`` are columns of the text."""

    key: str
    operator: str
    values: tuple[str, ...]
    at: int = field(default=0, compare=False)
    value_at: tuple[int, ...] = field(default=(), compare=False)

    def __str__(self) -> str:
        spelled = [_spell(value) for value in self.values]
        return (
            f"{self.key} in ({', '.join(spelled)})"
            if self.operator == "in"
            else f"{self.key}{self.operator}{spelled[0]}"
        )


@dataclass(frozen=True)
class Not:
    """What the other does not fit."""

    of: Node

    def __str__(self) -> str:
        return f"not {_bracketed(self.of)}"


@dataclass(frozen=True)
class And:
    """What fits all of them."""

    of: tuple[Node, ...]

    def __str__(self) -> str:
        return " and ".join(map(_bracketed, self.of))


@dataclass(frozen=True)
class Or:
    """What fits any of them."""

    of: tuple[Node, ...]

    def __str__(self) -> str:
        return " or ".join(map(_bracketed, self.of))


Node = Has | Comparison | Not | And | Or


def _bracketed(node: Node) -> str:
    return f"({node})" if isinstance(node, (And, Or, Not)) else str(node)


def _spell(value: str) -> str:
    if _WORD.fullmatch(value) and value not in _RESERVED:
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def parse(text: str) -> Node | None:
    """The filter that a text means; None when it is empty. Raises UsageError that points at the place."""
    parser = _Parser(text)
    if parser.at_end():
        return None
    found = parser.any_of(0)
    if not parser.at_end():
        raise parser.error("a bracket closes that was never opened" if parser.peek(")") else "this fits nowhere", 1)
    return found


def trouble(text: str, at: int, length: int, what: str, todo: str = "") -> UsageError:
    """An error that shows the filter with the place underlined."""
    shown = "".join(letter if letter.isprintable() else " " for letter in text)
    begin = max(0, at - 60)  # a long filter is shown around the place
    window = shown[begin : begin + 96]
    mark = " " * (at - begin) + "^" * max(1, min(length, len(window) - (at - begin)))
    return UsageError(f"the filter stops at column {at + 1}: {what}", why=f"{window}\n{mark}", todo=todo)


class _Parser:
    """Recursive descent over the text; ``at`` is the column of what comes next."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def error(self, what: str, length: int = 1, todo: str = "", *, at: int | None = None) -> UsageError:
        return trouble(self.text, self.at if at is None else at, length, what, todo)

    def skip(self) -> None:
        found = _SPACE.match(self.text, self.at)
        self.at = found.end() if found else self.at

    def at_end(self) -> bool:
        self.skip()
        return self.at >= len(self.text)

    def peek(self, letter: str) -> bool:
        self.skip()
        return self.text.startswith(letter, self.at)

    def take(self, letter: str) -> bool:
        if self.peek(letter):
            self.at += len(letter)
            return True
        return False

    def word(self) -> str:
        """The key or keyword that comes next, not taken; empty when it is neither."""
        self.skip()
        found = _KEY.match(self.text, self.at)
        return found[0] if found else ""

    def keyword(self, *words: str) -> bool:
        word = self.word()
        if word.lower() in words:
            self.at += len(word)
            return True
        for word, symbol in (("and", "&&"), ("and", "&"), ("or", "||"), ("or", "|")):
            if word in words and self.peek(symbol):
                raise self.error(f"write {word}", len(symbol))
        return False

    def any_of(self, depth: int) -> Node:
        parts = [self.all_of(depth)]
        while self.keyword("or"):
            parts.append(self.all_of(depth))
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def all_of(self, depth: int) -> Node:
        parts = [self.negated(depth)]
        while not self.at_end() and not self.peek(")"):
            if not self.keyword("and") and (self.word().lower() == "or" or self.peek("|")):
                break
            parts.append(self.negated(depth))
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def negated(self, depth: int) -> Node:
        count = 0
        while self.keyword("not") or (self.peek("!") and not self.peek("!=") and self.take("!")):
            count += 1
        if count > _DEEPEST:
            raise self.error("so many nots are no filter that anybody means")
        found = self.term(depth)
        for _ in range(count):
            found = Not(found)
        return found

    def term(self, depth: int) -> Node:
        if self.at_end():
            raise self.error("something is missing here", todo="such as network.dim==32, or tag:good")
        begin = self.at
        if self.take("("):
            if depth >= _DEEPEST:
                raise self.error("brackets as deep as this are no filter that anybody means", at=begin)
            found = self.any_of(depth + 1)
            if not self.take(")"):
                raise self.error("this bracket is never closed", at=begin)
            return found
        key = self.word()
        if not key or key.lower() in _RESERVED:
            length = len(key) or 1
            raise self.error("a key is expected here", length, "such as network.dim==32, loss.last<0.1 or tag:good")
        self.at += len(key)
        return self.after_key(key, begin)

    def after_key(self, key: str, begin: int) -> Node:
        here = self.at
        negated = self.keyword("not")
        if self.keyword("in"):
            found = self.several(key, begin)
            return Not(found) if negated else found
        self.at = here
        self.skip()
        operator = _OPERATOR.match(self.text, self.at)
        if operator is None:
            self.at = here
            return Has(canonical(key), begin)
        symbol = {"=": "==", "=<": "<=", "=>": ">=", "<>": "!=", "~": ":"}.get(operator[0], operator[0])
        self.at = operator.end()
        value, at = self.value(f"after {key} {operator[0]}")
        return Comparison(canonical(key), symbol, (value,), begin, (at,))

    def several(self, key: str, begin: int) -> Node:
        if not self.take("("):
            raise self.error("after in come values in brackets", todo=f"such as {key} in (16, 32)")
        opened, values, places = self.at - 1, [], []
        while True:
            value, at = self.value(f"in the list of {key}")
            values.append(value)
            places.append(at)
            if self.take(")"):
                return Comparison(canonical(key), "in", tuple(values), begin, tuple(places))
            if self.at_end():
                raise self.error("this bracket is never closed", at=opened)
            if not self.take(","):
                raise self.error("values are separated by commas")

    def value(self, where: str) -> tuple[str, int]:
        self.skip()
        begin = self.at
        if quoted := _QUOTED.match(self.text, begin):
            self.at = quoted.end()
            inner = quoted[1] if quoted[1] is not None else quoted[2]
            return re.sub(r"\\(.)", r"\1", inner, flags=re.DOTALL), begin
        if self.text[begin : begin + 1] in {'"', "'"}:
            raise self.error("this quote is never closed")
        word = _WORD.match(self.text, begin)
        if word is None or word[0].lower() in _RESERVED:
            length = len(word[0]) if word else 1
            raise self.error(f"{where} a value is expected", length, "a number, a word, or a text in quotes")
        self.at = word.end()
        return word[0], begin


def keys_of(node: Node | None) -> tuple[tuple[str, int], ...]:
    """Every key of a filter with its column."""
    match node:
        case None:
            return ()
        case Has() | Comparison():
            return ((node.key, node.at),)
        case Not():
            return keys_of(node.of)
        case And() | Or():
            return tuple(pair for part in node.of for pair in keys_of(part))


def select(
    node: Node,
    column: Callable[[str], Mapping[int, Value]],
    everything: frozenset[int],
    *,
    text: str,
    now: float | None = None,
) -> frozenset[int]:
    """The numbers of the runs that fit; ``column`` gives a key's value for each run that has one.

    Raises UsageError where a value cannot be compared with any that there is.
    """
    match node:
        case Has():
            return frozenset(run for run, value in column(node.key).items() if value)
        case Comparison():
            return _compare(node, column(node.key), text, now)
        case Not():
            return everything - select(node.of, column, everything, text=text, now=now)
        case And():
            found = everything
            for part in node.of:
                found &= select(part, column, everything, text=text, now=now)
            return found
        case Or():
            return frozenset().union(*(select(part, column, everything, text=text, now=now) for part in node.of))


def _compare(node: Comparison, column: Mapping[int, Value], text: str, now: float | None) -> frozenset[int]:
    found: set[int] = set()
    operator = {"in": "==", "!=": "=="}.get(node.operator, node.operator)
    result = RESULTS.get(node.key)
    kind = result.kind if result else Kind.NUMBER
    comparable = not column and result is None
    for word, at in zip(node.values, node.value_at or (0,) * len(node.values), strict=True):
        test = _Test(operator, word, kind, now)
        comparable = comparable or (not column and test.fits_kind())
        for run, value in column.items():
            verdict = test(value)
            comparable = comparable or verdict is not None
            if verdict:
                found.add(run)
        if not comparable:
            raise trouble(text, at, len(word), *_cannot(node, word, kind if result else None, column))
    if node.operator == "!=":
        return frozenset(column.keys() - found)
    return frozenset(found)


class _Test:
    """Compares values with one literal; None where the two cannot be compared."""

    def __init__(self, operator: str, word: str, kind: Kind, now: float | None) -> None:
        self.operator, self.word, self.kind = operator, word, kind
        self.range: Range | None = None if operator == ":" else meaning(word, kind, now=now)
        self.flag = flag(word)
        self.folded = word.casefold()

    def fits_kind(self) -> bool:
        if self.kind in {Kind.TEXT, Kind.LIST}:
            return self.operator not in _ORDER
        if self.kind is Kind.FLAG:
            return self.flag is not None and self.operator == "=="
        return self.range is not None

    def __call__(self, value: Value) -> bool | None:
        if isinstance(value, bool):
            return value is self.flag if self.flag is not None and self.operator not in _ORDER else None
        if isinstance(value, (int, float)):
            return self.range.holds(self.operator, value) if self.range is not None else None
        if isinstance(value, list):
            if self.operator in _ORDER:
                return None
            return self.word in value
        if self.operator == ":":
            return self.folded in value.casefold()
        return value == self.word if self.operator == "==" else None


def _cannot(node: Comparison, word: str, kind: Kind | None, column: Mapping[int, Value]) -> tuple[str, str]:
    """What is wrong, and what to do, where a literal fits no value of a key."""
    values = sorted({_shown(value) for value in column.values()}, key=lambda item: (len(item), item))
    examples = ", ".join(values[:4])
    if kind is None:
        first = next(iter(column.values()))
        kind = Kind.FLAG if isinstance(first, bool) else Kind.NUMBER if isinstance(first, (int, float)) else Kind.TEXT
    if kind in {Kind.TEXT, Kind.LIST}:
        return f"{node.key} is {kind}, and {node.operator} has no meaning for it", f"write {node.key}:{word}, or =="
    if node.operator == ":":
        return f"{node.key} is {kind}, and : looks inside of texts and lists", f"write {node.key}=={word}"
    if kind is Kind.FLAG:
        return f"{node.key} is {kind}", f"write {node.key}, or not {node.key}"
    ways = {Kind.TIME: "2026-11-22, today or 7d", Kind.DURATION: "90s, 2m or 1:30", Kind.SIZE: "8GB"}
    written = ways.get(kind) or (examples or "32 or 1e-4")
    return f"{node.key} is {kind}, and {word} is none", f"such as {written}"


def _shown(value: Value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def unknown_key(key: str, at: int, text: str, known: Sequence[str], hint: str = "") -> UsageError:
    """The error for a key that no run has and no preset knows."""
    import difflib

    close = difflib.get_close_matches(key, [*known, *RESULTS], n=3, cutoff=0.6)
    near = f"did you mean {' or '.join(close)}?" if close else hint
    return trouble(text, at, len(key), f"there is no {key}", near or "docs/commands.md names the keys of ls")
