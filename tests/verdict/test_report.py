"""The page of a run: written when a bake ends, and never to its harm."""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from lorakit.archive.records import state
from lorakit.archive.run import Run
from lorakit.archive.seal import seal, verify
from lorakit.bake.afterwards import write_page
from lorakit.bake.bake import follow, start
from lorakit.errors import ArchiveError, DiskError, UsageError
from lorakit.verdict.page import plotly
from lorakit.verdict.page.build import compare_page
from lorakit.verdict.page.pictures import Sample, embedded, samples_of, thinned, width_for
from lorakit.verdict.report import write_report
from tests.bake.runs import make_run as bakeable
from tests.bake.runs import wait_for
from tests.cli.made_runs import make_run
from tests.verdict import made_pages


def held(page: Path | str) -> Any:
    """What a page holds."""
    text = page if isinstance(page, str) else page.read_text()
    found = re.search(r'id="data">([A-Za-z0-9+/=]*)<', text)
    assert found
    return json.loads(gzip.decompress(base64.b64decode(found[1])))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return made_pages.runs(tmp_path / "runs")[0]


def test_a_report_holds_everything(run: Run) -> None:
    made_pages.diagnosis(run)
    page = write_report(run)
    assert page == run.analysis / "report.html"
    assert page.stat().st_size < 3_000_000
    data = held(page)
    assert data["sides"][0]["name"] == made_pages.HOSTILE
    assert data["sides"][0]["href"] == ".."
    assert set(data["curves"][0]["series"]) == {
        "loss",
        "validation",
        "lr.unet",
        "lr.te1",
        "grad.unet",
        "grad.te1",
        "grad.te2",
    }
    assert [one["epoch"] for one in data["samples"][0]] == [1, 1, 2, 2, 3, 3, 4, 4]
    assert data["samples"][0][0]["src"].startswith("data:image/webp;base64,")
    assert data["samples"][0][0]["href"].startswith("../samples/x_e000001")
    assert [one["file"] for one in data["growth"]] == ["lora-000002.safetensors", "lora.safetensors"]
    assert data["findings"][0]["code"] == "D07"
    assert data["sheets"][0]["href"] == "contact.png"
    assert {row["key"] for row in data["rows"] if row["group"] == "same"} >= {"network.dim", "optim.unet_lr"}


def test_a_page_asks_for_nothing(run: Run) -> None:
    text = write_report(run).read_text()
    shell = re.sub(r'id="(data|plotly)">[A-Za-z0-9+/=]*<', "", text)
    assert not re.search(r"https?://|src=[\"']?(?!x )|@import|url\(", shell)
    assert "default-src 'none'" in shell


def test_a_hostile_title_is_escaped(run: Run) -> None:
    title = re.search(r"<title>(.*?)</title>", write_report(run).read_text(), re.DOTALL)
    assert title
    assert "<" not in title[1]
    assert "{{data}}" in title[1]  # a mark in what is put in is no mark


def test_pages_are_the_same_twice(run: Run) -> None:
    first, second = (held(write_report(run)) for _ in range(2))
    assert {**first, "made": ""} == {**second, "made": ""}


def test_damaged_findings_and_pictures_are_left_out(run: Run) -> None:
    made_pages.diagnosis(run)
    (run.analysis / "diagnosis.json").write_text('{"findings": [7, {"evidence": ["odd"], "advice": null}]}')
    (run.analysis / "contact.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    sample = next(run.samples.glob("*.png"))
    sample.write_bytes(sample.read_bytes()[:40])
    data = held(write_report(run))
    assert data["findings"] == [{"code": "", "title": "", "confidence": "", "evidence": [], "advice": []}]
    assert data["sheets"] == []
    assert sum(one["src"] is None for one in data["samples"][0]) == 1


def test_a_run_that_has_nothing_yet_has_a_page(tmp_path: Path) -> None:
    run = make_run(tmp_path, weights=b"", ended={"status": "failed", "reason": "oom-cuda", "steps": 0})
    data = held(write_report(run))
    assert data["curves"][0]["series"] == {}
    assert any("it is empty" in warning for warning in data["warnings"])


def test_a_bake_ends_with_a_page(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seal(run, 1) if not run.manifest(1).exists() else None
    before = verify(run)
    assert write_page(run) is None  # switched off in tests
    assert not (run.analysis / "report.html").exists()
    monkeypatch.delenv("LORAKIT_REPORT")
    process = write_page(run)
    assert process is not None
    assert process.wait(60) == 0
    assert held(run.analysis / "report.html")["kind"] == "report"
    assert not (run.analysis / "report.log").exists()
    assert verify(run) == before  # no seal covers it


def test_a_page_that_cannot_be_made_fails_no_bake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LORAKIT_REPORT")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "bake" / "quick"))  # a launcher without torch
    run = bakeable(tmp_path, "--steps", "3")  # a run of no preset
    start(run)
    follow(run)
    found = state(run)
    assert (found.status.value, found.sealed) == ("ok", True)
    wait_for(lambda: "the preset of" in (run.analysis / "report.log").read_text())
    assert verify(run) == ()


def test_without_plotly_it_is_said_what_to_install(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plotly, "find", lambda: None)
    plotly.script.cache_clear()
    with pytest.raises(UsageError, match="plotly") as refused:
        write_report(run)
    assert "lorakit[pages]" in refused.value.todo


def test_what_cannot_be_written_is_told(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DiskError):
        write_report(run, tmp_path / "file" / "page.html")
    run.preset.unlink()
    with pytest.raises(ArchiveError):
        write_report(run)


def test_many_samples_are_thinned_and_made_smaller(tmp_path: Path) -> None:
    many = [
        [Sample(prompt, "", step, step, tmp_path / "x") for step in range(200) for prompt in range(3)] for _ in range(4)
    ]
    few = thinned(many)
    assert sum(map(len, few)) <= 400
    assert all(some[-1].step == 199 for some in few)
    assert [width_for(count) for count in (8, 100, 400, 401)] == [384, 256, 160, None]
    lonely = [[Sample(0, "", 1, 1, tmp_path / "x")] for _ in range(500)]
    assert len(thinned(lonely)) == 500


def test_samples_without_a_progress_are_known_by_name(run: Run) -> None:
    run.attempt(1).progress.unlink()
    assert [(one.epoch, one.prompt) for one in samples_of(run)][:3] == [(1, 0), (1, 1), (2, 0)]


def test_a_picture_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_text("<html>")
    assert embedded(tmp_path / "x.png", 100) is None
    assert embedded(tmp_path / "none.png", 100) is None


def test_links_lead_to_the_folders(tmp_path: Path) -> None:
    from lorakit.verdict.compare import compare

    runs = made_pages.runs(tmp_path / "with space" / "runs")[:2]
    data = held(compare_page(compare(runs), tmp_path / "pages"))
    assert [side["href"] for side in data["sides"]] == [f"../with%20space/runs/{run.id}" for run in runs]
    assert os.path.exists(tmp_path / "with space" / "runs" / runs[0].id)
