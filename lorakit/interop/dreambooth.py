"""sd_dreambooth_extension's db_config.json: another trainer altogether, whose recipe carries over only in part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from lorakit.interop.document import Document
from lorakit.interop.imported import Reading, Recipe
from lorakit.interop.intake import Intake
from lorakit.preset.units import shown

__all__ = ["is_dreambooth", "read_dreambooth"]

_NAMES: Final = {
    "model_name": "output_name", "src": "pretrained_model_name_or_path", "lora_unet_rank": "network_dim",
    "lora_learning_rate": "unet_lr", "lora_txt_learning_rate": "text_encoder_lr", "lr_scheduler": "lr_scheduler",
    "lr_cycles": "lr_scheduler_num_cycles", "lr_power": "lr_scheduler_power", "num_train_epochs": "max_train_epochs",
    "train_batch_size": "train_batch_size", "gradient_accumulation_steps": "gradient_accumulation_steps",
    "gradient_checkpointing": "gradient_checkpointing", "clip_skip": "clip_skip", "max_token_length": "max_token_length",
    "prior_loss_weight": "prior_loss_weight", "offset_noise": "noise_offset", "min_snr_gamma": "min_snr_gamma",
    "mixed_precision": "mixed_precision", "cache_latents": "cache_latents", "shuffle_tags": "shuffle_caption",
}  # fmt: skip
_OPTIMIZERS: Final = {"8bit adamw": "AdamW8bit", "torch adamw": "AdamW", "lion": "Lion", "prodigy": "Prodigy"}
_NOT_FOR_LORA: Final = frozenset({"learning_rate", "txt_learning_rate"})
_READ: Final = frozenset(
    {
        "lr_warmup_steps",
        "resolution",
        "optimizer",
        "concepts_list",
        "use_lora",
        "model_dir",
        "pretrained_model_name_or_path",
    }
)


def is_dreambooth(document: Document) -> bool:
    """Whether a JSON is the extension's configuration."""
    names = {
        "lora_unet_rank",
        "lora_txt_rank",
        "lora_learning_rate",
        "concepts_list",
        "num_train_epochs",
        "stop_text_encoder",
    }
    return document.kind == "json" and len(names & document.data.keys()) >= 2


def read_dreambooth(document: Document) -> Reading:
    """Rank is dim and alpha at once, the warmup is in steps, and there are no repeats."""
    data: dict[str, Any] = {
        key: value[0] if isinstance(value, list) and len(value) == 1 and key != "concepts_list" else value
        for key, value in document.data.items()
    }
    intake = Intake()
    for key, name in _NAMES.items():
        value = data.get(key)
        empty = value in (None, "") or value is False or (key in {"offset_noise", "min_snr_gamma"} and not value)
        if empty or [key, value] in [["clip_skip", 1], ["max_token_length", 75]]:
            continue
        intake.take(name, value, text=f"{key} = {shown(value)}", line=document.line(key))
    dim = intake.told.get("network_dim")
    if dim is not None:
        intake.take(
            "network_alpha", dim.value, text=dim.text, line=dim.line, origin="derived", why="it knows no alpha: scale 1"
        )
    warmup = data.get("lr_warmup_steps")
    if warmup:
        intake.take(
            "lr_warmup_steps", warmup, text=f"lr_warmup_steps = {shown(warmup)}", line=document.line("lr_warmup_steps")
        )
    if data.get("resolution"):
        intake.take(
            "resolution",
            str(data["resolution"]),
            text=f"resolution = {data['resolution']}",
            line=document.line("resolution"),
        )
    optimizer = str(data.get("optimizer", "8bit AdamW"))
    if optimizer.lower() in _OPTIMIZERS:
        intake.take(
            "optimizer_type",
            _OPTIMIZERS[optimizer.lower()],
            text=f"optimizer = {shown(optimizer)}",
            line=document.line("optimizer"),
        )
    else:
        intake.leave("optimizer", optimizer, "its own spelling of an optimizer: name it yourself")
    for key, value in (
        ("unet_lr", 1e-4),
        ("text_encoder_lr", 5e-5),
        ("lr_scheduler", "constant_with_warmup"),
        ("max_train_epochs", 100),
    ):
        intake.default(key, value, "the extension's default")
    _rest(data, intake, document)
    _concepts(data, intake, document)
    intake.leave_rest(
        {key: value for key, value in data.items() if key != "use_lora"},
        lambda _: "it counts for nothing beside the other settings",
        document.line,
    )
    epochs = intake.told["max_train_epochs"].value if "max_train_epochs" in intake.told else None
    told = intake.told.get("lr_warmup_steps")
    return Reading(
        "dreambooth", "sd_dreambooth_extension", intake.told, unmapped=tuple(intake.unmapped), notes=tuple(intake.notes),
        recipe=Recipe(epochs=epochs, warmup_steps=told.value if told and isinstance(told.value, int) else None),
        runs_sd_scripts=False, sdxl=None,
    )  # fmt: skip


def _rest(data: Mapping[str, Any], intake: Intake, document: Document) -> None:
    for key in data:
        line = document.line(key)
        if key in _NOT_FOR_LORA:
            intake.leave(key, data[key], "it counts only where no LoRA is trained", line)
        elif key not in _READ and key not in _NAMES and data[key] not in (None, "", False, 0, [], {}):
            intake.leave(key, data[key], "sd-scripts has nothing like it, or a preset does not need it", line)
    if data.get("use_lora") is False:
        intake.note("use_lora is false", "this configuration trained the whole model, not a LoRA")
    ranks = (data.get("lora_unet_rank"), data.get("lora_txt_rank"))
    if None not in ranks and ranks[0] != ranks[1]:
        intake.note(f"two ranks, {ranks[0]} and {ranks[1]}", "a LoRA here has one: that of the UNet", "network.dim")
    stop = data.get("stop_text_encoder")
    if isinstance(stop, (int, float)) and 0 < stop < 1:
        intake.note(
            f"the text encoder was trained for {stop:.0%} of the epochs",
            "here it is trained to the end, or not at all",
            "optim.te_lr",
        )
    if data.get("prior_loss_weight") not in (None, 1, 1.0):
        intake.note(
            f"prior_loss_weight {data['prior_loss_weight']}", "kohya's trainers use 1", "loss.prior_loss_weight"
        )


def _concepts(data: Mapping[str, Any], intake: Intake, document: Document) -> None:
    concepts = data.get("concepts_list")
    rows = [one for one in concepts if isinstance(one, Mapping)] if isinstance(concepts, list) else []
    for number, row in enumerate(rows):
        folder = row.get("instance_data_dir")
        if number == 0 and folder:
            line = document.line("instance_data_dir")
            intake.take("train_data_dir", folder, text=f"instance_data_dir = {shown(folder)}", line=line)
        elif folder:
            intake.leave("instance_data_dir", folder, "a further concept: a folder of its own beside the first")
        if row.get("class_data_dir"):
            intake.take("reg_data_dir", row["class_data_dir"], text=f"class_data_dir = {shown(row['class_data_dir'])}")
        for key, value in row.items():
            if key not in {"instance_data_dir", "class_data_dir"} and value not in (None, "", False, 0, -1):
                intake.leave(key, value, "a setting of one concept: captions come from files here", document.line(key))
    if rows:
        intake.note(
            "it has no repeats, and reads sub-folders",
            "here pictures stand in a folder N_name below dataset.path",
            "dataset.path",
        )
