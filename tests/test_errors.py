"""An error of the Python API tells in its traceback what the command line prints."""

from __future__ import annotations

import traceback

from lorakit.errors import Problem, RuleError


def test_why_todo_and_problems_stand_in_the_traceback() -> None:
    problem = Problem("cached outputs never change", todo="turn the cache off", key="memory.cache", code="LK021")
    error = RuleError("x breaks a rule", why="because", todo="do this", problems=(problem,))
    text = "".join(traceback.format_exception(error))
    for part in (
        "x breaks a rule",
        "because",
        "do this",
        "memory.cache: cached outputs never change turn the cache off",
    ):
        assert part in text
    assert str(error) == "x breaks a rule"
