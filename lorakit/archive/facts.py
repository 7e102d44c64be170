"""What a list of runs can show, sort and filter by: every value of a run's preset and of its results (stdlib only)."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from lorakit.archive.run import Run, read_record
from lorakit.archive.shared import patient
from lorakit.preset.units import Alpha, TextEncoderRates

if TYPE_CHECKING:
    from lorakit.archive.records import RunState

__all__ = ["ALIASES", "RESULTS", "Kind", "Result", "Value", "canonical", "facts", "flatten", "preset_values"]

#: What a key of a run can hold; lists are tags.
Value = bool | int | float | str | list[str]


class Kind(StrEnum):
    """What a value is, which decides how it is written in a filter."""

    NUMBER = "a number"
    TEXT = "a text"
    FLAG = "yes or no"
    LIST = "a list of words"
    TIME = "a moment"
    DURATION = "a length of time"
    SIZE = "an amount of memory"


@dataclass(frozen=True)
class Result:
    """A key that is no setting: its kind, and what it says."""

    kind: Kind
    what: str


#: Every key that a run has besides the settings of its preset.
RESULTS: Final[Mapping[str, Result]] = MappingProxyType(
    {
        "run": Result(Kind.TEXT, "the four characters of its id"),
        "id": Result(Kind.TEXT, "its whole id"),
        "name": Result(Kind.TEXT, "the preset's name"),
        "state": Result(Kind.TEXT, "ok, failed, stopped, running, …"),
        "reason": Result(Kind.TEXT, "why it stands there: oom-cuda, nan, …"),
        "message": Result(Kind.TEXT, "the same in a sentence"),
        "tag": Result(Kind.LIST, "its tags"),
        "note": Result(Kind.TEXT, "its notes"),
        "sealed": Result(Kind.FLAG, "whether it is sealed"),
        "created": Result(Kind.TIME, "when it was asked for"),
        "started": Result(Kind.TIME, "when it started"),
        "ended": Result(Kind.TIME, "when it ended"),
        "seconds": Result(Kind.DURATION, "how long its attempts took together"),
        "attempt": Result(Kind.NUMBER, "how often it was started"),
        "steps": Result(Kind.NUMBER, "optimizer steps done"),
        "total_steps": Result(Kind.NUMBER, "optimizer steps planned"),
        "epoch": Result(Kind.NUMBER, "the last epoch"),
        "epochs": Result(Kind.NUMBER, "epochs planned"),
        "loss.first": Result(Kind.NUMBER, "mean loss over the first epoch"),
        "loss.last": Result(Kind.NUMBER, "mean loss over the last epoch"),
        "loss.average": Result(Kind.NUMBER, "mean loss of all steps"),
        "validation": Result(Kind.NUMBER, "the last validation loss"),
        "speed": Result(Kind.NUMBER, "steps per second"),
        "checkpoints": Result(Kind.NUMBER, "LoRA files saved"),
        "samples": Result(Kind.NUMBER, "sample images"),
        "rss": Result(Kind.SIZE, "peak main memory"),
        "vram": Result(Kind.SIZE, "peak GPU memory"),
        "sweep": Result(Kind.TEXT, "the sweep it belongs to"),
        "user": Result(Kind.TEXT, "who asked for it"),
        "host": Result(Kind.TEXT, "the machine it was asked for on"),
    }
)

#: Other names that people try.
ALIASES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "status": "state", "tags": "tag", "notes": "note", "short": "run", "when": "created", "time": "seconds",
        "loss": "loss.last", "loss_first": "loss.first", "loss_last": "loss.last", "loss_average": "loss.average",
        "steps_per_second": "speed", "dim": "network.dim", "alpha": "network.alpha", "unet_lr": "optim.unet_lr", "te_lr": "optim.te_lr",
    }
)  # fmt: skip

#: Where a result stands in RunState, when it is called otherwise there.
_OF_STATE: Final = MappingProxyType(
    {"state": "status", "speed": "steps_per_second", "tag": "tags"}
    | {f"loss.{which}": f"loss_{which}" for which in ("first", "last", "average")}
)
_NOT_OF_STATE: Final = frozenset({"run", "id", "note", "sweep", "user", "host"})


def canonical(key: str) -> str:
    """A key as the index knows it."""
    return ALIASES.get(key, key)


def facts(run: Run, state: RunState) -> dict[str, Value]:
    """Every value of a run by its key; what it does not have, or cannot be read, is left out. Never raises for damage."""
    try:
        found: dict[str, Any] = _by_meaning(preset_values(patient(lambda: run.preset.read_text(encoding="utf-8"))))
    except (OSError, ValueError):
        found = {}
    for key in RESULTS.keys() - _NOT_OF_STATE:
        found[key] = getattr(state, _OF_STATE.get(key, key))
    request = read_record(run.request) or {}
    lineage = request.get("lineage")
    found |= {
        "run": run.short,
        "id": run.id,
        "state": state.status.value,
        "reason": state.reason.value,
        "tag": list(state.tags),
        "note": _text(run.notes),
        "user": request.get("user"),
        "host": request.get("host"),
        "sweep": lineage.get("sweep") if isinstance(lineage, dict) else None,
    }
    return {key: value for key, given in found.items() if (value := _plain(given)) is not None}


def _text(path: Path) -> str:
    try:
        return patient(lambda: path.read_text(encoding="utf-8", errors="replace")).strip()
    except OSError:
        return ""


def _plain(value: Any) -> Value | None:
    if isinstance(value, list):
        return [str(item) for item in value] or None
    if isinstance(value, (bool, int, float)):
        return value
    return str(value) if isinstance(value, str) and value else None


def _by_meaning(values: dict[str, Any]) -> dict[str, Any]:
    """Alpha as the number it comes to, a pair of rates as ``5e-5/2e-5``; another version's spelling as it is written."""
    try:
        if "network.alpha" in values:
            alpha = Alpha.parse(values["network.alpha"]).of(values["network.dim"])
            values["network.alpha"] = int(alpha) if alpha.is_integer() else alpha
        if "optim.te_lr" in values:
            rates = TextEncoderRates.parse(values["optim.te_lr"])
            values["optim.te_lr"] = str(rates) if rates.is_pair else rates.te1
    except (KeyError, TypeError, ValueError):
        pass
    for key, value in values.items():
        if isinstance(value, list):
            values[key] = "/".join(str(item) for item in value)
    return values


