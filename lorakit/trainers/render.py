"""A preset as the trainer's command line: pure text, with every argument that changes the result written out."""

from __future__ import annotations

import functools
import os
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from lorakit.errors import RuleError
from lorakit.plan import naming
from lorakit.preset.kinds import LYCORIS
from lorakit.preset.models import Preset, field_flag
from lorakit.preset.network import ARGUMENTS
from lorakit.preset.rules import TrainerKind
from lorakit.preset.units import Warmup, format_number, format_rate
from lorakit.trainers.catalogue import int_or_float
from lorakit.trainers.sd_scripts import tokenizers
from lorakit.workspace import Workspace

__all__ = [
    "RenderPaths",
    "TrainerKind",
    "output_name",
    "render",
    "render_options",
    "run_comment",
    "shell_line",
    "warmup_text",
]

#: A flag and its values, as they stand in the command.
Option = tuple[str, ...]


@dataclass(frozen=True)
class RenderPaths:
    """Where a run reads and writes.

    ``root`` is what relative paths of the preset count from. ``links`` maps a path to the one that is to stand in the
    command in its place: sd-scripts reads a relative symbolic link as if it stood in the current folder. ``run_id`` is
    None where a command is only shown.
    """

    root: Path
    output_dir: Path
    logging_dir: Path
    run_id: str | None = None
    tokenizer_cache: Path | None = None
    links: Mapping[Path, Path] = field(default_factory=dict)

    @classmethod
    def of(cls, workspace: Workspace, preset: Preset, run_folder: Path, run_id: str | None = None) -> RenderPaths:
        """The paths of a run in ``run_folder``: weights/, attempts/01/events/; the tokenizer cache where one is filled.

        Looks at which files are there and at symbolic links, reads nothing else.
        """
        cache = tokenizers.cache_of(workspace)
        asked = (workspace.resolve(text) for text in (preset.base.model, preset.base.vae) if text)
        return cls(
            root=workspace.root,
            output_dir=run_folder / "weights",
            logging_dir=run_folder / "attempts" / "01" / "events",
            run_id=run_id,
            tokenizer_cache=cache if tokenizers.is_complete(cache) else None,
            links={path: target for path in asked if (target := _readable(path)) != path},
        )

    def resolve(self, text: str) -> str:
        """An absolute path, as the workspace resolves it; ``..`` is left to the system, which knows the links."""
        path = Workspace(self.root).resolve(text)
        return str(self.links.get(path, path))


def _readable(path: Path) -> Path:
    return Path(os.path.realpath(path)) if path.is_symlink() and not path.readlink().is_absolute() else path


@dataclass(frozen=True)
class _Context:
    preset: Preset
    paths: RenderPaths
    kind: TrainerKind


#: Says in options what a key holds, where that is more than its own flag.
Speaker = Callable[[_Context, Any], Iterable[Option]]


def render(preset: Preset, paths: RenderPaths, *, kind: TrainerKind) -> tuple[str, ...]:
    """The arguments that stand after the script's name, in the order of the preset's tables.

    Pure: the same preset and paths give the same text. Raises RuleError for what the command line cannot say: a part
    without a rate beside one with a rate in the same pair, nothing to train, a seed that was not drawn.
    """
    return tuple(argument for option in render_options(preset, paths, kind=kind) for argument in option)


def render_options(preset: Preset, paths: RenderPaths, *, kind: TrainerKind) -> tuple[Option, ...]:
    """The same, option by option: a flag with its values, or a flag tied to its value by an equals sign."""
    _refuse_unspeakable(preset, kind)
    context = _Context(preset, paths, kind)
    options: list[Option] = []
    for name, table in preset:
        if isinstance(table, BaseModel):
            options += _table_options(context, name, table)
        elif name == "seed":
            options.append(("--seed", str(table)))
    if kind == "sd-scripts":
        options.append(("--console_log_simple",))
    options += _extra_options(preset.extra)
    return tuple(map(_arguments, options))


def _table_options(context: _Context, table_name: str, table: BaseModel) -> Iterable[Option]:
    for name, flag, special, only_with in _speakers(type(table), table_name):
        value = getattr(table, name)
        if special is not None:
            yield from special(context, value)
        elif flag is not None and value is not None and value is not False and only_with(context.preset):
            yield from _plain(flag, value)


@functools.cache  # asked for every key of every command, and a sweep has a thousand of them
def _speakers(
    table: type[BaseModel], table_name: str
) -> tuple[tuple[str, str | None, Speaker | None, Callable[[Preset], bool]], ...]:
    """The keys of a table that say something: name, flag, what says it instead, and when it is said."""
    keys = ((name, f"{table_name}.{name}", field_flag(table, name)) for name in table.model_fields)
    return tuple(
        (name, flag, _SPECIAL.get(key), _ONLY_WITH.get(key, _always))
        for name, key, flag in keys
        if flag is not None or key in _SPECIAL
    )


