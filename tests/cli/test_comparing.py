"""`lorakit compare`, `report` and `board` as they are typed."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from lorakit.sweep.folder import SCHEMA, make_folder
from lorakit.verdict.page import plotly
from lorakit.workspace import Workspace
from tests.cli.made_runs import make_run
from tests.cli.running import Cli
from tests.evidence.test_curves import logs
from tests.sweep.folders import add
from tests.verdict import made_pages
from tests.verdict.made_loras import lora


def test_a_page_is_written(cli: Cli, workspace: Workspace) -> None:
    made_pages.runs(workspace.runs)
    done = cli("compare", "k3f0", "k3f1", "k3f2", "--html", "pages/out.html")
    assert "pages/out.html" in done.out
    assert "<title>k3f0, k3f1, k3f2 compared" in Path("pages/out.html").read_text()
    done = cli("report", "k3f0", "--json")
    assert Path(done.json["page"]).stat().st_size == done.json["bytes"]


def test_csv_is_a_line_for_each_run_and_no_formula(cli: Cli, workspace: Workspace) -> None:
    runs = made_pages.runs(workspace.runs)
    made_pages.rename(runs[1], "=HYPERLINK(1)")
    rows = list(csv.DictReader(io.StringIO(cli("compare", *(run.short for run in runs), "--csv").out)))
    assert [row["run"] for row in rows] == ["k3f0", "k3f1", "k3f2", "k3f3"]
    assert rows[1]["name"] == "'=HYPERLINK(1)"
    assert [row["optim.unet_lr"] for row in rows] == ["1e-4", "1e-4", "2e-4", "2e-4"]
    assert float(rows[2]["validation"]) == pytest.approx(0.098)
    assert rows[0]["carried_by"].startswith("UNet")
    assert rows[0]["name"] == made_pages.HOSTILE


def test_csv_or_json(cli: Cli, workspace: Workspace) -> None:
    made_pages.runs(workspace.runs)
    assert "--json" in cli("compare", "k3f0", "k3f1", "--csv", "--json", code=2).err


def test_one_run_is_no_comparison(cli: Cli, workspace: Workspace) -> None:
    make_run(workspace.runs)
    assert "two or more" in cli("compare", "latest", code=2).err
    assert "two or more" in cli("compare", code=2).err


def test_a_sweep_is_compared(cli: Cli, workspace: Workspace) -> None:
    points = [{"optim.unet_lr": rate} for rate in ("1e-4", "2e-4")]
    folder = make_folder(
        workspace.root / "sweeps" / "2026-11-22_1320_t_3fa1c2d4",
        {"schema": SCHEMA, "axes": {"optim.unet_lr": ["1e-4", "2e-4"]}},
    )
    add(folder, ["0", "1"], points)
    assert "no trial" in cli("compare", "--sweep", "3fa1", code=9).err
    for at, point in enumerate(points):
        make_run(workspace.runs, unet_lr=point["optim.unet_lr"], lineage={"trial": f"trial-{at}", "sweep": "3fa1c2d4"})
    found = cli("compare", "--sweep", "3fa1", "--json").json
    assert found["settings"] == {"optim.unet_lr": [1e-4, 2e-4]}
    cli("compare", "--sweep", "3fa1", "--html", "sweep.html")
    assert Path("sweep.html").exists()


def test_without_plotly_everything_but_the_page_works(
    cli: Cli, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plotly, "find", lambda: None)
    made_pages.runs(workspace.runs)
    assert "lorakit[pages]" in cli("compare", "k3f0", "k3f1", "--html", "x.html", code=2).err
    assert not Path("x.html").exists()
    assert "optim.te_lr" in cli("compare", "k3f0", "k3f1").out


def test_files_and_log_folders_are_compared(cli: Cli, workspace: Workspace) -> None:
    make_run(workspace.runs, short="k3f9")
    lora(Path("theirs.safetensors"))
    logs(Path("logs"))
    found = cli("compare", "k3f9", "theirs.safetensors", "logs", "--json").json
    assert [run["kind"] for run in found["runs"]] == ["run", "file", "logs"]
    assert found["results"]["loss_last"][2] == pytest.approx(0.1625)
    assert "Traceback" not in cli("compare", "k3f9", "none.safetensors", code=7).err


def test_the_board_only_prints_its_line(cli: Cli, workspace: Workspace) -> None:
    made_pages.runs(workspace.runs)
    line = cli("board", "k3f0", "k3f1", "--print", "shown", "--port", "7007").out
    assert "--logdir shown --port 7007 --host localhost" in line
    assert sorted(path.name[:4] for path in Path("shown").iterdir()) == ["k3f0", "k3f1"]
    assert "there already" in cli("board", "--print", "shown", code=2).err


def test_no_runs_no_board(cli: Cli, workspace: Workspace) -> None:
    assert "no runs" in cli("board", code=9).err


def asked(address: str, body: dict[str, Any] | None = None) -> Any:
    request = urllib.request.Request(
        address,
        data=json.dumps(body).encode() if body is not None else None,
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.loads(answer.read())


def test_a_real_tensorboard_shows_the_runs(workspace: Workspace) -> None:
    runs = made_pages.runs(workspace.runs)
    logs(runs[1].attempt(1).events)
    environment = {**os.environ, "TMPDIR": str(workspace.root / "tmp")}
    (workspace.root / "tmp").mkdir()
    # Tests started in the background inherit that Ctrl-C is ignored; at a terminal it is heard.
    hearing = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); from lorakit.cli.main import main; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", hearing, "board", "k3f0", "k3f1", "k3f2", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=workspace.root,
        env={**environment, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said.startswith("3 runs")
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found
        address = found[0]
        deadline = time.monotonic() + 60
        while len(asked(f"{address}data/runs")) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        names = sorted(asked(f"{address}data/runs"))
        assert [name[:4] for name in names] == ["k3f0", "k3f1", "k3f2"]
        tags = asked(f"{address}data/plugin/scalars/tags")
        assert {"loss/current", "lr/unet", "result/validation"} <= tags[names[1]].keys()
        assert {"loss/current", "grad/unet", "result/loss_last"} <= tags[names[0]].keys()  # from its progress
        table = asked(f"{address}data/plugin/hparams/experiment", {})
        assert {"optim.unet_lr", "optim.te1_lr", "optim.te2_lr", "network.dim"} <= {
            one["name"] for one in table["hparamInfos"]
        }
    finally:
        process.send_signal(signal.SIGINT)
        code = process.wait(30)
        if process.stdout is not None:
            process.stdout.close()
    assert code in (0, 130)
    assert list((workspace.root / "tmp").glob("lorakit-board-*")) == []
