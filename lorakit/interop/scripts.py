"""Training scripts in PowerShell: the legacy family, anon-1337's, and lora-scripts' train.ps1; read, never run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from lorakit.interop.command import OptionWords, read_options
from lorakit.interop.document import Document
from lorakit.interop.imported import Reading, Recipe, Told, Unmapped
from lorakit.interop.intake import Intake
from lorakit.interop.powershell import Assigned, Script, read_script
from lorakit.interop.words import split

__all__ = ["is_script", "read_powershell"]

_COMMON: Final = {
    "image_dir": "train_data_dir", "ckpt": "pretrained_model_name_or_path", "reg_dir": "reg_data_dir", "vae": "vae",
    "output_name": "output_name", "train_batch_size": "train_batch_size", "learning_rate": "learning_rate", "unet_lr": "unet_lr",
    "text_encoder_learning_rate": "text_encoder_lr", "text_encoder_lr": "text_encoder_lr", "num_epochs": "max_train_epochs",
    "max_train_epochs": "max_train_epochs", "save_every_n_epochs": "save_every_n_epochs", "resolution": "resolution",
    "network_dim": "network_dim", "network_alpha": "network_alpha", "noise_offset": "noise_offset", "clip_skip": "clip_skip",
    "optimizer": "optimizer_type", "scheduler": "lr_scheduler", "cosine_restarts": "lr_scheduler_num_cycles",
    "lr_scheduler_num_cycles": "lr_scheduler_num_cycles", "max_data_loader_n_workers": "max_data_loader_n_workers",
    "persistent_data_loader_workers": "persistent_data_loader_workers", "keep_tokens": "keep_tokens",
    "shuffle_caption": "shuffle_caption", "max_token_length": "max_token_length", "save_last_n_epochs": "save_last_n_epochs",
    "gradient_checkpointing": "gradient_checkpointing", "gradient_accumulation_steps": "gradient_accumulation_steps",
    "save_precision": "save_precision", "mixed_precision": "mixed_precision", "seed": "seed", "network_module": "network_module",
    "network_weights": "network_weights", "min_snr_gamma": "min_snr_gamma",
}  # fmt: skip
#: lora-scripts' own words.
_AKEGARASU: Final = {
    "pretrained_model": "pretrained_model_name_or_path", "train_data_dir": "train_data_dir", "reg_data_dir": "reg_data_dir",
    "batch_size": "train_batch_size", "max_train_epoches": "max_train_epochs", "lr": "learning_rate",
    "lr_warmup_steps": "lr_warmup_steps", "lr_restart_cycles": "lr_scheduler_num_cycles", "lr_scheduler": "lr_scheduler",
    "optimizer_type": "optimizer_type", "save_model_as": "save_model_as", "save_state": "save_state",
    "min_bucket_reso": "min_bucket_reso", "max_bucket_reso": "max_bucket_reso", "lowram": "lowram",
}  # fmt: skip
_WARMUP: Final = ("lr_warmup_ratio", "warmup_ratio")
_PATHS: Final = frozenset({"output", "output_dir", "sd_scripts_dir", "logging_dir", "script_paths"})
#: A value of 0 says that the option is off, as in the settings' own comments.
_OFF_AT_ZERO: Final = frozenset(
    {"noise_offset", "min_snr_gamma", "network_weights", "reg_dir", "reg_data_dir", "vae", "max_train_epochs", "gradient_checkpointing",
     "persistent_data_loader_workers", "shuffle_caption", "lowram", "save_state"}
)  # fmt: skip


@dataclass(frozen=True)
class _Family:
    name: str
    title: str
    defaults: Mapping[str, Any]
    names: Mapping[str, str] = field(default_factory=lambda: _COMMON)


_LEGACY: Final = _Family(
    "legacy-ps1", "a legacy PowerShell script",
    {"enable_bucket": True, "min_bucket_reso": 320, "max_bucket_reso": 960, "clip_skip": 2, "mixed_precision": "fp16",
     "save_precision": "fp16", "xformers": True, "cache_latents": True, "shuffle_caption": True, "keep_tokens": 1,
     "optimizer_type": "AdamW8bit", "caption_extension": ".txt", "lr_scheduler": "cosine_with_restarts", "resolution": "512",
     "max_train_epochs": 8},
)  # fmt: skip
_ANON: Final = _Family(
    "anon-1337", "a script of anon-1337/LoRA-scripts",
    {"train_batch_size": 1, "resolution": "512", "save_every_n_epochs": 1, "learning_rate": 1e-3, "lr_scheduler": "linear",
     "network_dim": 128, "network_alpha": 1.0, "shuffle_caption": True, "keep_tokens": 0, "max_data_loader_n_workers": 8,
     "save_precision": "fp16", "mixed_precision": "fp16", "enable_bucket": True, "min_bucket_reso": 256, "max_bucket_reso": 1024,
     "caption_extension": ".txt", "optimizer_type": "AdamW8bit", "xformers": True, "cache_latents": True, "max_train_epochs": 10},
)  # fmt: skip
_TRAIN_PS1: Final = _Family(
    "lora-scripts", "lora-scripts' train.ps1",
    {"network_dim": 32, "network_alpha": 32.0, "seed": 1337, "max_token_length": 225, "shuffle_caption": True,
     "mixed_precision": "fp16", "save_precision": "fp16", "clip_skip": 2, "enable_bucket": True, "caption_extension": ".txt",
     "cache_latents": True, "xformers": True},
    {**_COMMON, **_AKEGARASU},
)  # fmt: skip


def is_script(document: Document) -> bool:
    """Whether a text is a PowerShell script with settings of a LoRA training."""
    if document.kind != "text":
        return False
    named = set(re.findall(r"(?im)^\s*(?:\[\w+\]\s*)?\$(\w+)\s*=", document.text))
    found = {name.lower() for name in named}
    return len(found & ({*_COMMON, *_AKEGARASU, *_WARMUP})) >= 3


def _family(script: Script, text: str) -> _Family:
    names = set(script.variables)
    if names & {"is_random_seed", "desired_training_time", "gpu_training_speed", "script_paths", "is_sd_v2_ckpt"}:
        return _ANON
    if names & {"max_train_epoches", "lr_restart_cycles", "pretrained_model"}:
        return _TRAIN_PS1
    return _ANON if re.search(r"(?i)anon-?1337", text) else _LEGACY


def read_powershell(document: Document) -> Reading:
    """The settings at a script's top and the options of its command; code is not run, and what hangs on it is listed."""
    script = read_script(document.text)
    family = _family(script, document.text)
    intake = Intake()
    used: set[str] = set()
    for name, one in script.variables.items():
        _variable(intake, family, name, one, used)
    _inside(intake, script, used)
    literal = _command(intake, script)
    recipe = _warmup(intake, script)
    if family is _ANON:
        _anon(intake, script)
    for name, value in family.defaults.items():
        if not (name == "max_train_epochs" and {"max_train_epochs", "max_train_steps"} & intake.told.keys()):
            intake.default(name, value, f"what {family.title} does by itself")
    if family is _LEGACY and "network_alpha" not in intake.told:
        _alpha_of_before(intake)
    _no_epochs(intake)
    epochs, steps = intake.told.get("max_train_epochs"), intake.told.get("max_train_steps")
    if family is _LEGACY and epochs is not None:
        intake.note(
            "the script makes steps of epochs by its own count of files",
            "lorakit counts as the trainer does",
            "length.epochs",
        )
    return Reading(
        family.name, family.title, intake.told, unmapped=tuple(intake.unmapped), notes=tuple(intake.notes),
        recipe=Recipe(
            epochs=epochs.value if epochs else None, steps=steps.value if steps and not epochs else None,
            warmup_ratio=recipe, rounding="half-even", base="estimated",
        ),
        sdxl=True if "sdxl_train_network" in document.text else False if literal or "train_network" in document.text else None,
    )  # fmt: skip


