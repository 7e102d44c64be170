"""The units of a preset: learning rates, warmup, resolution and alpha, each with one parser and one printer."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

__all__ = [
    "Alpha",
    "BlockList",
    "Resolution",
    "TextEncoderRates",
    "UnitError",
    "Warmup",
    "format_number",
    "format_rate",
    "parse_rate",
    "printable",
    "shown",
]

_MOST_STEPS = 2**31 - 1
_SIDES = range(64, 16384 + 1)


class UnitError(ValueError):
    """A value that cannot be meant: ``why`` explains, ``todo`` says what to write instead (may be empty)."""

    def __init__(self, why: str, todo: str = "") -> None:
        super().__init__(f"{why}; {todo}" if todo else why)
        self.why = why
        self.todo = todo


def printable(text: str) -> str:
    """The text on one line, letters that would move the cursor escaped."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def shown(value: Any, limit: int = 60) -> str:
    """A value as a message quotes it: as TOML would spell it, on one line, shortened."""
    if isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, str):
        text = '"' + printable(value[: limit + 1]) + '"'
    elif isinstance(value, dict):
        text = "{" + ", ".join(f"{printable(str(key))} = {shown(item, 20)}" for key, item in value.items()) + "}"
    elif isinstance(value, (list, tuple)):
        text = "[" + ", ".join(shown(item, 20) for item in value[:limit]) + "]"
    else:
        text = printable(str(value))
    return text if len(text) <= limit else text[: limit - 1] + "…"


def format_number(value: float) -> str:
    """The shortest text that reads back as the same number, without a trailing ``.0``."""
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e15):
        return str(int(value))
    return repr(value)


def format_rate(value: float) -> str:
    """A learning rate as people write it: ``1e-4``, ``2.5e-4``, ``0``; reads back as the same float."""
    if value == 0:
        return "0"
    if 0.1 <= value < 1000:
        return format_number(value)
    mantissa, exponent = next(
        text for digits in range(17) if float(text := f"{value:.{digits}e}") == value or digits == 16
    ).split("e")
    return f"{mantissa}e{int(exponent)}"


def _finite(value: Any) -> float | None:
    """The finite float that a number or its text means, else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def parse_rate(value: Any) -> float:
    """A learning rate from a number or its text; 0 means "do not train this part".

    Raises ValueError for negative, non-finite and non-numeric values.
    """
    rate = _finite(value)
    if rate is None:
        raise UnitError(f"a learning rate is a number such as 1e-4, not {shown(value)}")
    if rate < 0:
        raise UnitError(f"a learning rate is 0 or a positive number, not {shown(value)}")
    return abs(rate)  # -0.0 is 0


@dataclass(frozen=True)
class TextEncoderRates:
    """The rates of SDXL's two text encoders; both 0 means that no text encoder is trained."""

    te1: float
    te2: float

    @classmethod
    def parse(cls, value: Any) -> TextEncoderRates:
        """One rate for both (``5e-5``) or a pair (``[5e-5, 2e-5]``, ``"5e-5/2e-5"``). Raises ValueError."""
        if isinstance(value, cls):
            return value
        if isinstance(value, str) and "/" in value:
            value = value.split("/")
        if isinstance(value, (list, tuple)):
            if len(value) != 2:
                raise UnitError(f"give one rate for both text encoders or a pair [TE1, TE2], not {len(value)} values")
            return cls(parse_rate(value[0]), parse_rate(value[1]))
        rate = parse_rate(value)
        return cls(rate, rate)

    @property
    def is_pair(self) -> bool:
        """Whether the two differ."""
        return self.te1 != self.te2

    def plain(self) -> float | list[float]:
        """As TOML and JSON hold it: one number, or two where they differ."""
        return [self.te1, self.te2] if self.is_pair else self.te1

    def __str__(self) -> str:
        return f"{format_rate(self.te1)}/{format_rate(self.te2)}" if self.is_pair else format_rate(self.te1)


@dataclass(frozen=True)
class Warmup:
    """Warmup as a ratio of the run (``ratio``) or as a number of optimizer steps (``steps``); exactly one is set."""

    ratio: float | None = None
    steps: int | None = None

    @classmethod
    def parse(cls, value: Any) -> Warmup:
        """``"5%"``, ``0.05``, ``"100 steps"``, ``0``. Raises ValueError; a bare 100 is never guessed."""
        if isinstance(value, cls):
            return value
        text = value.strip() if isinstance(value, str) else ""
        if match := re.fullmatch(r"([0-9]+)\s*steps?", text):
            return cls._of_steps(match[1])
        number = _finite(text[:-1] if text.endswith("%") else value)
        if number is None:
            raise UnitError(
                f"{shown(value)} is neither a share of the run nor steps", 'write "5%", 0.05 or "100 steps"'
            )
        if number < 0:
            raise UnitError(f"{shown(value)} is less than nothing", 'write "5%", 0.05 or "100 steps"')
        if text.endswith("%"):
            if number >= 100:
                raise UnitError(f"{text} of the run leaves nothing to train", 'write less than "100%"')
            number /= 100
        if number == 0:
            return cls(steps=0)
        if number < 1:
            return cls(ratio=number)
        raise UnitError(_ambiguous(value, number), f'write "{_whole(number)} step{"s" if number > 1 else ""}" or "5%"')

    @classmethod
    def _of_steps(cls, digits: str) -> Warmup:
        if len(digits) > 10 or int(digits) > _MOST_STEPS:
            raise UnitError(f"{shown(digits)} steps are more than any run has")
        return cls(steps=int(digits))

    def plain(self) -> str | int:
        """As TOML and JSON hold it."""
        return 0 if self.steps == 0 else str(self)

    def __str__(self) -> str:
        if self.ratio is None:
            return f"{self.steps} steps" if self.steps != 1 else "1 step"
        percent = _percent(self.ratio)
        return repr(self.ratio) if percent is None else f"{format_number(percent)}%"


