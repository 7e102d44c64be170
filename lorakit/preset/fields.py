"""The types of a preset's values, each with its limits and its name in words, and what ties a field to the trainer's option."""

from __future__ import annotations

import functools
import math
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, PlainSerializer
from pydantic.fields import FieldInfo

from lorakit.preset.units import Alpha, BlockList, Resolution, TextEncoderRates, UnitError, Warmup, parse_rate, shown

__all__ = [
    "Argument",
    "ArgumentName",
    "BlockNumbers",
    "BlockRates",
    "Count",
    "HighTimestep",
    "LowTimestep",
    "Name",
    "NetworkAlpha",
    "NonNegative",
    "Number",
    "PathText",
    "Positive",
    "Rate",
    "ScalarArgument",
    "Seed",
    "Separator",
    "Share",
    "TeRates",
    "Text",
    "TrainResolution",
    "WarmupLength",
    "Word",
    "argument",
    "choices",
    "field_argument",
    "field_flag",
    "flag",
    "is_text",
    "words",
]

#: The trainer reads whole numbers into 32 bits in several places; nothing sensible is larger.
_MOST = 2**31 - 1
_NAME_BYTES = 200


@dataclass(frozen=True)
class Words:
    """What a value is, in words: ``a whole number of at least 1``."""

    text: str


def _text(value: str) -> str:
    if "\0" in value:
        raise UnitError("a text cannot hold the NUL character: no program can be given it")
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise UnitError("a text cannot hold half a surrogate pair: it is not valid Unicode")
    return value


def _not_empty(value: str) -> str:
    if not value.strip():
        raise UnitError("an empty text says nothing", "leave the key out if nothing is meant")
    return value


def _separator(value: str) -> str:
    if not value:
        raise UnitError("an empty text separates nothing")
    return value


def _name(value: str) -> str:
    if not value.strip():
        raise UnitError("a name cannot be empty", 'write what the run shall be called, such as name = "hifumi"')
    for letter in value:
        if unicodedata.category(letter) in {"Cc", "Cs", "Zl", "Zp"}:
            raise UnitError(f"a name cannot hold control characters or line ends, and this holds {letter!r}")
    if "/" in value or "\\" in value or value in {".", ".."}:
        raise UnitError("a name becomes the name of files, so it holds no slash and is not . or ..")
    if len(value.encode()) > _NAME_BYTES:
        raise UnitError(
            f"a name of {len(value.encode())} bytes is too long for a file", f"keep it within {_NAME_BYTES}"
        )
    return value


def _scalar(value: Any) -> str | int | float | bool:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise UnitError(f"an argument is a text, a finite number, true or false, not {shown(value)}")


def _argument(value: Any) -> Any:
    return [_scalar(item) for item in value] if isinstance(value, (list, tuple)) else _scalar(value)


def _argument_name(value: Any) -> Any:
    if isinstance(value, str) and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", value):
        raise UnitError(f"an argument's name is made of letters, digits and underscores, unlike {shown(value)}")
    return value


def _unit(parse: Callable[[Any], Any]) -> tuple[BeforeValidator, PlainSerializer]:
    return BeforeValidator(parse), PlainSerializer(lambda value: value.plain())


Rate = Annotated[float, BeforeValidator(parse_rate), Words("a learning rate such as 1e-4; 0: not trained")]
TeRates = Annotated[TextEncoderRates, *_unit(TextEncoderRates.parse), Words("a learning rate, or a pair [TE1, TE2]")]
WarmupLength = Annotated[Warmup, *_unit(Warmup.parse), Words('a share of the run ("5%", 0.05) or steps ("100 steps")')]
TrainResolution = Annotated[Resolution, *_unit(Resolution.parse), Words("pixels: 1024, [832, 1216] or 832x1216")]
NetworkAlpha = Annotated[Alpha, *_unit(Alpha.parse), Words('a positive number, "dim" or "dim/2"')]
BlockNumbers = Annotated[BlockList, *_unit(BlockList.parse_numbers), Words("a list of numbers of at least 0")]
BlockRates = Annotated[
    BlockList,
    *_unit(BlockList.parse),
    Words('a list of numbers of at least 0, or a curve such as "cosine" or "linear+0.25"'),
]

