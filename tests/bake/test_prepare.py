"""The run folder before its training: whole, exact, and not there at all when anything is wrong."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest

from lorakit.archive.records import Status, state
from lorakit.archive.run import Run, read_record
from lorakit.bake.prepare import prepare
from lorakit.errors import (
    DatasetError,
    DiskError,
    LorakitError,
    ModelFileError,
    PresetError,
    RuleError,
    TrainerError,
    UsageError,
)
from lorakit.preset.files import load_preset
from lorakit.workspace import Workspace


def make(workspace: Workspace, *overrides: str, argv: Sequence[str] = ("lorakit", "bake", "small")) -> Run:
    return prepare(load_preset(workspace.presets / "small.toml", overrides), workspace, argv=argv)


def read(path: Path) -> dict[str, object]:
    value: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    return value


def test_the_folder_holds_everything_to_run_it_again(workspace: Workspace) -> None:
    run = make(workspace, "network.dim=4")
    found = {path.relative_to(run.path).as_posix() for path in run.path.rglob("*") if path.is_file()}
    assert found == {
        "request.json",
        "preset.toml",
        "preset.source.toml",
        "provenance.json",
        "plan.json",
        "dataset.json",
        "command.json",
        "command.sh",
        "accelerate.yaml",
        "environment.json",
        "notes.md",
        "tags.json",
    }
    records = [path for path in run.path.glob("*.json") if path.name != "tags.json"]
    assert all(read(path)["schema"] == 1 for path in records)
    request = read(run.request)
    assert (request["name"], request["argv"], request["lineage"]) == ("small thing", ["lorakit", "bake", "small"], {})
    assert run.name == "small-thing"
    assert run.source.read_text() == (workspace.presets / "small.toml").read_text()
    preset = tomllib.loads(run.preset.read_text())
    assert (preset["network"]["dim"], preset["seed"], preset["launch"]["threads"]) == (4, 7, 1)
    assert load_preset(run.preset).preset.network.dim == 4, "it can be baked again as it stands"
    values = read(run.provenance)["values"]
    assert isinstance(values, dict)
    assert values["network.dim"]["kind"] == "set"
    assert values["optim.max_grad_norm"]["kind"] == "default"
    plan = read(run.plan)
    assert (plan["images"], plan["total_steps"]) == (4, 3)
    assert state(run).status is Status.PREPARED
    environment = read(run.environment)
    assert isinstance(environment["packages"], dict)
    assert "torch" in environment["packages"]


def as_a_shell_reads_it(run: Run) -> list[str]:
    """The words of command.sh, from a real shell that prints them instead of running the first."""
    line = run.command_sh.read_text(encoding="utf-8").split("\n", 3)[3]
    command = ["sh", "-c", f"printf '%s\\0' {line}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")[:-1]


def test_the_command_is_the_same_three_times(workspace: Workspace) -> None:
    run = make(workspace)
    command = read(run.command_json)
    argv = command["argv"]
    assert isinstance(argv, list)
    assert as_a_shell_reads_it(run) == argv
    assert argv[argv.index("--output_dir") + 1] == str(run.weights)
    assert argv[argv.index("--config_file") + 1] == str(run.accelerate)
    assert argv[argv.index("--logging_dir") + 1] == str(run.attempt(1).events)
    assert argv[-len(command["arguments"]) :] == command["arguments"]  # type: ignore[arg-type]
    assert command["result"] == "weights/small_thing.safetensors"
    assert "num_processes: 1" in run.accelerate.read_text()


def test_every_file_that_is_read_is_hashed(workspace: Workspace) -> None:
    run = make(workspace)
    record = json.loads(run.dataset.read_text())
    assert len(record["images"]) == 4
    for image in record["images"]:
        assert image["sha256"] == hashlib.sha256(Path(image["path"]).read_bytes()).hexdigest()
        assert image["caption_sha256"] == hashlib.sha256(Path(image["caption_path"]).read_bytes()).hexdigest()
        assert (image["repeats"], image["size"]) == (2, Path(image["path"]).stat().st_size)
        assert image["bucket"] == [64, 64] or image["bucket"][0] != image["bucket"][1]
        assert image["caption"].startswith("thing, number")
    (model,) = record["models"]["base.model"]
    assert model["sha256"] == hashlib.sha256((workspace.root / "models" / "tiny.safetensors").read_bytes()).hexdigest()
    again = json.loads(make(workspace).dataset.read_text())
    assert again["digest"] == record["digest"]
    (workspace.datasets / "things" / "2_thing" / "0.txt").write_text("another caption")
    assert json.loads(make(workspace).dataset.read_text())["digest"] != record["digest"]


def test_a_drawn_seed_is_written_down(workspace: Workspace) -> None:
    path = workspace.presets / "small.toml"
    path.write_text(path.read_text().replace("seed = 7\n", "").replace("cpu = true\nthreads = 1\n", "cpu = true\n"))
    run = make(workspace)
    preset = tomllib.loads(run.preset.read_text())
    assert isinstance(preset["seed"], int)
    assert preset["launch"]["threads"] >= 1
    values = json.loads(run.provenance.read_text())["values"]
    assert values["seed"]["kind"] == values["launch.threads"]["kind"] == "derived"
    argv = json.loads(run.command_json.read_text())["argv"]
    assert argv[argv.index("--seed") + 1] == str(preset["seed"])


def test_progress_of_looking_and_hashing_is_told(workspace: Workspace) -> None:
    told: list[tuple[str, int, int]] = []
    resolved = load_preset(workspace.presets / "small.toml")
    prepare(resolved, workspace, on_prepare=lambda what, done, total: told.append((what, done, total)))
    last = told[-1]
    assert last[0] == "hash"
    assert last[1] == last[2] > 28_000_000


@pytest.mark.parametrize(
    "name",
    [
        "with space",
        "it's",
        'say "hi"',
        "--output_dir",
        "-m",
        "日本語",
        "naïve ~user",
        "$(touch x); `y`",
        "%s%n!",
        "a&b|c>d",
    ],
)
def test_hostile_names_train_nothing_else(workspace: Workspace, name: str) -> None:
    path = workspace.presets / "small.toml"
    path.write_text(path.read_text().replace('"small thing"', json.dumps(name, ensure_ascii=False)))
    run = make(workspace)
    assert run.path.parent == workspace.runs
    assert read(run.request)["name"] == name
    command = read(run.command_json)
    assert isinstance(command["argv"], list)
    assert as_a_shell_reads_it(run) == command["argv"]
    assert "/" not in str(command["output_name"])


def test_file_names_that_are_no_text(workspace: Workspace) -> None:
    pictures = workspace.datasets / "things" / "2_thing"
    for suffix in (".png", ".txt"):
        (pictures / f"0{suffix}").rename(pictures / f"caf\udce9{suffix}")
    run = make(workspace)
    record = read_record(run.dataset)
    assert record is not None
    assert any(image["path"].endswith("caf\udce9.png") for image in record["images"])


def refused(workspace: Workspace, kind: type[LorakitError], *overrides: str) -> LorakitError:
    """Preparing fails with this error, and nothing of a run is left."""
    with pytest.raises(kind) as caught:
        make(workspace, *overrides)
    left = list(workspace.runs.iterdir()) if workspace.runs.is_dir() else []
    assert left == []
    return caught.value


def test_a_missing_model_with_its_nearest_name(workspace: Workspace) -> None:
    error = refused(workspace, ModelFileError, "base.model=models/tine.safetensors")
    assert "is missing" in error.what
    assert "tiny.safetensors" in error.todo


@pytest.mark.parametrize("keep", [0, 5, 4000, -1])
def test_a_torn_model(workspace: Workspace, keep: int) -> None:
    path = workspace.root / "models" / "tiny.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:keep])
    error = refused(workspace, ModelFileError)
    assert "not whole" in error.what
    assert error.why


def test_a_torn_vae_and_torn_network_weights(workspace: Workspace) -> None:
    (workspace.root / "models" / "torn.safetensors").write_bytes(b"<html>not found</html>")
    assert "base.vae" in refused(workspace, ModelFileError, "base.vae=models/torn.safetensors").what
    assert "network.weights" in refused(workspace, ModelFileError, "network.weights=models/torn.safetensors").what
    assert "is missing" in refused(workspace, ModelFileError, "base.vae=models/none.safetensors").what


def test_a_file_that_holds_no_weights_is_named(workspace: Workspace) -> None:
    (workspace.root / "models" / "notes.txt").write_text("not a model", encoding="utf-8")
    error = refused(workspace, ModelFileError, "base.model=models/notes.txt")
    assert "no model file" in error.what
    assert ".txt" in error.why


def test_a_pickle_is_refused_unless_it_is_allowed(workspace: Workspace) -> None:
    (workspace.root / "models" / "old.ckpt").write_bytes(b"\x80\x04.")
    error = refused(workspace, ModelFileError, "base.vae=models/old.ckpt")
    assert "pickle" in error.what
    assert "allow_pickle" in error.todo
    assert make(workspace, "base.vae=models/old.ckpt", "base.allow_pickle=true").path.is_dir()


def test_a_link_to_nothing_and_a_folder_that_is_no_model(workspace: Workspace) -> None:
    (workspace.root / "models" / "link.safetensors").symlink_to("gone.safetensors")
    assert "gone.safetensors" in refused(workspace, ModelFileError, "base.model=models/link.safetensors").why
    assert "no diffusers model" in refused(workspace, ModelFileError, "base.model=models").what


def test_missing_prompts(workspace: Workspace) -> None:
    error = refused(workspace, PresetError, "sample.prompts=presets/none.txt", "sample.every_n_epochs=1")
    assert error.problems[0].key == "sample.prompts"


def test_bad_data(workspace: Workspace) -> None:
    pictures = workspace.datasets / "things" / "2_thing"
    (pictures / "0.png").write_bytes(b"no picture")
    (pictures / "1.txt").write_bytes(b"\xff\xfe caption")
    error = refused(workspace, DatasetError)
    said = " ".join(f"{problem.where} {problem.what}" for problem in error.problems)
    assert len(error.problems) == 2
    assert "0.png" in said
    assert "1.txt" in said
    for path in pictures.iterdir():
        path.unlink()
    refused(workspace, DatasetError)
    pictures.rename(pictures.with_name("no number"))
    refused(workspace, DatasetError)


def test_broken_rules_are_told_with_their_place(workspace: Workspace) -> None:
    error = refused(workspace, RuleError, "memory.cache_text_encoder_outputs=true")
    assert any("--set memory.cache_text_encoder_outputs=true" in problem.where for problem in error.problems)
    assert all(problem.code for problem in error.problems)


def test_secrets_do_not_come_into_an_archive(workspace: Workspace) -> None:
    assert "WANDB_API_KEY" in refused(workspace, UsageError, 'extra.wandb_api_key="0123456789"').todo
    with pytest.raises(UsageError):
        make(workspace, argv=["lorakit", "bake", "--set", "x=hf_abcdefghijklmnopqrstuvwxyz"])


def test_too_small_a_disk_is_refused_before(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: _Usage())
    error = refused(workspace, DiskError)
    assert "0.0 MB free" in error.what


class _Usage:
    total, used, free = 10, 10, 1000


def test_an_archive_that_cannot_be_written(workspace: Workspace) -> None:
    workspace.runs.write_text("a file stands where the folder should be")
    with pytest.raises(DiskError, match="not a folder"):
        make(workspace)


def test_a_trainer_that_is_not_there(workspace: Workspace) -> None:
    assert "sd-scripts" in refused(workspace, TrainerError, "trainer.kind=sd-scripts").what
