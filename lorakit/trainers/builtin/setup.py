"""Builds a training from its options: processes, model, caches, network, optimizer, and the position to start from."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Self

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from torch.optim import Optimizer

from lorakit import schedule
from lorakit.dataset.scan import ScannedData
from lorakit.errors import DiskError, Stopped, TrainerError
from lorakit.schedule import StepCounts
from lorakit.trainers.builtin import caching, facts, metadata, state
from lorakit.trainers.builtin.attention import quicken_attention
from lorakit.trainers.builtin.batches import validation_batches
from lorakit.trainers.builtin.checkpoint import BaseModel, load_base
from lorakit.trainers.builtin.checkpoints import SavePlan
from lorakit.trainers.builtin.convolution import quicken_convolutions
from lorakit.trainers.builtin.data import BatchLoader, Examples, Sources
from lorakit.trainers.builtin.forward import Forward
from lorakit.trainers.builtin.keeper import Keeper
from lorakit.trainers.builtin.latents import LatentStore, file_identity
from lorakit.trainers.builtin.loop import Loop, Samples, Training
from lorakit.trainers.builtin.lora import LoraNetwork
from lorakit.trainers.builtin.lr_schedule import build_scheduler
from lorakit.trainers.builtin.monitor import Monitor
from lorakit.trainers.builtin.objective import NoiseSchedule, Objective
from lorakit.trainers.builtin.optim import PARTS, Weights, build_optimizer, part_rates, plan_groups
from lorakit.trainers.builtin.options import NetworkOptions, PrecisionOptions, TrainOptions
from lorakit.trainers.builtin.parallel import same_weights
from lorakit.trainers.builtin.recompute import Recomputation, checkpoint_gradients, spare_memory
from lorakit.trainers.builtin.resume import agree_on_seed, check_position, loop_at
from lorakit.trainers.builtin.rng import derive
from lorakit.trainers.builtin.scaling import LossScale
from lorakit.trainers.builtin.state import Position
from lorakit.trainers.builtin.stopping import Stopper
from lorakit.trainers.builtin.text_cache import TextStore
from lorakit.trainers.builtin.tokenizers import Tokenizers, load_tokenizers

__all__ = ["Builder", "make_accelerator", "make_network", "prepare"]

_DTYPES: Final = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def prepare(options: TrainOptions, data: ScannedData, monitor: Monitor, stopper: Stopper) -> Loop:
    """Everything up to the first step.

    Raises TrainerError, ModelFileError, DatasetError or DiskError for what cannot work, Stopped when asked to stop.
    """
    accelerator = make_accelerator(options.precision)
    monitor.say(f"accelerator device: {accelerator.device}")
    builder, position = Builder.of(options, data, monitor, stopper, accelerator)
    return builder.build(position)


@dataclass
class Builder:
    """Builds the parts of one training in order; each method makes one of them."""

    options: TrainOptions
    data: ScannedData
    monitor: Monitor
    stopper: Stopper
    accelerator: Accelerator
    counts: StepCounts
    seed: int
    _tokenizers: Tokenizers | None = None

    @classmethod
    def of(
        cls,
        options: TrainOptions,
        data: ScannedData,
        monitor: Monitor,
        stopper: Stopper,
        accelerator: Accelerator,
        **more: Any,
    ) -> tuple[Self, Position | None]:
        """The builder of a training, and the position it starts from. Raises TrainerError or DiskError for what cannot work."""
        _require_folder(Path(options.save.output_dir))
        position = None if options.length.resume is None else state.read_position(Path(options.length.resume))
        counts = schedule.steps(
            data.batches_per_epoch,
            max_train_epochs=options.length.max_train_epochs,
            max_train_steps=options.length.max_train_steps,
            gradient_accumulation_steps=options.length.gradient_accumulation_steps,
            processes=accelerator.num_processes,
        )
        if position is not None:
            check_position(position, counts, options, monitor)
        seed = agree_on_seed(options.length.seed, position, accelerator)
        return cls(options, data, monitor, stopper, accelerator, counts, seed, **more), position

    @property
    def arguments(self) -> Namespace:
        """The parsed arguments with the seed that is used."""
        return Namespace(**{**vars(self.options.arguments), "seed": self.seed})

    @property
    def workers(self) -> int:
        """Processes that load batches."""
        return min(self.options.data.max_data_loader_n_workers, _processors())

    def build(self, position: Position | None) -> Loop:
        """The whole training, at its position."""
        base = self.load_base()
        latents, text = self.fill_caches(base)
        loop = self.assemble(base, latents, text, position)
        self.release(base, keep_all=loop.t.samples is not None, latents=latents, text=text)
        return loop

    def assemble(
        self,
        base: BaseModel,
        latents: LatentStore | None,
        text: TextStore | None,
        position: Position | None,
    ) -> Loop:
        """What belongs to this training alone, around a base model and caches that may be others' too."""
        options, accelerator = self.options, self.accelerator
        network = self.network(base)
        optimizer = build_optimizer(plan_groups(_weights(network), options.optim, options.network), options.optim)
        scheduler = build_scheduler(optimizer, options.schedule, options.optim, self.counts)
        if options.length.resume is not None:
            state.load(Path(options.length.resume), network, optimizer, scheduler)
        same_weights(accelerator, list(network.parameters()))
        sources = Sources(self.data, self.seed, self.counts.total_steps, options.data.prior_loss_weight, latents, text)
        keeper = Keeper(
            SavePlan(options.save, self.counts.epochs),
            Path(options.save.output_dir),
            accelerator,
            network,
            optimizer,
            scheduler,
            self.monitor,
            self.metadata(optimizer),
        )
        samples = self.samples(base, network)
        validation = validation_batches(self.data, options.validation.max_validation_steps)
        training = Training(
            options=options,
            accelerator=accelerator,
            data=self.data,
            counts=self.counts,
            seed=self.seed,
            network=network,
            forward=self.forward(base, network, text),
            optimizer=optimizer,
            scheduler=scheduler,
            loader=BatchLoader(
                Examples(sources),
                workers=self.workers,
                persistent=options.data.persistent_data_loader_workers,
            ),
            keeper=keeper,
            monitor=self.monitor,
            scale=LossScale(enabled=options.precision.mixed_precision == "fp16"),
            stop_asked=self.stopper.asked,
            samples=samples,
            validation_loader=BatchLoader(Examples(sources), workers=0, persistent=False) if validation else None,
            validation=validation,
        )
        for line in facts.console_block(self.data, self.counts, options):
            self.monitor.say(line)
        self.monitor.start(
            total_steps=self.counts.total_steps,
            epochs=self.counts.epochs,
            batches_per_epoch=self.counts.batches_per_epoch,
            first_step=0 if position is None else position.current_step,
            modules={part: len(modules) for part, modules in network.parts.items()},
        )
        return loop_at(training, position)

    def load_base(self) -> BaseModel:
        """The base model on the device, in the working format."""
        model, precision = self.options.model, self.options.precision
        self.monitor.phase("load")
        dtype = _DTYPES[precision.mixed_precision]
        base = load_base(
            Path(model.pretrained_model_name_or_path),
            vae_path=Path(model.vae) if model.vae else None,
            unet_dtype=dtype,
            te_dtype=dtype,
            vae_dtype=torch.float32 if model.no_half_vae else dtype,
        )
        for module in (base.unet, base.te1, base.te2, base.vae):
            module.requires_grad_(requires_grad=False)
            module.to(self.accelerator.device)
        if self.accelerator.device.type == "cpu":
            quicken_attention(base)
            quicken_convolutions(base.unet)
        self.pause()
        return base

    def fill_caches(self, base: BaseModel) -> tuple[LatentStore | None, TextStore | None]:
        """The caches that the options ask for, filled."""
        latents, text = self.latent_store(base), self.text_store(base)
        if latents is not None:
            self.fill_latents(base, {self.seed: latents})
        if text is not None:
            self.fill_text(base, text)
        return latents, text

    def latent_store(self, base: BaseModel) -> LatentStore | None:
        """An empty cache of latents, if one is asked for."""
        cache = self.options.cache
        if not cache.cache_latents:
            return None
        vae = file_identity(base.path if base.vae_path is None else base.vae_path)
        return LatentStore(to_disk=cache.cache_latents_to_disk, vae_identity=f"{vae} {base.vae.dtype}")

    def fill_latents(self, base: BaseModel, stores: Mapping[int, LatentStore]) -> None:
        """Put the latents of this training's images into the store of each seed."""
        caching.cache_latents(
            stores, self.data, base, self.accelerator, monitor=self.monitor,
            chunk=self.options.cache.vae_batch_size, pause=self.pause,
        )  # fmt: skip

    def text_store(self, base: BaseModel) -> TextStore | None:
        """An empty cache of what the text encoders say, if one is asked for."""
        cache, length = self.options.cache, self.options.model.max_token_length
        if not cache.cache_text_encoder_outputs:
            return None
        return TextStore(
            to_disk=cache.cache_text_encoder_outputs_to_disk,
            first_width=base.te1.config.hidden_size,
            identity=f"{file_identity(base.path)} {base.te1.dtype} {length}",
        )

    def fill_text(self, base: BaseModel, store: TextStore) -> None:
        """Put this training's captions into a store."""
        caching.cache_text(
            store, self.data, base, self.tokenizers(), self.accelerator, monitor=self.monitor,
            max_token_length=self.options.model.max_token_length, pause=self.pause,
        )  # fmt: skip

    def network(self, base: BaseModel) -> LoraNetwork:
        """The LoRA, attached, with its start weights; parts at rate 0 are frozen."""
        options, precision = self.options.network, self.options.precision
        torch.manual_seed(derive(self.seed, "network"))
        network = make_network(base, options)
        if options.network_weights:
            report = network.load_kohya(Path(options.network_weights))
            for what, names in (("lacks", report.missing), ("has, unused,", report.unexpected)):
                if names:
                    self.monitor.warn(f"{options.network_weights} {what} {len(names)} entries, such as {names[0]}")
        dtype = _DTYPES[precision.full_precision]
        network.to(self.accelerator.device, dtype)
        rates = part_rates(self.options.optim)
        network.requires_grad_(requires_grad=False)
        for part in PARTS:
            for parameter in network.parameters_of(part):
                parameter.requires_grad_(rates[part] > 0)
        return network

    def recomputation(self, base: BaseModel, network: LoraNetwork) -> Recomputation | None:
        """Gradient checkpointing, if asked for: on the CPU, where it is the most of a step's waste, within a budget."""
        if not self.options.precision.gradient_checkpointing:
            return None
        parts = (base.unet, base.te1, base.te2)
        weights = [weight for part in parts for weight in part.parameters()]
        budget = 0
        if self.accelerator.device.type == "cpu":
            size = sum(weight.nbytes for weight in weights)
            budget = spare_memory(size, self.accelerator.num_processes)
        recomputation = Recomputation(budget, [*weights, *network.parameters()])
        checkpoint_gradients(base, recomputation, text=bool(network.parts.get("te1")))
        return recomputation

    def forward(self, base: BaseModel, network: LoraNetwork, text: TextStore | None) -> Forward:
        """How a batch goes through the model."""
        options = self.options
        noise = NoiseSchedule.sdxl(zero_terminal_snr=options.noise.zero_terminal_snr).to(self.accelerator.device)
        return Forward(
            accelerator=self.accelerator,
            base=base,
            objective=Objective(noise, options.noise, options.loss, v_prediction=options.model.v_parameterization),
            seed=self.seed,
            dtype=_DTYPES[options.precision.mixed_precision],
            tokenizers=self.tokenizers() if text is None else None,
            max_token_length=options.model.max_token_length,
            train_text=bool(network.parts.get("te1")),
            recomputation=self.recomputation(base, network),
            vae_batch_size=options.cache.vae_batch_size,
        )

    def samples(self, base: BaseModel, network: LoraNetwork) -> Samples | None:
        """The sampler of the first process, None when no pictures are asked for."""
        options = self.options.sample
        wanted = options.sample_at_first or options.sample_every_n_steps or options.sample_every_n_epochs
        if not wanted or options.sample_prompts is None:
            return None
        from lorakit.trainers.builtin.prompts import read_prompts
        from lorakit.trainers.builtin.samples import DueSamples
        from lorakit.trainers.builtin.sampling import Sampler

        prompts = read_prompts(Path(options.sample_prompts))
        if not self.accelerator.is_main_process:
            return None
        sampler = Sampler(
            base=base,
            tokenizers=self.tokenizers(),
            prompts=prompts,
            folder=Path(self.options.save.output_dir) / "sample",
            warn=self.monitor.warn,
            network=network,
            output_name=self.options.save.output_name,
            sampler=options.sample_sampler,
            v_prediction=self.options.model.v_parameterization,
            max_token_length=self.options.model.max_token_length,
            seed=self.seed,
        )
        return DueSamples(sampler, self.arguments, self.monitor)

    def metadata(self, optimizer: Optimizer) -> Callable[[int, int], dict[str, str]]:
        """Makes a file's metadata. The base model's hash is computed beside the first steps, for it reads the whole file."""
        description = _describe(optimizer, self.options.optim.optimizer_args)
        known = facts.training_facts(self.data, self.counts, self.options, description)
        if not self.accelerator.is_main_process:
            return lambda _steps, _epoch: {}
        pool = ThreadPoolExecutor(1)
        start = pool.submit(metadata.build_metadata, self.arguments, known)
        pool.shutdown(wait=False)
        return lambda steps, epoch: metadata.at_save(start.result(), self.arguments, steps=steps, epoch=epoch)

    def release(self, base: BaseModel, *, keep_all: bool, latents: LatentStore | None, text: TextStore | None) -> None:
        """Free the weights that no step will use."""
        if keep_all:
            return
        if latents is not None:
            base.vae.to("meta")
        if text is not None:
            base.te1.to(device="meta")  # type: ignore[call-arg]
            base.te2.to(device="meta")  # type: ignore[call-arg]
        if self.accelerator.device.type == "cuda":
            torch.cuda.empty_cache()

    def tokenizers(self) -> Tokenizers:
        """CLIP's tokenizers, loaded once."""
        if self._tokenizers is None:
            folder = self.options.model.tokenizer_cache_dir
            self._tokenizers = load_tokenizers(Path(folder) if folder else None)
        return self._tokenizers

    def pause(self) -> None:
        """Raise Stopped when a stop is asked for before training; several processes stop together after a step instead."""
        if self.accelerator.num_processes == 1 and self.stopper.asked():
            raise Stopped("stopped before the first step; nothing is trained, so nothing is saved")


