"""A training's state on disk: everything that makes the next step the one it would have been.

A state is a folder: ``model.safetensors`` (the LoRA in its own number format), ``optimizer.bin``, ``scheduler.bin`` and
``train_state.json``, which lists the others with size and checksum. It is written under a temporary name and renamed.
Random numbers need no saving: they are functions of the seed and the position (see rng).
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lorakit import atomic
from lorakit.errors import DiskError, TrainerError
from lorakit.trainers.builtin.lora import LoraNetwork

__all__ = ["Position", "load", "read_position", "save"]

_VERSION: Final = 1
_MODEL, _OPTIMIZER, _SCHEDULER, _INFO = "model.safetensors", "optimizer.bin", "scheduler.bin", "train_state.json"


@dataclass(frozen=True)
class Position:
    """Where a training stands.

    ``current_step`` optimizer steps are done; ``current_epoch`` (from 1) is the epoch of the next batch, of which this
    process has trained ``batches_done`` batches. ``losses`` is the content of the running average. The counts below
    tell whether a position means the same batches in another run.
    """

    current_epoch: int
    current_step: int
    batches_done: int
    seed: int
    batches_per_epoch: int
    processes: int
    gradient_accumulation_steps: int
    total_steps: int
    loss_scale: float = 1.0
    good_updates: int = 0
    losses: tuple[float, ...] = field(default=(), repr=False)


def save(path: Path, network: LoraNetwork, optimizer: Optimizer, scheduler: LRScheduler, position: Position) -> int:
    """Write a state folder, replacing one of the same name; returns its bytes. Raises DiskError."""
    temp = path.with_name(f".{path.name[:80]}{atomic.TEMP_MARK}{os.getpid()}-{secrets.token_hex(4)}")
    try:
        temp.mkdir(parents=True)
        save_file(network.kohya_state_dict(), temp / _MODEL)
        torch.save(optimizer.state_dict(), temp / _OPTIMIZER)
        torch.save(scheduler.state_dict(), temp / _SCHEDULER)
        files = {name: _describe(temp / name) for name in (_MODEL, _OPTIMIZER, _SCHEDULER)}
        info = {"version": _VERSION, **asdict(position), "files": files}
        atomic.write_json(temp / _INFO, info)
        _move_into_place(temp, path)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors wrap OSError in their own
        raise DiskError(f"the state {path} cannot be written", why=str(error), todo="make room for it") from error
    finally:
        shutil.rmtree(temp, ignore_errors=True)
    return sum(entry["bytes"] for entry in files.values())


def read_position(path: Path) -> Position:
    """The position in a state folder, after checking that the folder is whole.

    Raises TrainerError saying what is missing or damaged.
    """
    if not path.is_dir():
        raise TrainerError(
            f"there is no state folder {path}", todo="give --resume a folder that --save_state wrote (NAME-…-state)"
        )
    try:
        info = json.loads((path / _INFO).read_text(encoding="utf-8"))
        files: Mapping[str, Mapping[str, Any]] = info.pop("files")
        version = info.pop("version")
        position = Position(**{**info, "losses": tuple(info["losses"])})
    except FileNotFoundError as error:
        raise _incomplete(path, f"{_INFO} is missing") from error
    except (ValueError, KeyError, TypeError) as error:
        raise _incomplete(path, f"{_INFO} is not one that this trainer wrote ({error})") from error
    if version != _VERSION:
        raise TrainerError(f"the state {path} has version {version}, this trainer reads {_VERSION}")
    for name, described in files.items():
        if not (path / name).is_file():
            raise _incomplete(path, f"{name} is missing")
        if _describe(path / name) != described:
            raise _incomplete(path, f"{name} is not what was saved (torn or changed)")
    return position


def load(path: Path, network: LoraNetwork, optimizer: Optimizer, scheduler: LRScheduler) -> None:
    """Put the saved weights, optimizer and scheduler in place. Raises TrainerError when they do not fit this training."""
    try:
        network.load_state_dict(load_file(path / _MODEL), strict=True)
        optimizer.load_state_dict(torch.load(path / _OPTIMIZER, map_location="cpu", weights_only=True))
        scheduler.load_state_dict(torch.load(path / _SCHEDULER, map_location="cpu", weights_only=True))
    except (RuntimeError, ValueError, KeyError) as error:
        raise TrainerError(
            f"the state {path} does not fit this training",
            why=str(error).splitlines()[0],
            todo="resume with the network and optimizer arguments that it was saved with",
        ) from error


def _describe(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def _move_into_place(temp: Path, path: Path) -> None:
    """Rename ``temp`` to ``path``; an older folder of that name steps aside first and is removed afterwards."""
    old = temp.with_name(temp.name + "-old")
    if path.exists():
        path.rename(old)
    temp.rename(path)
    atomic.fsync_dir(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def _incomplete(path: Path, why: str) -> TrainerError:
    return TrainerError(
        f"the state {path} is incomplete", why=why, todo="resume from an older state, or start anew from the LoRA file"
    )
