"""Row 31: a trainer that prints without end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lorakit.archive.diagnose_log import Status
from lorakit.archive.records import state
from lorakit.archive.seal import verify
from lorakit.archive.trainer_log import log_parts
from lorakit.bake.bake import follow, start
from tests.bake.runs import make_run

ROOT = Path(__file__).parents[2]
LIMIT = 1 << 20


@pytest.mark.usefixtures("quick")
def test_row_31_a_flooded_log_is_capped_and_read_as_a_terminal_shows_it(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    from lorakit.cli.main import main

    (tmp_path / "lorakit.toml").touch()
    run = make_run(tmp_path / "runs", "--steps", "4", "--fault", "flood", log_bytes=LIMIT)
    start(run)
    follow(run)
    found = state(run)
    assert (found.status, found.sealed) == (Status.OK, True)
    flooded = 40 * 50_000 * len("\rsteps: 000000/100000")
    sizes = [path.stat().st_size for path in log_parts(run.attempt(1).log)]
    assert len(sizes) == 3
    # What came in between two looks of the keeper stands above the limit; the trainer here writes a megabyte every 20 ms.
    assert sum(sizes) < flooded / 2
    assert sizes[0] == sizes[1] == LIMIT // 4
    assert json.loads(run.attempt(1).ended.read_text())["log_dropped"] > flooded / 3
    assert verify(run) == ()
    capfdbinary.readouterr()
    assert main(["-C", str(tmp_path), "logs", run.short]) == 0
    shown = capfdbinary.readouterr().out
    assert len(shown) < 10_000
    assert b"small trainer, rank 0" in shown, "the beginning is kept"
    assert b"the log was cut here" in shown
    assert b"steps:  49999/100000" in shown
    assert b"\r" not in shown
    assert main(["-C", str(tmp_path), "logs", run.short, "--raw"]) == 0
    assert len(capfdbinary.readouterr().out) == sum(sizes)


READERS = """
import resource, sys
from pathlib import Path
from lorakit.archive.trainer_log import LogFollower, log_tail
from lorakit.protocol import Follower
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
log = Path(sys.argv[1])
lines = sum(1 for _ in LogFollower(log).poll(complete=True))
log_tail(log)
print(lines, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize(("piece", "size"), [(b"\rstep", 100), (b"word ", 60), (b"\x1b[31mred", 8), (b"\n", 2)])
def test_row_31_readers_use_bounded_memory(tmp_path: Path, piece: bytes, size: int) -> None:
    """Megabytes of bars, of one endless line, of colours, of nothing but line ends."""
    log = tmp_path / "trainer.log"
    with open(log, "wb") as file:
        file.writelines(piece * ((1 << 20) // len(piece)) for _ in range(size))
    done = subprocess.run(
        [sys.executable, "-c", READERS, str(log)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines, kilobytes = map(int, done.stdout.split())
    assert kilobytes < 20_000
    assert lines > 0
    if piece == b"\rstep":
        assert lines == 1
