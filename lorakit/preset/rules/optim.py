"""LK102…: optimizer, rates and schedule."""

from __future__ import annotations

import difflib
from typing import Any, Final

from lorakit.preset.models import Optim, Preset
from lorakit.preset.rules.network import uneven_rates
from lorakit.preset.rules.rule import Table, TrainerKind
from lorakit.preset.units import Warmup, format_rate

TABLE: Final = Table[TrainerKind]("Optimizer, rates, schedule")

#: Names that the trainer knows itself, in any case.
_BUILT_IN: Final = (
    "AdamW", "AdamW8bit", "PagedAdamW", "PagedAdamW8bit", "PagedAdamW32bit", "Lion", "Lion8bit", "PagedLion8bit",
    "SGDNesterov", "SGDNesterov8bit", "DAdaptation", "DAdaptAdamPreprint", "DAdaptAdaGrad", "DAdaptAdam", "DAdaptAdan",
    "DAdaptAdanIP", "DAdaptLion", "DAdaptSGD", "Prodigy", "AdaFactor", "RAdamScheduleFree", "AdamWScheduleFree",
    "SGDScheduleFree",
)  # fmt: skip
#: Those of torch.optim that take nothing but weights and a rate; the trainer wants them spelled exactly.
_TORCH: Final = (
    "ASGD", "Adadelta", "Adagrad", "Adam", "Adamax", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD",
)  # fmt: skip
_SCHEDULES: Final = (
    "constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial", "inverse_sqrt",
    "cosine_with_min_lr", "warmup_stable_decay", "piecewise_constant",
)  # fmt: skip
#: Which schedules read which of their settings.
_READ_BY: Final = {
    "decay": ("warmup_stable_decay",),
    "cycles": ("cosine_with_restarts", "cosine_with_min_lr", "warmup_stable_decay"),
    "power": ("polynomial",),
    "timescale": ("inverse_sqrt",),
    "min_lr_ratio": ("cosine_with_min_lr", "warmup_stable_decay"),
}
#: Where polynomial ends; it cannot start there.
_POLYNOMIAL_END: Final = 1e-7


def rates(preset: Preset) -> tuple[float, ...]:
    """The rates of the parts that are trained."""
    te = preset.optim.te_lr
    return tuple(rate for rate in (te.te1, te.te2, preset.optim.unet_lr) if rate > 0)


def _is(preset: Preset, *names: str) -> bool:
    return preset.optim.type.lower() in names


def _dadaptation(preset: Preset) -> bool:
    return preset.optim.type.lower().startswith("dadapt")


def _adapts(preset: Preset) -> bool:
    return _is(preset, "prodigy") or _dadaptation(preset)


def _schedule_free(preset: Preset) -> bool:
    return preset.optim.type.lower().endswith("schedulefree")


def _relative(preset: Preset) -> bool:
    # AdaFactor's own rate is its default; warmup_init brings it back even where it was turned off.
    args = preset.optim.args
    return _is(preset, "adafactor") and (args.get("relative_step", True) is not False or bool(args.get("warmup_init")))


def _warms_up(optim: Optim) -> bool:
    return optim.warmup != Warmup(steps=0)


@TABLE.error(
    "LK102", "optim.warmup", "the schedule is constant, but there is a warmup",
    why="constant cannot warm up; the trainer stops with an error after loading the model",
    todo='set optim.schedule = "constant_with_warmup", or optim.warmup = 0',
)  # fmt: skip
def _constant_does_not_warm_up(preset: Preset, _: TrainerKind) -> bool:
    optim = preset.optim
    flat = optim.schedule in {"constant", "piecewise_constant"}
    return flat and _warms_up(optim) and not _schedule_free(preset) and not _relative(preset)


@TABLE.error(
    "LK103", "optim.type", "no optimizer of this name",
    why="the trainer knows its own names in any case, those of torch.optim in theirs, and package.Class",
    todo="use one of AdamW, AdamW8bit, Adafactor, Prodigy, Lion …, or a dotted path",
)  # fmt: skip
def _the_optimizer_exists(preset: Preset, _: TrainerKind) -> bool | str:
    name = preset.optim.type
    if "." in name or name in _TORCH or name.lower() in {known.lower() for known in _BUILT_IN}:
        return False
    lower = {known.lower(): known for known in (*_BUILT_IN, *_TORCH)}
    near = difflib.get_close_matches(name.lower(), lower, n=1)
    return f"{name}, did you mean {lower[near[0]]}?" if near else name


@TABLE.warning(
    "LK104", "optim.schedule", "a schedule-free optimizer takes no schedule",
    why="the trainer ignores schedule and warmup with it, without a word",
    todo='set optim.schedule = "constant" and optim.warmup = 0',
)  # fmt: skip
def _schedule_free_has_no_schedule(preset: Preset, _: TrainerKind) -> bool:
    optim = preset.optim
    return _schedule_free(preset) and (optim.schedule != "constant" or _warms_up(optim))


