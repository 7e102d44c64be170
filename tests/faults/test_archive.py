"""Faults of the archive, done for real: damaged files, races of processes, rights, hostile names, secrets, killed commands."""

from __future__ import annotations

import io
import itertools
import json
import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lorakit import atomic
from lorakit.archive.birth import slug
from lorakit.archive.bundle import MANIFEST
from lorakit.archive.events import EventFollower, read_scalars
from lorakit.archive.export import export
from lorakit.archive.run import Run, list_runs
from lorakit.archive.seal import verify
from lorakit.archive.trash import purge, remove, restore, trash_of
from lorakit.archive.unpack import import_runs
from lorakit.archive.words import change_tags
from lorakit.cli.main import main
from lorakit.errors import ArchiveError, LorakitError
from lorakit.launch.processes import hold_lock
from lorakit.trainers.render import shell_line
from tests.archive.test_events import VERSION, event, write
from tests.cli.made_runs import THEN, make_run

REPO = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with three sealed runs, made once."""
    folder = tmp_path_factory.mktemp("made") / "work"
    for number, short in enumerate(("aaaa", "bbbb", "cccc")):
        make_run(folder / "runs", f"run{number}", now=THEN + 60 * number, short=short)
    (folder / "lorakit.toml").touch()
    return folder


@pytest.fixture
def work(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as the current folder."""
    folder = Path(shutil.copytree(made, tmp_path / "work", symlinks=True))
    monkeypatch.chdir(folder)
    return folder


def run_of(work: Path, short: str = "aaaa") -> Run:
    return next(run for run in list_runs(work / "runs") if run.short == short)


