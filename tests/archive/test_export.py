"""Bundles: what goes in comes out, and a stripped one tells nothing of whose machine it was."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path

import pytest

from lorakit.archive.export import export
from lorakit.archive.seal import seal, verify
from lorakit.archive.strip import Stripper
from lorakit.archive.unpack import import_runs
from lorakit.errors import ArchiveError, UsageError
from tests.cli.made_runs import make_run


@pytest.mark.parametrize("suffix", ["zip", "tar.zst"])
def test_what_goes_in_comes_out(suffix: str, tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "runs", name, tags=["good"]) for name in ("one", "two")]
    runs[0].notes.write_text("eyes are good\n")
    (runs[0].analysis).mkdir(exist_ok=True)
    (runs[0].analysis / "derived.json").write_text("{}")
    done = export(runs, tmp_path / f"a.{suffix}")
    assert done.size == done.path.stat().st_size
    back = import_runs(done.path, tmp_path / "other")
    assert [run.id for run in back] == [run.id for run in runs]
    for before, after in zip(runs, back, strict=True):
        assert verify(after) == ()
        files = {path.relative_to(before.path) for path in before.path.rglob("*") if path.is_file()}
        kept = {path for path in files if path.parts[0] != "analysis"}
        assert {path.relative_to(after.path) for path in after.path.rglob("*") if path.is_file()} == kept
        assert all((before.path / path).read_bytes() == (after.path / path).read_bytes() for path in kept)
        assert all((after.path / name).is_dir() for name in ("weights/sample", "state", "analysis"))
    with pytest.raises(ArchiveError, match="already"):
        import_runs(done.path, tmp_path / "other")
    with pytest.raises(UsageError, match="exists"):
        export(runs, done.path)


def test_models_are_named_by_hash_and_not_copied(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs")
    export([run], tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as bundle:
        readme = bundle.read("README.txt").decode()
        assert bundle.namelist()[:2] == ["lorakit-bundle.json", "README.txt"]
    assert "base.safetensors  9 bytes  sha256 0123456789abcdef" in readme
    assert "lorakit rerun" in readme


def test_only_whole_sealed_runs_are_exported(tmp_path: Path) -> None:
    unsealed, changed = make_run(tmp_path / "runs", sealed=False), make_run(tmp_path / "runs")
    changed.plan.write_text("{}")
    for run, why in ((unsealed, "not sealed"), (changed, "differs from its seal")):
        with pytest.raises(ArchiveError, match=why):
            export([run], tmp_path / "a.zip")
    with pytest.raises(UsageError, match="no kind of bundle"):
        export([changed], tmp_path / "a.rar")
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def tensors(path: Path, metadata: dict[str, str], data: bytes) -> None:
    header = {"__metadata__": metadata, "t": {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}}
    spelled = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(spelled)) + spelled + data)


def test_a_stripped_bundle_tells_nothing_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, root = "/home/annabel", "/home/annabel/my work"
    monkeypatch.setenv("HOME", home)
    run = make_run(tmp_path / "runs", sealed=False, tags=["good"])
    inside = f"{root}/runs/{run.id}/weights/x.safetensors"
    request = json.loads(run.request.read_text()) | {
        "user": "annabel",
        "host": "deepthought",
        "workspace": root,
        "cwd": f"{home}/x",
    }
    run.request.write_text(json.dumps(request))
    run.command_json.write_text(
        json.dumps({"argv": ["/opt/py thon/bin/python", "--base", "/mnt/nas/secret project/base.safetensors", inside]})
    )
    run.command_sh.write_text(
        f"#!/bin/sh\n/opt/python --out '{inside}' --base '/mnt/nas/secret project/b.safetensors'\n"
    )
    run.attempt(1).log.write_text(
        f"loading {root}/models/m.safetensors\non deepthought for annabel: 3/4 and/or ok\nsaved /mnt/nas/x.png\n"
    )
    run.attempt(1).events.mkdir()
    (run.attempt(1).events / "events.out.tfevents.1.deepthought.1").write_bytes(b"x")
    (run.path / "state").mkdir(exist_ok=True)
    (run.path / "state" / "optimizer.bin").write_bytes(b"\0\1/home/annabel/my work\2")
    tensors(
        run.weights / "lora.safetensors",
        {"ss_dataset": f"{root}/datasets/x", "ss_host": "deepthought"},
        b"\1\2\3\4" * 8,
    )
    seal(run, 1)
    done = export([run], tmp_path / "a.zip", strip=True)
    assert {name.rpartition("/")[2] for name in done.left_out} == {
        "events.out.tfevents.1.deepthought.1",
        "optimizer.bin",
    }
    (back,) = import_runs(done.path, tmp_path / "other")
    assert verify(back) == ()
    for path in back.path.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert not [
                word
                for word in (b"annabel", b"deepthought", b"my work", b"/mnt", b"secret project", b"py thon")
                if word in data
            ], path
    assert json.loads(back.command_json.read_text())["argv"] == [
        "python", "--base", "base.safetensors", f"runs/{run.id}/weights/x.safetensors",
    ]  # fmt: skip
    assert back.command_sh.read_text().startswith("#!/bin/sh\n")
    assert "3/4 and/or ok" in back.attempt(1).log.read_text()
    assert (back.weights / "lora.safetensors").read_bytes().endswith(b"\1\2\3\4" * 8)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "other", "runs"], "no copy is left"


def test_captions_and_common_words_stay() -> None:
    stripper = Stripper("/w", "/root", ())
    assert stripper.value({"caption": "a sign /that/reads w"}) == {"caption": "a sign /that/reads w"}
    assert stripper.text("root 1/2 of https://x.invalid/a/b") == "root 1/2 of https://x.invalid/a/b"


def test_the_copy_names_the_same_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", weights=b"no tensors")
    done = export([run], tmp_path / "a.zip", strip=True)
    assert list(done.bundle.runs) == [run.id]
    assert done.left_out == (f"{run.id}/weights/lora.safetensors",), "it is no whole .safetensors file"
