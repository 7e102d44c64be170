"""LoRA_Easy_Training_Scripts in its three generations: two flat JSONs of early 2023, and the TOML of its later window."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from lorakit.interop.document import Document
from lorakit.interop.imported import Reading, Recipe, Told
from lorakit.interop.intake import Intake
from lorakit.preset.units import shown

__all__ = ["is_easy_json", "is_easy_toml", "read_easy_json", "read_easy_toml"]

_TITLE: Final = "LoRA_Easy_Training_Scripts"
#: Keys of the flat JSONs by sd-scripts' names.
_RENAMED: Final = {
    "base_model": "pretrained_model_name_or_path", "img_folder": "train_data_dir", "reg_img_folder": "reg_data_dir",
    "change_output_name": "output_name", "net_dim": "network_dim", "alpha": "network_alpha", "scheduler": "lr_scheduler",
    "cosine_restarts": "lr_scheduler_num_cycles", "scheduler_power": "lr_scheduler_power", "num_workers": "max_data_loader_n_workers",
    "persistent_workers": "persistent_data_loader_workers", "batch_size": "train_batch_size", "num_epochs": "max_train_epochs",
    "max_steps": "max_train_steps", "save_at_n_epochs": "save_every_n_epochs", "shuffle_captions": "shuffle_caption",
    "train_resolution": "resolution", "min_bucket_resolution": "min_bucket_reso", "max_bucket_resolution": "max_bucket_reso",
    "lora_model_for_resume": "network_weights", "test_seed": "seed", "gradient_acc_steps": "gradient_accumulation_steps",
    "save_as": "save_model_as", "max_clip_token_length": "max_token_length", "buckets": "enable_bucket",
    "unet_only": "network_train_unet_only", "text_only": "network_train_text_encoder_only", "no_meta": "no_metadata",
    "log_dir": "logging_dir", "load_previous_save_state": "resume", "locon_dim": "conv_dim", "locon_alpha": "conv_alpha",
}  # fmt: skip
_DEFAULTS_A: Final[Mapping[str, Any]] = {
    "network_dim": 128, "network_alpha": 128.0, "lr_scheduler": "cosine_with_restarts", "learning_rate": 1e-4,
    "max_data_loader_n_workers": 1, "persistent_data_loader_workers": True, "train_batch_size": 1, "max_train_epochs": 1,
    "resolution": "512", "min_bucket_reso": 320, "max_bucket_reso": 960, "clip_skip": 2, "seed": 23, "mixed_precision": "fp16",
    "save_precision": "fp16", "caption_extension": ".txt", "max_token_length": 150, "enable_bucket": True, "xformers": True,
    "optimizer_type": "AdamW8bit", "cache_latents": True, "shuffle_caption": True,
}  # fmt: skip
_DEFAULTS_B: Final = {
    **_DEFAULTS_A, "network_dim": 32, "network_alpha": 16.0, "lr_scheduler": "cosine",
    "optimizer_args": ["weight_decay=0.1", "betas=0.9,0.99"],
}  # fmt: skip
_DEFAULTS_C: Final[Mapping[str, Any]] = {
    "mixed_precision": "fp16", "seed": 23, "max_data_loader_n_workers": 1, "persistent_data_loader_workers": True,
    "max_token_length": 75, "train_batch_size": 1, "network_dim": 32, "network_alpha": 16.0, "optimizer_type": "AdamW",
    "lr_scheduler": "cosine", "learning_rate": 1e-4, "save_precision": "fp16", "resolution": "512",
}  # fmt: skip
_SCRIPTED: Final = frozenset(
    {"use_8bit_adam", "warmup_lr_ratio", "lr_warmup", "lyco", "conv_dim", "conv_alpha", "network_args"}
)
#: The backend's network, by what stands in network_args.
_SUBSET: Final = frozenset(
    {"keep_tokens", "caption_extension", "shuffle_caption", "flip_aug", "color_aug", "random_crop", "caption_dropout_rate",
     "caption_dropout_every_n_epochs", "caption_tag_dropout_rate", "token_warmup_min", "token_warmup_step", "face_crop_aug_range",
     "alpha_mask", "caption_prefix", "caption_suffix", "secondary_separator", "enable_wildcard", "keep_tokens_separator"}
)  # fmt: skip
#: Tables of arguments that become name=value.
_PAIRS: Final = frozenset({"network_args", "optimizer_args", "lr_scheduler_args"})
#: What the window writes beside the LoRA; no matter of the training.
_OWN_FILES: Final = {
    "tag_occurrence": "the window writes a list of tags; every run of lorakit keeps its captions",
    "tag_file_location": "where the window writes its list of tags",
    "save_toml": "the window keeps its settings; every run of lorakit keeps its preset",
    "save_toml_location": "where the window keeps its settings",
}
_SETTLED: Final = {
    "sdxl": "tells which script is started", "fa": "tells which network it is", "easy_name": "stands for itself in the names",
    "train_mode": "lorakit trains LoRAs alone", "name": "a name of the window for the subset",
}  # fmt: skip
_LAYOUT: Final = frozenset({"image_dir", "num_repeats", "is_reg", "name", "class_tokens"})


def is_easy_json(document: Document) -> bool:
    """Whether a JSON is of the first two generations."""
    names = {"net_dim", "img_folder", "base_model", "num_epochs", "test_seed", "warmup_lr_ratio"}
    return document.kind == "json" and len(names & document.data.keys()) >= 2


def is_easy_toml(document: Document) -> bool:
    """Whether a TOML is of the third."""
    tables = {"general_args", "network_args", "optimizer_args", "saving_args", "bucket_args", "train_mode"}
    found = tables & document.data.keys()
    return (
        document.kind == "toml" and len(found) >= 2 and all(isinstance(document.data[name], Mapping) for name in found)
    )


def read_easy_json(document: Document) -> Reading:
    """The popup's and the command line's file (January to March 2023), and that of the arguments list (to May)."""
    data = document.data
    later = "optimizer_type" in data or "locon_dim" in data or "optimizer_args" in data
    era = "March to May 2023" if later else "January to March 2023"
    intake = Intake()
    for key, stored in data.items():
        value: Any = stored
        name = _RENAMED.get(key, key)
        line = document.line(key)
        if value is None or value == "" or value is False or name in _SCRIPTED:
            continue
        if name in {"learning_rate", "text_encoder_lr", "unet_lr"} and isinstance(value, (int, float)) and value <= 0:
            intake.note(
                f"{key} is {value:g}", "it is not sent then, and learning_rate counts: 0 leaves nothing out here"
            )
            continue
        if name in {"optimizer_args", "network_args"} and isinstance(value, Mapping):
            value = [f"{word}={item}" for word, item in value.items()]
        if name == "save_every_n_epochs" and value == 999999:
            continue
        if key == "gradient_acc_steps" and not data.get("gradient_checkpointing"):
            intake.leave(key, value, "it counts only together with gradient_checkpointing", line)
            continue
        intake.take(name, str(value) if name == "resolution" else value, text=f"{key} = {shown(value)}", line=line)
    if data.get("max_steps"):
        intake.told.pop("max_train_epochs", None)
    _network(data, intake, document)
    if data.get("use_8bit_adam") is False and not later:
        intake.take("optimizer_type", "AdamW", text="use_8bit_adam = false", line=document.line("use_8bit_adam"))
    ratio = _ratio(data, intake, document)
    defaults = {key: value for key, value in (_DEFAULTS_B if later else _DEFAULTS_A).items() if key not in intake.told}
    for name, value in defaults.items():
        switch = next((key for key, target in _RENAMED.items() if target == name and key in data), None)
        off = data.get(switch or name) is False
        steps = name == "max_train_epochs" and "max_train_steps" in intake.told
        if not off and not steps:
            intake.default(name, value, f"the default of {_TITLE}, {era}")
    if not later and "alpha" not in data:
        intake.note(
            "alpha is not in the file",
            "the popup's default is 128, its command line's 64, a cancelled dialog's half the dim",
            "network.alpha",
        )
    intake.leave_rest(data, lambda _: "it counts for nothing beside the other settings", document.line)
    epochs = intake.told.get("max_train_epochs")
    steps_told = intake.told.get("max_train_steps")
    recipe = Recipe(
        epochs=epochs.value if epochs else None, steps=steps_told.value if steps_told and not epochs else None,
        warmup_ratio=ratio, rounding="floor", base="estimated",
    )  # fmt: skip
    return Reading(
        "easy-training", _TITLE, intake.told, era=era, unmapped=tuple(intake.unmapped), notes=tuple(intake.notes),
        recipe=recipe, sdxl=False,
    )  # fmt: skip


def _network(data: Mapping[str, Any], intake: Intake, document: Document) -> None:
    args = data.get("network_args")
    pairs = [f"{word}={item}" for word, item in args.items()] if isinstance(args, Mapping) else []
    for key, name in (("locon_dim", "conv_dim"), ("locon_alpha", "conv_alpha")):
        if data.get(key):
            pairs.append(f"{name}={data[key]}")
    if data.get("lyco") is True:
        intake.take("network_module", "lycoris.kohya", text="lyco = true", line=document.line("lyco"))
    else:
        intake.default("network_module", "networks.lora", f"the default of {_TITLE}")
    if pairs:
        intake.take("network_args", pairs, text=" ".join(pairs))


def _ratio(data: Mapping[str, Any], intake: Intake, document: Document) -> float | None:
    value = data.get("warmup_lr_ratio")
    if value in (None, "", 0):
        return None
    try:
        ratio = float(value)
    except (TypeError, ValueError):
        ratio = -1.0
    if not 0 < ratio < 1:
        intake.leave(
            "warmup_lr_ratio", value, "a share of the run is between 0 and 1", document.line("warmup_lr_ratio")
        )
        return None
    intake.told["lr_warmup_steps"] = Told(
        ratio, text=f"warmup_lr_ratio = {value}", line=document.line("warmup_lr_ratio")
    )
    intake.note(
        "the popup cuts a warmup ratio from a loaded file to whole numbers",
        "0.1 became 0 there; the command line kept it",
    )
    return ratio


def read_easy_toml(document: Document) -> Reading:
    """The TOML of the window since May 2023: values that are false, 0 or empty never reach the trainer."""
    intake = Intake()
    easy = document.data.get("general_args", {}).get("args", {})
    easy_name = easy.get("easy_name", "") if isinstance(easy, Mapping) else ""
    ratio: float | None = None
    for table, groups in document.data.items():
        if table in {"subsets", "train_mode"} or not isinstance(groups, Mapping):
            continue
        for group, values in groups.items():
            if not isinstance(values, Mapping):
                intake.leave(f"{table}.{group}", values, "a table is expected here", document.line(table, group))
                continue
            for key, value in values.items():
                line = document.line(table, group, key)
                if key == "warmup_ratio":
                    ratio = _toml_ratio(value, intake, line)
                else:
                    _toml_value(intake, (group, key), value, line, str(easy_name))
    _subsets(document, intake)
    _module(document, intake)
    fallen = [
        name
        for name in ("text_encoder_lr", "unet_lr", "network_alpha")
        if name in intake.told and intake.told[name].value in (0, 0.0, [0.0])
    ]
    for name in fallen:
        told = intake.told.pop(name)
        falls = "sd-scripts' 1" if name == "network_alpha" else "learning_rate"
        intake.note(f"{name} is 0", f"the backend drops zeros: {falls} counts, the part is not left out")
        intake.leave(name, told.value, f"dropped by the backend: {falls} counts", told.line)
    for option, value in _DEFAULTS_C.items():
        intake.default(option, value, f"the default of {_TITLE}")
    epochs, steps = intake.told.get("max_train_epochs"), intake.told.get("max_train_steps")
    if not epochs and not steps:
        intake.default("max_train_epochs", 1, f"the default of {_TITLE}")
        epochs = intake.told["max_train_epochs"]
    recipe = Recipe(
        epochs=epochs.value if epochs else None, steps=steps.value if steps and not epochs else None, warmup_ratio=ratio,
        rounding="half-even", base="exact",
    )  # fmt: skip
    _leave_rest(document, intake)
    sdxl = bool(easy.get("sdxl")) if isinstance(easy, Mapping) else None
    return Reading(
        "easy-training", _TITLE, intake.told, era="since May 2023", unmapped=tuple(intake.unmapped), notes=tuple(intake.notes),
        recipe=recipe, sdxl=sdxl,
    )  # fmt: skip


def _leave_rest(document: Document, intake: Intake) -> None:
    """List what nothing was made of: the window's own switches, keys of subsets, whatever stands outside of the tables."""

    def why(key: str) -> str:
        return _OWN_FILES.get(key) or _SETTLED.get(key) or "the backend has no such setting"

    def unread(values: Mapping[str, Any]) -> dict[str, Any]:
        # Tables of arguments are read argument by argument, and repeats are what a folder's name says.
        return {
            key: value for key, value in values.items()
            if not (key in _PAIRS and isinstance(value, Mapping)) and (key, value) not in (("sdxl", True), ("train_mode", "lora"))
        }  # fmt: skip

    loose: dict[str, Any] = {}
    for table, groups in document.data.items():
        if table == "subsets" and isinstance(groups, list):
            for row in groups:
                known = unread(row) if isinstance(row, Mapping) else {"subsets": row}
                known.pop("num_repeats", None)
                intake.leave_rest(known, why, lambda _: document.line("subsets"))
        elif not isinstance(groups, Mapping):
            loose[table] = groups
        elif table == "train_mode":
            intake.leave_rest(unread(groups), why, lambda key: document.line("train_mode", key))
        else:
            for group, values in groups.items():
                if isinstance(values, Mapping):
                    intake.leave_rest(
                        values,
                        why,
                        lambda key, at=(table, group): document.line(*at, key),  # type: ignore[misc]
                    )
    intake.leave_rest(loose, why, document.line)