DAMAGE: list[Callable[[bytes], bytes]] = [
    lambda data: b"",
    lambda data: data[: len(data) // 2],
    lambda data: b"\0" * len(data),
    lambda data: b"\xff\xfe" + data,
    lambda data: b"[" * 100_000,
    lambda data: b'{"schema": "one", "status": 3, "time": "soon", "steps": [], "keeper": 7, "tags": 1}',
]


@pytest.mark.parametrize("damage", range(len(DAMAGE)))
def test_row_15_a_damaged_record_costs_that_record_alone(
    damage: int, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every record of a run in turn: empty, torn, zeros, no text, endless brackets, other types."""
    run = run_of(work)
    records = [path for path in run.path.rglob("*") if path.suffix in {".json", ".toml", ".jsonl"}]
    assert len(records) > 8
    for path in records:
        before = path.read_bytes()
        path.write_bytes(DAMAGE[damage](before))
        for line in (["ls"], ["show", "aaaa"], ["verify", "aaaa"]):
            code = main(line)
            told = capsys.readouterr()
            assert "Traceback" not in told.err, f"{path.name}: {told.err}"
            assert "mistake of lorakit" not in told.err, f"{path.name}: {line}: {told.err}"
            assert code == 0 or line[0] in {"verify", "show"}, f"{path.name}: {line}: {told.err}"
            assert line[0] != "ls" or "bbbb" in told.out
            assert line[0] != "ls" or "aaaa" in told.out
            assert line[0] != "verify" or code or path.name == "tags.json", f"verify does not name {path.name}"
        path.write_bytes(before)
    assert not verify(run)


def test_row_16_a_damaged_event_file_gives_all_that_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "events"
    ends = write(path, VERSION, *(event(step, loss=step / 10) for step in range(1, 201)))
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[ends[99] + 20] ^= 0x10  # inside the payload of step 100
    path.write_bytes(flipped)
    follower = EventFollower(path)
    assert [scalar.step for scalar in follower.poll()] == [step for step in range(1, 201) if step != 100]
    assert (follower.damaged, follower.broken) == (1, False)
    path.write_bytes(whole[: ends[150] + 7] + b"\0" * 5000)  # a tail of zeros, as after a power loss
    follower = EventFollower(path)
    assert len(follower.poll()) == 150
    assert follower.damaged == 1
    path.write_bytes(whole[: ends[120] - 3])  # cut off within a record, which then is written to its end
    follower = EventFollower(path)
    assert len(follower.poll()) == 119
    path.write_bytes(whole)
    assert len(follower.poll()) == 81
    assert follower.damaged == 0


@settings(max_examples=40)
@given(st.binary(max_size=300))
def test_row_16_anything_may_stand_in_an_event_file(data: bytes) -> None:
    path = Path(os.environ.get("TMPDIR", "/tmp"), f"lorakit-events-{os.getpid()}")
    path.write_bytes(data)
    read_scalars(path)
    path.unlink()


def test_row_17_a_run_of_a_newer_lorakit_is_shown_and_never_changed(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(work)
    for path in (run.request, run.attempt(1).ended):
        record = json.loads(path.read_text())
        path.write_text(json.dumps({**record, "schema": 99, "of the future": {"x": 1}}))
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    assert main(["ls"]) == 0
    told = capsys.readouterr().out
    assert "aaaa" in told
    assert "newer lorakit" in told
    assert main(["show", "aaaa"]) == 0
    assert "newer lorakit" in capsys.readouterr().out
    for line in (["note", "aaaa", "x"], ["tag", "aaaa", "x"], ["rm", "aaaa"]):
        assert main(line) == ArchiveError.exit_code
        assert "newer lorakit" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


def test_row_19_a_run_in_training_is_never_removed(work: Path) -> None:
    run = run_of(work)
    lock = hold_lock(run.attempt(1).alive)
    holder = os.fork()
    if holder == 0:  # somebody else, who holds the same lock
        signal.pause()
        os._exit(0)
    os.close(lock)
    try:
        with pytest.raises(ArchiveError, match="is running"):
            remove(run)
        assert run.path.is_dir()
    finally:
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
    run.attempt(1).alive.unlink()  # made after the seal
    moved = remove(run)
    assert not run.path.exists()
    assert not verify(moved)
    assert restore(moved) == run
    assert not verify(run)


SHUFFLE = """
import sys, random
from pathlib import Path
from lorakit.archive.run import list_runs
from lorakit.archive.trash import remove, restore, trash_of
from lorakit.errors import ArchiveError
folder, rng = Path(sys.argv[1]), random.Random(int(sys.argv[2]))
moved = 0
for turn in range(40):
    for source, move in ((folder, remove), (trash_of(folder), restore)):
        for run in list_runs(source):
            try:
                move(run)
                moved += 1
            except ArchiveError:
                pass
print(moved)
"""
LIST = """
import sys, time
from pathlib import Path
from lorakit.archive.index import open_index
end = time.monotonic() + 1.5
while time.monotonic() < end:
    with open_index(Path(sys.argv[1]), Path(sys.argv[2])) as index:
        for found in index.states(index.numbers):
            assert found.name.startswith("run"), found
        index.column("network.dim")
"""


def test_row_19_lists_stay_right_while_runs_come_and_go(work: Path) -> None:
    runs = work / "runs"
    movers = [[sys.executable, "-c", SHUFFLE, str(runs), str(seed)] for seed in range(2)]
    readers = [[sys.executable, "-c", LIST, str(runs), str(work / ".lorakit" / "index.sqlite")] for _ in range(2)]
    started = [subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for line in (*movers, *readers)]
    told = [process.communicate(timeout=60) for process in started]
    assert [process.returncode for process in started] == [0] * 4, told
    assert sum(int(out) for out, _ in told[:2]) > 10
    everywhere = [*list_runs(runs), *list_runs(trash_of(runs))]
    assert sorted(run.short for run in everywhere) == ["aaaa", "bbbb", "cccc"]
    assert not any(verify(run) for run in everywhere)


TAG = """
import sys
from pathlib import Path
from lorakit.archive.run import Run
from lorakit.archive.words import add_note, change_tags
for turn in range(15):
    change_tags(Run(Path(sys.argv[1])), add=[f"t{sys.argv[2]}.{turn}"])
    add_note(Run(Path(sys.argv[1])), f"n{sys.argv[2]}.{turn}")
"""


def test_row_19_no_tag_and_no_note_of_two_at_once_is_lost(work: Path) -> None:
    run = run_of(work)
    started = [subprocess.Popen([sys.executable, "-c", TAG, str(run.path), str(n)]) for n in range(2)]
    assert [process.wait(timeout=60) for process in started] == [0, 0]
    expected = {f"{n}.{turn}" for n in range(2) for turn in range(15)}
    assert {tag[1:] for tag in change_tags(run)} == expected
    assert {line[1:] for line in run.notes.read_text().splitlines()} == expected


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


hostile = st.text(min_size=1, max_size=300) | st.sampled_from(
    ["--x", "-rf", "a b", "a'b\"c", "a\nb", "$(id)", "`id`", "../..", "/etc/passwd", "花見", "x" * 300, "\u202e", "a;b|c&d", "~", "*", "%s", "\x1b[2J"]
)  # fmt: skip


@given(hostile)
def test_row_28_any_name_makes_a_safe_folder(name: str) -> None:
    made = slug(name)
    assert made.isascii()
    assert len(made) <= 40
    assert "/" not in made
    assert made[0].isalnum()
    assert Run(Path(f"/x/2025-11-21_1429_{made}_abcd")).name == made


@given(st.lists(hostile.filter(lambda word: "\0" not in word and "\\" not in word), min_size=1, max_size=6))
def test_row_28_the_printed_command_is_the_command(argv: list[str]) -> None:
    # The shell joins lines that end in a backslash; shlex does not.
    assert shlex.split(shell_line(["program", *argv]).replace("\\\n", "")) == ["program", *argv]


def test_row_28_a_shell_gets_hostile_words_as_they_are() -> None:
    words = [
        "a b",
        "a'b\"c",
        "a\nb",
        "$(id)",
        "`id`",
        "--x",
        "花見",
        "x" * 300,
        "a;b|c&d",
        "*",
        "~",
        "\\",
        "!x",
        "%s",
        "",
        "\t",
    ]
    line = shell_line([sys.executable, "-c", "import sys, json; print(json.dumps(sys.argv[1:]))", *words])
    assert json.loads(subprocess.run(["sh", "-c", line], capture_output=True, check=True).stdout) == words


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(hostile)
def test_row_28_commands_take_hostile_words(work: Path, capsys: pytest.CaptureFixture[str], word: str) -> None:
    for line in (
        ["show", "--", word],
        ["ls", "--", word],
        ["tag", "aaaa", "--", word],
        ["note", "aaaa", "--", word],
        ["rm", "--", f"{word}x"],
    ):
        main(line)
        told = capsys.readouterr()
        assert "Traceback" not in told.err
        assert "mistake of lorakit" not in told.err, f"{line}: {told.err}"
        assert "\x1b[2J" not in told.out + told.err
    assert {run.short for run in list_runs(work / "runs")} == {"aaaa", "bbbb", "cccc"}


def test_row_28_a_loop_of_links_is_walked_once(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(work)
    (run.analysis / "loop").parent.mkdir(exist_ok=True)
    (run.analysis / "loop").symlink_to("..")
    (work / "runs" / "2025-11-21_1429_loop_eeee").symlink_to(".")
    for line in (["ls"], ["verify", "aaaa"], ["export", "aaaa", "-o", "a.zip"], ["rm", "aaaa"], ["purge", "aaaa"]):
        assert main(line) == 0, capsys.readouterr().err


def killed_at(point: str, step: int, work: Callable[[], object]) -> bool:
    """Do something in another process that is killed at a step of it (``kill -9``); whether it ended before that step came."""
    pid = os.fork()
    if pid == 0:
        atomic._CRASH_PREFIX, atomic._CRASH_NUMBER, atomic._crossed = point, str(step), itertools.count(1)
        try:
            work()
        except BaseException:  # noqa: BLE001 (told by the exit code: this process must not go on as a test)
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in {0, -signal.SIGKILL}
    return code == 0


def test_row_32_a_killed_export_leaves_nothing_or_all(work: Path) -> None:
    """Killed at every step in turn."""
    target = work / "a.zip"
    run = run_of(work)
    for step in range(1, 100):
        over = killed_at("export:", step, lambda: export([run], target, force=True))
        if target.exists():
            with zipfile.ZipFile(target) as bundle:
                assert bundle.testzip() is None
                assert MANIFEST in bundle.namelist()
        if over:
            break
    assert step > 10
    assert [path.name for path in work.iterdir() if "tmp" in path.name] == []


def bundle_of(work: Path, name: str = "a.zip") -> Path:
    assert main(["export", "aaaa", "-o", str(work / name)]) == 0
    return work / name


def test_row_32_a_killed_import_leaves_no_run_or_a_whole_one(work: Path, tmp_path: Path) -> None:
    bundle, runs = bundle_of(work), tmp_path / "other" / "runs"
    for step in range(1, 100):
        over = killed_at("", step, lambda: import_runs(bundle, runs))
        assert not any(verify(run) for run in list_runs(runs))
        if over or list_runs(runs):
            break
    assert step > 10
    assert [run.short for run in list_runs(runs)] == ["aaaa"]


def repacked(bundle: Path, target: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """A bundle with other contents, the manifest among them."""
    with zipfile.ZipFile(bundle) as packed:
        files = {name: packed.read(name) for name in packed.namelist()}
    change(files)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as out:
        for name, data in files.items():
            out.writestr(name, data)
    return target


def listing_also(name: str) -> Callable[[dict[str, bytes]], None]:
    """Puts a file into the bundle, and into its manifest as well."""

    def change(files: dict[str, bytes]) -> None:
        import hashlib

        manifest = json.loads(files[MANIFEST])
        run = manifest["runs"][0]
        run["files"][name] = {"size": 4, "sha256": hashlib.sha256(b"evil").hexdigest()}
        files[MANIFEST] = json.dumps(manifest).encode()
        files[f"runs/{run['id']}/{name}"] = b"evil"

    return change


def renamed(files: dict[str, bytes]) -> None:
    manifest = json.loads(files[MANIFEST])
    manifest["runs"][0]["id"] = "2025-11-21_1429_../../../x_aaaa"
    files[MANIFEST] = json.dumps(manifest).encode()


def changed(files: dict[str, bytes]) -> None:
    name = next(name for name in files if name.endswith("plan.json"))
    files[name] = files[name].replace(b"3", b"4")


def unlisted(files: dict[str, bytes]) -> None:
    files["runs/extra"] = b"x"


def missing(files: dict[str, bytes]) -> None:
    del files[next(name for name in files if name.endswith("request.json"))]


def bomb(files: dict[str, bytes]) -> None:
    manifest = json.loads(files[MANIFEST])
    entry = manifest["runs"][0]["files"]["plan.json"]
    entry["size"] = 400 << 20
    files[MANIFEST] = json.dumps(manifest).encode()


def deep(files: dict[str, bytes]) -> None:
    files[MANIFEST] = b"[" * 200_000


CHANGES = [
    listing_also("../../evil"), listing_also("/tmp/evil"), listing_also("a\\..\\evil"), listing_also("C:/evil"), listing_also("a//b"),
    listing_also("./x"), listing_also("added.txt"), renamed, changed, unlisted, missing, bomb, deep,
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(CHANGES)))
def test_row_32_a_hostile_bundle_is_refused_and_leaves_nothing(
    number: int, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made)
    (tmp_path / "x").mkdir()
    whole = made / "whole.zip"
    if not whole.exists():
        bundle_of(made, "whole.zip")
    bad = repacked(whole, tmp_path / "x" / "bad.zip", CHANGES[number])
    with pytest.raises(LorakitError):
        import_runs(bad, tmp_path / "x" / "runs")
    assert not [path for path in tmp_path.rglob("*") if path != bad and path.is_file()]
    assert not list_runs(tmp_path / "x" / "runs")
    assert not [path for path in (tmp_path / "x").rglob("*") if "tmp" in path.name]


def test_row_32_links_in_bundles_are_refused(work: Path, tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    with zipfile.ZipFile(bundle_of(work)) as packed:
        files = {name: packed.read(name) for name in packed.namelist()}
    link = next(name for name in files if name.endswith("plan.json"))
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
        plain = io.BytesIO()
        with tarfile.open(fileobj=plain, mode="w") as out:
            for name, data in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                if name == link:
                    info.type, info.linkname, info.size = kind, "/etc/passwd", 0
                out.addfile(info, io.BytesIO(data))
        bad = tmp_path / "bad.tar.zst"
        bad.write_bytes(zstandard.ZstdCompressor().compress(plain.getvalue()))
        with pytest.raises(ArchiveError, match="refused"):
            import_runs(bad, tmp_path / "runs")
    linked = tmp_path / "bad.zip"
    with zipfile.ZipFile(linked, "w") as out:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (stat.S_IFLNK | 0o777) << 16 if name == link else 0o644 << 16
            out.writestr(entry, data)
    with pytest.raises(ArchiveError, match="refused"):
        import_runs(linked, tmp_path / "runs")
    assert not list_runs(tmp_path / "runs")


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(at=st.integers(0, 10_000), junk=st.binary(min_size=1, max_size=40), kind=st.sampled_from(["zip", "tar.zst"]))
def test_row_32_damaged_bundles_end_in_words(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, junk: bytes, kind: str
) -> None:
    monkeypatch.chdir(made)
    whole = made / f"fuzz.{kind}"
    if not whole.exists():
        bundle_of(made, whole.name)
    data = bytearray(whole.read_bytes())
    at %= len(data)
    data[at : at + len(junk)] = junk
    bad = tmp_path / f"bad.{kind}"
    bad.write_bytes(data)
    runs = tmp_path / "runs"
    try:
        import_runs(bad, runs)
    except LorakitError:
        assert not list_runs(runs)
    else:  # what was hit says nothing, such as a time
        assert [run.short for run in list_runs(runs)] == ["aaaa"]
        assert not any(verify(run) for run in list_runs(runs))
        shutil.rmtree(runs)


def test_row_32_a_killed_purge_never_leaves_half_a_run(work: Path) -> None:
    run = remove(run_of(work))
    assert not killed_at("remove:", 1, lambda: purge(run))
    assert not list_runs(trash_of(work / "runs"))
    assert not run.path.exists()
    assert main(["purge", "--all"]) == 0
    assert list(trash_of(work / "runs").iterdir()) == []
