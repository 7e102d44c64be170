"""Plans a preset: turns its tables into a PlanInput. What is derived here is what the renderer writes in the command."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lorakit.dataset.blueprint import Blueprint, DatasetDefaults, from_folders, from_toml
from lorakit.dataset.scan import scan
from lorakit.errors import DatasetError
from lorakit.plan.core import Plan, Scan, plan_from
from lorakit.plan.inputs import Caching, PlanInput, Sampling, Saving, ScheduleInput
from lorakit.plan.kinds import blocks_of, recipe_of
from lorakit.plan.naming import output_name
from lorakit.plan.network import REAL_SDXL, NetworkSize, network_size, read_base_shapes
from lorakit.plan.prompts import prompt_sizes
from lorakit.preset.blocks import BLOCKS
from lorakit.preset.kinds import kind_of, title
from lorakit.schedule import CLOSED_FORMS

if TYPE_CHECKING:
    from lorakit.dataset.scan import Progress
    from lorakit.preset.models import Preset
    from lorakit.preset.units import Warmup
    from lorakit.workspace import Workspace

__all__ = ["plan", "plan_input"]

_BYTES: Final = {"float": 4, "fp16": 2, "bf16": 2}


def plan(
    preset: Preset,
    workspace: Workspace,
    *,
    processes: int | None = None,
    skip_unreadable: bool = False,
    progress: Progress | None = None,
    scan: Scan = scan,
) -> Plan:
    """The numbers of a bake of ``preset``; ``processes`` stands in for the preset's, ``scan`` for the look at the dataset.

    Reads headers and captions, writes nothing. Raises DatasetError for data that the trainer would stop at,
    ModelFileError for a base model that is damaged, UsageError for a length or schedule that cannot be.
    """
    asked = plan_input(preset, workspace, processes=processes)
    return plan_from(
        replace(asked, skip_unreadable=asked.skip_unreadable or skip_unreadable), progress=progress, scan=scan
    )


def plan_input(preset: Preset, workspace: Workspace, *, processes: int | None = None) -> PlanInput:
    """A preset in plain values. ``[extra]`` reaches what the tables do not hold."""
    extra = {name.lstrip("-"): value for name, value in preset.extra.items()}
    warnings: list[str] = []
    count = processes or preset.launch.processes
    rates = _rates(preset)
    network = _network(preset, workspace, rates, warnings)
    groups = rates | _group_rates(preset, network)
    return PlanInput(
        blueprint=_blueprint(preset, workspace, extra),
        output_name=output_name(preset.name),
        output_dir=workspace.runs,
        rates=groups if _has_rates(preset, extra, warnings) else dict.fromkeys(groups),
        network=network,
        schedule=_schedule(preset, extra, count, warnings),
        max_train_epochs=preset.length.epochs,
        max_train_steps=preset.length.steps or 1600,
        gradient_accumulation_steps=preset.length.gradient_accumulation,
        processes=count,
        optimizer_type=preset.optim.type,
        max_validation_steps=preset.validation.max_steps,
        saving=_saving(preset, extra),
        sampling=_sampling(preset, workspace, warnings),
        caching=Caching(
            latents=preset.memory.cache_latents or preset.memory.cache_latents_to_disk,
            latents_to_disk=preset.memory.cache_latents_to_disk,
            text_encoder_outputs_to_disk=preset.memory.cache_text_encoder_outputs_to_disk,
            max_token_length=preset.dataset.max_token_length,
        ),
        skip_unreadable=preset.dataset.skip_unreadable,
        warnings=tuple(warnings),
    )


def dataset_defaults(preset: Preset) -> DatasetDefaults:
    """What the command line of ``preset`` gives to its dataset."""
    extra = {name.lstrip("-"): value for name, value in preset.extra.items()}
    asked = preset.dataset
    same = set(DatasetDefaults.__dataclass_fields__) & set(type(asked).model_fields)
    arguments: dict[str, Any] = {name: getattr(asked, name) for name in same}
    arguments |= {
        "resolution": (asked.resolution.width, asked.resolution.height),
        "enable_bucket": asked.bucket,
        "min_bucket_reso": asked.bucket_min,
        "max_bucket_reso": asked.bucket_max,
        "bucket_reso_steps": asked.bucket_step,
        "train_batch_size": preset.length.batch_size,
        "masked_loss": preset.loss.masked,
        "validation_split": preset.validation.split,
        # The run's seed where none is given: without one the trainer would validate on training images.
        "validation_seed": (preset.seed or 0) if preset.validation.seed is None else preset.validation.seed,
    }
    return DatasetDefaults.from_arguments(arguments | extra)


def _blueprint(preset: Preset, workspace: Workspace, extra: Mapping[str, Any]) -> Blueprint:
    for name in ("in_json", "dataset_class"):
        if extra.get(name):
            raise DatasetError(
                f"extra.{name} describes a dataset that cannot be planned",
                todo="use folders (dataset.path) or a dataset TOML (dataset.config)",
            )
    defaults = dataset_defaults(preset)
    asked = preset.dataset
    if asked.config:
        return from_toml(workspace.resolve(asked.config), defaults, root=workspace.root)
    assert asked.path, "the preset's models ask for path or config"
    reg = workspace.resolve(asked.reg_path) if asked.reg_path else None
    return from_folders(workspace.resolve(asked.path), reg, defaults)


def _rates(preset: Preset) -> dict[str, float | None]:
    te = preset.optim.te_lr
    asked = {"unet": preset.optim.unet_lr, "te1": te.te1, "te2": te.te2}
    return {part: rate for part, rate in asked.items() if rate}


def _group_rates(preset: Preset, size: NetworkSize) -> dict[str, float]:
    """The rates of parameter groups beside those of the parts: LoRA+'s, and those of the UNet's blocks."""
    network, kind = preset.network, kind_of(preset.network)
    groups: dict[str, float] = {}
    for part, rate in _rates(preset).items():
        if not rate or part not in size.modules:
            continue
        named = {part: rate}
        blocks = blocks_of(preset)
        if part == "unet" and blocks.rated:
            named = {f"unet_block{n}": rate * blocks.rates[n] for n in range(BLOCKS) if n in size.blocks}
            groups |= named
        own = network.loraplus_unet_lr_ratio if part == "unet" else network.loraplus_te_lr_ratio
        ratio = own or network.loraplus_lr_ratio
        if ratio and kind is not None and "loraplus_lr_ratio" in kind.reads:
            groups |= {f"{name} plus": rate * ratio for name, rate in named.items()}
    return groups


def _has_rates(preset: Preset, extra: Mapping[str, Any], warnings: list[str]) -> bool:
    """Whether the rate of a step can be told before the run."""
    if preset.optim.type.lower() == "adafactor" and preset.optim.args.get("relative_step", True):
        warnings.append("Adafactor with relative_step finds its own rates: none can be planned")
        return False
    if preset.optim.type.lower().rsplit(".", 1)[-1].startswith(("prodigy", "dadapt")):
        warnings.append(f"{preset.optim.type} multiplies the planned rates by a factor that it finds while training")
    if extra.get("lr_scheduler_type") or preset.optim.schedule not in CLOSED_FORMS:
        warnings.append(
            f"the schedule {extra.get('lr_scheduler_type') or preset.optim.schedule!r} has no formula here: "
            "rates are not planned"
        )
        return False
    return True


def _schedule(preset: Preset, extra: Mapping[str, Any], processes: int, warnings: list[str]) -> ScheduleInput:
    optim = preset.optim
    if optim.type.lower().endswith("schedulefree"):
        warnings.append(f"{optim.type} has no schedule: optim.schedule and optim.warmup change nothing")
        return ScheduleInput(name=None)
    known = optim.schedule in CLOSED_FORMS and not extra.get("lr_scheduler_type")
    return ScheduleInput(
        name=optim.schedule if known else None,
        warmup=_ticks(optim.warmup, processes),
        decay=_ticks(optim.decay, processes) if optim.decay else 0,
        num_cycles=optim.cycles,
        power=optim.power,
        timescale=optim.timescale,
        min_lr_ratio=optim.min_lr_ratio,
        base_lr=optim.unet_lr or optim.te_lr.te1,
        step_rules=_step_rules(extra.get("lr_scheduler_args")),
    )


def _ticks(length: Warmup, processes: int) -> float:
    """As the command says it: steps of the preset are optimizer steps, the trainer counts one tick per process."""
    return length.ratio if length.ratio is not None else (length.steps or 0) * processes


def _step_rules(arguments: Any) -> str:
    for argument in arguments if isinstance(arguments, list) else [arguments or ""]:
        name, _, value = str(argument).partition("=")
        if name == "step_rules":
            return value.strip("'\"")
    return ""


def _network(
    preset: Preset, workspace: Workspace, rates: Mapping[str, float | None], warnings: list[str]
) -> NetworkSize:
    base: Path = workspace.resolve(preset.base.model)
    shapes = read_base_shapes(base)
    if shapes is None:
        warnings.append(f"{base} gives no shapes to read; sizes of files are those of the full-size SDXL")
    recipe, exact = recipe_of(preset)
    if not exact:
        warnings.append(f"the size of {title(preset.network)} is an estimate")
    if preset.network.dim_from_weights:
        warnings.append("the network is built as it stands in network.weights: its size is not planned")
    exact = exact and not preset.network.dim_from_weights
    known = shapes or REAL_SDXL
    # The trials of a sweep share most networks. The shapes stand in the cache too, so that their ids stay their own.
    key = (*map(id, known.values()), *rates, preset.network.model_dump_json(), exact)
    if key not in _SIZES:
        if len(_SIZES) >= _MOST_SIZES:
            _SIZES.clear()
        _SIZES[key] = (known, network_size(known, rates, recipe, exact=exact))
    return _SIZES[key][1]


#: Networks that were counted lately, by base model and settings.
_SIZES: Final[dict[tuple[object, ...], tuple[object, NetworkSize]]] = {}
_MOST_SIZES: Final = 1024


def _saving(preset: Preset, extra: Mapping[str, Any]) -> Saving:
    save = preset.save
    return Saving(
        every_n_epochs=save.every_n_epochs,
        every_n_steps=save.every_n_steps,
        n_epoch_ratio=extra.get("save_n_epoch_ratio"),
        last_n_epochs=save.last_n_epochs,
        last_n_steps=save.last_n_steps,
        state=save.state,
        state_on_train_end=save.state_on_end,
        last_n_epochs_state=save.last_n_epochs_state,
        last_n_steps_state=save.last_n_steps_state,
        suffix=save.format,
        bytes_per_parameter=_BYTES[preset.precision.save],
    )


def _sampling(preset: Preset, workspace: Workspace, warnings: list[str]) -> Sampling:
    sample = preset.sample
    if not sample.prompts or not (sample.every_n_epochs or sample.every_n_steps or sample.at_first):
        return Sampling()
    path = workspace.resolve(sample.prompts)
    sizes = prompt_sizes(path)
    if sizes is None:
        warnings.append(f"{path} cannot be read: no samples are drawn")
    return Sampling(sample.every_n_epochs, sample.every_n_steps, sample.at_first, sizes or ())
