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
#: Seconds after which the page is given up: it takes one or two.
_PATIENCE: Final = 120.0


def write_page(run: Run) -> None:
    """Have analysis/report.html written, where plotly is installed; never raises, what goes wrong is told in analysis/report.log.

    A process of its own, for this room knows nothing of pages, and a page must never fail a bake.
    """
    if os.environ.get(SWITCH) == "off":
        return
    log = run.analysis / "report.log"
    try:
        run.analysis.mkdir(exist_ok=True)
        with open(log, "wb") as told:
            subprocess.run(
                [sys.executable, "-m", "lorakit.verdict.report", str(run.path)],
                stdin=subprocess.DEVNULL,
                stdout=told,
                stderr=told,
                timeout=_PATIENCE,
                check=False,
            )
        if not log.stat().st_size:
            log.unlink()
    except subprocess.TimeoutExpired:
        log.write_text(f"given up after {_PATIENCE:g} seconds\n", encoding="utf-8")
    except OSError:  # a full or read-only disk: `lorakit report` can write it at any time
        return
