"""The ss_* metadata of a trained LoRA: most of its recipe, as text; what is not stored is unknown and said to be."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any, Final

from lorakit.interop.document import Document
from lorakit.interop.imported import Note, Reading, Recipe, Told, Unmapped
from lorakit.interop.settle import coerce
from lorakit.preset.units import shown
from lorakit.trainers.catalogue import Catalogue
from lorakit.trainers.extra import typed_key

__all__ = ["is_metadata", "read_metadata"]

#: Options whose name is not that of the key without ss_.
_NAMES: Final = {
    "ss_num_epochs": "max_train_epochs",
    "ss_batch_size_per_device": "train_batch_size",
}
#: Told by other keys, or no setting at all.
_FACTS: Final = frozenset(
    {"ss_session_id", "ss_training_started_at", "ss_training_finished_at", "ss_sd_scripts_commit_hash", "ss_num_train_images",
     "ss_num_reg_images", "ss_num_validation_images", "ss_num_batches_per_epoch", "ss_epoch", "ss_steps", "ss_max_train_steps",
     "ss_total_batch_size", "ss_dataset_dirs", "ss_reg_dataset_dirs", "ss_tag_frequency", "ss_bucket_info", "ss_datasets",
     "ss_base_model_version", "ss_sd_model_hash", "ss_new_sd_model_hash", "ss_vae_hash", "ss_new_vae_hash", "ss_optimizer",
     "ss_sd_model_name", "ss_vae_name", "ss_network_args", "ss_v2", "ss_huber_c"}
)  # fmt: skip


def is_metadata(document: Document) -> bool:
    """Whether a .safetensors file carries a kohya trainer's metadata (or a JSON copy of it)."""
    return document.kind in {"metadata", "json"} and any(key.startswith("ss_") for key in document.data)


def read_metadata(document: Document) -> Reading:
    """The recipe as far as it is stored. The epochs are those planned, not those of an intermediate file."""
    data = {key: str(value) for key, value in document.data.items() if not isinstance(value, (dict, list))}
    told: dict[str, Told] = {}
    unmapped: list[Unmapped] = []
    notes: list[Note] = []
    flags = Catalogue.load().by_dest()
    for key, text in data.items():
        if not key.startswith("ss_") or key in _FACTS:
            continue
        name = _NAMES.get(key, key.removeprefix("ss_"))
        value = _plain(text)
        shown_text = f"{key} = {shown(text)}"
        if value is None:
            continue  # "None": the option was not given
        if name not in flags:
            unmapped.append(Unmapped(key, shown_text, "a fact about the training, or no option of this trainer"))
            continue
        if name == "resolution":
            value = ",".join(re.findall(r"[0-9]+", text))
        try:
            told[name] = Told(coerce(flags[name], value), text=shown_text)
        except ValueError as error:
            unmapped.append(Unmapped(key, shown_text, str(error)))
    _network_args(data, told, unmapped)
    _optimizer(data, told)
    _base(data, told)
    _first_dataset(data, told, notes)
    recipe = _length(data, told, notes)
    sdxl = data.get("ss_base_model_version", "").lower().startswith("sdxl") if "ss_base_model_version" in data else None
    if "ot_config" in data or "ot_revision" in data:
        notes.append(Note("OneTrainer wrote this file", "its own settings are more exact: export them there"))
    return Reading(
        "metadata", "the metadata of a LoRA", told, unmapped=tuple(unmapped), notes=tuple(notes), recipe=recipe,
        unknown=_unknown(data, told), sdxl=sdxl,
    )  # fmt: skip


def _unknown(data: Mapping[str, str], told: Mapping[str, Told]) -> frozenset[str]:
    """Options that the file says nothing of; one that is stored as None is known not to have been given."""
    stored = {_NAMES.get(key, key.removeprefix("ss_")) for key in data} | told.keys()
    if "learning_rate" in stored:
        stored |= {"network_train_unet_only", "network_train_text_encoder_only"}
    return frozenset(flag.dest for flag in Catalogue.load() if typed_key(flag.dest)) - stored


def _plain(text: str) -> Any:
    if text in {"None", "null", ""}:
        return None
    return {"True": True, "False": False}.get(text, text)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _network_args(data: Mapping[str, str], told: dict[str, Told], unmapped: list[Unmapped]) -> None:
    if data.get("ss_network_dim") == "Dynamic":
        unmapped.append(
            Unmapped("ss_network_dim", "Dynamic", "a resized file: its training dim is not stored any more")
        )
    text = data.get("ss_network_args", "None")
    found = _json(text)
    if isinstance(found, dict) and found:
        pairs = [f"{name}={value}" for name, value in found.items()]
        told["network_args"] = Told(pairs, text=f"ss_network_args = {shown(text)}")


