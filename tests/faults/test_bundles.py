"""Row 32: exports, imports and purges that are cut short; hostile and damaged bundles."""

from __future__ import annotations

import io
import itertools
import json
import os
import shutil
import signal
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lorakit import atomic
from lorakit.archive.bundle import MANIFEST
from lorakit.archive.export import export
from lorakit.archive.run import list_runs
from lorakit.archive.seal import verify
from lorakit.archive.trash import purge, remove, trash_of
from lorakit.archive.unpack import import_runs
from lorakit.cli.main import main
from lorakit.errors import ArchiveError, LorakitError
from tests.faults.places import run_of


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
