"""The loss on held-back images: the same noise at the same timesteps each time, so that two values can be compared."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from lorakit.trainers.builtin.batches import Batch
from lorakit.trainers.builtin.data import BatchLoader
from lorakit.trainers.builtin.forward import Forward
from lorakit.trainers.builtin.objective import NUM_TIMESTEPS
from lorakit.trainers.builtin.options import NoiseOptions
from lorakit.trainers.builtin.parallel import mean_over_processes

__all__ = ["fixed_timesteps", "validation_loss"]


def fixed_timesteps(options: NoiseOptions) -> tuple[int, ...]:
    """Four timesteps spread evenly inside the range that is trained: 200, 400, 600, 800 by default."""
    low = options.min_timestep or 0
    high = NUM_TIMESTEPS if options.max_timestep is None else options.max_timestep
    return tuple(int(value) for value in torch.linspace(low, high, 6)[1:-1].tolist())


def validation_loss(
    forward: Forward, network: nn.Module, loader: BatchLoader, batches: Sequence[Batch], timesteps: Sequence[int]
) -> float:
    """The mean loss over ``batches`` × ``timesteps``, LoRA dropouts off. The same for the same weights.

    With several processes each takes its share of the batches.
    """
    accelerator = forward.accelerator
    own = batches[accelerator.process_index :: accelerator.num_processes]
    was_training = network.training
    network.eval()
    total = 0.0
    with torch.no_grad():
        for loaded in loader.load(own):
            total += sum(float(forward.loss(loaded, timestep)) for timestep in timesteps)
    network.train(was_training)
    mean = mean_over_processes(accelerator, [total])[0]
    processes: int = accelerator.num_processes
    return mean * processes / (len(batches) * len(timesteps))
