"""The assignments of a PowerShell script, worked out safely: numbers, texts, references and arithmetic. Nothing is ever run."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

__all__ = ["Assigned", "Script", "Unreadable", "evaluate", "read_script"]

Scalar = str | int | float | bool | None

_MOST_DEEP: Final = 40
_LONGEST: Final = 10_000
_TOKEN: Final = re.compile(
    r"""\s*(?:
      (?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?![A-Za-z_]))
    | (?P<single>'(?:[^']|'')*')
    | (?P<double>"(?:[^"`]|`.|"")*")
    | (?P<variable>\$(?:\{[^}]*\}|(?:script:|global:|local:)?[A-Za-z_]\w*))
    | (?P<cast>\[(?:int|int32|int64|long|float|single|double|decimal|string|bool)\])
    | (?P<call>\[(?:System\.)?math\]::\w+\()
    | (?P<operator>[-+*/%(),])
    )""",
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
_ASSIGNMENT: Final = re.compile(
    r"^\s*(?:\[[A-Za-z0-9.]+\]\s*)?\$(?:script:|global:|local:)?(?P<name>[A-Za-z_]\w*)\s*(?P<operator>[-+*/]?=)(?!=)\s*(?P<value>.*)$",
    re.DOTALL | re.IGNORECASE,
)


class Unreadable(ValueError):
    """An expression that is more than numbers, texts, references and arithmetic; the text says what."""


@dataclass(frozen=True)
class Assigned:
    """One assignment outside of any block: its ``value``, or the ``fault`` why that is not known."""

    name: str
    value: Scalar
    text: str
    line: int
    fault: str = ""


@dataclass(frozen=True)
class Script:
    """What a script says by itself. ``variables`` have lower-case names, the last assignment counts.

    ``inside`` are variables that code in a block, which is not run, assigns again; ``commands`` are the other statements.
    """

    variables: Mapping[str, Assigned]
    inside: frozenset[str]
    commands: tuple[tuple[str, int], ...]
    repeated: frozenset[str] = field(default_factory=frozenset)


def read_script(text: str) -> Script:
    """The assignments of a script in their order. Never fails: what cannot be worked out has a fault."""
    variables: dict[str, Assigned] = {}
    inside: set[str] = set()
    commands: list[tuple[str, int]] = []
    for statement, line, depth in _statements(text):
        match = _ASSIGNMENT.match(statement)
        if match is None:
            if statement.strip():
                commands.append((statement.strip(), line))
            continue
        name = match["name"].lower()
        if depth:
            inside.add(name)
            continue
        variables[name] = _assigned(name, match, line, variables)
    return Script(variables, frozenset(inside), tuple(commands))


def _assigned(name: str, match: re.Match[str], line: int, variables: Mapping[str, Assigned]) -> Assigned:
    text = f"${match['name']} {match['operator']} {match['value'].strip()}"
    known = {key: one.value for key, one in variables.items() if not one.fault}
    expression = match["value"]
    if match["operator"] != "=":
        expression = f"${match['name']} {match['operator'][0]} ({expression})"
    try:
        return Assigned(name, evaluate(expression, known), text, line)
    except Unreadable as error:
        return Assigned(name, None, text, line, str(error))


def _statements(text: str) -> list[tuple[str, int, int]]:
    """Statements with their first line (from 1) and how many braces they stand in; comments are taken out."""
    found: list[tuple[str, int, int]] = []
    piece: list[str] = []
    at, line, start, braces, parens = 0, 1, 1, 0, 0

    def close() -> None:
        if "".join(piece).strip():
            found.append(("".join(piece).strip(), start, braces))
        piece.clear()

    while at < len(text):
        letter = text[at]
        if not piece or not "".join(piece[-1:]).strip():
            start = line if not any(one.strip() for one in piece) else start
        step = 1
        if text.startswith("<#", at):
            end = text.find("#>", at)
            step = (len(text) if end < 0 else end + 2) - at
        elif letter == "#" and (at == 0 or text[at - 1] in " \t\n;({})"):
            end = text.find("\n", at)
            step = (len(text) if end < 0 else end) - at
        elif letter in "'\"":
            step = _quoted(text, at)
            piece.append(text[at : at + step])
        elif letter == "`" and re.match(r"`[ \t]*\r?\n", text[at:][:200]):
            step = text.index("\n", at) + 1 - at
            piece.append(" ")
        elif letter == "`":
            step = 2
            piece.append(text[at : at + 2])
        elif letter == "$" and text.startswith("${", at) and "}" in text[at:][:100]:
            step = text.index("}", at) + 1 - at
            piece.append(text[at : at + step])
        elif letter in "{}":
            close()
            braces = max(0, braces + (1 if letter == "{" else -1))
        elif letter in "()":
            parens = max(0, parens + (1 if letter == "(" else -1))
            piece.append(letter)
        elif (letter == "\n" and not parens) or letter == ";":
            close()
            parens = 0
        else:
            piece.append(letter)
        line += text.count("\n", at, at + step)
        at += step
    close()
    return found


def _quoted(text: str, at: int) -> int:
    """How long the quoted text is that begins here; one that is not closed ends with its line."""
    quote, end = text[at], at + 1
    while end < len(text):
        doubled = text[end] == quote and text[end + 1 : end + 2] == quote
        if doubled or (text[end] == "`" and quote == '"'):
            end += 2
        elif text[end] == quote:
            return end + 1 - at
        else:
            end += 1
    newline = text.find("\n", at)
    return (len(text) if newline < 0 else newline) - at


def evaluate(expression: str, variables: Mapping[str, Scalar]) -> Scalar:
    """The value of an expression; ``variables`` by lower-case name. Raises Unreadable for all that is more than arithmetic."""
    if len(expression) > _LONGEST:
        raise Unreadable("it is too long for a setting")
    return _Parser(_tokens(expression), variables).whole()


def _tokens(expression: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    at = 0
    while expression[at:].strip():
        match = _TOKEN.match(expression, at)
        if match is None:
            rest = expression[at:].strip()
            raise Unreadable(f"{rest[:30]!r} is code, and code is not run")
        kind = match.lastgroup or ""
        found.append((kind, match[kind]))
        at = match.end()
    return found


class _Parser:
    def __init__(self, tokens: list[tuple[str, str]], variables: Mapping[str, Scalar]) -> None:
        self.tokens, self.variables, self.at, self.depth = tokens, variables, 0, 0

    def whole(self) -> Scalar:
        if not self.tokens:
            raise Unreadable("nothing is assigned")
        value = self.sum()
        if self.at < len(self.tokens):
            raise Unreadable(f"{self.tokens[self.at][1][:30]!r} is code, and code is not run")
        return value

    def next(self, *operators: str) -> str | None:
        if self.at < len(self.tokens):
            kind, text = self.tokens[self.at]
            if kind == "operator" and text in operators:
                self.at += 1
                return text
        return None

    def sum(self) -> Scalar:
        self.depth += 1
        if self.depth > _MOST_DEEP:
            raise Unreadable("it is nested too deeply")
        value = self.product()
        while operator := self.next("+", "-"):
            other = self.product()
            if operator == "+" and isinstance(value, str):
                value = value + _text(other)
                if len(value) > _LONGEST:
                    raise Unreadable("the text is too long for a setting")
            else:
                value = _arithmetic(operator, value, other)
        self.depth -= 1
        return value

    def product(self) -> Scalar:
        value = self.unary()
        while operator := self.next("*", "/", "%"):
            value = _arithmetic(operator, value, self.unary())
        return value

    def unary(self) -> Scalar:
        self.depth += 1
        if self.depth > _MOST_DEEP:
            raise Unreadable("it is nested too deeply")
        try:
            if self.next("-"):
                return _arithmetic("-", 0, self.unary())
            if self.next("+"):
                return self.unary()
            if self.at < len(self.tokens) and self.tokens[self.at][0] == "cast":
                cast = self.tokens[self.at][1].strip("[]").lower()
                self.at += 1
                return _cast(cast, self.unary())
            return self.atom()
        finally:
            self.depth -= 1

    def atom(self) -> Scalar:
        if self.at >= len(self.tokens):
            raise Unreadable("it breaks off")
        kind, text = self.tokens[self.at]
        self.at += 1
        if kind == "number":
            return _number(text)
        if kind == "single":
            return text[1:-1].replace("''", "'")
        if kind == "double":
            return self.interpolated(text[1:-1])
        if kind == "variable":
            return self.variable(text)
        if kind == "call":
            return self.call(text)
        if text == "(":
            value = self.sum()
            if not self.next(")"):
                raise Unreadable("a parenthesis is not closed")
            return value
        raise Unreadable(f"{text[:30]!r} is out of place")

    def variable(self, text: str) -> Scalar:
        name = re.sub(r"^\$\{?|\}$", "", text).rpartition(":")[2].lower()
        if name in {"true", "false", "null"}:
            return {"true": True, "false": False, "null": None}[name]
        if name not in self.variables:
            raise Unreadable(f"${name[:40]} is not known without running the script")
        return self.variables[name]

    def interpolated(self, text: str) -> str:
        if "$(" in text:
            raise Unreadable("code within a text is not run")
        filled = re.sub(
            r"(?<!`)\$(\{[^}]*\}|[A-Za-z_]\w*)", lambda match: _text(self.variable(match[0])), text.replace('""', '"')
        )
        return re.sub(r"`(.)", lambda match: {"n": "\n", "t": "\t", "r": "\r"}.get(match[1], match[1]), filled)[
            :_LONGEST
        ]

    def call(self, text: str) -> Scalar:
        name = text.rpartition("::")[2].rstrip("(").lower()
        values = [self.sum()]
        while self.next(","):
            values.append(self.sum())
        if not self.next(")"):
            raise Unreadable("a parenthesis is not closed")
        numbers = [_as_number(value) for value in values]
        if name == "round" and len(numbers) in {1, 2}:
            digits = int(numbers[1]) if len(numbers) == 2 else 0
            return float(round(numbers[0], max(0, min(digits, 15))))
        if name in {"floor", "ceiling"} and len(numbers) == 1:
            return math.floor(numbers[0]) if name == "floor" else math.ceil(numbers[0])
        if name == "abs" and len(numbers) == 1:
            return abs(numbers[0])
        if name in {"min", "max"} and len(numbers) == 2:
            return min(numbers) if name == "min" else max(numbers)
        raise Unreadable(f"[math]::{name[:20]} is not worked out")


def _number(text: str) -> int | float:
    if text.isdigit() and len(text) < 19:
        return int(text)
    value = float(text)
    if not math.isfinite(value):
        raise Unreadable(f"{text[:20]} is out of bounds")
    return value


def _as_number(value: Scalar) -> int | float:
    if isinstance(value, bool):
        return int(value)
    if value is None:
        return 0
    if isinstance(value, str):
        try:
            return _number(value.strip())
        except ValueError as error:
            raise Unreadable(f"{value[:20]!r} is no number") from error
    return value


def _text(value: Scalar) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value)


def _arithmetic(operator: str, first: Scalar, second: Scalar) -> int | float:
    if isinstance(first, str) and operator == "*":
        raise Unreadable("a text is repeated, which is not worked out")
    left, right = _as_number(first), _as_number(second)
    if operator in "/%" and right == 0:
        raise Unreadable("it divides by 0")
    if operator == "/":
        value: int | float = left / right
        value = int(value) if isinstance(left, int) and isinstance(right, int) and left % right == 0 else value
    elif operator == "%":
        value = (
            math.fmod(left, right)
            if isinstance(left, float) or isinstance(right, float)
            else left - right * int(left / right)
        )
    else:
        value = left + right if operator == "+" else left - right if operator == "-" else left * right
    if not math.isfinite(value) or abs(value) > 1e18:
        raise Unreadable("a number is out of bounds")
    return value


def _cast(kind: str, value: Scalar) -> Scalar:
    if kind == "string":
        return _text(value)
    if kind == "bool":
        return bool(value)
    number = _as_number(value)
    return (
        round(number) if kind in {"int", "int32", "int64", "long"} else float(number)
    )  # [int] rounds a half to the even one
