"""One training from options to the final file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lorakit.errors import TrainerError
from lorakit.trainers.builtin.dataset import read_dataset
from lorakit.trainers.builtin.monitor import Monitor
from lorakit.trainers.builtin.options import TrainOptions
from lorakit.trainers.builtin.prompts import read_prompts
from lorakit.trainers.builtin.stopping import Stopper

if TYPE_CHECKING:
    from lorakit.trainers.builtin.loop import Loop

__all__ = ["finish", "read_small_files", "train"]


def train(options: TrainOptions, monitor: Monitor, stopper: Stopper) -> None:
    """Train and save. What is wrong with the data shows before torch is loaded."""
    read_small_files(options)
    data = read_dataset(options, monitor)
    monitor.phase("import")
    from lorakit.trainers.builtin.slim import slim_imports

    with slim_imports():
        from lorakit.trainers.builtin.setup import prepare
    loop = prepare(options, data, monitor, stopper)
    monitor.open_curves(options.tracking)
    monitor.phase("train")
    finished = loop.run()
    finish(loop, finished=finished)


def finish(loop: Loop, *, finished: bool) -> None:
    """Save what was trained and tell the end: the planned one if ``finished``."""
    monitor = loop.t.monitor
    loop.t.keeper.save_final(loop.position(), loop.last_epoch)
    loop.t.accelerator.wait_for_everyone()
    loop.t.accelerator.end_training()
    monitor.say("model saved.")
    if loop.spike and not finished:
        monitor.say(loop.spike)
    monitor.end("ok" if finished else "spike" if loop.spike else "stopped", loop.spike)


def read_small_files(options: TrainOptions) -> None:
    """Raise TrainerError for a prompt file or thumbnail that would only be missed later, at the first picture or file."""
    if options.sample.sample_prompts is not None:
        read_prompts(Path(options.sample.sample_prompts))
    thumbnail = options.metadata.metadata_thumbnail
    if thumbnail and not thumbnail.startswith("data:") and not Path(thumbnail).is_file():
        raise TrainerError(f"there is no thumbnail {thumbnail}", todo="give the path of an image, or leave it out")
