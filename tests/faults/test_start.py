"""Rows 23 and 24: no memory left on the GPU at the start, a busy port, and whatever a user's environment holds."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lorakit.archive.diagnose_log import Reason, Status
from lorakit.archive.records import state
from lorakit.archive.run import Run
from lorakit.bake.bake import follow, start
from lorakit.launch.accelerate import port_is_free
from tests.bake.runs import left_over, make_run

#: The parts of NVIDIA's management library that are asked for: one card with 24 GiB, of which 23 are used.
NVML = """
#include <stdlib.h>
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned pid; unsigned long long used; unsigned instance, compute; } process_t;
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 1; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) { *handle = (void *)1; return index; }
int nvmlDeviceGetMemoryInfo(void *handle, memory_t *memory) {
    memory->total = 24ULL << 30; memory->used = 23ULL << 30; memory->free = 1ULL << 30; return 0;
}
int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, process_t *list) {
    list[0] = (process_t){atoi(getenv("FIRST_PID") ? getenv("FIRST_PID") : "0"), 5ULL << 30, 0, 0};
    list[1] = (process_t){1, 18ULL << 30, 0, 0};
    *count = 2; return 0;
}
"""


def bake(run: Run) -> None:
    start(run)
    follow(run)


def test_gpu_memory_of_a_run_is_told_apart_from_that_of_others(
    library: Callable[[str, str], Path],
) -> None:
    folder = library("libnvidia-ml.so.1", NVML).parent
    program = "from lorakit.launch.memory import gpu_memory; print([one.to_json() for one in gpu_memory([4242])])"
    env = {**os.environ, "LD_LIBRARY_PATH": str(folder), "FIRST_PID": "4242"}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([{"index": 0, "used": 23 << 30, "total": 24 << 30, "ours": 5 << 30}])


@pytest.mark.usefixtures("quick")
def test_row_23_a_gpu_without_memory_is_named_and_not_tried_again(
    tmp_path: Path, library: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library("libnvidia-ml.so.1", NVML).parent))
    run = make_run(tmp_path, "--fault", "cuda-start")
    bake(run)
    found = state(run)
    assert (found.status, found.reason, found.steps) == (Status.FAILED, Reason.OOM_CUDA, 0)
    assert "tried 1.10 GiB, 312.50 MiB free of 23.65 GiB" in found.message
    assert found.evidence.startswith("trainer.log: RuntimeError: CUDA out of memory") or "CUDA out of" in found.evidence
    memory = json.loads(run.attempt(1).started.read_text())["memory"]
    assert memory["gpus"] == [{"index": 0, "used": 23 << 30, "total": 24 << 30, "ours": None}]
    assert memory["available"] > 0
    assert [path.name for path in run.attempts.iterdir()] == ["01"]
    assert run.attempt(1).log.read_text().count("CUDA out of memory") == 1
    assert left_over(run) == ()


def test_row_24_a_busy_port_is_replaced(tmp_path: Path) -> None:
    """With the real accelerate; the port is taken on another address than the loopback, which counts as much."""
    run = make_run(tmp_path, processes=2)
    port = json.loads(run.command_json.read_text())["shape"]["port"]
    with socket.socket() as server:
        server.bind(("127.0.0.2", port))
        server.listen()
        assert not port_is_free(port)
        bake(run)
    found = state(run)
    assert found.status is Status.OK, found.message
    argv = json.loads(run.attempt(1).started.read_text())["argv"]
    assert argv[argv.index("--main_process_port") + 1] != str(port)
    assert (run.attempt(1).ranks / "exit-1.json").is_file()


#: A launcher's own words, a rank's, and two that are nobody's business.
STRAY = {
    "ACCELERATE_MIXED_PRECISION": "fp16",
    "ACCELERATE_USE_DEEPSPEED": "true",
    "FSDP_VERSION": "2",
    "RANK": "7",
    "WORLD_SIZE": "8",
    "MASTER_PORT": "1",
    "OMP_NUM_THREADS": "64",
    "TORCHELASTIC_RUN_ID": "someone",
    "CUDA_VISIBLE_DEVICES": "5",
}
DEFAULT_CONFIG = """\
compute_environment: LOCAL_MACHINE
distributed_type: MULTI_GPU
num_processes: 4
num_machines: 1
mixed_precision: fp16
use_cpu: false
"""


@pytest.mark.usefixtures("launcher")
def test_row_24_stray_variables_and_a_users_default_config_have_no_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in STRAY.items():
        monkeypatch.setenv(name, value)
    home = tmp_path / "home"
    (home / "accelerate").mkdir(parents=True)
    (home / "accelerate" / "default_config.yaml").write_text(DEFAULT_CONFIG)
    monkeypatch.setenv("HF_HOME", str(home))
    run = make_run(tmp_path / "runs", "--fault", "environment")
    bake(run)
    found = state(run)
    assert found.status is Status.OK, found.message
    record = json.loads(run.attempt(1).started.read_text())
    assert str(run.accelerate) in record["argv"]
    assert set(record["environment"]["removed"]) == {name for name in STRAY if name != "CUDA_VISIBLE_DEVICES"}
    assert [path.name for path in sorted(run.attempt(1).ranks.glob("exit-*.json"))] == ["exit-0.json"]
    log = run.attempt(1).log.read_text()
    assert "small trainer, rank 0, threads 64" not in log
    seen = json.loads(next(line for line in log.splitlines() if line.startswith("{")))
    assert seen.get("WORLD_SIZE") in {None, "1"}
    assert seen.get("ACCELERATE_MIXED_PRECISION") in {None, "no"}
    assert not {"ACCELERATE_USE_DEEPSPEED", "FSDP_VERSION", "TORCHELASTIC_RUN_ID"} & set(seen)
    assert seen["CUDA_VISIBLE_DEVICES"] == "5", "which cards are visible is the user's word"
    assert os.environ["RANK"] == "7"
