"""The command `lorakit`: the one place where errors become words and exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from lorakit._version import __version__

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; errors are printed, never raised."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given == ["--version"]:  # asked by scripts and by completion: not worth loading anything
        print(f"lorakit {__version__}")
        return 0
    arguments, debug = _take_debug(given)
    _never_fail_to_print()
    try:
        code = _run(arguments or ["--help"])
        sys.stdout.flush()
    except BrokenPipeError:
        return _reader_left()
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 (the outermost edge: every error is told in words)
        return _tell(error, debug=debug)
    return code


def _run(arguments: Sequence[str]) -> int:
    from lorakit.cli.app import command

    result = command()(args=list(arguments), prog_name="lorakit", standalone_mode=False)
    return result if isinstance(result, int) else 0


def _tell(error: BaseException, *, debug: bool) -> int:
    from lorakit.cli import trouble

    format_message = getattr(error, "format_message", None)
    if format_message is not None:  # typer's own errors, wherever this version of it keeps their classes
        context = getattr(error, "ctx", None)
        message = format_message()
        if message:
            trouble.usage(message, context.command_path if context is not None else "lorakit")
        return int(getattr(error, "exit_code", 2))
    if type(error).__name__ == "Abort" and type(error).__module__.startswith(("typer", "click")):
        error = KeyboardInterrupt()
    return trouble.report(error, debug=debug)


def _take_debug(given: list[str]) -> tuple[list[str], bool]:
    # Anywhere on the line, as people add it at the end of a line that has just failed.
    end = given.index("--") if "--" in given else len(given)
    return [word for at, word in enumerate(given) if word != "--debug" or at > end], "--debug" in given[:end]


def _never_fail_to_print() -> None:
    # A file name that is no valid text, or a terminal that is not UTF-8, must not end a command.
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _reader_left() -> int:
    from lorakit.cli.trouble import PIPE_CLOSED

    # Python flushes stdout once more at exit: give it somewhere to go.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return PIPE_CLOSED