def _ambiguous(value: Any, number: float) -> str:
    if not isinstance(value, float):
        return f"{shown(value)} does not say whether steps or a share of the run is meant"
    if number == 1:
        return f"{shown(value)} could mean 1 step or the whole run"
    count = _whole(number)
    return f"{shown(value)} could mean {count} steps or {count} times the run; the trainer would take it as the second"


def _whole(number: float) -> str:
    return format_number(round(number)) if number < 1e15 else "100"


def _percent(ratio: float) -> float | None:
    # The number of percent that reads back as the same ratio: 100 × 0.07 is 7.000000000000001 in binary.
    return next((p for digits in range(18) if (p := round(ratio * 100, digits)) / 100 == ratio), None)


@dataclass(frozen=True)
class Resolution:
    """A training resolution in pixels; its area bounds the area of every bucket."""

    width: int
    height: int

    @classmethod
    def parse(cls, value: Any) -> Resolution:
        """``1024``, ``[832, 1216]``, ``"832x1216"``. Raises ValueError."""
        if isinstance(value, cls):
            return value
        sides: Any = value
        if isinstance(value, str):
            parts = [part.strip() for part in re.split(r"[x×,]", value)]
            sides = [int(part) for part in parts if re.fullmatch(r"[0-9]{1,9}", part)]
            if len(sides) != len(parts):
                raise UnitError(f"a resolution is 1024, [832, 1216] or 832x1216, not {shown(value)}")
        elif not isinstance(value, (list, tuple)):
            sides = [value]
        if len(sides) not in (1, 2) or not all(isinstance(s, int) and not isinstance(s, bool) for s in sides):
            raise UnitError(f"a resolution is 1024, [832, 1216] or 832x1216, not {shown(value)}")
        if not all(side in _SIDES for side in sides):
            raise UnitError(f"the sides of a resolution are {_SIDES[0]} to {_SIDES[-1]} pixels, unlike {shown(value)}")
        return cls(sides[0], sides[-1])

    def plain(self) -> int | list[int]:
        """As TOML and JSON hold it."""
        return self.width if self.width == self.height else [self.width, self.height]

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


@dataclass(frozen=True)
class Alpha:
    """The LoRA's alpha: a number, or the dim divided by ``divisor``; the network's scale is alpha / dim."""

    number: float | None = None
    divisor: float | None = None

    @classmethod
    def parse(cls, value: Any) -> Alpha:
        """``16``, ``"dim"``, ``"dim/2"``. Raises ValueError."""
        if isinstance(value, cls):
            return value
        if isinstance(value, str) and (match := re.fullmatch(r"\s*dim\s*(?:/(.*))?", value)):
            divisor = _finite(match[1] if match[1] is not None else 1)
            if divisor is None or not divisor > 0:
                raise UnitError(f"the dim can be divided by a positive number only, unlike {shown(value)}")
            return cls(divisor=divisor)
        number = _finite(value)
        if number is None or not number > 0:
            raise UnitError(f'alpha is a positive number, "dim" or "dim/2", not {shown(value)}')
        return cls(number=number)

    def of(self, dim: int) -> float:
        """The number it means for a network of this dim."""
        return self.number if self.number is not None else dim / (self.divisor or 1)

    def plain(self) -> float | str:
        """As TOML and JSON hold it."""
        if self.number is None:
            return str(self)
        return int(self.number) if self.number.is_integer() and self.number < 1e15 else self.number

    def __str__(self) -> str:
        if self.number is not None:
            return format_number(self.number)
        return "dim" if self.divisor == 1 else f"dim/{format_number(self.divisor or 1)}"


@dataclass(frozen=True)
class BlockList:
    """One number for each of the UNet's blocks, or the name of a ``curve`` that gives them ("cosine", "linear+0.25")."""

    numbers: tuple[float, ...] = ()
    curve: str = ""

    @classmethod
    def parse(cls, value: Any) -> BlockList:
        """``[1, 0.5, 0]``, ``"1,0.5,0"``, ``"cosine+0.25"``. Raises ValueError; how many there must be is the kind's affair."""
        if isinstance(value, str) and (match := re.fullmatch(r"\s*([a-z_]+)\s*(?:\+(.*))?", value)):
            lift = _finite(match[2]) if match[2] is not None else 0.0
            if lift is None or lift < 0:
                raise UnitError(f"{shown(value)} lifts its curve by no number", 'write "cosine" or "cosine+0.25"')
            return cls(curve=match[1] + (f"+{format_number(lift)}" if match[2] is not None else ""))
        return cls.parse_numbers(value)

    @classmethod
    def parse_numbers(cls, value: Any) -> BlockList:
        """``[4, 4, 8]`` or ``"4,4,8"``. Raises ValueError."""
        if isinstance(value, cls):
            return value
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, (list, tuple)):
            raise UnitError(f"numbers for blocks stand in a list, unlike {shown(value)}", "write them as [4, 4, 8, …]")
        numbers = [_finite(item) for item in items]
        if not numbers or any(number is None or number < 0 for number in numbers):
            raise UnitError(f"numbers for blocks are at least 0, unlike {shown(value)}", "write them as [4, 4, 8, …]")
        return cls(numbers=tuple(abs(number) for number in numbers if number is not None))

    def plain(self) -> str | list[float]:
        """As TOML and JSON hold it."""
        return self.curve or [int(n) if n.is_integer() and n < 1e15 else n for n in self.numbers]

    def __str__(self) -> str:
        return self.curve or ",".join(map(format_number, self.numbers))
