"""OneTrainer's JSON: a trainer of its own, sparse over its defaults; what has an equal in sd-scripts comes in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from lorakit.interop.document import Document
from lorakit.interop.imported import Reading, Recipe, Told
from lorakit.interop.intake import Intake
from lorakit.preset.units import shown

__all__ = ["OPTIMIZERS", "SCHEDULES", "is_onetrainer", "read_onetrainer"]

SCHEDULES: Final = {
    "CONSTANT": "constant", "LINEAR": "linear", "COSINE": "cosine", "COSINE_WITH_HARD_RESTARTS": "cosine_with_restarts",
}  # fmt: skip
OPTIMIZERS: Final = {
    "ADAMW": "AdamW", "ADAMW_8BIT": "AdamW8bit", "ADAFACTOR": "Adafactor", "LION": "Lion", "LION_8BIT": "Lion8bit",
    "PRODIGY": "Prodigy", "SGD": "SGDNesterov",
}  # fmt: skip
_NAMES: Final = {
    "base_model_name": "pretrained_model_name_or_path", "lora_rank": "network_dim", "lora_alpha": "network_alpha",
    "epochs": "max_train_epochs", "batch_size": "train_batch_size", "gradient_accumulation_steps": "gradient_accumulation_steps",
    "learning_rate_cycles": "lr_scheduler_num_cycles", "offset_noise_weight": "noise_offset", "seed": "seed",
    "clip_grad_norm": "max_grad_norm", "aspect_ratio_bucketing": "enable_bucket", "dropout_probability": "network_dropout",
}  # fmt: skip
_DEFAULTS: Final[Mapping[str, Any]] = {
    "network_dim": 16, "network_alpha": 1.0, "max_train_epochs": 100, "train_batch_size": 1, "resolution": "512",
    "enable_bucket": True, "lr_scheduler": "constant", "optimizer_type": "AdamW",
}  # fmt: skip
_PRECISIONS: Final = {"FLOAT_16": "fp16", "BFLOAT_16": "bf16", "FLOAT_32": "no"}
_READ: Final = frozenset(
    {"learning_rate", "learning_rate_scheduler", "learning_rate_warmup_steps", "resolution", "unet", "text_encoder", "text_encoder_2",
     "optimizer", "train_dtype", "training_method", "__version", "loss_weight_fn", "loss_weight_strength", "concepts",
     "concept_file_name", "output_model_destination", "model_type", "peft_type", "text_encoder_layer_skip", "gradient_checkpointing"}
)  # fmt: skip
#: What is read of unet, text_encoder and text_encoder_2.
_OF_A_PART: Final = frozenset({"train", "learning_rate", "stop_training_after", "__version"})


def is_onetrainer(document: Document) -> bool:
    """Whether a JSON is OneTrainer's."""
    names = {
        "training_method",
        "lora_rank",
        "learning_rate_scheduler",
        "learning_rate_warmup_steps",
        "__version",
        "aspect_ratio_bucketing",
    }
    return document.kind == "json" and len(names & document.data.keys()) >= 2


