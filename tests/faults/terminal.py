"""A terminal with `lorakit` at it: a real pty, whose closing hangs up whoever runs there."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

#: Makes its standard input the controlling terminal, then is `lorakit`. A first argument RUN stands in for the preparation of a bake.
AT_A_TERMINAL = """
import fcntl, signal, sys, termios
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests started in the background inherit that it is ignored,
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # with nohup this too
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
if sys.argv[1]:
    import lorakit.bake.prepare
    from lorakit.archive.run import Run
    lorakit.bake.prepare.prepare = lambda *_, **__: Run(Path(sys.argv[1]))
from lorakit.cli.main import main
sys.exit(main(sys.argv[2:]))
"""
PATIENCE = 120

PRESET = """\
name = "small"
seed = 7
[base]
model = "models/none.safetensors"
[dataset]
path = "datasets/things"
[optim]
unet_lr = 1e-4
te_lr = 0
[length]
steps = 3
"""


class Terminal:
    """One program at one terminal of 100 columns."""

    def __init__(self, folder: Path, *words: str, prepared: Path | None = None) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", AT_A_TERMINAL, "" if prepared is None else str(prepared), *words],
            cwd=folder,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"},
            start_new_session=True,
        )
        os.close(theirs)
        self.shown = ""

    def press_ctrl_c(self) -> None:
        os.write(self._ours, b"\x03")

    def hang_up(self) -> None:
        """Close the terminal: the kernel sends SIGHUP to who runs there."""
        os.close(self._ours)
        self._ours = -1

    def until(self, pattern: str) -> None:
        """Read what is shown until a pattern is on the screen."""
        deadline = time.monotonic() + PATIENCE
        while not re.search(pattern, self.plain):
            assert time.monotonic() < deadline, self.plain[-2000:]
            assert self._read(deadline), self.plain[-2000:]

    def to_end(self) -> int:
        """Read the rest; the exit code."""
        deadline = time.monotonic() + PATIENCE
        while self._read(deadline):
            assert time.monotonic() < deadline, self.plain[-2000:]
        return self.process.wait(PATIENCE)

    @property
    def plain(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.shown)

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._ours], [], [], max(0, deadline - time.monotonic()))
        try:
            data = os.read(self._ours, 65536) if ready else b""
        except OSError:  # Linux says so when the last program at the terminal has gone
            return False
        self.shown += data.decode(errors="replace")
        return bool(data)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        if self._ours >= 0:
            self.hang_up()


def workspace(folder: Path) -> Path:
    """The smallest workspace with a preset called small."""
    (folder / "presets").mkdir(parents=True)
    (folder / "lorakit.toml").touch()
    (folder / "presets" / "small.toml").write_text(PRESET)
    (folder / "runs").mkdir()
    return folder
