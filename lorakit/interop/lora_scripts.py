"""lora-scripts' TOML: sd-scripts' names, rates as text, and keys of its window that no trainer reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from lorakit.interop.command import recipe_of
from lorakit.interop.document import Document
from lorakit.interop.imported import Reading
from lorakit.interop.intake import Intake
from lorakit.preset.units import shown

__all__ = ["is_lora_scripts", "read_lora_scripts"]

_TELLING: Final = frozenset(
    {"model_train_type", "lycoris_algo", "enable_preview", "positive_prompts", "network_args_custom", "optimizer_args_custom",
     "ui_custom_params", "prodigy_d0", "prodigy_d_coef", "enable_block_weights", "lr_restart_cycles"}
)  # fmt: skip
_OWN: Final = "a key of the window; the trainer has no such option"


def _entries(data: Mapping[str, Any]) -> Iterator[tuple[str, Any, tuple[str, ...]]]:
    for key, value in data.items():
        if isinstance(value, Mapping):
            if key != "metadata":
                yield from ((name, item, (key, name)) for name, item in value.items())
        else:
            yield key, value, (key,)


def is_lora_scripts(document: Document) -> bool:
    """Whether a TOML is one of lora-scripts: sd-scripts' names beside keys of its window."""
    return document.kind == "toml" and bool(_TELLING & {name for name, _, _ in _entries(document.data)})


def read_lora_scripts(document: Document) -> Reading:
    """A file it saved, shipped or exported; sections mean nothing."""
    intake = Intake()
    raw = {name: value for name, value, _ in _entries(document.data)}
    for name, value, place in _entries(document.data):
        line = document.line(*place)
        if value in ("", None) or value is False:
            continue
        if name in {"noise_offset", "min_snr_gamma", "seed", "network_dropout"} and value in (0, "0"):
            continue
        if name == "lr_restart_cycles":
            reason = "the trainer has no such option: there was one cycle, whatever stands here"
            intake.leave(name, value, reason, line)
        elif name in _TELLING:
            intake.leave(name, value, _OWN, line)
        elif name == "max_token_length" and str(value) not in {"75", "150", "225"}:
            intake.leave(name, value, "captions are read in 1, 2 or 3 windows of 75: 225 is the most", line)
            intake.take("max_token_length", 225, text=f"{name} = {shown(value)}", line=line, why="the most there is")
        else:
            intake.take(name, value, line=line, unknown=_OWN)
    for own, name in (("network_args_custom", "network_args"), ("optimizer_args_custom", "optimizer_args")):
        custom = raw.get(own)
        if isinstance(custom, list) and custom:
            before = intake.told[name].value if name in intake.told else []
            intake.take(name, [*before, *custom], text=f"{own} = {shown(custom)}")
            intake.unmapped = [one for one in intake.unmapped if one.name != own]
    optimizer = str(intake.told["optimizer_type"].value) if "optimizer_type" in intake.told else ""
    if optimizer.lower().startswith(("dadapt", "prodigy")):
        intake.note(f"{optimizer}: the window sets every rate to 1", "whatever stands in the file", "optim.unet_lr")
        for name in ("learning_rate", "unet_lr", "text_encoder_lr"):
            if name in intake.told:
                intake.take(
                    name, 1, text=intake.told[name].text, line=intake.told[name].line, why="set to 1 for this optimizer"
                )
    for name, value in (("network_module", "networks.lora"), ("optimizer_type", "AdamW8bit")):
        intake.default(name, value, "lora-scripts' default")
    return Reading(
        "lora-scripts", "a TOML of lora-scripts", intake.told, unmapped=tuple(intake.unmapped), notes=tuple(intake.notes),
        recipe=recipe_of(intake.told), sdxl=raw.get("model_train_type") == "sdxl-lora" if "model_train_type" in raw else None,
    )  # fmt: skip
