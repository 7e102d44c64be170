"""What someone meant who wrote a key that is not there: a slip, the wrong table, or the trainer's own name of an option."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from lorakit.preset.fields import field_flag
from lorakit.preset.schema import TABLES, exists, fields, is_open, model_at
from lorakit.preset.toml_lines import KeyPath, dotted

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["meant"]

_NOWHERE = "the keys are in docs/presets.md; other options of the trainer go under [extra]"

#: Options of the trainer that have no key of the same meaning, and what to write in their place.
_TRAINER_WORDS = {
    "learning_rate": "lorakit writes the rates of the parts: optim.unet_lr and optim.te_lr",
    "lr": "lorakit writes the rates of the parts: optim.unet_lr and optim.te_lr",
    "text_encoder_lr1": "write optim.te_lr = [TE1, TE2]",
    "text_encoder_lr2": "write optim.te_lr = [TE1, TE2]",
    "network_train_unet_only": "write optim.te_lr = 0",
    "network_train_text_encoder_only": "write optim.unet_lr = 0",
    "xformers": 'write memory.attention = "xformers"',
    "sdpa": 'write memory.attention = "sdpa"',
    "mem_eff_attn": 'write memory.attention = "mem_eff"',
    "full_fp16": 'write precision.full = true and precision.mixed = "fp16"',
    "full_bf16": 'write precision.full = true and precision.mixed = "bf16"',
    "output_name": "write name",
    "output_dir": "every bake gets its own folder under runs/",
    "logging_dir": "curves go into the run folder; log.tensorboard turns them on",
    "no_metadata": "write log.metadata = false",
}

#: Words of other tools for keys of ours.
_SYNONYMS = {
    "batch": "length.batch_size",
    "checkpoint": "base.model",
    "lora_rank": "network.dim",
    "lr_warmup": "optim.warmup",
    "num_epochs": "length.epochs",
    "optimizer": "optim.type",
    "rank": "network.dim",
    "scheduler": "optim.schedule",
}
_REPEATS = "repeats stand in the folder's name: 3_hifumi is repeated 3 times"


def meant(path: KeyPath) -> str:
    """A sentence about what an unknown key may have meant."""
    if path[0] == "extends":
        return "extends stands in the preset file, at its top"
    table, key = ".".join(path[:-1]), path[-1].lstrip("-").replace("-", "_")
    return next((text for text in _guesses(table, key, dotted(path)) if text), _NOWHERE)


def _guesses(table: str, key: str, written: str) -> Iterator[str]:
    if key in (model_at(table).model_fields if table in TABLES or not table else ()):
        yield _did_you_mean(f"{table}.{key}".lstrip("."))
    if exists((key, table)):
        yield _did_you_mean(f"{key}.{table}")
    if table and table not in TABLES:
        yield _close(written, [dotted(path) for path, _ in fields()], 0.75)
    yield _belongs(key)
    if flagged := _by_flag(key):
        yield f"{key} is the trainer's name for it; write {flagged}"
    if key in _TRAINER_WORDS:
        yield f"{key} is the trainer's own; {_TRAINER_WORDS[key]}"
    if not table:
        yield _close(key, list(TABLES), 0.7, "[{}]")
    if key in _SYNONYMS:
        yield _did_you_mean(_SYNONYMS[key])
    if key in {"repeats", "num_repeats"}:
        yield _REPEATS
    if table in TABLES or not table:
        here = list(model_at(table).model_fields)
        yield _close(key, here, 0.6, f"{table}.{{}}" if table else "{}")
    yield _close(written, [dotted(path) for path, _ in fields()], 0.7)
    yield _close_elsewhere(key)


def _elsewhere(key: str) -> list[KeyPath]:
    return [path for path, _ in fields() if path[-1] == key]


def _belongs(key: str) -> str:
    homes = [
        f"[{path[0]}]" if len(path) > 1 or is_open(path) else "the top, before any table" for path in _elsewhere(key)
    ]
    return f"{key} belongs to {' or '.join(homes)}" if homes else ""


def _by_flag(key: str) -> str:
    for path, _ in fields():
        model = model_at(path[0] if len(path) > 1 else "")
        if field_flag(model, path[-1]) == f"--{key}":
            return dotted(path)
    return ""


def _close(word: str, choices: list[str], cutoff: float, form: str = "{}") -> str:
    found = difflib.get_close_matches(word, choices, n=1, cutoff=cutoff)
    return _did_you_mean(form.format(found[0])) if found else ""


def _close_elsewhere(key: str) -> str:
    homes = {path[-1]: dotted(path) for path, _ in fields()}
    found = difflib.get_close_matches(key, homes, n=1, cutoff=0.75)
    return _did_you_mean(homes[found[0]]) if found else ""


def _did_you_mean(written: str) -> str:
    return f"did you mean {written}?"
