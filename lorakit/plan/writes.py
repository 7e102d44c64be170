"""What a run will write: checkpoints, states and samples, when, and how many bytes about."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from lorakit.dataset.buckets import Size
from lorakit.plan.inputs import Caching, Sampling, Saving
from lorakit.plan.network import NetworkSize
from lorakit.schedule import StepCounts

__all__ = ["Checkpoint", "SampleMoment", "cache_bytes", "checkpoints", "peak_bytes", "sample_moments"]

#: Header entry of one tensor in a safetensors file, bytes (name, dtype, shape, offsets), and the usual metadata.
_HEADER_ENTRY: Final = 140
_METADATA: Final = 8_000
#: What a saved state takes for each trained tensor beside its numbers, bytes (pickled names, steps, storages).
_STATE_ENTRY: Final = 1_000
#: What an optimizer keeps for each parameter, bytes, by the beginning of its name in lower case; 8 is Adam's two moments.
_OPTIMIZER_BYTES: Final = {"adafactor": 1, "lion": 4, "sgd": 4, "prodigy": 16, "dadapt": 16}
_ADAM_BYTES: Final = 8
#: A PNG of a generated picture, bytes per pixel, measured roughly.
_PNG_BYTES_PER_PIXEL: Final = 1.6


@dataclass(frozen=True)
class Checkpoint:
    """A file (or state folder) of the run; ``kept`` is whether it is still there at the end. ``bytes`` is an estimate."""

    name: str
    kind: str
    step: int
    epoch: int
    bytes: int
    kept: bool = True


@dataclass(frozen=True)
class SampleMoment:
    """When samples are drawn (step 0: before training), and how many images."""

    step: int
    epoch: int
    images: int


@dataclass(frozen=True)
class _Event:
    """Something written at a moment, with the number it may later be removed by."""

    checkpoint: Checkpoint
    number: int
    removes: int | None = None


def checkpoints(
    counts: StepCounts, saving: Saving, network: NetworkSize, output_name: str, optimizer_type: str = "AdamW"
) -> tuple[Checkpoint, ...]:
    """All checkpoints and states in the order they are written, those removed on the way marked as not kept."""
    if saving.n_epoch_ratio:
        saving = replace(saving, every_n_epochs=max(1, counts.epochs // saving.n_epoch_ratio))
    weights = _weights_bytes(network, saving)
    state = _state_bytes(network, optimizer_type)
    events: list[_Event] = []
    for step, epoch, kind, number in _moments(counts, saving):
        name = f"{output_name}-{epoch:06d}" if kind == "epoch" else f"{output_name}-step{step:08d}"
        file = Checkpoint(f"{name}.{saving.suffix}", kind, step, epoch, weights)
        events.append(_Event(file, number, _removed_by(number, kind, saving, of_state=False)))
        if saving.state:
            folder = Checkpoint(f"{name}-state", f"{kind} state", step, epoch, state)
            events.append(_Event(folder, number, _removed_by(number, kind, saving, of_state=True)))
    gone = {(event.checkpoint.kind, event.removes) for event in events}
    written = [_marked(event, gone) for event in events]
    last = (counts.total_steps, counts.epochs)
    written.append(Checkpoint(f"{output_name}.{saving.suffix}", "final", *last, weights))
    if saving.state or saving.state_on_train_end:
        written.append(Checkpoint(f"{output_name}-state", "final state", *last, state))
    return tuple(written)


def peak_bytes(written: tuple[Checkpoint, ...]) -> int:
    """Room that the files need: all that is kept, and the largest that is removed only after its successor is there."""
    return sum(file.bytes for file in written if file.kept) + max(
        (file.bytes for file in written if not file.kept), default=0
    )


def sample_moments(counts: StepCounts, sampling: Sampling) -> tuple[SampleMoment, ...]:
    """When samples are drawn: epochs win over steps."""
    images = len(sampling.sizes)
    if not images:
        return ()
    moments = [SampleMoment(0, 0, images)] if sampling.at_first else []
    if sampling.every_n_epochs:
        epochs = range(sampling.every_n_epochs, counts.epochs + 1, sampling.every_n_epochs)
        moments += [SampleMoment(epoch_end(counts, epoch), epoch, images) for epoch in epochs]
    elif sampling.every_n_steps:
        at = range(sampling.every_n_steps, counts.total_steps + 1, sampling.every_n_steps)
        moments += [SampleMoment(step, epoch_of(counts, step), images) for step in at]
    return tuple(moments)


def sample_bytes(moments: tuple[SampleMoment, ...], sampling: Sampling) -> int:
    """About what the sample images take."""
    return len(moments) * sum(int(width * height * _PNG_BYTES_PER_PIXEL) for width, height in sampling.sizes)


def cache_bytes(buckets: tuple[Size, ...], caching: Caching, *, flipped: bool) -> int:
    """About what is kept on disk of the images, which are given by their buckets: latents and text-encoder outputs."""
    total = 0
    if caching.latents_to_disk:  # 4 channels of float32 at an eighth of the size
        total += sum((width // 8) * (height // 8) * 16 for width, height in buckets) * (1 + flipped)
    if caching.text_encoder_outputs_to_disk:
        rows = caching.max_token_length + 2
        total += len(buckets) * 4 * (rows * (768 + 1280) + 1280)
    return total


def epoch_of(counts: StepCounts, step: int) -> int:
    """The epoch (1-based) that optimizer step ``step`` (1-based) belongs to."""
    return -(-step // counts.updates_per_epoch)


def epoch_end(counts: StepCounts, epoch: int) -> int:
    """The optimizer step after which an epoch ends."""
    return min(epoch * counts.updates_per_epoch, counts.total_steps)


def _moments(counts: StepCounts, saving: Saving) -> list[tuple[int, int, str, int]]:
    """(step, epoch, kind, number) of each periodic save, in order; at one step the step's file comes first."""
    moments = []
    if saving.every_n_steps:
        at = range(saving.every_n_steps, counts.total_steps + 1, saving.every_n_steps)
        moments += [(step, epoch_of(counts, step), "step", step) for step in at]
    if every := saving.every_n_epochs:
        epochs = range(every, counts.epochs, every)  # the last epoch's is the final file
        moments += [(epoch_end(counts, epoch), epoch, "epoch", epoch) for epoch in epochs]
    return sorted(moments, key=lambda moment: (moment[0], moment[2] == "epoch"))


