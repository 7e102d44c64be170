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
    _never_fail_to_print()
    debug = False
    try:
        arguments, debug, folder = _everywhere(given)
        if "_LORAKIT_COMPLETE" in os.environ:
            folder = _folder_of_completion()
        code = _run(arguments or ["--help"], folder)
        sys.stdout.flush()
    except BrokenPipeError:
        return _reader_left()
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 (the outermost edge: every error is told in words)
        return _tell(error, debug=debug)
    return code


def _run(arguments: Sequence[str], folder: str | None) -> int:
    from lorakit.cli.app import command
    from lorakit.cli.options import FOLDER

    before = FOLDER.set(folder)
    try:
        result = command(arguments)(args=list(arguments), prog_name="lorakit", standalone_mode=False)
    finally:
        FOLDER.reset(before)
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


def _everywhere(given: Sequence[str]) -> tuple[list[str], bool, str | None]:
    """The line without the options that may stand anywhere on it, and these: --debug and the folder of -C.

    They are no parameters of the commands because people add them at the end of a line, or before the command; and
    because typer loads pydantic for any parameter with a value, which `lorakit ls` should not wait for.
    """
    rest: list[str] = []
    debug, folder = False, None
    words = iter(given)
    for word in words:
        name, equals, value = word.partition("=")
        if word == "--":
            rest += [word, *words]
        elif word == "--debug":
            debug = True
        elif name in {"-C", "--workspace"}:
            folder = value if equals else next(words, None)
            if folder is None:
                from lorakit.errors import UsageError

                raise UsageError(f"{name} needs a folder", todo="lorakit -C DIR ls")
        else:
            rest.append(word)
    return rest, debug, folder


def _folder_of_completion() -> str | None:
    """The folder of -C on a line that is being completed, taken out of it: typer completes what it knows."""
    import re

    option = re.compile(r"\s(?:-C|--workspace)\s*=?\s*(\S+)(?=\s)")
    folder = None
    for name in ("COMP_WORDS", "_TYPER_COMPLETE_ARGS"):  # bash; the other shells
        line = os.environ.get(name, "")
        for found in option.finditer(line):
            folder = found[1]
            if "COMP_CWORD" in os.environ:
                os.environ["COMP_CWORD"] = str(int(os.environ["COMP_CWORD"]) - len(found[0].split()))
        os.environ[name] = option.sub("", line)
    return folder


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
