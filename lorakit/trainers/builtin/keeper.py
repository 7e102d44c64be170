"""Writes checkpoints and states when they are due, removes those that made room, and tells about both."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import torch
from accelerate import Accelerator
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lorakit.trainers.builtin import state
from lorakit.trainers.builtin.checkpoints import SavePlan
from lorakit.trainers.builtin.lora import LoraNetwork
from lorakit.trainers.builtin.metadata import save_lora
from lorakit.trainers.builtin.monitor import Monitor
from lorakit.trainers.builtin.state import Position

__all__ = ["PRECISIONS", "Keeper"]

#: save_precision to number format; None keeps the LoRA's own.
PRECISIONS: Final[dict[str | None, torch.dtype | None]] = {
    None: None, "float": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16,
}  # fmt: skip


@dataclass(frozen=True)
class Keeper:
    """Saves one training. Only the first process writes; ``metadata`` makes a file's metadata from (steps, epoch)."""

    plan: SavePlan
    folder: Path
    accelerator: Accelerator
    network: LoraNetwork
    optimizer: Optimizer
    scheduler: LRScheduler
    monitor: Monitor
    metadata: Callable[[int, int], dict[str, str]]

    def save_step(self, position: Position, epoch: int) -> None:
        """The file (and state) of the step just done, within ``epoch``."""
        step = position.current_step
        self._save(self.plan.step_name(step), "step", step, epoch)
        self._remove(self.plan.step_to_remove(step), self.plan.step_name, state=False)
        if self.plan.options.save_state:
            self._save_state(self.plan.step_name(step), position, epoch)
            self._remove(self.plan.step_to_remove(step, state=True), self.plan.step_name, state=True)

    def save_epoch(self, position: Position, epoch: int) -> None:
        """The file (and state) of the ``epoch`` just ended."""
        self._save(self.plan.epoch_name(epoch), "epoch", position.current_step, epoch)
        self._remove(self.plan.epoch_to_remove(epoch), self.plan.epoch_name, state=False)
        if self.plan.options.save_state:
            self._save_state(self.plan.epoch_name(epoch), position, epoch)
            self._remove(self.plan.epoch_to_remove(epoch, state=True), self.plan.epoch_name, state=True)

    def save_final(self, position: Position, epoch: int) -> None:
        """The last file (and state)."""
        self._save(self.plan.final_name, "final", position.current_step, epoch)
        if self.plan.state_at_end:
            self._save_state(self.plan.final_name, position, epoch)

    def _save(self, name: str, kind: Literal["step", "epoch", "final"], step: int, epoch: int) -> None:
        if not self.accelerator.is_main_process:
            return
        path = self.folder / f"{name}.safetensors"
        self.monitor.say(f"saving checkpoint: {path}")
        tensors = self.network.kohya_state_dict(PRECISIONS[self.plan.options.save_precision])
        save_lora(path, tensors, self.metadata(step, epoch))
        self.monitor.record("save", step=step, epoch=epoch, path=str(path), bytes=path.stat().st_size, kind=kind)

    def _save_state(self, name: str, position: Position, epoch: int) -> None:
        if not self.accelerator.is_main_process:
            return
        path = self.folder / f"{name}-state"
        self.monitor.say(f"saving state: {path}")
        size = state.save(path, self.network, self.optimizer, self.scheduler, position)
        self.monitor.record("save", step=position.current_step, epoch=epoch, path=str(path), bytes=size, kind="state")

    def _remove(self, number: int | None, name: Callable[[int], str], *, state: bool) -> None:
        if number is None or not self.accelerator.is_main_process:
            return
        path = self.folder / (f"{name(number)}-state" if state else f"{name(number)}.safetensors")
        if not path.exists():
            return
        self.monitor.say(f"removing old {'state' if state else 'checkpoint'}: {path}")
        if state:
            shutil.rmtree(path)
        else:
            path.unlink()
