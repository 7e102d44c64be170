"""The training loop: batches to gradients, gradients to steps, and what happens between steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lorakit.dataset.scan import ScannedData
from lorakit.errors import RunFailed
from lorakit.schedule import StepCounts
from lorakit.trainers.builtin.batches import Batch, process_batches
from lorakit.trainers.builtin.data import BatchLoader, Loaded
from lorakit.trainers.builtin.forward import Forward
from lorakit.trainers.builtin.keeper import Keeper
from lorakit.trainers.builtin.lora import LoraNetwork
from lorakit.trainers.builtin.loss_average import LossAverage
from lorakit.trainers.builtin.max_norm import limit_norms
from lorakit.trainers.builtin.monitor import Monitor, StepReport
from lorakit.trainers.builtin.optim import PARTS, effective_rates, group_name
from lorakit.trainers.builtin.options import TrainOptions
from lorakit.trainers.builtin.parallel import average_gradients, mean_over_processes
from lorakit.trainers.builtin.scaling import LossScale
from lorakit.trainers.builtin.state import Position
from lorakit.trainers.builtin.validation import fixed_timesteps, validation_loss
from lorakit.trainers.sd_scripts.probe_spikes import Spikes

__all__ = ["Loop", "NotFiniteError", "Samples", "Training"]


class NotFiniteError(RunFailed):
    """The loss or a gradient is NaN or infinite."""


class Samples(Protocol):
    """Draws sample pictures when they are due."""

    def after_step(self, step: int, epoch: int) -> None:
        """After an optimizer step; step 0 is before the first."""

    def after_epoch(self, step: int, epoch: int) -> None:
        """After an epoch (from 1)."""


@dataclass
class Training:
    """Everything that a loop works with."""

    options: TrainOptions
    accelerator: Accelerator
    data: ScannedData
    counts: StepCounts
    seed: int
    network: LoraNetwork
    forward: Forward
    optimizer: Optimizer
    scheduler: LRScheduler
    loader: BatchLoader
    keeper: Keeper
    monitor: Monitor
    scale: LossScale
    stop_asked: Callable[[], bool]
    samples: Samples | None = None
    validation_loader: BatchLoader | None = None
    validation: Sequence[Batch] = ()
    average: LossAverage = field(default_factory=LossAverage)
    spikes: Spikes = field(default_factory=Spikes.from_env)


class Loop:
    """Trains from a position to the end, or until somebody asks to stop."""

    def __init__(self, training: Training, *, step: int = 0, epoch: int = 1, batches_done: int = 0) -> None:
        """Go on after ``step`` optimizer steps, in ``epoch`` (from 1) after ``batches_done`` of this process's batches."""
        self.t = training
        self.step = step
        self.epoch = epoch
        self.batches_done = batches_done
        self.by_part = {part: training.network.parameters_of(part) for part in PARTS}
        self.trained = [p for parameters in self.by_part.values() for p in parameters if p.requires_grad]
        self._pending: list[float] = []
        self._began = time.monotonic()
        #: Why it ended early of its own accord, where a preset asks for that; "" otherwise.
        self.spike = ""

    def run(self) -> bool:
        """Train; True at the planned end, False when asked to stop or when ``spike`` says why to.

        Raises NotFiniteError when the loss or a gradient is not finite; the weights are then those of the step before.
        """
        course = self.course()
        try:
            loaded = next(course)
            while True:
                loaded = course.send(self.learn(loaded))
        except StopIteration as end:
            return bool(end.value)

    def course(self) -> Generator[Loaded, float, bool]:
        """The training as a dialogue: it gives a batch, and wants its loss once the gradients are there.

        So whoever leads it decides when and how a batch is learnt from; see :meth:`learn` and pack. Returns what :meth:`run` does.
        """
        t = self.t
        t.network.train()
        if t.samples is not None and self.step == 0:
            t.samples.after_step(0, 0)
        while self.step < t.counts.total_steps:
            t.monitor.say(f"epoch {self.epoch}/{t.counts.epochs}")
            self._began = time.monotonic()
            for loaded in self._epoch():
                self._pending.append((yield loaded))
                self.batches_done += 1
                if not self._is_update():
                    continue
                stop = self._update()
                self._between_steps()
                if stop:
                    return False
                if self.step >= t.counts.total_steps:
                    break
                self._began = time.monotonic()
            self._end_epoch()
        return True

    def _epoch(self) -> Iterator[Loaded]:
        t = self.t
        batches = process_batches(
            t.data, t.seed, self.epoch, t.counts, rank=t.accelerator.process_index, skip=self.batches_done
        )
        yield from t.loader.load(batches)

    def learn(self, loaded: Loaded) -> float:
        """Add one batch's gradients and return its loss."""
        loss = self.t.forward.loss(loaded)
        if loss.requires_grad:  # module dropout may have left every LoRA out
            self.share(loss).backward()  # type: ignore[no-untyped-call]
        return loss.item()

    def share(self, loss: Tensor) -> Tensor:
        """What a batch's loss counts for in its step; the last, shorter accumulation of an epoch is divided like the others."""
        return self.t.scale.up(loss) / self.t.counts.gradient_accumulation_steps

    def _is_update(self) -> bool:
        counts = self.t.counts
        last = self.batches_done == counts.batches_per_process
        return last or self.batches_done % counts.gradient_accumulation_steps == 0

    def _update(self) -> bool:
        """Apply the gradients and report the step; returns whether to end here (all processes agree)."""
        t = self.t
        *losses, stop = mean_over_processes(t.accelerator, [*self._pending, float(t.stop_asked())])
        self._pending.clear()
        self.step += 1
        average_gradients(t.accelerator, self.trained)
        t.scale.down(self.trained)
        norms = self._gradient_norms()
        self._refuse_nonsense(losses, norms)
        rates = [float(rate) for rate in t.scheduler.get_last_lr()]
        if t.scale.judge(finite=all(map(math.isfinite, norms.values()))):
            self._clip(norms)
            t.optimizer.step()
            for _ in range(t.counts.processes):
                t.scheduler.step()
        t.optimizer.zero_grad(set_to_none=True)
        self._report(losses, rates, norms, self._limit_norms())
        self.spike = t.spikes.add(self.step, sum(losses) / len(losses), norms)
        return stop > 0 or bool(self.spike)

    def _gradient_norms(self) -> dict[str, float]:
        """The l2 norm of each trained part's gradients, before clipping."""
        norms: dict[str, float] = {}
        for part, parameters in self.by_part.items():
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            if gradients:
                norms[part] = float(torch.nn.utils.get_total_norm(gradients))
        return norms

    def _refuse_nonsense(self, losses: Sequence[float], norms: dict[str, float]) -> None:
        overflow = not self.t.scale.enabled and not all(map(math.isfinite, norms.values()))
        if all(map(math.isfinite, losses)) and not overflow:
            return
        what = "a gradient" if overflow else "the loss"
        raise NotFiniteError(
            f"{what} became NaN or infinite at step {self.step}",
            why="nothing was saved after that; earlier checkpoints are as they were",
            todo="lower the learning rate, use bf16 or a longer warm-up, or set --no_half_vae",
        )

    def _clip(self, norms: dict[str, float]) -> None:
        """Scale all gradients alike so that their common norm is at most ``max_grad_norm`` (0 switches it off)."""
        limit = self.t.options.optim.max_grad_norm
        total = sum(norm**2 for norm in norms.values()) ** 0.5
        if limit:
            torch.nn.utils.clip_grads_with_norm_(self.trained, limit, torch.tensor(total))

    def _limit_norms(self) -> dict[str, float]:
        limit = self.t.options.network.scale_weight_norms
        if not limit:
            return {}
        report = limit_norms((module for modules in self.t.network.parts.values() for module in modules), limit)
        return {
            "max_norm/keys_scaled": float(report.scaled),
            "max_norm/max_key_norm": report.largest,
            "norm/avg_key_norm": report.mean,
        }

    def _report(
        self, losses: Sequence[float], rates: list[float], norms: dict[str, float], extras: dict[str, float]
    ) -> None:
        t = self.t
        first = self.batches_done - len(losses)
        averaged: list[tuple[float, float]] = []
        for offset, loss in enumerate(losses):
            t.average.add(first + offset, loss)
            averaged.append((loss, t.average.average))
        groups = tuple(
            (group_name(group), rate, group.get("d"))
            for group, rate in zip(t.optimizer.param_groups, rates, strict=True)
        )
        cuda = t.accelerator.device.type == "cuda"
        t.monitor.step(
            StepReport(
                step=self.step,
                epoch=self.epoch,
                losses=tuple(averaged),
                rates=effective_rates(t.optimizer, rates),
                groups=groups,
                grad_norms=norms,
                seconds=time.monotonic() - self._began,
                extras=extras,
                vram=torch.cuda.max_memory_reserved() if cuda else None,
            )
        )

    def _between_steps(self) -> None:
        t = self.t
        if t.keeper.plan.at_step(self.step):
            t.keeper.save_step(self.position(), self.epoch)
        if t.samples is not None:
            t.samples.after_step(self.step, self.epoch)
        if t.validation and _due(self.step, t.options.validation.validate_every_n_steps):
            self._validate("step", self.step)

    def _end_epoch(self) -> None:
        """What belongs to an epoch's end, also when the planned end lies within the epoch."""
        t = self.t
        done = self.epoch
        t.monitor.curve({"loss/epoch_average": t.average.average}, done)
        if t.validation and _due(done, t.options.validation.validate_every_n_epochs or 1):
            self._validate("epoch", done)
        if self.batches_done == t.counts.batches_per_process:
            self.epoch, self.batches_done = done + 1, 0
        if t.keeper.plan.at_epoch(done):
            t.keeper.save_epoch(self.position(), done)
        if t.samples is not None:
            t.samples.after_epoch(self.step, done)

    def _validate(self, kind: str, at: int) -> None:
        t = self.t
        assert t.validation_loader is not None
        loss = validation_loss(
            t.forward, t.network, t.validation_loader, t.validation, fixed_timesteps(t.options.noise)
        )
        t.monitor.record("validation", step=self.step, epoch=self.epoch, loss=loss)
        t.monitor.say(f"validation loss {loss:.4f}")
        t.monitor.curve(
            {
                f"loss/validation/{kind}_average": loss,
                f"loss/validation/{kind}_divergence": loss - t.average.average,
            },
            at,
        )

    @property
    def last_epoch(self) -> int:
        """The epoch of the last step (1 before the first)."""
        return max(1, self.epoch if self.batches_done else self.epoch - 1)

    def position(self) -> Position:
        """Where the training stands between two steps."""
        t = self.t
        whole = self.batches_done == t.counts.batches_per_process
        return Position(
            current_epoch=self.epoch + 1 if whole else self.epoch,
            current_step=self.step,
            batches_done=0 if whole else self.batches_done,
            seed=t.seed,
            batches_per_epoch=t.counts.batches_per_epoch,
            processes=t.counts.processes,
            gradient_accumulation_steps=t.counts.gradient_accumulation_steps,
            total_steps=t.counts.total_steps,
            loss_scale=t.scale.factor,
            good_updates=t.scale.good_updates,
            losses=tuple(t.average.losses),
        )


def _due(count: int, every: int | None) -> bool:
    return every is not None and every > 0 and count % every == 0