def flatten(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested tables by their dotted keys."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


_NUMBER: Final = r"-?(?:0|[1-9][0-9]*)"
_REAL: Final = rf"{_NUMBER}(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?"
#: A line of a preset as lorakit writes it: a value of one simple kind, and perhaps a comment.
_LINE: Final = re.compile(
    rf"(?P<key>[A-Za-z0-9_-]+) = (?:(?P<int>{_NUMBER})|(?P<float>{_REAL})|(?P<flag>true|false)"
    rf"|(?P<pair>\[{_REAL}, {_REAL}\])"
    r'|"(?P<text>[^"\\\x00-\x1f\x7f]*)"|(?P<empty>\{\}))[ \t]*(?:#[^\x00-\x08\x0b-\x1f\x7f]*)?'
)
_TABLE: Final = re.compile(r"\[([A-Za-z0-9_-]+)\]")


def preset_values(text: str) -> dict[str, Any]:
    """Every value of a preset.toml by its dotted key. Raises ValueError when it is no TOML.

    What lorakit itself writes is simple and read line by line, ten times as fast as TOML in general; at the first line that
    is anything else, the whole is read as TOML.
    """
    values: dict[str, Any] = {}
    tables: set[str] = set()
    prefix = ""
    for line in text.split("\n"):
        if not line or line[0] == "#":
            if "\r" in line or not line.isprintable():
                break
            continue
        if line[0] == "[":
            head = _TABLE.fullmatch(line)
            if head is None or head[1] in tables or head[1] in values:
                break
            tables.add(head[1])
            prefix = f"{head[1]}."
            continue
        found = _LINE.fullmatch(line)
        if found is None:
            break
        key = f"{prefix}{found['key']}"
        if key in values or key in tables:
            break
        kind = found.lastgroup
        if kind == "empty":  # an empty table: no value, but its name is taken
            tables.add(key)
            continue
        values[key] = _SPELLED[kind or ""](found[kind or 0])
    else:
        return values
    try:
        return dict(flatten(tomllib.loads(text)))
    except RecursionError:
        raise ValueError("brackets inside of brackets without end (at no preset's depth)") from None


def _number(spelled: str) -> float:
    return int(spelled) if spelled.lstrip("-").isdigit() else float(spelled)


#: What the groups of _LINE hold.
_SPELLED: Final[Mapping[str, Callable[[str], Any]]] = MappingProxyType(
    {
        "int": int,
        "float": float,
        "flag": "true".__eq__,
        "text": str,
        "pair": lambda spelled: [_number(part) for part in spelled[1:-1].split(", ")],
    }
)