@TABLE.error(
    "LK105", "optim.args", "an equals sign inside an argument's text",
    why="the trainer splits key=value at every equals sign",
    todo="find a spelling without one",
)  # fmt: skip
def _optimizer_arguments_split_once(preset: Preset, _: TrainerKind) -> bool | str:
    return ", ".join(key for key, value in preset.optim.args.items() if _holds_equals(value))


@TABLE.error(
    "LK108", "optim.warmup", "warmup with Adafactor's own rate",
    why="with relative_step (its default) Adafactor makes its own schedule; any warmup stops the trainer",
    todo="set optim.warmup = 0, or optim.args = { relative_step = false, scale_parameter = false, warmup_init = false }",
)  # fmt: skip
def _adafactor_schedules_itself(preset: Preset, _: TrainerKind) -> bool:
    return _relative(preset) and _warms_up(preset.optim)


@TABLE.warning(
    "LK109", "optim.args", "Adafactor finds its own rate: unet_lr, te_lr and schedule do not count",
    why="relative_step is its default; the rates only say which parts are trained",
    todo="to use your rates, set optim.args = { relative_step = false, scale_parameter = false, warmup_init = false }",
)  # fmt: skip
def _adafactor_ignores_rates(preset: Preset, _: TrainerKind) -> bool:
    return _relative(preset) and not _contradicts(preset.optim.args)


@TABLE.error(
    "LK110", "optim.args", "Adafactor with relative_step = false and warmup_init = true",
    why="warmup_init is a part of relative_step, and the trainer turns that on again: your rates would be ignored",
    todo="set warmup_init = false",
)  # fmt: skip
def _warmup_init_is_relative(preset: Preset, _: TrainerKind) -> bool:
    return _is(preset, "adafactor") and _contradicts(preset.optim.args)


@TABLE.warning(
    "LK111", "optim.type", "Adafactor at a fixed rate is meant to run otherwise",
    why="with relative_step = false it clips by itself and expects a flat rate after the warmup",
    todo='set optim.schedule = "constant_with_warmup", optim.max_grad_norm = 0, and leave clip_threshold at 1.0',
)  # fmt: skip
def _adafactor_clips_by_itself(preset: Preset, _: TrainerKind) -> bool | str:
    optim = preset.optim
    if not _is(preset, "adafactor") or _relative(preset):
        return False
    unusual = {
        "max_grad_norm": optim.max_grad_norm != 0,
        "schedule": optim.schedule != "constant_with_warmup",
        "args.clip_threshold": optim.args.get("clip_threshold", 1.0) != 1.0,
    }
    return ", ".join(name for name, on in unusual.items() if on)


@TABLE.warning(
    "LK113", "optim.unet_lr", "a rate far below 1 with an optimizer that finds its own",
    why="Prodigy and D-Adaptation multiply the rate that they find by this one",
    todo="set optim.unet_lr = 1.0 and optim.te_lr = 1.0 (or 0)",
)  # fmt: skip
def _adaptive_rates_are_one(preset: Preset, _: TrainerKind) -> bool | str:
    found = rates(preset)
    return _adapts(preset) and bool(found) and found[0] <= 0.1 and f"{preset.optim.type} at {format_rate(found[0])}"


@TABLE.error(
    "LK114", "optim.te_lr", "parts at different rates with an optimizer that finds one for all",
    why="Prodigy stops at its first step, D-Adaptation tunes all parts by the first",
    todo="give unet_lr and te_lr the same value, usually 1.0, or te_lr = 0",
)  # fmt: skip
def _adaptive_rates_are_equal(preset: Preset, _: TrainerKind) -> bool:
    return _adapts(preset) and len(set(rates(preset))) > 1


@TABLE.error(
    "LK115", "network.loraplus_lr_ratio", "LoRA+ or rates per block with an optimizer that finds its own rate",
    why="these give weights other rates than the rest, and Prodigy and D-Adaptation find one for all",
    todo="leave them out, or use AdamW",
)  # fmt: skip
def _lora_plus_needs_fixed_rates(preset: Preset, _: TrainerKind) -> bool | str:
    return _adapts(preset) and ", ".join(f"network.{name}" for name in uneven_rates(preset))


@TABLE.warning(
    "LK116", "optim.type", "D-Adaptation is in no requirements file",
    why="sd-scripts names it, but does not install the package dadaptation",
    todo='install dadaptation into the environment of the trainer, or use "Prodigy", which came after it',
)  # fmt: skip
def _dadaptation_is_apart(preset: Preset, _: TrainerKind) -> bool:
    return _dadaptation(preset)


