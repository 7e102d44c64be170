"""Reads the trainer's dataset configuration (TOML or JSON): strict about keys and types, all problems at once."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from lorakit.dataset.blueprint import Blueprint, DatasetDefaults, DatasetSpec, SubsetSpec
from lorakit.errors import DatasetError, Problem

__all__ = ["read_config"]

Table = Mapping[str, Any]

_INTERPOLATIONS: Final = ("lanczos", "nearest", "bilinear", "linear", "bicubic", "cubic", "area", "box")


@dataclass(frozen=True)
class _Kind:
    """A type of value: how it is called and which values are of it."""

    name: str
    accepts: Callable[[Any], bool]


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_pair(value: Any, accepts: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(accepts, value))


_INT = _Kind("a whole number", _is_int)
# The trainer wants a point in these: `validation_split = 0` stops it.
_FLOAT = _Kind("a number with a decimal point (such as 0.0)", lambda value: isinstance(value, float))
_NUMBER = _Kind("a number", lambda value: isinstance(value, float) or _is_int(value))
_BOOL = _Kind("true or false", lambda value: isinstance(value, bool))
_TEXT = _Kind("text in quotes", lambda value: isinstance(value, str))
_TABLE = _Kind("a table", lambda value: isinstance(value, dict))
_SIZE = _Kind("a whole number or [width, height]", lambda value: _is_int(value) or _is_pair(value, _is_int))
_RANGE = _Kind("[low, high] with decimal points", lambda value: _is_pair(value, lambda item: isinstance(item, float)))
_INTERPOLATION = _Kind(f"one of {', '.join(_INTERPOLATIONS)}", lambda value: value in _INTERPOLATIONS)

#: Keys of [general] and [[datasets]].
_DATASET_KEYS: Final = {
    "batch_size": _INT,
    "resolution": _SIZE,
    "enable_bucket": _BOOL,
    "bucket_no_upscale": _BOOL,
    "min_bucket_reso": _INT,
    "max_bucket_reso": _INT,
    "bucket_reso_steps": _INT,
    "network_multiplier": _FLOAT,
    "validation_split": _FLOAT,
    "validation_seed": _INT,
    "resize_interpolation": _INTERPOLATION,
}

#: Keys of [general], [[datasets]] and [[datasets.subsets]].
_SUBSET_KEYS: Final = {
    "num_repeats": _INT,
    "shuffle_caption": _BOOL,
    "enable_wildcard": _BOOL,
    "color_aug": _BOOL,
    "flip_aug": _BOOL,
    "random_crop": _BOOL,
    "caption_separator": _TEXT,
    "keep_tokens": _INT,
    "keep_tokens_separator": _TEXT,
    "secondary_separator": _TEXT,
    "caption_prefix": _TEXT,
    "caption_suffix": _TEXT,
    "token_warmup_min": _INT,
    "token_warmup_step": _NUMBER,
    "face_crop_aug_range": _RANGE,
    "caption_dropout_rate": _NUMBER,
    "caption_dropout_every_n_epochs": _INT,
    "caption_tag_dropout_rate": _NUMBER,
    "custom_attributes": _TABLE,
    "resize_interpolation": _INTERPOLATION,
    "cache_info": _BOOL,
}

#: As _SUBSET_KEYS, but not in subsets of the metadata style.
_FOLDER_KEYS: Final = {"caption_extension": _TEXT, "class_tokens": _TEXT}

_ONLY_IN_FOLDER_SUBSET: Final = {"image_dir": _TEXT, "is_reg": _BOOL, "alpha_mask": _BOOL}
_ONLY_IN_METADATA_SUBSET: Final = {"metadata_file": _TEXT, "image_dir": _TEXT, "alpha_mask": _BOOL}
_ONLY_WITH_MASKED_LOSS: Final = {"conditioning_data_dir": _TEXT}

_GENERAL: Final = {**_DATASET_KEYS, **_SUBSET_KEYS, **_FOLDER_KEYS}
_LEAST: Final = {"batch_size": 1, "num_repeats": 1, "bucket_reso_steps": 1, "keep_tokens": 0, "resolution": 1}


def read_config(path: Path, defaults: DatasetDefaults, root: Path) -> Blueprint:
    """The datasets of the file; relative folders count from ``root``. Raises DatasetError with all problems."""
    return _Reader(_parse(path), defaults, root).blueprint(path)


def _parse(path: Path) -> Table:
    try:
        text = path.read_text(encoding="utf-8")
        table = json.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read", why=error.strerror or str(error)) from error
    except (UnicodeDecodeError, json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        kind = "JSON" if path.suffix.lower() == ".json" else "TOML"
        raise DatasetError(f"{path} is not valid {kind}", why=str(error), todo="mend it at the place named") from error
    if not isinstance(table, dict):
        raise DatasetError(f"{path} holds no table", todo="it needs [[datasets]] with [[datasets.subsets]]")
    return table


class _Reader:
    def __init__(self, table: Table, defaults: DatasetDefaults, root: Path) -> None:
        self.table = table
        self.defaults = defaults
        self.root = root
        self.problems: list[Problem] = []

    def blueprint(self, path: Path) -> Blueprint:
        self._refuse_unknown(self.table, "", {"general", "datasets"})
        general = self._as_table(self.table.get("general", {}), "general")
        self._check(general, "general", _GENERAL)
        datasets = [
            self._dataset(self._as_table(entry, f"datasets[{index}]"), f"datasets[{index}]", general)
            for index, entry in enumerate(self._as_list(self.table, "datasets", "datasets"))
        ]
        if self.problems:
            count = len(self.problems)
            raise DatasetError(
                f"{path} has {count} problem{'s' if count > 1 else ''}",
                why="; ".join(f"{p.key}: {p.what}" for p in self.problems),
                todo="mend them; keys and types are those of sd-scripts' dataset_config",
                problems=tuple(self.problems),
            )
        return Blueprint(tuple(dataset for dataset in datasets if dataset))

    def _dataset(self, table: Table, key: str, general: Table) -> DatasetSpec | None:
        self._check({k: v for k, v in table.items() if k != "subsets"}, key, _GENERAL)
        entries = [
            (self._as_table(entry, f"{key}.subsets[{index}]"), f"{key}.subsets[{index}]")
            for index, entry in enumerate(self._as_list(table, "subsets", f"{key}.subsets"))
        ]
        if len({"metadata_file" in entry for entry, _ in entries}) > 1:
            self._add(f"{key}.subsets", "folder subsets (image_dir) and metadata subsets (metadata_file) are mixed")
        for entry, where in entries:
            self._check_subset(entry, where)
        if "resolution" not in table and "resolution" not in general and self.defaults.resolution is None:
            self._add(f"{key}.resolution", "is missing, and the command line gives none")
        if self.problems:
            return None
        subsets = tuple(self._subset(entry, table, general) for entry, _ in entries)
        return DatasetSpec(subsets=subsets, **self._dataset_values(table, general))

    def _check_subset(self, entry: Table, where: str) -> None:
        if "metadata_file" in entry:
            allowed = {**_SUBSET_KEYS, **_ONLY_IN_METADATA_SUBSET}
        else:
            allowed = {**_SUBSET_KEYS, **_FOLDER_KEYS, **_ONLY_IN_FOLDER_SUBSET}
            if self.defaults.masked_loss:
                allowed |= _ONLY_WITH_MASKED_LOSS
            if "image_dir" not in entry:
                self._add(f"{where}.image_dir", "is missing")
        if "conditioning_data_dir" in entry and not self.defaults.masked_loss:
            self._add(f"{where}.conditioning_data_dir", "is only allowed with masked_loss")
            entry = {key: value for key, value in entry.items() if key != "conditioning_data_dir"}
        self._check(entry, where, allowed)

    def _subset(self, entry: Table, dataset: Table, general: Table) -> SubsetSpec:
        own = {f.name: getattr(self.defaults, f.name) for f in fields(SubsetSpec) if hasattr(self.defaults, f.name)}
        values: dict[str, Any] = {**own, "image_dir": None, "num_repeats": self.defaults.dataset_repeats}
        names = {f.name for f in fields(SubsetSpec)}
        for level in (general, dataset, entry):
            values |= {key: value for key, value in level.items() if key in names}
        for name in ("image_dir", "metadata_file", "conditioning_data_dir"):
            if values.get(name) is not None:
                values[name] = self.root / values[name]
        if isinstance(values["face_crop_aug_range"], list):
            values["face_crop_aug_range"] = tuple(values["face_crop_aug_range"])
        return SubsetSpec(**values)

    def _dataset_values(self, dataset: Table, general: Table) -> dict[str, Any]:
        names = {f.name for f in fields(DatasetSpec)} - {"subsets"}
        values = {name: getattr(self.defaults, name) for name in names if hasattr(self.defaults, name)}
        values["batch_size"] = self.defaults.train_batch_size
        for level in (general, dataset):
            values |= {key: value for key, value in level.items() if key in names}
        size = values["resolution"]
        values["resolution"] = (size, size) if isinstance(size, int) else tuple(size)
        return values

    def _as_list(self, table: Table, name: str, key: str) -> list[Any]:
        value = table.get(name)
        if not isinstance(value, list) or not value:
            self._add(
                key,
                f"is missing: at least one [[{key.split('[', maxsplit=1)[0]}{'.subsets' if '[' in key else ''}]] is needed",
            )
            return []
        return value

    def _as_table(self, value: Any, key: str) -> Table:
        if isinstance(value, dict):
            return value
        self._add(key, f"must be a table, not {value!r}")
        return {}

    def _check(self, table: Table, where: str, allowed: Mapping[str, _Kind]) -> None:
        self._refuse_unknown(table, where, set(allowed))
        for name, value in table.items():
            kind = allowed.get(name)
            if kind is None:
                continue
            if not kind.accepts(value):
                self._add(f"{where}.{name}", f"must be {kind.name}, not {value!r}")
            elif name in _LEAST and min(value if isinstance(value, list) else [value]) < _LEAST[name]:
                self._add(f"{where}.{name}", f"must be at least {_LEAST[name]}, not {value!r}")
            elif name == "face_crop_aug_range" and value[0] > value[1]:
                self._add(f"{where}.{name}", f"must ascend, not {value!r}")

    def _refuse_unknown(self, table: Table, where: str, allowed: set[str]) -> None:
        for name in table:
            if name in allowed:
                continue
            near = difflib.get_close_matches(name, allowed, n=1)
            elsewhere = " here (it is a key of another level)" if name in _EVERYWHERE else ""
            hint = f": did you mean {near[0]!r}?" if near and not elsewhere else ""
            self._add(f"{where}.{name}".lstrip("."), f"is not a key that the trainer knows{elsewhere}{hint}")

    def _add(self, key: str, what: str) -> None:
        self.problems.append(Problem(what, key=key))


_EVERYWHERE: Final = frozenset({*_GENERAL, *_ONLY_IN_FOLDER_SUBSET, *_ONLY_IN_METADATA_SUBSET, *_ONLY_WITH_MASKED_LOSS})