def _variable(intake: Intake, family: _Family, name: str, one: Assigned, used: set[str]) -> None:
    option = family.names.get(name)
    if name in _WARMUP or name in _PATHS or (family is _ANON and name in _ANON_OWN):
        used.add(name)
        return
    if option is None:
        intake.unmapped.append(_left(one, "a variable of the script's own"))
    elif one.fault:
        intake.unmapped.append(_left(one, one.fault))
    elif _is_off(name, option, one):
        used.add(name)
    else:
        used.add(name)
        value = str(one.value) if option == "resolution" else one.value
        computed = re.search(r"=\s*.*[$*/+(]", one.text) is not None
        intake.take(option, value, text=one.text, line=one.line, why=f"comes to {one.value}" if computed else "")


def _is_off(name: str, option: str, one: Assigned) -> bool:
    """Whether a value says no more than leaving the option out."""
    if one.value in (None, "") or (name in _OFF_AT_ZERO and one.value in (0, "0")):
        return True
    return (option, one.value) in {("clip_skip", 1), ("max_token_length", 75)}


def _left(one: Assigned, reason: str) -> Unmapped:
    return Unmapped(one.name, one.text[:200], reason, one.line)


def _inside(intake: Intake, script: Script, used: set[str]) -> None:
    for name in sorted(script.inside & used):
        intake.note(
            f"${name} is assigned again inside code that is not run",
            "the value at the top is taken; look whether the code changes it for your case",
        )