def _plain(flag: str, value: Any) -> Iterable[Option]:
    if value is True:
        yield (flag,)
    elif value is not None and value is not False and value != "":
        yield (flag, _text(value))


def _text(value: Any) -> str:
    return format_number(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)


def _arguments(option: Option) -> Option:
    # argparse takes a value that begins with a dash for another option, unless an equals sign ties it to its own.
    if len(option) == 2 and option[1].startswith("-"):
        return (f"{option[0]}={option[1]}",)
    return option


def _refuse_unspeakable(preset: Preset, kind: TrainerKind) -> None:
    rates = preset.optim.te_lr
    if preset.seed is None:
        raise RuleError(
            "the preset has no seed yet",
            why="a command without one would train differently every time",
            todo="set seed, or have with_seed draw one",
        )
    if preset.optim.unet_lr == 0 and rates.te1 == rates.te2 == 0:
        raise RuleError("nothing is trained: optim.unet_lr and optim.te_lr are both 0", todo="give one of them a rate")
    if 0 in (rates.te1, rates.te2) and rates.is_pair:
        raise RuleError(
            f"optim.te_lr = {rates} leaves one text encoder out",
            why="the trainer has no switch for one of the two",
            todo="give both a rate, or neither",
        )
    if rates.is_pair and kind == "sd-scripts" and not preset.trainer.probe:
        raise RuleError(
            f"optim.te_lr = {rates} is a pair",
            why="sd-scripts without the probe gives both text encoders the first rate",
            todo='trainer.probe = true, one rate for both, or trainer.kind = "builtin"',
        )


# What a field becomes where it is more than one option with the field's value.


def _path(flag: str) -> Callable[[_Context, Any], Iterable[Option]]:
    def options(context: _Context, value: str | None) -> Iterable[Option]:
        return [(flag, context.paths.resolve(value))] if value else []

    return options


def _dataset_config(context: _Context, value: str | None) -> Iterable[Option]:
    yield from _path("--dataset_config")(context, value)
    if value and not {"dataset_repeats", "--dataset_repeats"} & set(context.preset.extra):
        # What a subset of the TOML is repeated by where it does not say so itself.
        yield ("--dataset_repeats", "1")


def _tokenizer_cache(context: _Context, value: str | None) -> Iterable[Option]:
    # The built-in trainer carries its vocabulary; sd-scripts would ask the hub for it.
    ours = context.paths.tokenizer_cache if context.kind == "sd-scripts" else None
    folder = context.paths.resolve(value) if value else ours
    return [("--tokenizer_cache_dir", str(folder))] if folder else []


def _resolution(_: _Context, value: Any) -> Iterable[Option]:
    return [("--resolution", f"{value.width},{value.height}")]


def _max_token_length(_: _Context, value: int) -> Iterable[Option]:
    # 75 is what the trainer does when the option is left out, and the one value that its parser refuses.
    return [] if value == 75 else [("--max_token_length", str(value))]


def _network_args(context: _Context, args: Mapping[str, Any]) -> Iterable[Option]:
    network = context.preset.network
    values = {told: getattr(network, name) for name, told in ARGUMENTS.items()}
    if network.module == LYCORIS:
        # What it would take by itself.
        own: dict[str, Any] = {
            "algo": "lora",
            "preset": "full",
            "conv_dim": network.dim,
            "conv_alpha": network.alpha.of(network.dim),
        }
        own |= {"factor": -1} if network.algo == "lokr" else {}
        values |= {told: value for told, value in own.items() if values[told] is None}
    # A switch that is off is left out: some networks take any text at all for on.
    pairs = {told: value for told, value in values.items() if value is not None and value is not False} | dict(args)
    return [("--network_args", *(f"{told}={_text(value)}" for told, value in pairs.items()))] if pairs else []


def _optimizer_args(_: _Context, args: Mapping[str, Any]) -> Iterable[Option]:
    return [("--optimizer_args", *(f"{name}={_literal(value)}" for name, value in args.items()))] if args else []


def _literal(value: Any) -> str:
    # The trainer reads a Python literal; optimizers expect a tuple where TOML writes an array.
    if isinstance(value, list):
        items = ",".join(map(_literal, value))
        return f"({items},)" if len(value) == 1 else f"({items})"
    return repr(value)


def _unet_lr(context: _Context, rate: float) -> Iterable[Option]:
    # learning_rate stands in for whatever has no rate of its own; here everything has one, and it is never left at 2e-6.
    yield ("--learning_rate", format_rate(rate or context.preset.optim.te_lr.te1))
    yield ("--unet_lr", format_rate(rate)) if rate else ("--network_train_text_encoder_only",)


def _te_lr(_: _Context, rates: Any) -> Iterable[Option]:
    if rates.te1 == rates.te2 == 0:
        return [("--network_train_unet_only",)]
    values = (rates.te1, rates.te2) if rates.is_pair else (rates.te1,)
    return [("--text_encoder_lr", *map(format_rate, values))]


