"""LK002…: the base model, precision and memory."""

from __future__ import annotations

from typing import Final

from lorakit.preset.models import Preset
from lorakit.preset.rules.rule import Table, TrainerKind

TABLE: Final = Table[TrainerKind]("Base model, precision, memory")


@TABLE.warning(
    "LK002", "base.clip_skip", "clip_skip changes nothing but the metadata",
    why="SDXL training reads the same two hidden layers of its text encoders whatever clip_skip says",
    todo="leave base.clip_skip out",
)  # fmt: skip
def _clip_skip_is_inert(preset: Preset, _: TrainerKind) -> bool:
    return preset.base.clip_skip is not None


@TABLE.error(
    "LK003", "precision.full", "precision.full without a 16-bit precision.mixed",
    why='with mixed = "no" there is no 16-bit format for the LoRA to be in',
    todo='set precision.mixed = "bf16", or precision.full = false',
)  # fmt: skip
def _full_needs_a_16_bit_format(preset: Preset, _: TrainerKind) -> bool:
    return preset.precision.full and preset.precision.mixed == "no"


@TABLE.error(
    "LK004", "precision.mixed", "8-bit weights without a 16-bit precision.mixed",
    why="weights in 8 bits are computed with in fp16 or bf16",
    todo='set precision.mixed = "bf16", or turn fp8_base and fp8_base_unet off',
)  # fmt: skip
def _fp8_needs_mixed_precision(preset: Preset, _: TrainerKind) -> bool:
    return _fp8(preset) and preset.precision.mixed == "no"


@TABLE.error(
    "LK005", "precision.mixed", "fp16 on the CPU",
    why="the first forward pass fails: operations of the model do not exist in fp16 there",
    todo='set precision.mixed = "bf16" or "no"',
)  # fmt: skip
def _no_fp16_on_the_cpu(preset: Preset, _: TrainerKind) -> bool:
    return bool(preset.launch.cpu) and preset.precision.mixed == "fp16"


@TABLE.error(
    "LK006", "precision.fp8_base", "8-bit weights on the CPU",
    why="the first forward pass fails: there is no 8-bit matrix product there",
    todo="turn fp8_base and fp8_base_unet off",
)  # fmt: skip
def _no_fp8_on_the_cpu(preset: Preset, _: TrainerKind) -> bool:
    return bool(preset.launch.cpu) and _fp8(preset)


@TABLE.warning(
    "LK007", "precision.no_half_vae", "SDXL's own VAE in fp16",
    why="its activations overflow there, and the pictures become NaN or black",
    todo='set precision.no_half_vae = true, use precision.mixed = "bf16", or give a repaired VAE as base.vae',
)  # fmt: skip
def _the_vae_overflows_in_fp16(preset: Preset, _: TrainerKind) -> bool:
    return preset.precision.mixed == "fp16" and not preset.precision.no_half_vae and preset.base.vae is None


@TABLE.warning(
    "LK008", "precision.full", "the LoRA itself in bf16",
    why="bf16 keeps 8 bits of a number, so small updates round away; there is no stochastic rounding against it",
    todo="leave precision.full off; a LoRA and its gradients are small",
)  # fmt: skip
def _bf16_weights_lose_small_updates(preset: Preset, _: TrainerKind) -> bool:
    return preset.precision.full and preset.precision.mixed == "bf16"


@TABLE.error(
    "LK022", "memory.cpu_offload_checkpointing", "checkpoints offloaded to main memory",
    why="sd-scripts cannot do it for SDXL: it stops with a TypeError after loading the model",
    todo="set memory.cpu_offload_checkpointing = false; gradient_checkpointing alone works",
)  # fmt: skip
def _offloaded_checkpoints_fail(preset: Preset, kind: TrainerKind) -> bool:
    memory = preset.memory
    return kind == "sd-scripts" and memory.cpu_offload_checkpointing and memory.gradient_checkpointing


@TABLE.warning(
    "LK023", "memory.cpu_offload_checkpointing", "cpu_offload_checkpointing without gradient_checkpointing",
    why="it says where checkpoints are kept, and none are made",
    todo="set memory.cpu_offload_checkpointing = false",
)  # fmt: skip
def _offload_needs_checkpointing(preset: Preset, _: TrainerKind) -> bool:
    return preset.memory.cpu_offload_checkpointing and not preset.memory.gradient_checkpointing


@TABLE.warning(
    "LK024", "memory.cache_latents_to_disk", "cache_latents_to_disk turns cache_latents on",
    why="latents on disk are cached latents, whatever memory.cache_latents says",
    todo="set memory.cache_latents = true too, or turn both off",
)  # fmt: skip
def _latents_on_disk_are_cached(preset: Preset, _: TrainerKind) -> bool:
    return preset.memory.cache_latents_to_disk and not preset.memory.cache_latents


@TABLE.warning(
    "LK025", "memory.cache_text_encoder_outputs_to_disk",
    "cache_text_encoder_outputs_to_disk turns cache_text_encoder_outputs on",
    why="outputs on disk are cached outputs, whatever memory.cache_text_encoder_outputs says",
    todo="set memory.cache_text_encoder_outputs = true too, or turn both off",
)  # fmt: skip
def _outputs_on_disk_are_cached(preset: Preset, _: TrainerKind) -> bool:
    memory = preset.memory
    return memory.cache_text_encoder_outputs_to_disk and not memory.cache_text_encoder_outputs


def _fp8(preset: Preset) -> bool:
    return preset.precision.fp8_base or preset.precision.fp8_base_unet
