"""What is done once a run has ended and is sealed: its page is written, by a process of its own that can harm nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Final

from lorakit.archive.run import Run

__all__ = ["SWITCH", "write_page"]

#: Set to ``off``, no page is written when a bake ends.
SWITCH: Final = "LORAKIT_REPORT"


def write_page(run: Run) -> subprocess.Popen[bytes] | None:
    """Have analysis/report.html written, where plotly is installed; never raises, what goes wrong is told in analysis/report.log.

    By a process of its own, for this room knows nothing of pages, and a page must never fail a bake. Nobody waits for it: it takes a second
    or two, and the run has ended. None where it is switched off, or cannot be started.
    """
    if os.environ.get(SWITCH) == "off":
        return None
    try:
        run.analysis.mkdir(exist_ok=True)
        with open(run.analysis / "report.log", "wb") as told:
            return subprocess.Popen(
                [sys.executable, "-m", "lorakit.verdict.report", str(run.path)],
                stdin=subprocess.DEVNULL,
                stdout=told,
                stderr=told,
                start_new_session=True,
            )
    except OSError:  # a full or read-only disk: `lorakit report` can write it at any time
        return None
