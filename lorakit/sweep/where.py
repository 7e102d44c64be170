"""Conditions on trials: ``te_lr <= unet_lr/2 and dim != 64``. Parsed by Python's own grammar, of which little is allowed."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any, Final

from lorakit.errors import UsageError

__all__ = ["Condition"]

_ARITHMETIC: Final[Mapping[type, Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_COMPARISONS: Final[Mapping[type, Callable[[Any, Any], bool]]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_WORDS: Final = {"true": True, "false": False, "none": None}
_EXAMPLE: Final = "such as 'te_lr <= unet_lr/2'"
#: A condition is a line that somebody typed; what is longer is none, and could be nested too deeply to be parsed.
_LONGEST: Final = 1000


class Condition:
    """One condition, checked when it is made: its grammar, and that it has no names but known ones.

    Raises UsageError for a text that is no condition. Names are words (``dim``) or key paths (``network.dim``); beside them
    there are numbers, texts in quotes, ``true``, ``false``, ``none``, ``+ - * /``, comparisons, ``and``, ``or``, ``not``.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        if len(text) > _LONGEST:
            raise UsageError(f"--where {text[:60]!r}… is no condition", why="it is too long", todo=_EXAMPLE)
        try:
            self._tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            raise UsageError(
                f"--where {text!r} is no condition", why=getattr(error, "msg", None) or str(error), todo=_EXAMPLE
            ) from None
        self.names: frozenset[str] = frozenset(self._check(self._tree))

    def _check(self, node: ast.expr) -> list[str]:
        """The names in it; raises UsageError at anything that does not belong into a condition."""
        match node:
            case ast.BoolOp(values=parts):
                return [name for part in parts for name in self._check(part)]
            case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.UAdd(), operand=inner):
                return self._check(inner)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                return [*self._check(left), *self._check(right)]
            case ast.Compare(left=left, ops=ops, comparators=others) if all(type(op) in _COMPARISONS for op in ops):
                return [name for part in (left, *others) for name in self._check(part)]
            case ast.Constant(value=bool() | int() | float() | str()):
                return []
            case ast.Name() | ast.Attribute():
                name = _dotted(node)
                if name is not None:
                    return [] if name.lower() in _WORDS else [name]
        raise UsageError(
            f"--where {self.text!r} cannot be read at {ast.unparse(node)!r}",
            why="a condition has names, numbers, + - * /, comparisons, and, or, not",
            todo=_EXAMPLE,
        )

    def holds(self, value_of: Callable[[str], Any]) -> bool:
        """Whether it is true of a trial; ``value_of`` gives the value of a name. Raises UsageError where it has no sense."""
        try:
            return bool(self._value(self._tree, value_of))
        except (TypeError, ZeroDivisionError, OverflowError) as error:
            raise UsageError(f"--where {self.text!r} has no sense for a trial", why=str(error)) from error

    def _value(self, node: ast.expr, value_of: Callable[[str], Any]) -> Any:
        match node:
            case ast.BoolOp(op=ast.And(), values=parts):
                return all(self._value(part, value_of) for part in parts)
            case ast.BoolOp(values=parts):
                return any(self._value(part, value_of) for part in parts)
            case ast.UnaryOp(op=op, operand=inner):
                value = self._value(inner, value_of)
                return not value if isinstance(op, ast.Not) else -value if isinstance(op, ast.USub) else value
            case ast.BinOp(left=left, op=op, right=right):
                return _ARITHMETIC[type(op)](*(_number(self._value(side, value_of)) for side in (left, right)))
            case ast.Compare(left=left, ops=ops, comparators=others):
                values = [self._value(part, value_of) for part in (left, *others)]
                pairs = zip(values, ops, values[1:], strict=False)
                return all(_COMPARISONS[type(op)](one, other) for one, op, other in pairs)
            case ast.Constant(value=value):
                return value
            case _:
                name = _dotted(node) or ""
                return _WORDS[name.lower()] if name.lower() in _WORDS else value_of(name)


def _number(value: Any) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    raise TypeError(f"{value!r} is not a number")


def _dotted(node: ast.expr) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        inner = _dotted(node.value)
        return None if inner is None else f"{inner}.{node.attr}"
    return None
