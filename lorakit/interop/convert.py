"""A reading as a preset: sd-scripts' arguments into the preset's keys, each with the origin of its value."""

from __future__ import annotations

import ast
import re
from argparse import Namespace
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any, Final

from pydantic import ValidationError

from lorakit.interop.imported import Imported, Note, Reading, Told, Unmapped, Value
from lorakit.interop.preset_text import preset_toml
from lorakit.preset.fields import field_flag
from lorakit.preset.layers import nest
from lorakit.preset.models import Preset
from lorakit.preset.network import ARGUMENTS
from lorakit.preset.schema import field_at, fields, is_open, model_at
from lorakit.preset.toml_lines import KeyPath, dotted
from lorakit.preset.units import UnitError, shown
from lorakit.trainers.catalogue import Catalogue
from lorakit.trainers.extra import refusal, typed_key
from lorakit.trainers.preflight import preflight
from lorakit.trainers.readback import preset_values

__all__ = ["convert"]

_SD_DEFAULT: Final = "sd-scripts' default"
#: What stands where a preset needs a value and the recipe has none.
_PLACEHOLDERS: Final[Mapping[KeyPath, tuple[Any, str]]] = {
    ("base", "model"): ("models/unknown.safetensors", "name the base model"),
    ("dataset", "path"): ("datasets/unknown", "name the folder with the N_name folders"),
    ("length", "epochs"): (1, "say how long it shall train"),
}
#: Which options make a key that does not simply carry one option's value; the first one that is told counts.
_MADE_OF: Final[Mapping[KeyPath, tuple[str, ...]]] = {
    ("name",): ("output_name",),
    ("memory", "attention"): ("mem_eff_attn", "xformers", "sdpa"),
    ("optim", "unet_lr"): ("network_train_text_encoder_only", "unet_lr", "learning_rate"),
    ("optim", "te_lr"): ("network_train_unet_only", "text_encoder_lr", "learning_rate"),
    ("precision", "full"): ("full_fp16", "full_bf16"),
    ("log", "tensorboard"): ("logging_dir",),
    ("log", "metadata"): ("no_metadata",),
    ("length", "steps"): ("max_train_steps",),
}


def convert(reading: Reading, *, name: str) -> Imported:
    """The preset that a reading comes to, with its findings; ``name`` is the run's name where the recipe has none.

    What a preset cannot hold is moved to ``unmapped`` with the reason; nothing is dropped.
    """
    work = _Work(reading)
    work.aliases()
    arguments = work.namespace()
    values = work.kept(_flat(preset_values(arguments)))
    for key, told in reading.keys.items():
        values[tuple(key.split("."))] = _value(told)
    _name(values, name)
    preset = work.settle(values)
    order = {path: at for at, (path, _) in enumerate(fields())}
    ranked = sorted(values, key=lambda path: order.get(path, order.get(path[:2], len(order))))
    table = {dotted(path): values[path] for path in ranked}
    notes = (*reading.notes, *work.notes, *_notes(reading, preset))
    work.overruled(values)
    unmapped = tuple(work.unmapped)
    return Imported(
        reading.format,
        reading.title,
        reading.era,
        table,
        unmapped,
        notes,
        reading.recipe,
        preset,
        preflight(preset, None, "sd-scripts"),
        preset_toml(preset, values, unmapped, notes, reading),
    )


def _value(told: Told) -> Value:
    return Value(told.value, told.origin, told.text, told.line, told.why)


