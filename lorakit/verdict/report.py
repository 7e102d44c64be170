"""A run's own page, analysis/report.html. ``python -m lorakit.verdict.report RUN_DIR`` writes it when a bake ends."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from lorakit import atomic
from lorakit.archive.records import require_writable
from lorakit.archive.run import Run
from lorakit.errors import DiskError
from lorakit.verdict.page.build import report_page
from lorakit.verdict.page.plotly import find

__all__ = ["FILE", "write_report"]

FILE = "report.html"


def write_report(run: Run, target: Path | None = None) -> Path:
    """Write the page into the run's analysis/, which no seal covers, or to ``target``; returns where it is.

    Raises UsageError without plotly, ArchiveError for a run whose preset cannot be read or that a newer lorakit wrote, DiskError.
    """
    if target is None:
        require_writable(run)
        target = run.analysis / FILE
    page = report_page(run, target.absolute().parent)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(target, page)
    except OSError as error:
        raise DiskError(f"{target} cannot be written", why=error.strerror or str(error)) from error
    return target


if __name__ == "__main__" and find() is not None:  # without plotly a bake ends without a page
    os.nice(10)  # the next bake may have started
    write_report(Run(Path(sys.argv[1])))
