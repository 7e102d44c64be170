"""`lorakit ls` with filters and columns, `note`, `tag`, `rm`, `restore`, `purge`, `export`, `import-run` as commands."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from lorakit.workspace import Workspace
from tests.cli.made_runs import OUT_OF_MEMORY, THEN, make_run
from tests.cli.running import Cli, golden


@pytest.fixture
def archive(workspace: Workspace) -> Path:
    make_run(workspace.runs, short="k3f9", tags=["good"])
    make_run(workspace.runs, short="p2xd", ended=OUT_OF_MEMORY, now=THEN + 60)
    make_run(workspace.runs, "style", short="m8aa", now=THEN + 120, unet_lr="2.5e-4", te_lr="5e-5", alpha="16")
    return workspace.runs


def test_ls_filters_sorts_and_chooses_columns(archive: Path, cli: Cli) -> None:
    words = ["name:hifumi", "and", "(state==failed", "or", "tag:good)"]
    golden("ls_columns.txt", cli("ls", *words, "--sort", "-loss.last", "--columns", "+optim.unet_lr,vram").out)
    assert cli("ls", "state==stopped").out == "none of 3 runs fits: state==stopped\n"
    golden("ls_error.txt", cli("ls", "network.dmi==32 and tag:good", code=2).err)
    golden("ls_error_value.txt", cli("ls", "tag:good and loss.last<low", code=2).err)
    assert "optim.warmup" in cli("ls", "--columns", "warmup", code=2).err
    assert "no name" in cli("ls", "--columns", "run,,x", code=2).err


def test_ls_for_machines(archive: Path, cli: Cli) -> None:
    rows = list(csv.DictReader(io.StringIO(cli("ls", "--csv", "--sort", "loss.last").out)))
    assert [row["loss.last"] for row in rows] == ["0.104", "0.104", "0.131"]
    assert rows[2]["reason"] == "oom-cuda"
    found = cli("ls", "optim.unet_lr>1e-4", "--json", "--columns", "run,optim.unet_lr,note").json
    assert [(row["run"], row["optim.unet_lr"], row["note"]) for row in found] == [("m8aa", 2.5e-4, None)]
    assert [row["short"] for row in cli("ls", "sealed", "--json").json] == ["m8aa", "p2xd", "k3f9"]


def test_notes_and_tags(archive: Path, cli: Cli) -> None:
    assert cli("note", "k3f9").out == "no notes yet: lorakit note RUN TEXT\n"
    cli("note", "k3f9", "eyes are good")
    assert cli("note", "k3f9", "hands are not").out == "eyes are good\nhands are not\n"
    assert cli("note", "k3f9", "new", "--replace", "--json").json["note"] == "new"
    assert cli("tag", "k3f9", "best", "花").out == "hifumi_k3f9  good best 花\n"
    assert cli("tag", "k3f9", "--remove", "good", "--json").json["tags"] == ["best", "花"]
    assert [row["run"] for row in cli("ls", "tag:花 note:NEW", "--json", "-c", "run").json] == ["k3f9"]
    assert "one word" in cli("tag", "k3f9", "two words", code=2).err
    assert cli("verify", "k3f9").out.startswith("✓")


def test_out_and_back(archive: Path, cli: Cli) -> None:
    assert "lorakit restore k3f9 m8aa" in cli("rm", "k3f9", "m8aa").out
    assert [row["short"] for row in cli("ls", "--json").json] == ["p2xd"]
    assert [row["short"] for row in cli("ls", "--trash", "--json").json] == ["m8aa", "k3f9"]
    assert cli("restore", "k3f9").out == "hifumi_k3f9  is back\n"
    assert cli("purge", "m8aa", "--json").json["runs"] == 1
    assert cli("ls", "--trash").out == "the trash is empty\n"
    assert "the trash is empty" in cli("restore", "m8aa", code=9).err
    assert "--all" in cli("purge", code=2).err
    assert cli("rm", "k3f9", "nope", code=9).err
    assert len(cli("ls", "--json").json) == 2, "nothing is done when one word is wrong"


def test_export_and_import(archive: Path, cli: Cli, tmp_path: Path) -> None:
    done = cli("export", "k3f9", "m8aa", "-o", str(tmp_path / "a.zip"), "--json").json
    assert (done["path"], len(done["runs"]), done["stripped"]) == (str(tmp_path / "a.zip"), 2, False)
    assert "already" in cli("import-run", str(tmp_path / "a.zip"), code=9).err
    cli("rm", "k3f9", "m8aa")
    cli("purge", "--all")
    assert len(cli("import-run", str(tmp_path / "a.zip"), "--json").json) == 2
    assert len(cli("ls", "--json").json) == 3
    assert cli("import-run", "nothing.zip", code=2).err.startswith("error  there is no file nothing.zip")