def make_network(base: BaseModel, options: NetworkOptions) -> LoraNetwork:
    """The LoRA that the options ask for, attached; its start weights are drawn from torch's global generator."""
    return LoraNetwork.create(
        base,
        dim=options.dim,
        alpha=options.alpha,
        dropout=options.network_dropout,
        rank_dropout=options.argument("rank_dropout"),
        module_dropout=options.argument("module_dropout"),
        train_unet=not options.network_train_text_encoder_only,
        train_text_encoders=not options.network_train_unet_only,
        blocks=options.blocks,
        frozen_down=options.network_module == "networks.lora_fa",
    )


def make_accelerator(precision: PrecisionOptions) -> Accelerator:
    """The processes and devices of this launch. Raises TrainerError when they cannot do what is asked."""
    handlers = []
    if precision.ddp_timeout:
        handlers.append(InitProcessGroupKwargs(timeout=timedelta(minutes=precision.ddp_timeout)))
    # accelerate's launcher for several processes does not pass use_cpu on
    several_on_cpu = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.cuda.is_available()
    cpu = {"cpu": True} if several_on_cpu else {}
    try:
        accelerator = Accelerator(mixed_precision=precision.mixed_precision, kwargs_handlers=handlers or None, **cpu)
    except ValueError as error:
        raise TrainerError(
            f"mixed_precision {precision.mixed_precision} does not work here",
            why=str(error).splitlines()[0],
            todo='use "bf16" or "no"',
        ) from error
    return accelerator


def _require_folder(folder: Path) -> None:
    """Make the output folder, and see that it can be written, before hours are spent."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".lorakit-probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise DiskError(
            f"the output folder {folder} cannot be written",
            why=error.strerror or str(error),
            todo="choose another --output_dir, or give write permission",
        ) from error


def _weights(network: LoraNetwork) -> dict[str, list[Weights]]:
    return {
        part: [
            (module.block, {f"{index}.{name}": parameter for name, parameter in module.learning().items()})
            for index, module in enumerate(modules)
        ]
        for part, modules in network.parts.items()
    }


def _describe(optimizer: Optimizer, arguments: tuple[str, ...]) -> str:
    kind: Any = type(optimizer)
    name = f"{kind.__module__}.{kind.__qualname__}"
    return f"{name}({','.join(arguments)})" if arguments else name


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