class _Work:
    """The arguments on their way: what is renamed, refused and moved."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.told = dict(reading.arguments)
        self.unmapped = list(reading.unmapped)
        self.notes: list[Note] = []

    def drop(self, dest: str, reason: str) -> None:
        told = self.told.pop(dest)
        self.unmapped.append(Unmapped(dest, told.text or f"{dest} = {shown(told.value)}", reason, told.line))

    def aliases(self) -> None:
        """Old options by their present names; options that no preset can hold are set aside."""
        for old, optimizer in (("use_8bit_adam", "AdamW8bit"), ("use_lion_optimizer", "Lion")):
            if old in self.told:
                told = self.told.pop(old)
                if told.value and "optimizer_type" in self.told:
                    self.notes.append(
                        Note(f"{old} beside optimizer_type", "the trainer refuses the two together", "optim.type")
                    )
                elif told.value:
                    self.told["optimizer_type"] = Told(
                        optimizer, told.origin, told.text or old, told.line, f"from {old}"
                    )
        if "caption_extention" in self.told:
            self.told["caption_extension"] = self.told.pop("caption_extention")
        flags = Catalogue.load().by_dest()
        for dest in list(self.told):
            told = self.told[dest]
            if dest == "v2" and told.value:
                self.drop(dest, "SDXL is not Stable Diffusion 2")
            elif dest in {"output_dir", "logging_dir", "console_log_simple", "learning_rate"}:
                continue
            elif told.value == flags[dest].default and flags[dest].default is not None and not typed_key(dest):
                del self.told[dest]  # says no more than the trainer does anyway
            elif (reason := refusal(dest)) and told.value not in (None, False, ""):
                self.drop(dest, reason)
            elif dest in {"save_n_epoch_ratio", "log_with"} and told.value not in (None, "tensorboard"):
                self.drop(dest, f"a preset says this as {typed_key(dest)}")
        self._pairs("network_args", literal=False)
        self._pairs("optimizer_args", literal=True)
        self._resolution()

    def _pairs(self, dest: str, *, literal: bool) -> None:
        if dest not in self.told:
            return
        told, kept = self.told[dest], []
        for item in told.value:
            reason = _pair_fault(item, literal=literal)
            if reason:
                self.unmapped.append(Unmapped(dest, item, reason, told.line))
            else:
                kept.append(item)
        self.told[dest] = Told(kept, told.origin, told.text, told.line, told.why)

    def _resolution(self) -> None:
        told = self.told.get("resolution")
        if told is None:
            return
        numbers = re.findall(r"[0-9]+", str(told.value))
        if not re.fullmatch(r"\s*[0-9]{1,6}\s*(,\s*[0-9]{1,6}\s*)?", str(told.value)) or not numbers:
            self.drop("resolution", f"{shown(told.value)} is neither a size nor width,height")
        else:
            self.told["resolution"] = Told(
                ",".join(numbers if len(numbers) > 1 else numbers * 2), told.origin, told.text, told.line, told.why
            )

    def namespace(self) -> Namespace:
        """All options: the trainer's defaults with what is told over them."""
        arguments = Namespace(**{flag.dest: flag.default for flag in Catalogue.load()})
        for dest, told in self.told.items():
            setattr(arguments, dest, told.value)
        if arguments.resolution is None:
            arguments.resolution = "1024"
        if arguments.network_dim is None:
            arguments.network_dim = 4
        if arguments.save_precision is None:
            mixed = arguments.mixed_precision
            arguments.save_precision = mixed if arguments.full_fp16 or arguments.full_bf16 else "float"
        arguments.optimizer_type = arguments.optimizer_type or "AdamW"
        arguments.network_module = arguments.network_module or "networks.lora"
        arguments.max_token_length = arguments.max_token_length or 75
        if arguments.dataset_config and arguments.dataset_repeats == 1:
            self.told.pop("dataset_repeats", None)
        return arguments

    def kept(self, found: Mapping[KeyPath, Any]) -> dict[KeyPath, Value]:
        """The keys that the recipe has something to say about."""
        values: dict[KeyPath, Value] = {}
        for path, value in found.items():
            if value is None:
                continue
            told = next(
                (self.told[dest] for dest in _dests(path) if dest in self.told and _counts(path, dest, self.told)), None
            )
            if told is None and (not self.reading.runs_sd_scripts or set(_dests(path)) & self.reading.unknown):
                continue
            if told is None:
                values[path] = Value(value, "default", why=_SD_DEFAULT)
            else:
                values[path] = Value(value, told.origin, told.text, told.line, told.why)
                self._other(path, values)
        values.pop(("dataset", "resolution"), None) if "resolution" not in self.told else None
        if not self.reading.runs_sd_scripts or "logging_dir" in self.reading.unknown:
            values.pop(("log", "tensorboard"), None)
        return values

    def _other(self, path: KeyPath, values: dict[KeyPath, Value]) -> None:
        value = values[path]
        table: dict[KeyPath, str] = {("optim", "unet_lr"): "unet_lr", ("optim", "te_lr"): "text_encoder_lr"}
        own = table.get(path)
        if own and own not in self.told and "learning_rate" in self.told and value.value != 0:
            why = f"{own} is not given: learning_rate counts" + (f"; {value.why}" if value.why else "")
            origin = "derived" if value.origin == "explicit" else value.origin
            values[path] = Value(value.value, origin, value.text, value.line, why)

    def overruled(self, values: Mapping[KeyPath, Value]) -> None:
        """List learning_rate where both parts have rates of their own, and neither is that one."""
        told = self.told.get("learning_rate")
        if told is None or told.origin != "explicit":
            return
        rates = [values[path] for path in (("optim", "unet_lr"), ("optim", "te_lr")) if path in values]
        held = [one for rate in rates for one in (rate.value if isinstance(rate.value, list) else [rate.value])]
        if told.value in held or told.text in {"", *(rate.text for rate in rates)}:
            return
        self.drop("learning_rate", "unet_lr and text_encoder_lr count in its place")

    def settle(self, values: dict[KeyPath, Value]) -> Preset:
        """The preset of the values; what it refuses is moved to ``unmapped``, what it needs is put there as unknown."""
        for _ in range(len(values) + 10):
            _fill(values)
            try:
                return Preset.model_validate(nest({path: value.value for path, value in values.items()}))
            except ValidationError as error:
                for item in error.errors():
                    self._refused(item, values)
        raise AssertionError("every pass takes at least one value away")

    def _refused(self, item: Any, values: dict[KeyPath, Value]) -> None:
        where = tuple(str(part) for part in item["loc"])
        path = next((where[:n] for n in range(len(where), 0, -1) if where[:n] in values), None)
        if path is None:
            inside = [one for one in values if one[: len(where)] == where[: len(one)]]
            path = next(iter(inside), None)
        if path is None:
            return
        value = values.pop(path)
        cause = item.get("ctx", {}).get("error")
        reason = cause.why if isinstance(cause, UnitError) else item["msg"].removeprefix("Value error, ")
        text = value.text or f"{dotted(path)} = {shown(value.value)}"
        self.unmapped.append(Unmapped(dotted(path), text, reason, value.line))