def _optimizer(data: Mapping[str, str], told: dict[str, Told]) -> None:
    """``bitsandbytes.optim.adamw.AdamW8bit(weight_decay=0.1)`` as the option and its arguments."""
    text = data.get("ss_optimizer", "")
    match = re.fullmatch(r"([A-Za-z_][\w.]*)(?:\((.*)\))?", text, re.DOTALL)
    if not match:
        return
    shown_text = f"ss_optimizer = {shown(text)}"
    told["optimizer_type"] = Told(match[1].rsplit(".", 1)[-1], text=shown_text)
    try:
        call = ast.parse(f"f({match[2] or ''})", mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return
    if isinstance(call, ast.Call) and call.keywords:
        pairs = [f"{word.arg}={ast.unparse(word.value)}" for word in call.keywords if word.arg]
        told["optimizer_args"] = Told(pairs, text=shown_text)


def _base(data: Mapping[str, str], told: dict[str, Told]) -> None:
    for key, name in (("ss_sd_model_name", "pretrained_model_name_or_path"), ("ss_vae_name", "vae")):
        stored = data.get(key, "None")
        if stored not in {"None", ""}:
            last = re.split(r"[/\\]", stored)[-1] or "unknown"
            told[name] = Told(f"models/{last}", "derived", f"{key} = {shown(stored)}", why="the folder is not stored")


def _first_dataset(data: Mapping[str, str], told: dict[str, Told], notes: list[Note]) -> None:
    """What stands in ss_datasets where a dataset configuration was used, and the folders."""
    datasets = _json(data.get("ss_datasets", ""))
    first = datasets[0] if isinstance(datasets, list) and datasets and isinstance(datasets[0], dict) else {}
    flags = Catalogue.load().by_dest()
    for word, value in first.items():
        name = {"batch_size_per_device": "train_batch_size"}.get(word, word)
        if name in flags and name not in told and value is not None:
            plain = ",".join(map(str, value)) if isinstance(value, list) and name == "resolution" else value
            try:
                told[name] = Told(coerce(flags[name], plain), text=f"ss_datasets: {word} = {shown(value)}")
            except ValueError:
                notes.append(Note(f"ss_datasets holds {word} = {shown(value)}, which is no value of it"))
    folders = _json(data.get("ss_dataset_dirs", "")) or {}
    for name, folder in folders.items() if isinstance(folders, dict) else ():
        if isinstance(folder, dict):
            notes.append(
                Note(
                    f"trained on {folder.get('img_count')} images × {folder.get('n_repeats')} from a folder {shown(name)}"
                )
            )


def _length(data: Mapping[str, str], told: dict[str, Told], notes: list[Note]) -> Recipe:
    """Epochs as planned; the warmup may be stored as steps, a share or both meanings of 0."""
    epochs = told.get("max_train_epochs")
    warmup = told.get("lr_warmup_steps")
    steps, epoch = data.get("ss_max_train_steps"), data.get("ss_epoch")
    if epochs is not None and epoch is not None and epoch != str(epochs.value):
        notes.append(
            Note(f"the file is that of epoch {epoch} of {epochs.value}", "the recipe is that of the whole training")
        )
    if epochs is not None and not _fits_epochs(data, epochs.value) and steps and steps.isdigit():
        told["max_train_steps"] = Told(int(steps), text=f"ss_max_train_steps = {steps}")
        del told["max_train_epochs"]
        epochs = None
    value = warmup.value if warmup is not None else None
    return Recipe(
        epochs=epochs.value if epochs else None,
        steps=int(steps) if epochs is None and steps and steps.isdigit() else None,
        warmup_ratio=value if isinstance(value, float) and value else None,
        warmup_steps=value if isinstance(value, int) and value else None,
        rounding="floor",
        emitted={"max_train_steps": int(steps)} if epochs and steps and steps.isdigit() else {},
    )


def _fits_epochs(data: Mapping[str, str], epochs: int) -> bool:
    """Whether the steps are a whole number of epochs: else steps were asked for, and the epochs follow from them."""
    try:
        batches = int(data["ss_num_batches_per_epoch"])
        accumulation = int(data.get("ss_gradient_accumulation_steps", "1"))
        steps = int(data["ss_max_train_steps"])
    except (KeyError, ValueError):
        return True
    return batches < 1 or accumulation < 1 or -(-batches // accumulation) * epochs == steps