Text = Annotated[str, AfterValidator(_text), Words("a text")]
PathText = Annotated[str, AfterValidator(_text), AfterValidator(_not_empty), Words("a path")]
Word = Annotated[str, AfterValidator(_text), AfterValidator(_not_empty), Words("a text that is not empty")]
Separator = Annotated[str, AfterValidator(_text), AfterValidator(_separator), Words("a text of at least one character")]
Name = Annotated[str, AfterValidator(_name), Words("a text of one line, without slashes")]

Positive = Annotated[int, Field(ge=1, le=_MOST), Words("a whole number of at least 1")]
Count = Annotated[int, Field(ge=0, le=_MOST), Words("a whole number of at least 0")]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1), Words("a whole number from 0 to 4294967295")]
LowTimestep = Annotated[int, Field(ge=0, le=999), Words("a timestep from 0 to 999")]
HighTimestep = Annotated[int, Field(ge=1, le=1000), Words("a timestep from 1 to 1000")]
Number = Annotated[float, Words("a number")]
NonNegative = Annotated[float, Field(ge=0), Words("a number of at least 0")]
Spike = Annotated[float, Field(gt=1), Words("a number above 1")]
Share = Annotated[float, Field(ge=0, le=1), Words("a number from 0 to 1")]
ArgumentName = Annotated[str, BeforeValidator(_argument_name)]
ScalarArgument = Annotated[Any, BeforeValidator(_scalar), Words("a text, a number, true or false")]
Argument = Annotated[Any, BeforeValidator(_argument), Words("a text, a number, true, false, or a list of these")]


def flag(name: str | None, default: Any, doc: str) -> Any:
    """A field that becomes the trainer's option ``name`` (None: it has a meaning of its own, see the renderer)."""
    return Field(default, description=doc, json_schema_extra={"flag": name})


def argument(name: str, doc: str, *, default: Any = None) -> Any:
    """A field that becomes an argument of the network's module, ``name=value`` after ``--network_args``; unset: left out."""
    return Field(default, description=doc, json_schema_extra={"flag": None, "argument": name})


def field_argument(model: type[BaseModel], field: str) -> str | None:
    """The network argument that a field becomes, or None."""
    extra = model.model_fields[field].json_schema_extra
    return extra.get("argument") if isinstance(extra, dict) else None  # type: ignore[return-value]


@functools.cache  # asked for every key of every command
def field_flag(model: type[BaseModel], field: str) -> str | None:
    """The trainer's option that a field becomes, or None."""
    extra = model.model_fields[field].json_schema_extra
    return extra.get("flag") if isinstance(extra, dict) else None  # type: ignore[return-value]


def words(field: FieldInfo) -> str:
    """What a field's value is, in words."""
    return _words(field.annotation, tuple(field.metadata))


def choices(field: FieldInfo) -> tuple[Any, ...]:
    """The values of a field that takes one of a few, else nothing."""
    bare = _bare(field.annotation)
    return get_args(bare) if get_origin(bare) is Literal else ()


def is_text(field: FieldInfo) -> bool:
    """Whether the field holds free text, so that ``42`` on a command line is meant as the text "42"."""
    return _bare(field.annotation) is str


def _bare(annotation: Any) -> Any:
    # Optional[Annotated[X, …]] → X
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    members = [part for part in get_args(annotation) if part is not type(None)]
    return _bare(members[0]) if len(members) == 1 and len(get_args(annotation)) == 2 else annotation


def _words(annotation: Any, metadata: tuple[Any, ...] = ()) -> str:
    for mark in metadata:
        if isinstance(mark, Words):
            return mark.text
    if get_origin(annotation) is Annotated:
        inner, *marks = get_args(annotation)
        return _words(inner, tuple(marks))
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(_spelled(choice) for choice in get_args(annotation))
    if get_origin(annotation) is dict:
        return f"a table of arguments, each {_words(get_args(annotation)[1])}"
    if annotation is bool:
        return "true or false"
    bare = _bare(annotation)
    if bare is not annotation:
        members = [part for part in get_args(annotation) if part is not type(None)]
        return _words(members[0])
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "a table"
    raise TypeError(f"{annotation} has no name in words: give its type a Words mark")


def _spelled(choice: Any) -> str:
    return f'"{choice}"' if isinstance(choice, str) else str(choice)