def _pair_fault(item: str, *, literal: bool) -> str:
    name, equals, text = item.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", name):
        return "it is not name=value"
    if literal:
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return "the trainer reads the value as a Python literal, and this is none"
        if isinstance(value, (dict, set, bytes, complex)) or value is None:
            return "a preset holds numbers, texts, true, false and lists of them"
    return ""


def _flat(values: Mapping[str, Any], prefix: KeyPath = ()) -> dict[KeyPath, Any]:
    found: dict[KeyPath, Any] = {}
    for key, value in values.items():
        path = (*prefix, key)
        if isinstance(value, Mapping) and (len(path) == 1 or is_open(path)):
            found |= _flat(value, path)
        else:
            found[path] = value
    return found


def _dests(path: KeyPath) -> tuple[str, ...]:
    """The options that a key is made of."""
    if path in _MADE_OF:
        return _MADE_OF[path]
    if path[0] == "extra":
        return path[1:2]
    if path[:2] == ("optim", "args"):
        return ("optimizer_args",)
    if path[:2] == ("network", "args") or (path[0] == "network" and path[-1] in ARGUMENTS):
        return ("network_args",)
    if field_at(path) is None:
        return ()
    flag = field_flag(model_at(path[0] if len(path) > 1 else ""), path[-1])
    return (flag.lstrip("-"),) if flag else ()


