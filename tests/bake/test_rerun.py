"""The built-in trainer for real: a rerun has the same tensors bit for bit, and so has a run that was cut short and resumed."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lorakit import protocol
from lorakit.archive.diagnose_log import Status
from lorakit.archive.export import export
from lorakit.archive.records import state
from lorakit.archive.run import Run, list_runs, read_record
from lorakit.archive.seal import verify
from lorakit.archive.unpack import import_runs
from lorakit.bake.bake import bake
from lorakit.bake.rerun import archived_preset, rerun
from lorakit.bake.resume import resume
from lorakit.errors import ArchiveError, DatasetError, ModelFileError, UsageError
from lorakit.launch.processes import ProcessId
from lorakit.preset.files import load_preset
from lorakit.workspace import Workspace


def tensors(path: Path) -> bytes:
    """Everything of a safetensors file but its header, which holds times."""
    data = path.read_bytes()
    return data[8 + int.from_bytes(data[:8], "little") :]


def test_a_rerun_gives_the_same_tensors(workspace: Workspace) -> None:
    resolved = load_preset(workspace.presets / "small.toml", ["length.steps=2", "dataset.shuffle_caption=true"])
    first = bake(resolved, workspace)
    (workspace.presets / "small.toml").unlink()  # the archived request is enough
    again = rerun(first, workspace, argv=["lorakit", "rerun"])
    assert [state(run).status for run in (first, again)] == [Status.OK, Status.OK]
    assert again.id != first.id
    assert json.loads(again.request.read_text())["lineage"] == {"kind": "rerun", "of": first.id, "differences": []}
    assert again.preset.read_bytes() == first.preset.read_bytes()
    assert archived_preset(again) == archived_preset(first)
    (path,) = [path.name for path in first.weights.glob("*.safetensors")]
    assert tensors(again.weights / path) == tensors(first.weights / path)


@pytest.mark.slow
def test_killed_and_resumed_gives_the_same_tensors(workspace: Workspace) -> None:
    options = ["length.steps=6", "save.every_n_steps=2", "save.state=true", "optim.schedule=cosine"]
    resolved = load_preset(workspace.presets / "small.toml", options)
    whole = bake(resolved, workspace)

    def kill(run: Run, records: Sequence[dict[str, Any]]) -> None:
        if any(record["type"] == "step" and record["step"] == 5 for record in records):
            keeper = ProcessId.from_json((read_record(run.attempt(1).started) or {})["keeper"])
            assert keeper is not None
            keeper.kill(signal.SIGKILL)

    run = bake(resolved, workspace, on_update=kill)
    assert state(run).status is Status.INTERRUPTED
    resume(run, workspace)
    assert (state(run).status, state(run).steps, verify(run)) == (Status.OK, 6, ())
    told = [record for record in protocol.read(run.attempt(2).progress) if record["type"] == "step"]
    asked = [record for record in protocol.read(whole.attempt(1).progress) if record["type"] == "step"]
    values = [
        [(record["step"], record["epoch"], record["loss"], record["lr"]) for record in each] for each in (told, asked)
    ]
    assert values[0] == values[1][-len(told) :]
    assert told[0]["step"] in {3, 5}
    names = {path.name for path in whole.weights.glob("*.safetensors")}
    assert {path.name for path in run.weights.rglob("*.safetensors")} == names
    (final,) = [name for name in names if "-step" not in name]
    assert tensors(run.weights_of(2) / final) == tensors(whole.weights / final)


@pytest.mark.parametrize("strip", [False, True])
@pytest.mark.slow
def test_an_imported_run_is_baked_again_elsewhere(strip: bool, workspace: Workspace, tmp_path: Path) -> None:
    """Exported, brought into another workspace which has the pictures and the base model at other places, rerun: bit for bit."""
    first = bake(load_preset(workspace.presets / "small.toml", ["length.steps=2"]), workspace)
    export([first], tmp_path / "bundle.zip", strip=strip)
    other = Workspace(tmp_path / "elsewhere")
    (other.root / "kept").mkdir(parents=True)
    (other.root / "lorakit.toml").touch()
    (moved,) = import_runs(tmp_path / "bundle.zip", other.runs)
    with pytest.raises(ModelFileError) as refused:
        rerun(moved, other)
    assert f"lorakit rerun {moved.short} --set base.model=FILE --set dataset.path=FOLDER" in refused.value.todo
    assert "tiny.safetensors (sha256 " in refused.value.why
    assert list_runs(other.runs) == (moved,)
    shutil.move(workspace.root / "models" / "tiny.safetensors", other.root / "kept" / "base.safetensors")
    model = "base.model=kept/base.safetensors"
    with pytest.raises(DatasetError) as missing:
        rerun(moved, other, overrides=[model])
    assert "--set dataset.path=FOLDER" in missing.value.todo
    with pytest.raises(UsageError, match="changes no setting"):
        rerun(moved, other, overrides=["optim.unet_lr=1"])
    shutil.copytree(workspace.root / "datasets" / "things", other.root / "pictures")
    again = rerun(moved, other, overrides=[model, "dataset.path=pictures"])
    assert (state(again).status, verify(again)) == (Status.OK, ())
    assert json.loads(again.request.read_text())["lineage"] == {"kind": "rerun", "of": first.id, "differences": []}
    (path,) = [path.name for path in first.weights.glob("*.safetensors")]
    assert tensors(again.weights / path) == tensors(first.weights / path)
    (other.root / "pictures" / "2_thing" / "0.txt").write_text("another caption")
    with pytest.raises(ArchiveError, match="cannot be rerun as it was"):
        rerun(moved, other, overrides=[model, "dataset.path=pictures"])
