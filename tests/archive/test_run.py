"""Finding runs: by prefixes, names, `latest`; tolerant of what else lies in the folder."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from lorakit.archive.run import Run, list_runs, open_run, read_record
from lorakit.errors import ArchiveError


def folder(runs_dir: Path, run_id: str, born: float = 0.0) -> Run:
    run = Run(runs_dir / run_id)
    run.path.mkdir(parents=True)
    run.request.write_text(f'{{"schema": 1, "time": {born}}}')
    return run


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder(tmp_path, "2026-11-22_0701_hifumi_k3f9")
    folder(tmp_path, "2026-11-22_0701_hifumi-v2_p2xd")
    folder(tmp_path, "2026-11-23_1200_style_k8aa")
    (tmp_path / "README.md").write_text("")
    (tmp_path / ".birth-abcd").mkdir()
    (tmp_path / "2026-11-22_0701_file_abcd").write_text("")
    (tmp_path / "something else").mkdir()
    return tmp_path


def test_only_runs_are_listed_oldest_first(runs: Path) -> None:
    assert [run.short for run in list_runs(runs)] == ["p2xd", "k3f9", "k8aa"]
    assert list_runs(runs / "nowhere") == ()


def test_runs_of_one_minute_stand_in_the_order_of_birth(tmp_path: Path) -> None:
    for short, when in (("zzzz", 3.0), ("aaaa", 5.0), ("mmmm", 4.0)):
        folder(tmp_path, f"2026-11-22_0701_x_{short}", when)
    assert [run.short for run in list_runs(tmp_path)] == ["zzzz", "mmmm", "aaaa"]
    assert open_run(tmp_path, "latest").short == "aaaa"


@pytest.mark.parametrize(
    ("prefix", "short"),
    [
        ("k3f9", "k3f9"),
        ("k3", "k3f9"),
        ("p", "p2xd"),
        ("2026-11-23", "k8aa"),
        ("2026-11-22_0701_hifumi-", "p2xd"),
        ("style", "k8aa"),
        ("st", "k8aa"),
        ("hifumi", "k3f9"),  # a whole name wins over the beginning of another
        ("hifumi_k3f9", "k3f9"),  # as the screens of a bake say it
        ("latest", "k8aa"),
        (" k3f9/ ", "k3f9"),
    ],
)
def test_a_unique_prefix_finds_the_run(runs: Path, prefix: str, short: str) -> None:
    assert open_run(runs, prefix).short == short


def test_an_ambiguous_prefix_lists_what_it_could_mean(runs: Path) -> None:
    with pytest.raises(ArchiveError, match="could mean 2 runs") as caught:
        open_run(runs, "k")
    assert "k3f9" in caught.value.why
    assert "k8aa" in caught.value.why
    with pytest.raises(ArchiveError, match="could mean 2"):
        open_run(runs, "hif")


@pytest.mark.parametrize("prefix", ["nothing", "k3f8", "..", "/", "*", "k3f9x"])
def test_a_prefix_of_nothing(runs: Path, prefix: str) -> None:
    with pytest.raises(ArchiveError):
        open_run(runs, prefix)


def test_near_names_are_offered(runs: Path) -> None:
    with pytest.raises(ArchiveError) as caught:
        open_run(runs, "stile")
    assert "style" in caught.value.why


def test_an_empty_archive(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="no runs"):
        open_run(tmp_path, "latest")


def test_records_of_every_kind_of_damage(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    assert read_record(path) is None
    for content in (b"", b"{", b"[]", b"\0\0\0", b'"text"', b"null"):
        path.write_bytes(content)
        record = read_record(path)
        assert record is not None
        assert "damaged" in record
    path.write_bytes('{"path": "caf\udce9"}'.encode("utf-8", "surrogateescape"))
    assert read_record(path) == {"path": "caf\udce9"}, "file names that are not UTF-8 survive"


def test_files_are_found_after_a_move(runs: Path) -> None:
    run = open_run(runs, "k3f9")
    run.state.mkdir()
    (run.state / "a-state").mkdir()
    assert run.locate(f"/elsewhere/{run.id}/weights/a-state") == run.state / "a-state"
    assert run.locate(run.request) == run.request
    assert run.locate("request.json") == run.request
    assert run.locate("/elsewhere/gone.png") is None


def test_attempts_are_counted(runs: Path) -> None:
    run = open_run(runs, "k3f9")
    assert run.last_attempt.number == 1
    for name in ("01", "02", "x", "3"):
        (run.attempts / name).mkdir(parents=True)
    assert run.last_attempt.number == 2


def test_thousands_of_runs_are_listed_without_reading_them(tmp_path: Path) -> None:
    for index in range(3000):
        (
            tmp_path / f"2026-01-{index % 28 + 1:02d}_{index // 28 % 24:02d}{index // 672 % 60:02d}_x_a{index:03x}"
        ).mkdir()
    began = time.process_time()
    assert len(list_runs(tmp_path)) == 3000
    assert time.process_time() - began < 2.0
