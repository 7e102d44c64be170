"""What a training runs on: Python, packages, GPU and driver, the trainer's commit. Never a secret, never torch imported."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from lorakit._version import __version__
from lorakit.errors import TrainerError
from lorakit.launch.accelerate import physical_cores
from lorakit.launch.secrets import hide, refuse_secrets, secret_values
from lorakit.launch.supervisor import run_briefly

__all__ = ["Gpu", "describe", "gpus", "has_gpu", "packages_of", "refuse_secrets"]

#: Variables that change a training and hold no secret; nothing else of the user's environment is kept.
_KEPT: Final = (
    "CUDA_VISIBLE_DEVICES", "CUDA_LAUNCH_BLOCKING", "CUBLAS_WORKSPACE_CONFIG", "HF_HUB_OFFLINE", "LC_ALL", "LANG",
    "MALLOC_ARENA_MAX", "MKL_NUM_THREADS", "NCCL_IB_DISABLE", "NCCL_P2P_DISABLE", "NVIDIA_TF32_OVERRIDE",
    "OPENBLAS_NUM_THREADS", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF",
    "PYTHONHASHSEED", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "XFORMERS_DISABLED",
)  # fmt: skip

# Runs in the trainer's own Python; prints one JSON object.
_ASK: Final = """
import importlib.metadata as m, json, platform, sys
print(json.dumps({"python": platform.python_version(), "implementation": platform.python_implementation(),
"executable": sys.executable, "packages": {d.metadata["Name"]: d.version for d in m.distributions() if d.metadata["Name"]}}))
"""


@dataclass(frozen=True)
class Gpu:
    """A graphics card; ``memory`` in bytes."""

    index: int
    name: str
    memory: int
    driver: str


def gpus() -> tuple[Gpu, ...]:
    """The NVIDIA cards that the driver lists; empty without a driver."""
    if shutil.which("nvidia-smi") is None:
        return ()
    text = run_briefly(
        ["nvidia-smi", "--query-gpu=index,name,memory.total,driver_version", "--format=csv,noheader,nounits"],
        seconds=10,
    )
    found = []
    for line in (text or "").splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == 4 and cells[0].isdigit() and cells[2].isdigit():
            found.append(Gpu(int(cells[0]), cells[1], int(cells[2]) << 20, cells[3]))
    return tuple(found)


def has_gpu() -> bool:
    """Whether a training has a GPU to run on, told from device files without starting anything."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in {"", "-1"}:
        return False
    return any(Path(path).exists() for path in ("/dev/nvidiactl", "/dev/nvidia0", "/dev/kfd", "/dev/dxg"))


def packages_of(python: Path) -> dict[str, Any]:
    """Version, implementation and packages of a Python. Raises TrainerError when it does not answer.

    Our own is asked without a new process, another one with one short process.
    """
    if _same_python(python):
        import importlib.metadata

        names = ((item.metadata["Name"], item.version) for item in importlib.metadata.distributions())
        return {
            "python": platform.python_version(),
            "implementation": platform.python_implementation(),
            "executable": str(python),
            "packages": _sorted({name: version for name, version in names if name}),
        }
    text = run_briefly([str(python), "-I", "-c", _ASK], seconds=60)
    try:
        answer: dict[str, Any] = json.loads(text or "")
    except ValueError:
        raise TrainerError(
            f"{python} does not answer", why="it is no working Python", todo="install the trainer's environment again"
        ) from None
    return {**answer, "executable": str(python), "packages": _sorted(answer["packages"])}


def _same_python(python: Path) -> bool:
    """Whether a path is this very interpreter; the same binary in another virtual environment is not."""
    return os.path.abspath(python) == os.path.abspath(sys.executable)


def _sorted(packages: Mapping[str, str]) -> dict[str, str]:
    return dict(sorted(packages.items(), key=lambda item: item[0].lower()))


def checkout(folder: Path) -> dict[str, Any] | None:
    """Commit of a git checkout and whether tracked files were changed; None when it is none."""
    commit = run_briefly(["git", "rev-parse", "HEAD"], seconds=10, cwd=folder)
    if commit is None:
        return None
    changed = run_briefly(["git", "status", "--porcelain", "--untracked-files=no"], seconds=30, cwd=folder)
    return {"path": str(folder), "commit": commit.strip(), "dirty": None if changed is None else bool(changed.strip())}


def describe(python: Path, *, trainer: str, script: Path | None = None) -> dict[str, Any]:
    """The content of environment.json. ``script`` is the trainer's own file when it lives in a checkout of its own."""
    with ThreadPoolExecutor(max_workers=3) as pool:
        packages = pool.submit(packages_of, python)
        cards = pool.submit(gpus)
        commit = pool.submit(checkout, script.parent) if script is not None else None
        return {
            "lorakit": __version__,
            "trainer": {"kind": trainer, "checkout": commit.result() if commit is not None else None},
            **packages.result(),
            "platform": platform.platform(),
            "machine": platform.machine(),
            "host": platform.node(),
            "cores": physical_cores(),
            "memory": _memory(),
            "gpus": [asdict(card) for card in cards.result()],
            "variables": {
                name: hide(os.environ[name], secret_values(os.environ)) for name in _KEPT if name in os.environ
            },
        }


def _memory() -> int | None:
    """Bytes of main memory, where the system tells."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