def read_onetrainer(document: Document) -> Reading:
    """Its own defaults stand where the file is sparse; the dataset is in another file."""
    data, intake = document.data, Intake()
    for key, name in _NAMES.items():
        value = data.get(key)
        if value in (None, "") or (key in {"offset_noise_weight", "dropout_probability"} and not value):
            continue
        intake.take(name, value, text=f"{key} = {shown(value)}", line=document.line(key))
    if data.get("training_method") not in (None, "LORA"):
        intake.note(f"training_method is {shown(data['training_method'])}", "this is no recipe of a LoRA")
    _resolution(document, intake)
    _choice(
        document, intake, ("learning_rate_scheduler", "lr_scheduler"), SCHEDULES, data.get("learning_rate_scheduler")
    )
    optimizer = data.get("optimizer")
    named = optimizer.get("optimizer") if isinstance(optimizer, Mapping) else optimizer
    _choice(document, intake, ("optimizer", "optimizer_type"), OPTIMIZERS, named)
    if isinstance(optimizer, Mapping):
        pairs = [f"weight_decay={optimizer['weight_decay']}"] if optimizer.get("weight_decay") is not None else []
        if pairs:
            intake.take("optimizer_args", pairs, text=" ".join(pairs), line=document.line("weight_decay"))
        for key, value in optimizer.items():
            if key not in {"optimizer", "weight_decay", "__version"} and value is not None:
                intake.leave(
                    f"optimizer.{key}", value, "its optimizers have arguments of their own", document.line(key)
                )
    _choice(document, intake, ("train_dtype", "mixed_precision"), _PRECISIONS, data.get("train_dtype"))
    if data.get("gradient_checkpointing") not in (None, False, "OFF"):
        intake.take(
            "gradient_checkpointing", True, text=f"gradient_checkpointing = {shown(data['gradient_checkpointing'])}"
        )
    if data.get("loss_weight_fn") == "MIN_SNR_GAMMA":
        intake.take("min_snr_gamma", data.get("loss_weight_strength", 5), text="loss_weight_fn = MIN_SNR_GAMMA")
    skip = data.get("text_encoder_layer_skip")
    if isinstance(skip, int) and skip > 0:
        intake.take(
            "clip_skip",
            skip + 1,
            text=f"text_encoder_layer_skip = {skip}",
            line=document.line("text_encoder_layer_skip"),
        )
    _rates(document, intake)
    recipe = _length(document, intake)
    for name, value in _DEFAULTS.items():
        intake.default(name, value, "OneTrainer's default")
    for key, value in data.items():
        if key not in _READ and key not in _NAMES and value not in (None, "", False, [], {}):
            intake.leave(key, value, "sd-scripts has nothing like it, or a preset does not need it", document.line(key))
    intake.leave_rest(
        {
            key: data[key]
            for key in data.keys() - {"__version", "training_method", "unet", "text_encoder", "text_encoder_2"}
        },
        lambda _: "sd-scripts has nothing like it, or a preset does not need it",
        document.line,
    )
    intake.note(
        "the dataset is in another file",
        "OneTrainer keeps it as concepts.json: name the folder yourself",
        "dataset.path",
    )
    return Reading(
        "onetrainer", "OneTrainer's settings", intake.told, era=f"version {data['__version']}" if "__version" in data else "",
        unmapped=tuple(intake.unmapped), notes=tuple(intake.notes), recipe=recipe, runs_sd_scripts=False,
    )  # fmt: skip


def _choice(document: Document, intake: Intake, names: tuple[str, str], words: Mapping[str, str], value: Any) -> None:
    (key, name), stored = names, value
    if stored is None:
        return
    found = words.get(str(stored))
    line = document.line(key)
    if found is None:
        intake.leave(key, stored, "sd-scripts has nothing of that name", line)
    else:
        intake.take(name, found, text=f"{key} = {shown(stored)}", line=line)


def _resolution(document: Document, intake: Intake) -> None:
    value = document.data.get("resolution")
    if value is None:
        return
    first = str(value).split(",")[0].strip().lower()
    if "," in str(value):
        intake.note(f"several resolutions: {value}", "a preset has one: the first stands here", "dataset.resolution")
    line = document.line("resolution")
    intake.take("resolution", first.replace("x", ","), text=f"resolution = {shown(value)}", line=line)


