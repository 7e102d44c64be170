"""The units of a preset: learning rates, warmup, resolution and alpha, each with one parser and one printer."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

__all__ = ["Alpha", "Resolution", "TextEncoderRates", "Warmup", "format_number", "format_rate", "parse_rate"]


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
    mantissa, exponent = f"{value:.16e}".split("e")
    for digits in range(17):
        text = f"{value:.{digits}e}"
        if float(text) == value:
            mantissa, exponent = text.split("e")
            break
    return f"{mantissa}e{int(exponent)}"


def parse_rate(value: Any) -> float:
    """A learning rate from a number or its text; 0 means "do not train this part".

    Raises ValueError for negative, non-finite and non-numeric values.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"a learning rate is a number such as 1e-4, not {value!r}")
    try:
        rate = float(value)
    except ValueError:
        raise ValueError(f"a learning rate is a number such as 1e-4, not {value!r}") from None
    if not math.isfinite(rate) or rate < 0:
        raise ValueError(f"a learning rate is 0 or a positive number, not {value!r}")
    return rate


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
                raise ValueError(f"give one rate for both text encoders or a pair [TE1, TE2], not {len(value)} values")
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
        if isinstance(value, str):
            return cls._parse_text(value.strip())
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f'warmup is "5%", 0.05 or "100 steps", not {value!r}')
        if value == 0:
            return cls(steps=0)
        if isinstance(value, float) and 0 < value < 1:
            return cls(ratio=value)
        text = format_number(value) if math.isfinite(value) and value > 0 else "100"
        raise ValueError(f'{value!r} could mean steps or a ratio; write "{text} steps" or a percentage such as "5%"')

    @classmethod
    def _parse_text(cls, text: str) -> Warmup:
        if match := re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*%", text):
            ratio = float(match[1]) / 100
            if ratio >= 1:
                raise ValueError(f"warmup of {text} leaves nothing to train")
            return cls(ratio=ratio) if ratio else cls(steps=0)
        if match := re.fullmatch(r"([0-9]+)\s*steps?", text):
            return cls(steps=int(match[1]))
        try:
            number = float(text)
        except ValueError:
            raise ValueError(f'warmup is "5%", 0.05 or "100 steps", not {text!r}') from None
        return cls.parse(int(text) if text.isdigit() else number)

    def plain(self) -> str | int:
        """As TOML and JSON hold it."""
        return 0 if self.steps == 0 else str(self)

    def __str__(self) -> str:
        if self.ratio is not None:
            return f"{format_number(_percent(self.ratio))}%"
        return f"{self.steps} steps" if self.steps != 1 else "1 step"


def _percent(ratio: float) -> float:
    # The number of percent that reads back as the same ratio: 100 × 0.07 is 7.000000000000001 in binary.
    for digits in range(18):
        percent = round(ratio * 100, digits)
        if percent / 100 == ratio:
            return percent
    return ratio * 100


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
        if isinstance(value, str):
            parts: list[Any] = [part.strip() for part in re.split(r"[x×,]", value)]
            if not all(part.isdigit() for part in parts):
                raise ValueError(f"a resolution is 1024, [832, 1216] or 832x1216, not {value!r}")
            value = [int(part) for part in parts]
        sides = [value] if isinstance(value, int) and not isinstance(value, bool) else value
        if not isinstance(sides, (list, tuple)) or len(sides) not in (1, 2):
            raise ValueError(f"a resolution is 1024, [832, 1216] or 832x1216, not {value!r}")
        if not all(isinstance(side, int) and not isinstance(side, bool) and side >= 64 for side in sides):
            raise ValueError(f"the sides of a resolution are whole numbers of at least 64 pixels, not {value!r}")
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
        if isinstance(value, str):
            if match := re.fullmatch(r"\s*dim\s*(?:/\s*([0-9]+(?:\.[0-9]+)?))?\s*", value):
                divisor = float(match[1] or 1)
                if divisor == 0:
                    raise ValueError("alpha cannot be dim divided by 0")
                return cls(divisor=divisor)
            try:
                value = float(value)
            except ValueError:
                raise ValueError(f'alpha is a number or "dim/2", not {value!r}') from None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
            raise ValueError(f'alpha is a positive number or "dim/2", not {value!r}')
        return cls(number=float(value))

    def of(self, dim: int) -> float:
        """The number it means for a network of this dim."""
        return self.number if self.number is not None else dim / (self.divisor or 1)

    def plain(self) -> float | str:
        """As TOML and JSON hold it."""
        if self.number is None:
            return str(self)
        return int(self.number) if self.number.is_integer() else self.number

    def __str__(self) -> str:
        if self.number is not None:
            return format_number(self.number)
        return "dim" if self.divisor == 1 else f"dim/{format_number(self.divisor or 1)}"
