"""Telling a person what went wrong: what happened, why, what to do; and the exit code of it."""

from __future__ import annotations

import errno
import sys
import traceback
from typing import TYPE_CHECKING

from lorakit.errors import DiskError, LorakitError, Problem, Stopped

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.text import Text

__all__ = ["INTERNAL", "PIPE_CLOSED", "problem_lines", "report", "usage"]

#: Exit code of what no class of error stands for: a mistake of lorakit's own.
INTERNAL = 1
#: Exit code when the reader of the output went away; typer's own choice where it notices first.
PIPE_CLOSED = 1

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


def report(error: BaseException, *, debug: bool = False) -> int:
    """Print an error on stderr and return the exit code that belongs to it; with ``debug`` the traceback comes first."""
    if debug and not isinstance(error, KeyboardInterrupt):
        traceback.print_exception(error, file=sys.stderr)
    if isinstance(error, KeyboardInterrupt):
        _print([_line("stopped", "look")])
        return Stopped.exit_code
    if isinstance(error, LorakitError):
        _print(_lorakit_error(error))
        return error.exit_code
    if isinstance(error, OSError) and error.errno in _DISK:
        where = f"{error.filename}: " if error.filename else ""
        _print(
            _lorakit_error(
                DiskError(f"{where}{error.strerror}", todo="free some space or mend the permissions, and type it again")
            )
        )
        return DiskError.exit_code
    what = " ".join(f"{type(error).__name__}: {error}".split())
    hint = "" if debug else "--debug shows the traceback"
    _print(_lorakit_error(LorakitError(what, why="this is a mistake of lorakit's own, not of yours", todo=hint)))
    return INTERNAL


def usage(message: str, command: str) -> None:
    """Print what is wrong with a command line, and where the right one stands."""
    _print(_block(Problem(message, todo=f"{command} --help")))


def problem_lines(problems: Iterable[Problem], *, label: str = "error", meaning: str = "fail") -> list[Text]:
    """Problems as blocks of lines with an empty line between."""
    lines: list[Text] = []
    for problem in problems:
        if lines:
            lines.append(_line("", ""))
        lines += _block(problem, label=label, meaning=meaning)
    return lines


def _lorakit_error(error: LorakitError) -> list[Text]:
    # Some errors list their problems in the sentence as well, for those who only see that.
    repeated = bool(error.problems) and error.problems[0].what in error.why
    summary = Problem(error.what, "" if repeated else error.why, error.todo)
    if not error.problems:
        return _block(summary)
    # The blocks say everything; the summary counts them, or adds what they do not say.
    lines = problem_lines(error.problems)
    said = {problem.what for problem in error.problems}
    if error.what not in said and (len(error.problems) > 1 or error.why or error.todo):
        lines += [_line("", ""), *_block(summary)]
    return lines


def _block(problem: Problem, *, label: str = "error", meaning: str = "fail") -> list[Text]:
    head = "  ".join(part for part in (f"{label} {problem.code}".strip(), problem.where) if part)
    first, *more = (problem.what.splitlines() or [""]) if _own_lines(problem.what) else [problem.what]
    key = f"{problem.key}: " if problem.key and problem.key not in problem.what else ""
    lines = [_line(head, meaning, f"  {key}{first}")]
    lines += [_line("", "", f"  {line}") for line in more]
    for extra in (problem.why, problem.todo):
        lines += [_line("", "", f"  {line}") for line in extra.splitlines()]
    return lines


def _own_lines(what: str) -> bool:
    # Messages are one sentence; several lines are a list somebody made on purpose. A lone control character
    # inside (a file called "a\rb") is no line end of ours and is made visible instead.
    return all(part.isprintable() for part in what.split("\n"))


def _line(head: str, meaning: str, rest: str = "") -> Text:
    from lorakit.cli import screen

    return screen.text((head, meaning), rest)


def _print(lines: Iterable[Text]) -> None:
    from lorakit.cli import screen

    screen.put(screen.console(err=True), lines)
