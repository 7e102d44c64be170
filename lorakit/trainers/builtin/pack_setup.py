"""Builds the trainings of a pack around one base model: loaded once, cached once, a network and an optimizer for each."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch.optim import Optimizer

from lorakit.dataset.scan import ScannedData
from lorakit.trainers.builtin.checkpoint import BaseModel
from lorakit.trainers.builtin.latents import LatentStore
from lorakit.trainers.builtin.lora import LoraNetwork, targets
from lorakit.trainers.builtin.options import TrainOptions
from lorakit.trainers.builtin.pack_stage import Stage
from lorakit.trainers.builtin.pack_trial import Everyone, Trial
from lorakit.trainers.builtin.recompute import Recomputation
from lorakit.trainers.builtin.setup import Builder, make_accelerator
from lorakit.trainers.builtin.state import Position
from lorakit.trainers.builtin.stopping import Stopper
from lorakit.trainers.sd_scripts.probe_spikes import Spikes

__all__ = ["assemble"]


@dataclass
class _Shared:
    """What all builders of a pack have in common."""

    size: int
    stage: Stage
    recomputation: Recomputation | None = None


@dataclass
class _Builder(Builder):
    """Builds one training of several in this process."""

    shared: _Shared = field(default_factory=lambda: _Shared(1, Stage()))
    number: int = 0

    @property
    def workers(self) -> int:
        """None for cached pictures: loading them is a look into memory; else those of one training, shared out."""
        return 0 if self.options.cache.cache_latents else super().workers // self.shared.size

    def network(self, base: BaseModel) -> LoraNetwork:
        """The LoRA, on stage instead of attached; one that cannot be made leaves nothing on the base model."""
        modules = [target.module for part in targets(base, with_convolutions=True).values() for target in part]
        before = [module.forward for module in modules]
        try:
            network = super().network(base)
        except BaseException:
            for module, forward in zip(modules, before, strict=True):
                module.forward = forward  # type: ignore[method-assign]
            raise
        self.shared.stage.admit(self.number, network)
        return network

    def recomputation(self, base: BaseModel, network: LoraNetwork) -> Recomputation | None:
        """One for all trainings: they use the same blocks, one after another or together."""
        if self.shared.recomputation is None:
            self.shared.recomputation = super().recomputation(base, network)
        elif self.options.precision.gradient_checkpointing:
            self.shared.recomputation.leave_out(network.parameters())
        return self.shared.recomputation


def assemble(
    trials: list[Trial], known: dict[int, tuple[TrainOptions, ScannedData]], stopper: Stopper, *, exact: bool
) -> Stage:
    """Give every trial its training; one that cannot be built ends alone. ``known`` has options and data by number.

    ``exact``: each does what it does alone, bit by bit; else some of it is done in a quicker way that rounds differently.

    Raises what keeps all of them from starting: a base model that cannot be loaded, an image that cannot be read.
    """
    stage = Stage()
    everyone = Everyone(trials)
    accelerator = make_accelerator(next(iter(known.values()))[0].precision)
    everyone.say(f"accelerator device: {accelerator.device}; {len(known)} trials share the base model")
    shared = _Shared(len(known), stage)
    builders: dict[int, _Builder] = {}
    positions: dict[int, Position | None] = {}
    for trial in trials:
        if not trial.over:
            with trial.alone():
                builder, position = _Builder.of(
                    *known[trial.number], trial.monitor, trial.stopper, accelerator, shared=shared, number=trial.number
                )
                builders[trial.number], positions[trial.number] = builder, position
    if not builders:
        return stage
    leader = next(iter(builders.values()))
    together = _Builder(
        leader.options, leader.data, everyone, stopper, accelerator, leader.counts, leader.seed, shared=shared
    )
    base = together.load_base()
    latents, text = _latents(together, builders, base), together.text_store(base)
    if text is None:
        together.tokenizers()
    else:
        for data in _different(builders):
            together.data = data
            together.fill_text(base, text)
    for trial in trials:
        if trial.over:
            continue
        with trial.alone():
            builder = builders[trial.number]
            builder._tokenizers = together._tokenizers
            builder.pause()
            store = latents.get(builder.seed, next(iter(latents.values()), None))
            trial.loop = builder.assemble(base, store, text, positions[trial.number])
            if not exact:
                _quicken(trial.loop.t.optimizer)
            trial.loop.t.spikes = Spikes.of(trial.member.spikes)
    keep_all = any(trial.loop is not None and trial.loop.t.samples is not None for trial in trials)
    together.release(base, keep_all=keep_all, latents=next(iter(latents.values()), None), text=text)
    return stage


def _different(builders: dict[int, _Builder]) -> list[ScannedData]:
    """The data of all, each once: trials of different seeds may hold out different pictures."""
    found: list[ScannedData] = []
    for builder in builders.values():
        if not any(builder.data is data for data in found):
            found.append(builder.data)
    return found


def _latents(together: _Builder, builders: dict[int, _Builder], base: BaseModel) -> dict[int, LatentStore]:
    """The filled caches by seed, since in memory a picture's latents are drawn with it; on disk there is one for all."""
    stores: dict[int, LatentStore] = {}
    for builder in builders.values():
        store = together.latent_store(base) if not stores or builder.seed not in stores else None
        if store is not None and not (store.to_disk and stores):
            stores[builder.seed] = store
    if stores:
        for data in _different(builders):
            together.data = data
            together.fill_latents(base, stores)
    return stores


def _quicken(optimizer: Optimizer) -> None:
    """Let torch's own optimizers update all weights in one go: for matrices as small as a LoRA's that is five times as fast."""
    if type(optimizer) in {torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD}:
        for group in optimizer.param_groups:
            group["fused"] = True
