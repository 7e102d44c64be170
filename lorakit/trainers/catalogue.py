"""The catalogue of the trainer's command-line options, and a parser built from it."""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from lorakit.errors import TrainerError

__all__ = ["Catalogue", "Flag", "int_or_float"]

_FLAGS = Path(__file__).parent / "sd_scripts" / "flags.json"


@dataclass(frozen=True)
class Flag:
    """One option: ``type`` is bool, int, float, str, Path or int_or_float; ``nargs`` is None, 0 or ``*``."""

    flag: str
    dest: str
    type: str
    default: Any
    choices: tuple[Any, ...] | None
    nargs: int | str | None
    group: str
    since: str
    changed: str | None


def int_or_float(text: str) -> int | float:
    """A count or a ratio, spelled as the trainer reads it: ``5%`` and ``0.05`` are ratios, ``100`` is a count.

    Raises ValueError for spellings the trainer rejects, such as ``1.0`` and ``1e2``.
    """
    if text.endswith("%"):
        return float(text[:-1]) / 100
    value = float(text)
    return int(text) if value >= 1 else value


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise TrainerError(f"the trainer's arguments cannot be read: {message}")


@dataclass(frozen=True)
class Catalogue:
    """All options of one version of the trainer's script, by name of the option."""

    flags: Mapping[str, Flag]

    @classmethod
    @functools.cache
    def load(cls, path: Path = _FLAGS) -> Catalogue:
        """Read a catalogue file; the one that ships describes sd-scripts v0.10.1."""
        return cls.of_rows(json.loads(path.read_text(encoding="utf-8")))

    @classmethod
    def of_rows(cls, rows: Iterable[Mapping[str, Any]]) -> Catalogue:
        """The catalogue of the rows that such a file holds."""
        return cls({row["flag"]: _flag(row) for row in rows})

    def __iter__(self) -> Iterator[Flag]:
        return iter(self.flags.values())

    def by_dest(self) -> dict[str, Flag]:
        """The options by the name they have in the parsed namespace."""
        return {flag.dest: flag for flag in self}

    def parser(self) -> argparse.ArgumentParser:
        """A parser that accepts what the trainer's own accepts, without abbreviations; raises TrainerError."""
        parser = _Parser(prog="sdxl_train_network.py", allow_abbrev=False)
        types: dict[str, Any] = {
            "int": int, "float": float, "str": str, "Path": Path, "int_or_float": int_or_float,
        }  # fmt: skip
        for flag in self:
            if flag.type == "bool":
                parser.add_argument(flag.flag, dest=flag.dest, action="store_true")
                continue
            default = flag.default
            parser.add_argument(
                flag.flag,
                dest=flag.dest,
                type=types.get(flag.type, str),
                default=default,
                choices=flag.choices,
                nargs=flag.nargs,
            )
        return parser


def _flag(row: Mapping[str, Any]) -> Flag:
    choices = row["choices"]
    return Flag(
        flag=row["flag"],
        dest=row["dest"],
        type=row["type"],
        default=row["default"],
        choices=None if choices is None else tuple(choices),
        nargs=row["nargs"],
        group=row["group"],
        since=row["since"],
        changed=row["changed"],
    )