def _toml_value(intake: Intake, place: tuple[str, str], value: Any, line: int | None, easy_name: str) -> None:
    group, key = place
    text = f"{key} = {shown(value)}"
    if key in _PAIRS and isinstance(value, Mapping):
        for word, item in value.items():
            _toml_value(intake, (key, word), item, line, easy_name)
        return
    if group in _PAIRS:
        before = intake.told[group].value if group in intake.told else []
        intake.take(group, [*before, f"{key}={value}"], text=text, line=line)
        return
    if key in {"sdxl", "fa", "easy_name"} or key in _OWN_FILES:
        return
    name = {"batch_size": "train_batch_size"}.get(key, key)
    if name == "resolution":
        value = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    elif isinstance(value, str):
        value = value.replace("${replace}", easy_name)
    if value is not False or name in _DEFAULTS_C:
        intake.take(name, value, text=text, line=line)


def _toml_ratio(value: Any, intake: Intake, line: int | None) -> float | None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < 1:
        if value:
            intake.leave("warmup_ratio", value, "a share of the run is between 0 and 1", line)
        return None
    intake.told["lr_warmup_steps"] = Told(float(value), text=f"warmup_ratio = {value}", line=line)
    return float(value)


def _subsets(document: Document, intake: Intake) -> None:
    """Folders with repeats of their own: a preset names the folder above them, or a dataset configuration."""
    subsets = document.data.get("subsets")
    rows = [one for one in subsets if isinstance(one, Mapping)] if isinstance(subsets, list) else []
    parents: dict[str, Told] = {}
    for row in rows:
        for key, value in row.items():
            if key in _SUBSET and value not in (None, False, ""):
                intake.take(key, value, text=f"subsets: {key} = {shown(value)}")
        folder = str(row.get("image_dir", "")).replace("\\", "/").rstrip("/")
        parent, _, last = folder.rpartition("/")
        repeats = row.get("num_repeats", 1)
        name = "reg_data_dir" if row.get("is_reg") else "train_data_dir"
        if folder:
            parents.setdefault(
                name, Told(parent or ".", "derived", f"image_dir = {shown(folder)}", why="the folder above it")
            )
            if parents[name].value != (parent or "."):
                intake.leave(
                    "image_dir", folder, "a folder elsewhere: move it beside the others, or write a dataset TOML"
                )
        if folder and last.partition("_")[0] != str(repeats):
            intake.note(
                f"{last} is repeated {repeats} times by its setting, not by its name",
                f"name it {repeats}_{last}, or use a dataset TOML", "dataset.path",
            )  # fmt: skip
    intake.told.update(parents)
    if len({repr(sorted((k, str(v)) for k, v in row.items() if k not in _LAYOUT)) for row in rows}) > 1:
        intake.note(
            "the subsets differ in their settings", "a preset has one set of them: those of the last subset stand here"
        )


def _module(document: Document, intake: Intake) -> None:
    args = document.data.get("network_args", {}).get("args", {})
    pairs = [item.partition("=") for item in intake.told["network_args"].value] if "network_args" in intake.told else []
    names = {name for name, _, _ in pairs}
    module = "networks.lora_fa" if isinstance(args, Mapping) and args.get("fa") else "networks.lora"
    general = document.data.get("general_args", {}).get("args", {})
    if isinstance(general, Mapping) and general.get("fa"):
        module = "networks.lora_fa"
    if "algo" in names:
        module = "lycoris.kohya"
    elif "unit" in names:
        module = "networks.dylora"
    intake.told.setdefault(
        "network_module", Told(module, "derived", why="the backend chooses it by the network's arguments")
    )
    if "network_args" in intake.told:
        fixed = ["algo=lora" if item == "algo=locon" else item for item in intake.told["network_args"].value]
        intake.told["network_args"] = replace(intake.told["network_args"], value=fixed)
