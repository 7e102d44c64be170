"""Runs the programs that an installation consists of (git, pip, uv), and tells in lorakit's words why one failed."""

from __future__ import annotations

import os
import re
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from lorakit.errors import DiskError, LorakitError, TrainerError

__all__ = ["OnLine", "Runner", "answer"]

#: Told every line that a program prints.
OnLine = Callable[[str], None]

#: What is set for every program: nobody is asked for a password, and messages are the ones that are looked for below.
_QUIET: Final = {
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C.UTF-8",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_NO_INPUT": "1",
    "PYTHONUNBUFFERED": "1",
    "HF_HUB_OFFLINE": "1",
}
#: What a shell with an environment switched on, or a git hook, would leak in.
_FOREIGN: Final = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")

_NO_NETWORK: Final = re.compile(
    r"could not resolve host|name resolution|name or service not known|network is unreachable|no route to host|"
    r"connection refused|connection timed out|failed to connect|newconnectionerror|dns error|error sending request",
    re.IGNORECASE,
)
_NO_SPACE: Final = re.compile(r"no space left on device|disk quota exceeded|errno 28", re.IGNORECASE)
_NO_PACKAGE: Final = re.compile(
    r"no matching distribution found for (\S+)|could not find a version that satisfies the requirement (\S+)|"
    r"because (\S+) was not found|no solution found",
    re.IGNORECASE,
)


class Runner:
    """Runs programs one after the other; their output goes to a log file and, line by line, to ``on_line``.

    ``held`` are descriptors that the programs keep open too: a lock lasts as long as any of them does.
    """

    def __init__(self, log: Path, on_line: OnLine = lambda _: None, *, held: Sequence[int] = ()) -> None:
        self.log = log
        self._on_line = on_line
        self._held = held

    def run(self, argv: Sequence[str], *, doing: str, cwd: Path | None = None) -> None:
        """Run a program to its end.

        Raises DiskError or TrainerError when it fails; ``doing`` stands in the message ("fetching sd-scripts").
        """
        tail: deque[str] = deque(maxlen=60)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "a", encoding="utf-8") as log:
            log.write(f"$ {' '.join(argv)}\n")
            log.flush()
            try:
                process = subprocess.Popen(
                    argv,
                    cwd=cwd,
                    env=_environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    encoding="utf-8",
                    errors="replace",
                    pass_fds=self._held,
                )
            except OSError as error:
                raise TrainerError(
                    f"{doing} failed: {argv[0]} cannot be started", why=error.strerror or str(error), todo=_START_HINT
                ) from error
            with process:
                assert process.stdout is not None
                for line in process.stdout:
                    log.write(line)
                    if told := line.strip():
                        tail.append(told)
                        self._on_line(told)
        if process.returncode != 0:
            raise self._failure(doing, tuple(tail), process.returncode)

    def _failure(self, doing: str, tail: Sequence[str], code: int) -> LorakitError:
        text = "\n".join(tail)
        if _NO_SPACE.search(text):
            return DiskError(f"{doing} failed: the disk is full", todo="free some space, and type it again")
        last = [line for line in tail if re.match(r"(fatal|error|×|\w*Error)\b", line, re.IGNORECASE)] or list(tail)
        why = _shortened(last[-1]) if last else f"it ended with exit code {code}"
        if _NO_NETWORK.search(text):
            return TrainerError(
                f"{doing} failed: no network",
                why=why,
                todo="go online and type it again, or give a checkout on this machine with --source or --adopt",
            )
        if missing := _NO_PACKAGE.search(text):
            name = next((group for group in missing.groups() if group), "a package")
            return TrainerError(
                f"{doing} failed: {name} is not to be had",
                why=why,
                todo="try another --python or --torch, or change the version in vendor/sd-scripts.toml",
            )
        return TrainerError(f"{doing} failed", why=why, todo=f"the whole output is in {self.log}; then type it again")


_START_HINT: Final = "install it, or mend its permissions"


def answer(
    argv: Sequence[str], *, cwd: Path | None = None, seconds: float = 60, add: Mapping[str, str] | None = None
) -> tuple[int, str, str]:
    """Exit code, output and error output of a short program; exit code 127 when it cannot be started or takes too long."""
    try:
        done = subprocess.run(
            argv,
            cwd=cwd,
            env={**_environment(), **(add or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 127, "", f"no answer within {seconds:g} seconds"
    except OSError as error:
        return 127, "", error.strerror or str(error)
    return done.returncode, done.stdout, done.stderr


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in _FOREIGN} | _QUIET


def _shortened(line: str) -> str:
    return line if len(line) <= 300 else line[:299] + "…"