def _removed_by(number: int, kind: str, saving: Saving, *, of_state: bool) -> int | None:
    """The number of the earlier save that the trainer removes after this one."""
    if kind == "epoch":
        last = (saving.last_n_epochs_state if of_state else None) or saving.last_n_epochs
        return number - (saving.every_n_epochs or 1) * last if last else None
    last = (saving.last_n_steps_state if of_state else None) or saving.last_n_steps
    every = saving.every_n_steps or 1
    # One step more than asked for is looked back, so that 10-step saves with last 30 keep four files.
    return (number - last - 1) // every * every if last else None


def _marked(event: _Event, gone: set[tuple[str, int | None]]) -> Checkpoint:
    file = event.checkpoint
    kept = (file.kind, event.number) not in gone
    return Checkpoint(file.name, file.kind, file.step, file.epoch, file.bytes, kept)


def _weights_bytes(network: NetworkSize, saving: Saving) -> int:
    data = (
        network.total_parameters + network.total_modules
    ) * saving.bytes_per_parameter  # and an alpha for each module
    return data + network.total_tensors * _HEADER_ENTRY + _METADATA


def _state_bytes(network: NetworkSize, optimizer_type: str) -> int:
    name = optimizer_type.lower().removeprefix("paged").rsplit(".", 1)[-1]
    per_parameter = next((b for start, b in _OPTIMIZER_BYTES.items() if name.startswith(start)), _ADAM_BYTES)
    if name.endswith("8bit"):
        per_parameter = max(1, per_parameter // 4)
    trained = network.total_trained * per_parameter
    return network.total_parameters * 4 + trained + 2 * network.total_modules * _STATE_ENTRY
