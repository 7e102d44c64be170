"""The accelerate config that lorakit writes, and the launch line that uses it (pure text, but for finding a port)."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lorakit.errors import UsageError

__all__ = ["SHIM", "LaunchShape", "config_text", "default_threads", "free_port", "launch_argv", "port_is_free"]

#: The program that stands between accelerate and the trainer.
SHIM: Final = Path(__file__).with_name("shim.py")

_PRECISIONS: Final = ("no", "fp16", "bf16", "fp8")


@dataclass(frozen=True)
class LaunchShape:
    """How a training is spread over a machine.

    ``threads`` is OMP_NUM_THREADS of each process; ``gpu_ids`` is "all" or like "0,1"; ``port`` is where several processes meet and
    is None for one; ``dynamo`` is a torch.compile backend, "no" for none. Raises UsageError for values that accelerate
    would reject or take for something else.
    """

    processes: int = 1
    mixed_precision: str = "no"
    cpu: bool = False
    gpu_ids: str = "all"
    threads: int = 1
    dynamo: str = "no"
    port: int | None = None

    def __post_init__(self) -> None:
        if self.processes < 1:
            raise UsageError(f"{self.processes} processes cannot train", todo="set launch.processes to 1 or more")
        if self.threads < 1:
            raise UsageError(f"{self.threads} threads cannot train", todo="set launch.threads to 1 or more")
        if self.mixed_precision not in _PRECISIONS:
            raise UsageError(
                f"mixed precision {self.mixed_precision!r} is not known", todo=f"use one of {', '.join(_PRECISIONS)}"
            )
        if not re.fullmatch(r"all|\d+(,\d+)*", self.gpu_ids):
            raise UsageError(f"gpu_ids {self.gpu_ids!r} cannot be meant", todo='write "all", "0" or "0,1"')
        if not re.fullmatch(r"[A-Za-z0-9_]+", self.dynamo):
            raise UsageError(f"dynamo backend {self.dynamo!r} cannot be meant", todo='write "no" or "inductor"')
        if self.processes > 1 and self.port is None:
            raise UsageError("several processes need a port to meet at", todo="give LaunchShape a free port")
        if self.port is not None and not 0 < self.port < 65536:
            raise UsageError(
                f"port {self.port} cannot be used",
                why="port 0 makes older accelerate versions hang",
                todo="pick a real one",
            )
        if self.processes > 1 and not self.cpu and self.gpu_ids != "all" and "," not in self.gpu_ids:
            raise UsageError(
                f"{self.processes} processes cannot share the one GPU {self.gpu_ids}",
                todo="name as many GPUs in launch.gpu_ids as there are processes",
            )

    @property
    def distributed_type(self) -> str:
        """The launcher's word for it; several CPU processes go through the same launcher as several GPUs, with use_cpu."""
        return "MULTI_GPU" if self.processes > 1 else "NO"


def default_threads(processes: int, *, cpu: bool, cores: int | None = None) -> int:
    """Threads per process: physical cores shared out among CPU processes; on a GPU the CPU only feeds it, so few.

    ``cores`` is the number of physical cores; None looks it up.
    """
    share = max(1, (cores or physical_cores()) // max(1, processes))
    return share if cpu else min(share, 8)


def physical_cores() -> int:
    """Physical cores this process may use; hardware threads of one core count once where the kernel tells."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = set()
    for cpu in usable:
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            cores.add(siblings.read_text(encoding="ascii").strip())
        except OSError:
            cores.add(str(cpu))
    return max(1, len(cores))


def config_text(shape: LaunchShape) -> str:
    """The YAML of accelerate's config file: every key that the launch depends on, so that no default decides."""
    port = "null" if shape.port is None else str(shape.port)
    dynamo = shape.dynamo.upper()
    return (
        "# Written by lorakit; this is the whole launch configuration.\n"
        "compute_environment: LOCAL_MACHINE\n"
        f'distributed_type: "{shape.distributed_type}"\n'
        f'mixed_precision: "{shape.mixed_precision}"\n'
        f"use_cpu: {_bool(shape.cpu)}\n"
        "debug: false\n"
        f"num_processes: {shape.processes}\n"
        "num_machines: 1\n"
        "machine_rank: 0\n"
        f'gpu_ids: "{shape.gpu_ids}"\n'
        'main_process_ip: "127.0.0.1"\n'
        f"main_process_port: {port}\n"
        'rdzv_backend: "static"\n'
        "same_network: true\n"
        "main_training_function: main\n"
        "enable_cpu_affinity: false\n"
        "downcast_bf16: false\n"
        "tpu_use_cluster: false\n"
        "deepspeed_config: {}\n"
        "fsdp_config: {}\n"
        "megatron_lm_config: {}\n"
        "mpirun_config: {}\n"
        "fp8_config: {}\n"
        "dynamo_config:\n"
        f'  dynamo_backend: "{dynamo}"\n'
        "  dynamo_mode: default\n"
        "  dynamo_use_dynamic: false\n"
        "  dynamo_use_fullgraph: false\n"
    )


def launch_argv(
    python: str,
    config: Path,
    program: Sequence[str],
    *,
    threads: int,
    shim: Path | None = None,
    port: int | None = None,
) -> tuple[str, ...]:
    """The launch line. ``program`` is ``script.py args…`` or ``-m module args…``.

    Without ``shim`` it is the line a person would type. ``port`` overrides the config's, for when that is no longer free.
    """
    # --quiet: a failed child is told by the shim's record; the launcher's own traceback would only bury the child's.
    line = [python, "-m", "accelerate.commands.launch", "--config_file", str(config), "--quiet"]
    line += ["--num_cpu_threads_per_process", str(threads)]
    if port is not None:
        line += ["--main_process_port", str(port)]
    if shim is not None:
        line.append(str(shim))
    return (*line, *program)


def free_port() -> int:
    """A TCP port that nobody uses now on any address of this machine."""
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as server:
            server.bind(("127.0.0.1", 0))
            port = int(server.getsockname()[1])
        if port_is_free(port):
            return port


def port_is_free(port: int) -> bool:
    """Whether nobody listens on a port, on any address of this machine: the ranks' meeting point takes them all."""
    for family, every in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):  # noqa: S104 (taken and given back)
        try:
            server = socket.socket(family, socket.SOCK_STREAM)
        except OSError:  # a machine without IPv6
            continue
        with server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                server.bind((every, port))
            except OSError as error:
                if error.errno in {errno.EADDRINUSE, errno.EACCES}:
                    return False
    return True


def _bool(value: bool) -> str:
    return "true" if value else "false"
