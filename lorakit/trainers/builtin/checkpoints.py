"""What is saved when, under which name, and which older file makes room for it. Pure arithmetic and names."""

from __future__ import annotations

from dataclasses import dataclass

from lorakit.trainers.builtin.options import SaveOptions

__all__ = ["SavePlan"]


@dataclass(frozen=True)
class SavePlan:
    """The saving of one training of ``epochs`` epochs. Steps and epochs count from 1."""

    options: SaveOptions
    epochs: int

    @property
    def every_n_epochs(self) -> int | None:
        """Epochs between two files; ``save_n_epoch_ratio`` R means about R files in all and wins."""
        ratio = self.options.save_n_epoch_ratio
        if ratio:
            return max(1, self.epochs // ratio)
        return self.options.save_every_n_epochs

    def at_step(self, step: int) -> bool:
        """Whether a file is due after ``step``."""
        every = self.options.save_every_n_steps
        return bool(every) and step % (every or 1) == 0

    def at_epoch(self, epoch: int) -> bool:
        """Whether a file is due after ``epoch``; the last epoch's is the final file."""
        every = self.every_n_epochs
        return bool(every) and epoch % (every or 1) == 0 and epoch < self.epochs

    @property
    def state_at_end(self) -> bool:
        """Whether the end of the training leaves a state."""
        return self.options.save_state or self.options.save_state_on_train_end

    def step_name(self, step: int) -> str:
        """Name, without extension, of the file of ``step``."""
        return f"{self.options.output_name or 'at'}-step{step:08d}"

    def epoch_name(self, epoch: int) -> str:
        """Name, without extension, of the file of ``epoch``."""
        return f"{self.options.output_name or 'epoch'}-{epoch:06d}"

    @property
    def final_name(self) -> str:
        """Name, without extension, of the last file."""
        return self.options.output_name or "last"

    def step_to_remove(self, step: int, *, state: bool = False) -> int | None:
        """The step whose file (or state) goes when that of ``step`` is written."""
        keep = self.options.save_last_n_steps
        if state and self.options.save_last_n_steps_state is not None:
            keep = self.options.save_last_n_steps_state
        every = self.options.save_every_n_steps
        if keep is None or not every:
            return None
        oldest = step - keep - 1
        oldest -= oldest % every
        return oldest if oldest > 0 else None

    def epoch_to_remove(self, epoch: int, *, state: bool = False) -> int | None:
        """The epoch whose file (or state) goes when that of ``epoch`` is written."""
        keep = self.options.save_last_n_epochs
        if state and self.options.save_last_n_epochs_state is not None:
            keep = self.options.save_last_n_epochs_state
        every = self.every_n_epochs
        if keep is None or not every:
            return None
        oldest = epoch - every * keep
        return oldest if oldest > 0 else None
