"""Rows 26 and 27: file systems without locks, stale, late, read-only, full by quota."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from lorakit.archive.diagnose_log import Reason, Status
from lorakit.archive.records import state
from lorakit.archive.repair import repair_run
from lorakit.archive.seal import verify
from lorakit.cli.main import main
from lorakit.launch.processes import this_host
from tests.cli.made_runs import THEN, make_run
from tests.faults.places import run_of

NO_LOCKS = """
#define _GNU_SOURCE
#include <errno.h>
#include <dlfcn.h>
#include <stdarg.h>
#include <fcntl.h>
static int refused(int c) { return c == F_SETLK || c == F_SETLKW || c == F_GETLK || c == 36 || c == 37 || c == 38; }
int fcntl(int fd, int c, ...) { va_list a; va_start(a, c); void *x = va_arg(a, void *); va_end(a);
  if (refused(c)) { errno = ENOLCK; return -1; }
  return ((int (*)(int, int, void *))dlsym(RTLD_NEXT, "fcntl"))(fd, c, x); }
int fcntl64(int fd, int c, ...) { va_list a; va_start(a, c); void *x = va_arg(a, void *); va_end(a);
  if (refused(c)) { errno = ENOLCK; return -1; }
  return ((int (*)(int, int, void *))dlsym(RTLD_NEXT, "fcntl64"))(fd, c, x); }
int flock(int fd, int o) { errno = ENOLCK; return -1; }
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler to take the locks away")
def test_row_26_a_file_system_without_locks(work: Path, tmp_path: Path) -> None:
    """Every lock call of the process fails, as it does on a mount without a lock manager."""
    (tmp_path / "nolocks.c").write_text(NO_LOCKS)
    library = tmp_path / "nolocks.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "nolocks.c", "-ldl"], check=True)
    env = {**os.environ, "LD_PRELOAD": str(library)}
    check = "import fcntl, os; fcntl.flock(os.open('.', os.O_RDONLY), fcntl.LOCK_EX)"
    assert (
        b"No locks"
        in subprocess.run([sys.executable, "-c", check], env=env, stderr=subprocess.PIPE, check=False).stderr
    )
    program = (
        "from lorakit.cli.main import main; import sys\n"
        "lines = [['ls', 'network.dim==32'], ['ls'], ['tag', 'aaaa', 'x'], ['rm', 'bbbb'], ['restore', 'bbbb'], ['ls', 'tag:x'], ['verify', 'aaaa']]\n"
        "sys.exit(max(main(line) for line in lines))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, cwd=work, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("aaaa") >= 3
    assert (work / ".lorakit").is_dir()


READ = """
from pathlib import Path
from lorakit.cli.main import main
import sys
for line in {lines!r}:
    print('>', *line, flush=True)
    print('exit', main(line), flush=True)
"""


def shared(work: Path, library: Path, *lines: list[str], kind: str = "nfs4", **faults: str) -> list[str]:
    """What commands print whose process sees the runs on a mount of another machine; their exit codes are 0."""
    mounts = work / "mounts"
    mounts.write_text(f"1 0 0:1 / / rw - ext4 /dev/a rw\n2 1 0:2 / {work}/runs rw - {kind} server:/runs rw\n")
    env = {**os.environ, "LD_PRELOAD": str(library), "SHARED": f"{work}/runs", "MOUNTS": str(mounts), **faults}
    program = READ.format(lines=lines)
    line = [sys.executable, "-c", program]
    done = subprocess.run(line, env=env, cwd=work, capture_output=True, text=True, check=False)
    told = done.stdout.splitlines()
    assert "Traceback" not in done.stderr
    assert [row for row in told if row.startswith("exit")] == ["exit 0"] * len(lines), done.stdout + done.stderr
    return told


@pytest.fixture
def stale(library: Callable[[str, str], Path]) -> Path:
    """The library that makes a file system late and stale."""
    return library("stale.so", Path(__file__).with_name("stale.c").read_text(encoding="utf-8"))


def test_row_26_stale_handles_are_opened_anew(work: Path, stale: Path) -> None:
    """Everything of the archive is stale at first; what is read then is the same, and what is remembered of it too."""
    check = [sys.executable, "-c", "import os; os.open('runs', os.O_RDONLY)"]
    env = {**os.environ, "LD_PRELOAD": str(stale), "SHARED": f"{work}/runs", "STALE": "2"}
    assert b"Stale file handle" in subprocess.run(check, env=env, cwd=work, capture_output=True, check=False).stderr
    lines = [["ls"], ["ls", "network.dim==32", "--columns", "run,loss.first,tag"], ["show", "aaaa"], ["verify", "bbbb"]]
    told = shared(work, stale, *lines, STALE="2")
    assert told == shared(work, stale, *lines), "as without"
    shutil.rmtree(work / ".lorakit")
    assert told == shared(work, stale, *lines)
    assert [row.split()[1] for row in told if "sealed" in row and "aaaa" in row]


def test_row_26_what_another_machine_wrote_may_show_late(work: Path, stale: Path) -> None:
    """A run, and files of one, that are not there the first few times that somebody looks."""
    late = run_of(work, "bbbb")
    told = shared(work, stale, ["show", "bbbb"], ["verify", "aaaa"], LATE=f"{late.id},4")
    assert any("bbbb" in row for row in told)
    shared(work, stale, ["verify", "bbbb"], LATE="lora.safetensors,3")
    with pytest.raises(AssertionError, match="exit"):
        shared(work, stale, ["show", "bbbb"], LATE=f"{late.id},4", kind="ext4")  # nobody else writes to this one


def test_row_26_a_run_of_another_machine_is_never_called_dead(work: Path) -> None:
    """Its start may show late here: neither `ls` nor repair may take it for one that was never started."""
    run = run_of(work)
    for path in (run.manifest(1), run.attempt(1).ended, run.attempt(1).started):
        path.unlink()
    run.request.write_text(json.dumps(json.loads(run.request.read_text()) | {"host": "elsewhere"}))
    found = state(run)
    assert (found.status, found.reason) == (Status.UNKNOWN, Reason.OTHER_HOST)
    assert "elsewhere" in found.message
    assert repair_run(run) == ()
    run.request.write_text(json.dumps(json.loads(run.request.read_text()) | {"host": this_host()}))
    assert state(run).reason is Reason.NEVER_STARTED


def as_somebody_else(*words: str) -> list[str]:
    """The line for a user who may read and not write: another one where this is root, else this one."""
    if os.getuid() != 0:
        return list(words)
    return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *words]