def _counts(path: KeyPath, dest: str, told: Mapping[str, Told]) -> bool:
    """Whether an option that is told has a say in a key: a switch that is off has none beside another option."""
    return len(_dests(path)) == 1 or told[dest].value not in (False, None)


def _name(values: dict[KeyPath, Value], name: str) -> None:
    given = values.get(("name",))
    if given is None or not str(given.value).strip():
        values[("name",)] = Value(name, "derived", why="from the file's name")
    elif re.search(r"[/\\]", str(given.value)):
        last = PurePosixPath(str(given.value).replace("\\", "/")).name or name
        values[("name",)] = Value(last, "derived", given.text, given.line, "its last part: a name holds no slash")


def _fill(values: dict[KeyPath, Value]) -> None:
    """What a preset cannot do without, marked as unknown."""
    rival_of: dict[KeyPath, KeyPath] = {
        ("dataset", "path"): ("dataset", "config"),
        ("length", "epochs"): ("length", "steps"),
    }
    for path, (value, todo) in _PLACEHOLDERS.items():
        rivals = rival_of.get(path)
        if path not in values and (rivals is None or rivals not in values):
            values[path] = Value(value, "unknown", why=f"the recipe does not say: {todo}")
    for path in (("optim", "unet_lr"), ("optim", "te_lr")):
        if path not in values:
            values[path] = Value(0, "unknown", why="the recipe does not say")
    if ("name",) not in values:
        values[("name",)] = Value("imported", "derived", why="the recipe's name cannot be a run's")
    if ("length", "epochs") in values and ("length", "steps") in values:
        del values[("length", "steps")]
    if ("dataset", "config") in values:
        values.pop(("dataset", "path"), None)
        values.pop(("dataset", "reg_path"), None)


def _notes(reading: Reading, preset: Preset) -> Iterable[Note]:
    """What is easily misread, beside what the rules find."""
    told = reading.arguments
    data = preset.dataset
    if reading.sdxl is False:
        yield Note(
            "the recipe is not for SDXL",
            "it trained Stable Diffusion 1 or 2: rates and steps carry over roughly, the base model and resolution do not",
            "base.model",
        )
    if "max_token_length" in told and data.max_token_length == 225:
        yield Note(
            "max_token_length 225 is three windows of 75 tokens",
            "captions are read further; the text encoders still see 75 tokens at a time, and nothing else grows",
            "dataset.max_token_length",
        )
    if data.shuffle_caption and data.keep_tokens == 0 and not data.keep_tokens_separator:
        yield Note(
            "tags are shuffled and keep_tokens is 0",
            "a trigger word at the front of the captions does not stay there; 1 keeps it",
            "dataset.keep_tokens",
        )
    if preset.base.v_prediction and re.search(r"(?i)sd_xl_base|sdxl_base|sd-xl-base", preset.base.model):
        yield Note(
            "v-prediction is asked of SDXL's own base model",
            "that model predicts noise: trained as if it predicted velocity, the LoRA is broken",
            "base.v_prediction",
        )
    steps = told.get("max_train_steps")
    if preset.length.steps == 1600 and (steps is None or steps.origin == "default"):
        yield Note(
            "1600 steps are a default, not a choice", "the recipe names neither epochs nor steps", "length.steps"
        )
    rates = told.get("text_encoder_lr")
    if rates is not None and isinstance(rates.value, list) and len(set(rates.value)) > 1:
        yield Note(
            "two rates for the text encoders",
            "sd-scripts by itself gives both the first one; lorakit's probe gives each its own",
            "optim.te_lr",
        )
