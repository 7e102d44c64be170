"""Saved states of a long training: written whole or not at all, so that a killed training goes on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

__all__ = ["load_stage", "save_stage"]


def save_stage(path: Path, parts: Mapping[str, Any], step: int) -> None:
    """Save the states of ``parts`` (modules, optimizers) after ``step`` steps."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = path.with_name(path.name + ".tmp")
    with open(temp, "wb") as file:
        torch.save({"step": step, **{name: part.state_dict() for name, part in parts.items()}}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temp, path)


def load_stage(path: Path, parts: Mapping[str, Any]) -> int:
    """Load what :func:`save_stage` wrote into ``parts``; returns the step, 0 when there is no file."""
    if not path.is_file():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return int(state["step"])
