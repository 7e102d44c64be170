"""What is recorded about the machine, and what never is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lorakit.errors import TrainerError, UsageError
from lorakit.launch.environment import Gpu, checkout, describe, gpus, has_gpu, packages_of, refuse_secrets
from lorakit.launch.supervisor import training_env


def test_this_python_is_described_without_torch_being_imported() -> None:
    program = (
        "import json, sys; from pathlib import Path; from lorakit.launch.environment import describe; "
        "d = describe(Path(sys.executable), trainer='builtin'); "
        "print(json.dumps([d['packages']['torch'], d['python'], d['cores'], 'torch' in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    torch, python, cores, imported = json.loads(done.stdout)
    assert torch.startswith("2.")
    assert python == sys.version.split()[0]
    assert cores >= 1
    assert imported is False


def test_another_python_is_asked_in_a_process_of_its_own() -> None:
    base = Path(sys._base_executable)  # type: ignore[attr-defined]
    if base == Path(sys.executable):
        pytest.skip("this Python is no virtual environment")
    found = packages_of(base)
    assert found["executable"] == str(base)
    assert "lorakit" not in found["packages"]


def test_what_is_no_python_is_said_so(tmp_path: Path) -> None:
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho no\n")
    fake.chmod(0o755)
    with pytest.raises(TrainerError, match="does not answer"):
        packages_of(fake)


def test_the_commit_of_a_checkout_and_whether_it_was_changed(tmp_path: Path) -> None:
    assert checkout(tmp_path) is None
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.invalid"]
    (tmp_path / "script.py").write_text("one")
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *command], cwd=tmp_path, check=True)
    found = checkout(tmp_path)
    assert found is not None
    assert len(found["commit"]) == 40
    assert found["dirty"] is False
    (tmp_path / "script.py").write_text("two")
    changed = checkout(tmp_path)
    assert changed is not None
    assert changed["dirty"] is True


def test_cards_are_read_from_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "nvidia-smi"
    fake.write_text("#!/bin/sh\necho '0, NVIDIA GeForce RTX 4090, 24564, 550.54.14'\necho 'No devices'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert gpus() == (Gpu(0, "NVIDIA GeForce RTX 4090", 24564 << 20, "550.54.14"),)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert not has_gpu()


def test_the_users_variables_are_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_thisisatokenthatmustnotleak")
    monkeypatch.setenv("MY_PASSWORD", "correct horse")
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    text = json.dumps(describe(Path(sys.executable), trainer="builtin"))
    assert "hf_thisis" not in text
    assert "correct horse" not in text
    assert ":4096:8" in text


@pytest.mark.parametrize(
    "words",
    [
        ["--wandb_api_key", "0123"],
        ["--wandb_api_key=0123"],
        ["--huggingface_token", "x"],
        ["--network_args", "token=hf_abcdefghijklmnopqrstuvwxyz0123"],
        ["--output_dir", "https://me:secret@example.invalid/x"],
    ],
)
def test_a_secret_in_the_command_is_refused_with_the_way_to_pass_it(words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        refuse_secrets(words)
    assert "environment" in caught.value.todo
    assert "0123" not in f"{caught.value.what} {caught.value.why} {caught.value.todo}"


def test_ordinary_words_are_no_secrets() -> None:
    refuse_secrets(["--output_name", "hf_style", "--train_data_dir", "/home/me/ghp/sk-4", "--log_with", "wandb"])


def test_the_training_gets_the_users_environment_without_another_launchs(tmp_path: Path) -> None:
    base = {
        "PATH": "/bin",
        "HF_TOKEN": "hf_secret",
        "ACCELERATE_MIXED_PRECISION": "fp16",
        "RANK": "3",
        "MASTER_PORT": "1",
        "TORCHELASTIC_RUN_ID": "x",
        "OMP_NUM_THREADS": "64",
    }
    env, record = training_env(base, folder=tmp_path, cookie="c", keeper=7, cpu=True)
    assert env["PATH"] == "/bin"
    assert env["HF_TOKEN"] == "hf_secret", "passed on"
    assert "hf_secret" not in json.dumps(record), "but not kept"
    assert record["removed"] == [
        "ACCELERATE_MIXED_PRECISION",
        "MASTER_PORT",
        "OMP_NUM_THREADS",
        "RANK",
        "TORCHELASTIC_RUN_ID",
    ]
    assert not set(record["removed"]) & set(env)
    assert env["ACCELERATE_USE_CPU"] == "true"
    assert env["HF_HUB_OFFLINE"] == "1"
    assert env["LORAKIT_PROGRESS"] == str(tmp_path / "progress.jsonl")
    assert env["LORAKIT_STOP_FILE"] == str(tmp_path / "stop")
    assert env["PYTHONUNBUFFERED"] == "1"


def test_whoever_wants_the_hub_keeps_it(tmp_path: Path) -> None:
    env, _ = training_env({"HF_HUB_OFFLINE": "0"}, folder=tmp_path, cookie="c", keeper=7, cpu=False, gpu_ids="0,1")
    assert env["HF_HUB_OFFLINE"] == "0"
    assert env["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert "ACCELERATE_USE_CPU" not in env
