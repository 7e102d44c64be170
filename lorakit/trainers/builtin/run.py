"""One training from options to the final file."""

from __future__ import annotations

from lorakit.trainers.builtin.dataset import read_dataset
from lorakit.trainers.builtin.monitor import Monitor
from lorakit.trainers.builtin.options import TrainOptions
from lorakit.trainers.builtin.stopping import Stopper

__all__ = ["train"]


def train(options: TrainOptions, monitor: Monitor, stopper: Stopper) -> None:
    """Train and save. What is wrong with the data shows before torch is loaded."""
    data = read_dataset(options, monitor)
    monitor.phase("import")
    from lorakit.trainers.builtin.slim import slim_imports

    with slim_imports():
        from lorakit.trainers.builtin.setup import prepare
    loop = prepare(options, data, monitor, stopper)
    monitor.open_curves(options.tracking)
    monitor.phase("train")
    finished = loop.run()
    loop.t.keeper.save_final(loop.position(), loop.last_epoch)
    loop.t.accelerator.wait_for_everyone()
    loop.t.accelerator.end_training()
    monitor.say("model saved.")
    monitor.end("ok" if finished else "stopped")
