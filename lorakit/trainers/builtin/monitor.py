"""What a training tells the world: printed lines, the run protocol, TensorBoard curves. Only the first process talks."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

from lorakit import protocol
from lorakit.trainers.builtin.options import TrackingOptions

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["Monitor", "StepReport", "memory", "rate_tags"]

#: Seconds between two printed progress lines.
_PRINT_EVERY: Final = 10.0


@dataclass(frozen=True)
class StepReport:
    """One optimizer step. ``losses`` are those of its batches, each with the running average after it."""

    step: int
    epoch: int
    losses: tuple[tuple[float, float], ...]
    rates: Mapping[str, float]
    groups: tuple[tuple[str, float, float | None], ...]
    grad_norms: Mapping[str, float]
    seconds: float
    extras: Mapping[str, float]
    vram: int | None = None

    @property
    def loss(self) -> float:
        """The mean loss of the step's batches."""
        return sum(loss for loss, _ in self.losses) / len(self.losses)


class Monitor:
    """Prints, writes protocol records and curves. A silent one (other processes) does nothing."""

    def __init__(
        self, *, talks: bool = True, progress: protocol.Writer | None = None, output: TextIO | None = None
    ) -> None:
        """Lines go to ``output``, records to ``progress``; to standard output and where the environment says if not given."""
        self.talks = talks
        self._output = output
        self._protocol = progress or (protocol.Writer.from_env() if talks else protocol.Writer(None))
        self._curves: SummaryWriter | None = None
        self._printed = 0.0
        self._total = 0
        self.last_step = 0

    def open_curves(self, tracking: TrackingOptions) -> None:
        """Start TensorBoard's file where the trainer puts it: DIR/PREFIX+time/TRACKER."""
        if not self.talks or not tracking.logging_dir:
            return
        from torch.utils.tensorboard import SummaryWriter

        stamp = time.strftime("%Y%m%d%H%M%S")
        folder = Path(tracking.logging_dir) / f"{tracking.log_prefix or ''}{stamp}"
        self._curves = SummaryWriter(str(folder / (tracking.log_tracker_name or "network_train")))

    def say(self, text: str) -> None:
        """Print a line at once, whatever buffering the output has."""
        if self.talks:
            print(text, flush=True, file=self._output)

    def record(self, type: str, **values: Any) -> None:
        """Append a protocol record."""
        self._protocol.write(type, **values)

    def warn(self, message: str) -> None:
        """Say something that deserves a look."""
        self.say(f"warning: {message}")
        self.record("warn", message=message)

    def phase(self, name: str, done: int = 0, total: int = 0) -> None:
        """Tell how far a phase is."""
        self.record("phase", name=name, done=done, total=total)
        now = time.monotonic()
        if done in (0, total) or now - self._printed > _PRINT_EVERY:
            self._printed = now
            self.say(f"{name.replace('_', ' ')}" + (f": {done}/{total}" if total else ""))

    def start(self, *, total_steps: int, **values: Any) -> None:
        """Tell what is about to happen."""
        self._total = total_steps
        self.record("start", total_steps=total_steps, trainer="builtin", **values)

    def step(self, report: StepReport) -> None:
        """Tell about one step."""
        self.last_step = report.step
        self.record(
            "step",
            step=report.step,
            epoch=report.epoch,
            loss=report.loss,
            lr=dict(report.rates),
            grad_norm=dict(report.grad_norms),
            seconds=round(report.seconds, 4),
            rss=memory(),
            vram=report.vram,
        )
        self._curve_step(report)
        now = time.monotonic()
        if report.step in (1, self._total) or now - self._printed > _PRINT_EVERY:
            self._printed = now
            average = report.losses[-1][1]
            self.say(
                f"step {report.step}/{self._total} loss {report.loss:.4f} avr_loss {average:.4f} {report.seconds:.2f} s"
            )

    def _curve_step(self, report: StepReport) -> None:
        if self._curves is None:
            return
        last = len(report.losses) - 1
        for index, (loss, average) in enumerate(report.losses):
            # Batches before the update still belong to the step before, as in the trainer's curves.
            at = report.step if index == last else report.step - 1
            self.curve({"loss/current": loss, "loss/average": average}, at)
        self.curve({f"grad_norm/{part}": value for part, value in report.grad_norms.items()}, report.step)
        self.curve(rate_tags(report.groups), report.step)
        self.curve(report.extras, report.step)

    def curve(self, values: Mapping[str, float], step: int) -> None:
        """Add one point to each curve."""
        if self._curves is not None:
            for tag, value in values.items():
                self._curves.add_scalar(tag, value, step)

    def end(self, reason: str, message: str = "", steps: int | None = None) -> None:
        """Tell how it ended and let go of the files."""
        self.record("end", reason=reason, steps=self.last_step if steps is None else steps, message=message)
        self.close()

    def close(self) -> None:
        """Let go of the files."""
        if self._curves is not None:
            self._curves.close()
            self._curves = None
        self._protocol.close()


def rate_tags(groups: tuple[tuple[str, float, float | None], ...]) -> dict[str, float]:
    """The curves of (part, rate, d) groups: lr/te1, lr/te2, lr/unet, and the trainer's own tags.

    Those are lr/textencoder, lr/unet, lr/group{i}, and with an adapted d also lr/d*lr/…. The trainer counts both text
    encoders as one group, so TE2 is left out of them. A training without text encoders has no lr/textencoder (the
    trainer would put the U-Net's rate there).
    """
    tags: dict[str, float] = {}
    for name, rate, d in groups:
        tags[f"lr/{name}"] = rate
        if d is not None:
            tags[f"lr/d*lr/{name}"] = d * rate
    kept = [(name.replace("te1", "textencoder"), rate, d) for name, rate, d in groups if not name.startswith("te2")]
    first = 0 if all(name.startswith("unet") for name, _, _ in kept) else 1
    for index, (name, rate, d) in enumerate(kept):
        tags[f"lr/{name}"] = rate
        if index >= first:
            tags[f"lr/group{index}"] = rate
        if d is not None:
            tags[f"lr/d*lr/{name}"] = d * rate
            if index >= first:
                tags[f"lr/d*lr/group{index}"] = d * rate
    return tags


def memory() -> int:
    """Bytes of memory that this process holds now (without /proc: held at most; on Windows 0)."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        try:
            import resource
        except ImportError:  # Windows has neither
            return 0
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