@pytest.mark.skipif(os.getuid() == 0 and shutil.which("setpriv") is None, reason="root needs setpriv to be refused")
def test_row_27_a_read_only_archive_is_read_and_refuses_in_one_line(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to others
        place = Path(folder)
        place.chmod(0o755)
        work = Path(shutil.copytree(made, place / "work", symlinks=True))
        (place / "out").mkdir()
        (place / "out").chmod(0o777)
        monkeypatch.chdir(work)
        _read_only_archive(work, place / "out")


def _read_only_archive(work: Path, out: Path) -> None:
    main(["ls"])  # an index is there, which cannot be written either
    make_run(work / "runs", "late", now=THEN + 900, short="dddd")  # and which does not know this one
    for path in (work, *work.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o555 if path.is_dir() else 0o444)
    program = (
        "from lorakit.cli.main import main; import sys, os\n"
        "for line in %r:\n"
        "    print('>', *line, flush=True); print('exit', main(line), file=sys.stdout, flush=True)\n"
    )
    reading = [
        ["ls"],
        ["ls", "network.dim==32"],
        ["show", "aaaa"],
        ["verify", "aaaa"],
        ["compare", "aaaa", "bbbb"],
        ["note", "aaaa"],
    ]
    reading.append(["export", "aaaa", "-o", str(out / "a.zip")])
    writing = [
        ["note", "aaaa", "x"],
        ["tag", "aaaa", "x"],
        ["rm", "aaaa"],
        ["import-run", str(out / "a.zip")],
    ]
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(out)}
    line = as_somebody_else(sys.executable, "-c", program % [*reading, *writing])
    try:
        done = subprocess.run(line, cwd=work, env=env, capture_output=True, text=True, check=False)
    finally:
        for path in (work, *work.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() else 0o644)
    codes = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("exit")]
    assert codes[: len(reading)] == [0] * len(reading), done.stdout + done.stderr
    assert all(codes[len(reading) :]), done.stdout + done.stderr
    assert len(codes) == len(reading) + len(writing)
    assert "Traceback" not in done.stderr
    assert "mistake of lorakit" not in done.stderr
    assert "dddd" in done.stdout
    assert not verify(run_of(work))


