"""LK180…: samples, checkpoints, metadata, launch."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Final

from lorakit.preset.models import Preset
from lorakit.preset.rules.rule import Table, TrainerKind

TABLE: Final = Table[TrainerKind]("Samples, checkpoints, metadata, launch")


def _samples(preset: Preset) -> bool:
    sample = preset.sample
    return sample.every_n_epochs is not None or sample.every_n_steps is not None or sample.at_first


@TABLE.error(
    "LK180", "sample.prompts", "samples are asked for, but there are no prompts",
    why="the trainer stops at the first sample, and what it has learned by then is lost",
    todo="set sample.prompts to a prompt file, or leave the other sample settings out",
)  # fmt: skip
def _samples_need_prompts(preset: Preset, _: TrainerKind) -> bool:
    return _samples(preset) and preset.sample.prompts is None


@TABLE.warning(
    "LK181", "sample.prompts", "prompts, but no word on when to draw them",
    why="without every_n_epochs or every_n_steps nothing is drawn",
    todo="set sample.every_n_epochs = 1, or leave sample.prompts out",
)  # fmt: skip
def _prompts_need_a_time(preset: Preset, _: TrainerKind) -> bool:
    return preset.sample.prompts is not None and not _samples(preset)


@TABLE.warning(
    "LK182", "sample.every_n_steps", "samples every n epochs and every n steps",
    why="the trainer then ignores the steps",
    todo="leave one of the two out",
)  # fmt: skip
def _samples_have_one_rhythm(preset: Preset, _: TrainerKind) -> bool:
    return preset.sample.every_n_epochs is not None and preset.sample.every_n_steps is not None


@TABLE.error(
    "LK183", "sample.prompts", "a prompt file of a kind that the trainer does not read",
    why="it reads .txt, .toml and .json; anything else stops it at the first sample",
    todo="rename the file to .txt, with one prompt a line",
)  # fmt: skip
def _prompts_are_readable(preset: Preset, _: TrainerKind) -> bool:
    prompts = preset.sample.prompts
    return prompts is not None and PurePath(prompts).suffix not in {".txt", ".toml", ".json"}


@TABLE.warning(
    "LK190", "save", "a limit on checkpoints that are not made",
    why="old checkpoints are removed when a new one is saved, and none is saved by this measure",
    todo="set save.every_n_epochs or save.every_n_steps to match, or leave the limit out",
)  # fmt: skip
def _limits_need_checkpoints(preset: Preset, _: TrainerKind) -> bool | str:
    save = preset.save
    idle = {
        "last_n_epochs": save.every_n_epochs is None,
        "last_n_epochs_state": save.every_n_epochs is None or not save.state,
        "last_n_steps": save.every_n_steps is None,
        "last_n_steps_state": save.every_n_steps is None or not save.state,
    }
    return ", ".join(name for name, on in idle.items() if on and getattr(save, name) is not None)


@TABLE.warning(
    "LK191", "save.state", "states are saved with checkpoints, but no checkpoints are made",
    why="only the one at the end is written, so a run that breaks leaves nothing to go on from",
    todo="set save.every_n_epochs or save.every_n_steps; or save.state_on_end in place of state",
)  # fmt: skip
def _states_need_checkpoints(preset: Preset, _: TrainerKind) -> bool:
    save = preset.save
    return save.state and save.every_n_epochs is None and save.every_n_steps is None


@TABLE.warning(
    "LK193", "save.format", "a file format without metadata",
    why="only safetensors holds what the LoRA was trained with, and only it cannot run code when it is opened",
    todo='set save.format = "safetensors"',
)  # fmt: skip
def _pickles_hold_no_metadata(preset: Preset, _: TrainerKind) -> bool:
    return preset.save.format != "safetensors"


@TABLE.warning(
    "LK194", "log.metadata", "a LoRA that does not say where it comes from",
    why="without the full metadata the comment and lorakit's run id are not in the file either",
    todo="set log.metadata = true",
)  # fmt: skip
def _metadata_names_the_run(preset: Preset, _: TrainerKind) -> bool:
    return not preset.log.metadata


@TABLE.error(
    "LK200", "launch.processes", "several processes on the CPU",
    why="sd-scripts cannot: it wraps the frozen UNet for distribution, which torch refuses",
    todo='set launch.processes = 1, or trainer.kind = "builtin"',
)  # fmt: skip
def _sd_scripts_is_alone_on_the_cpu(preset: Preset, kind: TrainerKind) -> bool:
    return kind == "sd-scripts" and bool(preset.launch.cpu) and preset.launch.processes > 1


@TABLE.warning(
    "LK201", "launch.gpu_ids", "GPUs are named, but the CPU is asked for",
    why="with launch.cpu = true no GPU is used",
    todo="leave one of the two out",
)  # fmt: skip
def _gpus_or_cpu(preset: Preset, _: TrainerKind) -> bool:
    return bool(preset.launch.cpu) and preset.launch.gpu_ids is not None


@TABLE.error(
    "LK202", "launch.gpu_ids", "gpu_ids does not name one GPU for each process",
    why="accelerate gives every process a GPU of its own from this list",
    todo='write as many numbers as launch.processes, such as "0" or "0,1"',
)  # fmt: skip
def _gpus_match_processes(preset: Preset, _: TrainerKind) -> bool | str:
    ids, processes = preset.launch.gpu_ids, preset.launch.processes
    if ids is None or preset.launch.cpu:
        return False
    named = ids.split(",")
    whole = all(re.fullmatch(r"\s*[0-9]+\s*", one) for one in named)
    return "" if whole and len(set(named)) == len(named) == processes else f'"{ids}" and {processes}'