def _rates(document: Document, intake: Intake) -> None:
    """A part's own rate, else the common one; two text encoders may be trained apart here."""
    data = document.data
    base = data.get("learning_rate", 3e-6)
    base_text = f"learning_rate = {shown(base)}" if "learning_rate" in data else "OneTrainer's default"
    rates: dict[str, tuple[float, str]] = {}
    for part in ("unet", "text_encoder", "text_encoder_2"):
        own = data.get(part)
        own = own if isinstance(own, Mapping) else {}
        for key in own.keys() - _OF_A_PART:
            if own[key] not in (None, "", False):
                intake.leave(f"{part}.{key}", own[key], "sd-scripts sets this for all parts at once, or not at all")
        if own.get("train", True) is False:
            rates[part] = (0.0, f"{part}.train = false")
            continue
        rate = own.get("learning_rate")
        try:
            rates[part] = (
                float(base if rate is None else rate),
                base_text if rate is None else f"{part}.learning_rate = {shown(rate)}",
            )
        except (TypeError, ValueError):
            intake.leave(f"{part}.learning_rate", rate, "it is no number")
            rates[part] = (0.0, f"{part}.learning_rate")
        stop = own.get("stop_training_after")
        if stop is not None and part != "unet":
            intake.leave(f"{part}.stop_training_after", stop, "text encoders are trained to the end, or not at all")
    unet, te1, te2 = rates["unet"], rates["text_encoder"], rates["text_encoder_2"]
    line = document.line("learning_rate")
    if unet[0]:
        intake.take("unet_lr", unet[0], text=unet[1], line=line)
    else:
        intake.told["network_train_text_encoder_only"] = Told(True, text=unet[1])
    if not te1[0] and not te2[0]:
        intake.told["network_train_unet_only"] = Told(True, text=f"{te1[1]}, {te2[1]}")
    elif te1[0] and te2[0]:
        pair = [te1[0]] if te1[0] == te2[0] else [te1[0], te2[0]]
        intake.take("text_encoder_lr", pair, text=f"{te1[1]}, {te2[1]}", line=line)
    else:
        one = te1 if te1[0] else te2
        intake.take("text_encoder_lr", [one[0]], text=one[1], line=line)
        intake.note(
            "only one text encoder was trained", "sd-scripts trains both or none: both get that rate", "optim.te_lr"
        )
    if data.get("learning_rate_scaler") not in (None, "NONE"):
        intake.leave(
            "learning_rate_scaler",
            data["learning_rate_scaler"],
            "it multiplies rates by the root of the batch: do so yourself",
        )


def _length(document: Document, intake: Intake) -> Recipe:
    """Warmup above 1 is steps, to 1 a share of the run, none below."""
    data = document.data
    epochs = data.get("epochs", 100)
    raw = data.get("learning_rate_warmup_steps", 200)
    said = "learning_rate_warmup_steps" in data
    text, line = f"learning_rate_warmup_steps = {shown(raw)}", document.line("learning_rate_warmup_steps")
    try:
        value = float(raw)
    except (TypeError, ValueError):
        intake.leave("learning_rate_warmup_steps", raw, "it is no number", line)
        value = 0.0
    accumulation = data.get("gradient_accumulation_steps") or 1
    ratio: float | None = None
    steps: int | None = None
    constant = intake.told.get("lr_scheduler") is None or intake.told["lr_scheduler"].value == "constant"
    if value > 0 and constant:
        intake.take(
            "lr_scheduler",
            "constant_with_warmup",
            text="learning_rate_scheduler",
            origin="derived",
            why="constant, after the warmup",
        )
    if value > 1 and value < 1e9 and isinstance(accumulation, int):
        steps = int(value / max(accumulation, 1))
        intake.told["lr_warmup_steps"] = Told(
            steps, "explicit" if said else "default", text if said else "", line, "" if said else "OneTrainer's default"
        )
    elif 0 < value < 1:
        ratio = value
        intake.told["lr_warmup_steps"] = Told(value, text=text, line=line)
    elif value == 1:
        intake.leave(
            "learning_rate_warmup_steps",
            raw,
            "1.0 is the whole run here: nothing would be trained at the full rate",
            line,
        )
    number = epochs if isinstance(epochs, (int, float)) and not isinstance(epochs, bool) else None
    return Recipe(epochs=number, warmup_ratio=ratio, warmup_steps=steps, rounding="floor", base="exact")