WRITING = [["export", "aaaa", "-o", "runs/a.zip"], ["note", "aaaa", "x" * 5000], ["import-run", "b.zip"]]


def refused_by_quota(work: Path, env: dict[str, str]) -> None:
    """What writes ends in one line that names the quota, what reads works, and no byte of the archive is another."""
    before = contents(work)
    program = READ.format(lines=[*WRITING, ["ls"], ["show", "aaaa"], ["verify", "aaaa"]])
    line = [sys.executable, "-c", program]
    ran = subprocess.run(line, cwd=work, env=env, capture_output=True, text=True, check=False)
    codes = [row for row in ran.stdout.splitlines() if row.startswith("exit")]
    assert codes[3:] == ["exit 0"] * 3, ran.stdout + ran.stderr
    assert "exit 0" not in codes[:3], ran.stdout + ran.stderr
    assert ran.stderr.lower().count("quota exceeded") >= 3
    assert "Traceback" not in ran.stderr
    assert "mistake of lorakit" not in ran.stderr
    assert contents(work) == before, "no half of anything"


def to_be_imported(work: Path) -> None:
    """Make room for what a bundle brings back."""
    assert main(["export", "bbbb", "-o", "b.zip"]) == 0
    shutil.rmtree(run_of(work, "bbbb").path)


def contents(work: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in (work / "runs").rglob("*") if path.is_file()}


@pytest.mark.parametrize("left", [0, 700])
def test_row_27_a_quota_that_is_used_up_leaves_nothing_half_written(work: Path, stale: Path, left: int) -> None:
    env = {**os.environ, "LD_PRELOAD": str(stale), "SHARED": f"{work}/runs", "QUOTA": str(left)}
    to_be_imported(work)
    refused_by_quota(work, env)


def test_row_27_a_quota_of_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real one: a btrfs image whose subvolume may hold what it holds and a little more."""
    btrfs, place = _program("btrfs"), Path(tempfile.mkdtemp(prefix="lkq", dir="/tmp"))
    image = tmp_path / "image"
    image.touch()
    os.truncate(image, 160 << 20)
    try:
        why = "it needs root, loop devices and btrfs-progs" if btrfs is None else _mounted(image, place)
        if why:
            warnings.warn(pytest.PytestWarning(f"NO QUOTA OF THE KERNEL HERE: {why}"), stacklevel=1)
            pytest.skip("no quota here")
        _over_quota(place, str(btrfs), monkeypatch)
    finally:
        os.chdir(tmp_path)
        if place.is_mount():
            subprocess.run(["umount", str(place)], check=True)
        place.rmdir()


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _mounted(image: Path, place: Path) -> str:
    """Make and mount a file system in an image; why it cannot be done, or empty."""
    make = _program("mkfs.btrfs")
    for line in ([str(make), "-q", str(image)], ["mount", "-o", "loop", str(image), str(place)]):
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return done.stderr.strip()
    return ""


def _over_quota(place: Path, btrfs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    work = place / "work"
    subprocess.run([btrfs, "-q", "subvolume", "create", str(work)], check=True, capture_output=True)
    for number, short in enumerate(("aaaa", "bbbb")):
        make_run(work / "runs", f"run{number}", now=THEN + 60 * number, short=short)
    (work / "lorakit.toml").touch()
    monkeypatch.chdir(work)
    to_be_imported(work)
    subprocess.run([btrfs, "quota", "enable", str(place)], check=True)
    subprocess.run([btrfs, "quota", "rescan", "-w", str(place)], check=True, capture_output=True)
    (work / "filler").write_bytes(b"")
    subprocess.run([btrfs, "qgroup", "limit", "1M", str(work)], check=True)
    filled = 0
    try:
        with open(work / "filler", "wb", buffering=0) as filler:
            while filled < 8 << 20:
                filled += filler.write(os.urandom(4096))
                os.fsync(filler.fileno())
    except OSError as error:
        assert error.errno == errno.EDQUOT  # noqa: PT017 (what is filled here must end with it)
    assert filled < 1 << 20, "the quota holds"
    refused_by_quota(work, {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