@TABLE.error(
    "LK120", "optim.schedule", "no schedule of this name",
    why="the trainer stops after loading the model",
    todo=f"use one of {', '.join(_SCHEDULES)}",
)  # fmt: skip
def _the_schedule_exists(preset: Preset, _: TrainerKind) -> bool | str:
    name = preset.optim.schedule
    if name in _SCHEDULES or name.startswith("adafactor:"):
        return False
    if name in {"reduce_lr_on_plateau", "cosine_warmup_with_min_lr"}:
        return f"{name} is a name the trainer takes, but it cannot make it"
    near = difflib.get_close_matches(name, _SCHEDULES, n=1)
    return f"{name}, did you mean {near[0]}?" if near else name


@TABLE.error(
    "LK121", "optim.schedule", "Adafactor's schedule without Adafactor",
    why='"adafactor:<rate>" asks the optimizer for its rate; the trainer stops with an assertion',
    todo='set optim.type = "Adafactor", or another schedule',
)  # fmt: skip
def _adafactor_schedule_needs_adafactor(preset: Preset, _: TrainerKind) -> bool:
    return preset.optim.schedule.startswith("adafactor:") and not _is(preset, "adafactor")


@TABLE.error(
    "LK122", "optim.min_lr_ratio", "cosine_with_min_lr without min_lr_ratio",
    why="it has to be told where to end; the trainer stops after loading the model",
    todo="set optim.min_lr_ratio, such as 0.1",
)  # fmt: skip
def _min_lr_schedule_has_a_minimum(preset: Preset, _: TrainerKind) -> bool:
    return preset.optim.schedule == "cosine_with_min_lr" and preset.optim.min_lr_ratio is None


@TABLE.error(
    "LK123", "optim.schedule", "polynomial at a rate that is not above its end",
    why="it goes down to 1e-7; the trainer stops where the rate starts there or below",
    todo="use a higher rate or another schedule",
)  # fmt: skip
def _polynomial_starts_above_its_end(preset: Preset, _: TrainerKind) -> bool:
    # The trainer compares the optimizer's own rate: the UNet's, or the text encoders' where the UNet is not trained.
    optim = preset.optim
    start = optim.unet_lr or optim.te_lr.te1
    return optim.schedule == "polynomial" and 0 < start <= _POLYNOMIAL_END


@TABLE.warning(
    "LK124", "optim.decay", "warmup_stable_decay without a decay",
    why="it then holds its rate to the end, as constant_with_warmup does",
    todo='set optim.decay, such as "20%"',
)  # fmt: skip
def _decay_is_given(preset: Preset, _: TrainerKind) -> bool:
    optim = preset.optim
    return optim.schedule == "warmup_stable_decay" and optim.decay in (None, Warmup(steps=0))


@TABLE.warning(
    "LK125", "optim.warmup", "warmup and decay are longer than the whole run",
    why="the trainer takes it, but no step is left at the full rate",
    todo="shorten optim.warmup or optim.decay, or train longer",
)  # fmt: skip
def _warmup_and_decay_fit(preset: Preset, _: TrainerKind) -> bool:
    optim, steps = preset.optim, preset.length.steps
    parts = [optim.warmup, optim.decay if optim.schedule == "warmup_stable_decay" and optim.decay else Warmup(steps=0)]
    if steps is None:
        # Steps against epochs need the dataset; the plan shows them.
        return sum(part.ratio or 0 for part in parts) > 1
    return sum(part.steps if part.steps is not None else (part.ratio or 0) * steps for part in parts) > steps


@TABLE.warning(
    "LK127", "optim.schedule", "settings of another schedule",
    why="this schedule does not read them",
    todo="leave them out, or choose the schedule that they belong to",
)  # fmt: skip
def _schedule_settings_are_read(preset: Preset, _: TrainerKind) -> bool | str:
    optim = preset.optim
    set_ = [name for name in _READ_BY if getattr(optim, name) != Optim.model_fields[name].default]
    return ", ".join(
        f"{name} is for {' and '.join(_READ_BY[name])}" for name in set_ if optim.schedule not in _READ_BY[name]
    )


@TABLE.error(
    "LK129", "optim.schedule", "piecewise_constant without its rules",
    why="it has to be told when to change the rate; the trainer stops after loading the model",
    todo="""set extra.lr_scheduler_args = ["step_rules='1:100,0.1:200,0.01'"]""",
)  # fmt: skip
def _piecewise_has_rules(preset: Preset, _: TrainerKind) -> bool:
    given = preset.extra.get("lr_scheduler_args", preset.extra.get("--lr_scheduler_args", []))
    texts = given if isinstance(given, list) else [given]
    rules = any(str(text).startswith("step_rules=") for text in texts)
    return preset.optim.schedule == "piecewise_constant" and not rules


def _contradicts(args: dict[str, Any]) -> bool:
    return args.get("relative_step", True) is False and bool(args.get("warmup_init"))


def _holds_equals(value: Any) -> bool:
    return any(map(_holds_equals, value)) if isinstance(value, list) else isinstance(value, str) and "=" in value
