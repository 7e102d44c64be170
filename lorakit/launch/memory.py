"""How much memory a training uses: resident memory from /proc, and the GPUs' from NVIDIA's library where there is one (stdlib only)."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

__all__ = ["GpuMemory", "free_memory", "gpu_memory", "resident"]

#: Names under which the driver's library is found.
_LIBRARIES: Final = ("libnvidia-ml.so.1", "libnvidia-ml.so")
_MOST_PROCESSES: Final = 256


@dataclass(frozen=True)
class GpuMemory:
    """One card, in bytes: what is used of it by anybody, what there is, and what the asked-for processes have (None: not told)."""

    index: int
    used: int
    total: int
    ours: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values for a record."""
        return asdict(self)


def resident(groups: Iterable[int]) -> dict[int, int]:
    """Resident memory in bytes of each of these process groups; a group that is gone is left out.

    A rank and its data loader workers are one group. Pages that they share are counted for each.
    """
    wanted = set(groups)
    page = os.sysconf("SC_PAGE_SIZE")
    sums: dict[int, int] = {}
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            fields = Path(entry.path, "stat").read_bytes().rpartition(b")")[2].split()
            group, pages = int(fields[2]), int(fields[21])
        except (OSError, ValueError, IndexError):  # gone meanwhile
            continue
        if group in wanted and pages:  # a zombie has none
            sums[group] = sums.get(group, 0) + pages * page
    return sums


def free_memory() -> dict[str, Any]:
    """What is free before a training starts: ``available`` bytes of main memory, and each GPU's used and total bytes."""
    return {"available": _available(), "gpus": [card.to_json() for card in gpu_memory()]}


def _available() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    except (OSError, ValueError, IndexError):
        return None
    return None


def gpu_memory(pids: Iterable[int] = ()) -> tuple[GpuMemory, ...]:
    """Memory of every GPU that the driver's library tells of, and of these processes on each; empty without the library."""
    library = _nvml()
    if library is None:
        return ()
    count = ctypes.c_uint()
    if library.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
        return ()
    wanted = set(pids)
    found = []
    for index in range(count.value):
        handle = ctypes.c_void_p()
        memory = _Memory()
        if library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) != 0:
            continue
        if library.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) != 0:
            continue
        found.append(GpuMemory(index, memory.used, memory.total, _ours(library, handle, wanted)))
    return tuple(found)


class _Memory(ctypes.Structure):
    # nvmlMemory_t
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class _Process(ctypes.Structure):
    # nvmlProcessInfo_t
    _fields_ = (
        ("pid", ctypes.c_uint),
        ("used", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    )


def _ours(library: ctypes.CDLL, handle: ctypes.c_void_p, pids: set[int]) -> int | None:
    """Bytes that some processes have on a card; None where it is not told, as in a container with pids of its own."""
    ask = getattr(library, "nvmlDeviceGetComputeRunningProcesses_v3", None)
    if ask is None or not pids:
        return None
    count = ctypes.c_uint(_MOST_PROCESSES)
    listed = (_Process * _MOST_PROCESSES)()
    if ask(handle, ctypes.byref(count), listed) != 0:
        return None
    # All bits set means "not available".
    used = [one.used for one in listed[: count.value] if one.pid in pids and one.used != (1 << 64) - 1]
    return sum(used) if used else None


@functools.cache
def _nvml() -> ctypes.CDLL | None:
    """NVIDIA's management library, loaded and initialised once; None where there is none or it does not work."""
    for name in _LIBRARIES:
        try:
            library = ctypes.CDLL(name)
            if library.nvmlInit_v2() == 0:
                return library
        except (OSError, AttributeError):
            continue
    return None