def _ticks(flag: str) -> Callable[[_Context, Any], Iterable[Option]]:
    def options(context: _Context, value: Warmup | None) -> Iterable[Option]:
        return [] if value is None else [(flag, warmup_text(value, context.preset.launch.processes))]

    return options


def warmup_text(warmup: Warmup, processes: int = 1) -> str:
    """A warmup or decay as the trainer's parser reads it.

    The trainer counts warmup steps in scheduler ticks, of which an optimizer step makes one per process; a ratio is of the
    whole run either way.
    """
    if warmup.ratio is None:
        return str((warmup.steps or 0) * processes)
    percent = str(warmup)
    return percent if int_or_float(percent) == warmup.ratio else repr(warmup.ratio)


def _network_alpha(context: _Context, alpha: Any) -> Iterable[Option]:
    return [("--network_alpha", format_number(alpha.of(context.preset.network.dim)))]


def _full_precision(context: _Context, full: bool) -> Iterable[Option]:
    # Without mixed precision there is nothing to go full with; a rule says so.
    mixed = context.preset.precision.mixed
    return [(f"--full_{mixed}",)] if full and mixed != "no" else []


_ATTENTION: Final = {"sdpa": "--sdpa", "xformers": "--xformers", "mem_eff": "--mem_eff_attn"}


def _attention(_: _Context, value: str) -> Iterable[Option]:
    return [(_ATTENTION[value],)] if value in _ATTENTION else []


def _output(context: _Context, every_n_epochs: int | None) -> Iterable[Option]:
    yield ("--output_dir", str(context.paths.output_dir))
    yield ("--output_name", output_name(context.preset))
    yield from _plain("--save_every_n_epochs", every_n_epochs)


def _validation_seed(context: _Context, seed: int | None) -> Iterable[Option]:
    # Left out, the trainer shuffles twice and trains on what it holds out.
    return (
        [("--validation_seed", str(context.preset.seed if seed is None else seed))] if _splits(context.preset) else []
    )


def _tensorboard(context: _Context, on: bool) -> Iterable[Option]:
    return [("--logging_dir", str(context.paths.logging_dir)), ("--log_with", "tensorboard")] if on else []


def _metadata(_: _Context, on: bool) -> Iterable[Option]:
    return [] if on else [("--no_metadata",)]


def _comment(context: _Context, comment: str) -> Iterable[Option]:
    return _plain("--training_comment", run_comment(comment, context.paths.run_id))


def run_comment(comment: str, run_id: str | None) -> str:
    """What stands in the metadata: the user's own words, then the run they belong to."""
    return "; ".join(part for part in (comment, run_id and f"lorakit run {run_id}") if part)


def _extra_options(extra: Mapping[str, Any]) -> Iterable[Option]:
    for name, value in extra.items():
        flag = "--" + name.lstrip("-")
        if isinstance(value, list):
            yield (flag, *map(_text, value))
        else:
            yield from _plain(flag, value)


_SPECIAL: Final[Mapping[str, Speaker]] = {
    "base.model": _path("--pretrained_model_name_or_path"),
    "base.vae": _path("--vae"),
    "base.tokenizer_cache": _tokenizer_cache,
    "dataset.path": _path("--train_data_dir"),
    "dataset.reg_path": _path("--reg_data_dir"),
    "dataset.config": _dataset_config,
    "dataset.resolution": _resolution,
    "dataset.max_token_length": _max_token_length,
    "network.alpha": _network_alpha,
    "network.args": _network_args,
    "network.weights": _path("--network_weights"),
    "optim.unet_lr": _unet_lr,
    "optim.te_lr": _te_lr,
    "optim.warmup": _ticks("--lr_warmup_steps"),
    "optim.decay": _ticks("--lr_decay_steps"),
    "optim.args": _optimizer_args,
    "precision.full": _full_precision,
    "memory.attention": _attention,
    "save.every_n_epochs": _output,
    "sample.prompts": _path("--sample_prompts"),
    "validation.seed": _validation_seed,
    "log.tensorboard": _tensorboard,
    "log.comment": _comment,
    "log.metadata": _metadata,
}


def _splits(preset: Preset) -> bool:
    return preset.validation.split > 0


def _always(_: Preset) -> bool:
    return True


#: Options that mean something only beside another one.
_ONLY_WITH: Final[Mapping[str, Callable[[Preset], bool]]] = {
    "sample.sampler": lambda preset: preset.sample.prompts is not None,
    "validation.split": _splits,
}


def output_name(preset: Preset) -> str:
    """The preset's name as a file name, see :func:`lorakit.plan.naming.output_name`."""
    return naming.output_name(preset.name)


def shell_line(argv: Iterable[str]) -> str:
    """The command as text for a POSIX shell, one option a line."""
    lines: list[list[str]] = [[]]
    for argument in argv:
        if argument.startswith("--") and lines[-1]:
            lines.append([])
        lines[-1].append(shlex.quote(argument))
    return " \\\n  ".join(" ".join(line) for line in lines)
