"""The launch configuration: golden text, the launch line, ports, threads."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from lorakit.errors import UsageError
from lorakit.launch.accelerate import (
    LaunchShape,
    config_text,
    default_threads,
    free_port,
    launch_argv,
    physical_cores,
    port_is_free,
)

GOLDEN = """\
# Written by lorakit; this is the whole launch configuration.
compute_environment: LOCAL_MACHINE
distributed_type: "{kind}"
mixed_precision: "{precision}"
use_cpu: {cpu}
debug: false
num_processes: {processes}
num_machines: 1
machine_rank: 0
gpu_ids: "{gpus}"
main_process_ip: "127.0.0.1"
main_process_port: {port}
rdzv_backend: "static"
same_network: true
main_training_function: main
enable_cpu_affinity: false
downcast_bf16: false
tpu_use_cluster: false
deepspeed_config: {{}}
fsdp_config: {{}}
megatron_lm_config: {{}}
mpirun_config: {{}}
fp8_config: {{}}
dynamo_config:
  dynamo_backend: "{dynamo}"
  dynamo_mode: default
  dynamo_use_dynamic: false
  dynamo_use_fullgraph: false
"""


def golden(**values: object) -> str:
    known = {
        "kind": "NO",
        "precision": "no",
        "cpu": "false",
        "processes": 1,
        "gpus": "all",
        "port": "null",
        "dynamo": "NO",
    }
    return GOLDEN.format(**{**known, **values})


def test_one_cpu_process() -> None:
    assert config_text(LaunchShape(cpu=True)) == golden(cpu="true")


def test_one_gpu() -> None:
    shape = LaunchShape(mixed_precision="bf16", gpu_ids="0", dynamo="inductor")
    assert config_text(shape) == golden(precision="bf16", gpus="0", dynamo="INDUCTOR")


def test_several_gpus_meet_at_a_real_port() -> None:
    shape = LaunchShape(processes=2, mixed_precision="fp16", gpu_ids="0,1", port=29871)
    assert config_text(shape) == golden(kind="MULTI_GPU", precision="fp16", processes=2, gpus="0,1", port=29871)


def test_accelerate_reads_the_file_as_it_is_meant(tmp_path: Path) -> None:
    """accelerate itself is asked, in a process of its own, for torch has no place in this one."""
    import json
    import subprocess

    path = tmp_path / "accelerate.yaml"
    path.write_text(config_text(LaunchShape(processes=2, mixed_precision="bf16", cpu=True, port=29871)))
    program = (
        "import json, sys; from accelerate.commands.config.config_args import load_config_from_file as load; "
        "print(json.dumps({k: str(v) for k, v in vars(load(sys.argv[1])).items()}))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    read = json.loads(done.stdout.splitlines()[-1])
    assert read["num_processes"] == "2"
    assert read["main_process_port"] == "29871"
    assert read["use_cpu"] == "True"
    assert "MULTI_GPU" in read["distributed_type"]
    assert "bf16" in read["mixed_precision"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"processes": 0}, "0 processes"),
        ({"threads": 0}, "0 threads"),
        ({"mixed_precision": "fp12"}, "fp12"),
        ({"processes": 2}, "port"),
        ({"processes": 2, "port": 0}, "port 0"),
        ({"port": 70000}, "70000"),
        ({"processes": 2, "port": 29871, "gpu_ids": "1"}, "one GPU 1"),
        ({"gpu_ids": '0"\nuse_cpu: true'}, "gpu_ids"),
        ({"dynamo": 'no"\nx: 1'}, "dynamo"),
    ],
)
def test_what_accelerate_would_reject_or_take_for_something_else_is_refused(
    values: dict[str, object], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        LaunchShape(**values)  # type: ignore[arg-type]


def test_the_line_a_person_types_and_the_line_that_is_launched() -> None:
    program = ["-m", "lorakit.trainers.builtin", "--output_name", "a b"]
    typed = launch_argv("/v/python", Path("/r/a.yaml"), program, threads=2)
    head = ("/v/python", "-m", "accelerate.commands.launch", "--config_file", "/r/a.yaml", "--quiet")
    assert typed == (*head, "--num_cpu_threads_per_process", "2", *program)
    launched = launch_argv("/v/python", Path("/r/a.yaml"), program, threads=2, shim=Path("/l/shim.py"), port=4242)
    port = ("--main_process_port", "4242")
    assert launched == (*head, "--num_cpu_threads_per_process", "2", *port, "/l/shim.py", *program)


def test_a_free_port_is_free_until_somebody_listens() -> None:
    port = free_port()
    assert 1024 <= port < 65536
    assert port_is_free(port)
    with socket.socket() as server:
        server.bind(("127.0.0.1", port))
        server.listen()
        assert not port_is_free(port)


@pytest.mark.parametrize(
    ("processes", "cpu", "cores", "threads"),
    [(1, True, 16, 16), (2, True, 16, 8), (2, True, 2, 1), (4, True, 2, 1), (1, False, 64, 8), (8, False, 16, 2)],
)
def test_threads_are_physical_cores_shared_out(processes: int, cpu: bool, cores: int, threads: int) -> None:
    assert default_threads(processes, cpu=cpu, cores=cores) == threads


def test_this_machine_has_cores() -> None:
    assert physical_cores() >= 1