def _command(intake: Intake, script: Script) -> bool:
    """The options of the training command whose values are plain, or variables that are known."""
    statement, line = next(
        ((text, line) for text, line in script.commands if re.search(r"(?i)train_network\.py", text)), ("", 0)
    )
    if not statement:
        return False
    known = {name: one for name, one in script.variables.items() if not one.fault}
    filled = re.sub(
        r"\$(\w+)",
        lambda match: str(known[match[1].lower()].value) if match[1].lower() in known else match[0],
        statement,
    )
    words = [word for word in split(filled, "powershell") if not word.end]
    at = next(n for n, word in enumerate(words) if re.search(r"(?i)train_network\.py", word.text)) + 1
    kept = [word for word in words[at:] if "$" not in word.text]
    for word in words[at:]:
        if "$" in word.text and not word.text.startswith(("--output_dir", "--logging_dir")):
            name = word.text.partition("=")[0]
            if name.lstrip("-") not in {"max_train_steps", "lr_warmup_steps", "save_every_n_epochs"}:
                intake.leave(name.lstrip("-"), word.text, "it is worked out by code, which is not run", line)
    read = read_options(OptionWords.of(kept), format_name="", title="")
    for option, told in read.arguments.items():
        if option not in intake.told:
            intake.told[option] = Told(told.value, told.origin, told.text, line + (told.line or 1) - 1)
    intake.unmapped += read.unmapped
    return True


def _warmup(intake: Intake, script: Script) -> float | None:
    one = next((script.variables[name] for name in _WARMUP if name in script.variables), None)
    scheduler = intake.told.get("lr_scheduler")
    if one is None or one.fault or not one.value:
        if one is not None and one.fault:
            intake.unmapped.append(_left(one, one.fault))
        return None
    try:
        ratio = min(max(float(one.value), 0.0), 1.0)
    except ValueError:
        intake.unmapped.append(_left(one, "it is no number"))
        return None
    if not 0 < ratio < 1:
        intake.unmapped.append(_left(one, "a share of the run is between 0 and 1"))
        return None
    if scheduler is not None and scheduler.value == "constant":
        intake.unmapped.append(_left(one, "the script sends no warmup with the constant schedule"))
        return None
    intake.told["lr_warmup_steps"] = Told(ratio, text=one.text, line=one.line)
    return ratio


_ANON_OWN: Final = frozenset(
    {"is_random_seed", "desired_training_time", "gpu_training_speed", "is_sd_v2_ckpt", "is_sd_v2_768_ckpt", "max_train_steps",
     "log_prefix", "debug_dataset", "test_run", "image_dir_filter"}
)  # fmt: skip


def _anon(intake: Intake, script: Script) -> None:
    """Its switches: the seed, the order of precedence of time, epochs and steps, other scripts behind it."""
    known = {name: one for name, one in script.variables.items() if not one.fault}
    seed = known.get("is_random_seed")
    if seed is not None and not seed.value:
        intake.told["seed"] = Told(1337, "derived", seed.text, seed.line, "without a random seed it takes 1337")
    elif "seed" not in intake.told:
        intake.note(
            "the seed was random and is printed nowhere in the script",
            "a LoRA that it made has it in its metadata",
            "seed",
        )
    wanted = known.get("desired_training_time")
    if wanted is not None and wanted.value and intake.told.pop("max_train_epochs", None):
        intake.unmapped.append(_left(wanted, "minutes become steps by the speed of that machine: say epochs or steps"))
    steps = known.get("max_train_steps")
    if steps is not None and steps.value and "max_train_epochs" not in intake.told:
        intake.take("max_train_steps", steps.value, text=steps.text, line=steps.line)
    for name in ("is_sd_v2_ckpt", "is_sd_v2_768_ckpt"):
        if name in known and known[name].value:
            intake.take("v2", value=True, text=known[name].text, line=known[name].line)
    chain = script.variables.get("script_paths")
    if chain is not None and (chain.value or chain.fault):
        intake.unmapped.append(_left(chain, "further scripts: import each by itself"))
    alpha = intake.told.get("network_alpha")
    dim = intake.told.get("network_dim")
    if alpha is None or (dim is not None and alpha.value == 1 and dim.value >= 64):
        intake.note(
            "alpha is 1 beside a large dim",
            "its rates look high because a weight's rate is rate × alpha / dim",
            "network.alpha",
        )


def _alpha_of_before(intake: Intake) -> None:
    dim = intake.told.get("network_dim")
    if dim is not None:
        why = "before alpha existed (January 2023) it was the dim; since then, left out, it would be 1"
        intake.told["network_alpha"] = Told(float(dim.value), "unknown", why=why)
        intake.note("alpha is not in the script", why, "network.alpha")


def _no_epochs(intake: Intake) -> None:
    """A count of steps that a script works out follows from its epochs."""
    if "max_train_epochs" in intake.told and "max_train_steps" in intake.told:
        told = intake.told.pop("max_train_steps")
        intake.leave("max_train_steps", told.value, "it follows from the epochs", told.line)
