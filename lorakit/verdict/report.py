"""A run's own page, analysis/report.html. ``python -m lorakit.verdict.report RUN_DIR`` writes it when a bake ends."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from lorakit import atomic
from lorakit.archive.records import require_writable
from lorakit.archive.run import Run
from lorakit.errors import DiskError, LorakitError
from lorakit.verdict.diagnose.diagnosis import diagnose, keep
from lorakit.verdict.diagnose.gather import of_run
from lorakit.verdict.diagnose.thresholds import settle
from lorakit.verdict.page.build import report_page
from lorakit.verdict.page.plotly import find
from lorakit.workspace import find_workspace

__all__ = ["FILE", "write_report"]

FILE = "report.html"
#: Seconds after which the page is given up: it takes one or two.
_PATIENCE = 120


def write_report(run: Run, target: Path | None = None) -> Path:
    """Write the page into the run's analysis/, which no seal covers, or to ``target``; returns where it is.

    Raises UsageError without plotly, ArchiveError for a run whose preset cannot be read or that a newer lorakit wrote, DiskError.
    """
    if target is None:
        require_writable(run)
        target = run.analysis / FILE
    page = report_page(run, target.absolute().parent)
    try:
        # Without its parents: a run that was removed meanwhile does not come back.
        target.parent.mkdir(exist_ok=True)
        atomic.write_text(target, page)
    except OSError as error:
        raise DiskError(f"{target} cannot be written", why=error.strerror or str(error)) from error
    return target


def _diagnose(run: Run) -> None:
    """Look at the run as `lorakit diagnose` does, but for what takes a text encoder; what hinders it is told, and the page written."""
    try:
        workspace = find_workspace(run.path)
        facts = of_run(run, workspace, embeddings=False)
        keep(diagnose(facts, settle(facts.scale, workspace.settings.get("diagnose"))), run)
    except LorakitError as error:
        print(f"no diagnosis: {error}", file=sys.stderr)


def main() -> None:
    """What a bake starts when it has ended: the page where plotly is, in bounded time, behind everything else."""
    run = Run(Path(sys.argv[1]))
    signal.alarm(_PATIENCE)
    os.nice(10)  # the next bake may have started
    if find() is not None:
        _diagnose(run)
        write_report(run)
    log = run.analysis / "report.log"
    if log.exists() and not log.stat().st_size:
        log.unlink()


if __name__ == "__main__":
    main()
