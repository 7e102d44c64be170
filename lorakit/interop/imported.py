"""What was read of another trainer's recipe: each setting with where it comes from, and nothing dropped without a word."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from lorakit.preset.models import Preset
from lorakit.preset.rules import Finding

__all__ = ["Imported", "Note", "Origin", "Reading", "Recipe", "Told", "Unmapped", "Value"]

#: explicit: it stands in the file; default: that trainer's own, in that era; derived: worked out of other values, or
#: lorakit's where the trainer has nothing of the kind; unknown: the file does not say, and cannot.
Origin = Literal["explicit", "default", "derived", "unknown"]


@dataclass(frozen=True)
class Told:
    """One value as a format tells it; ``text`` is the original, ``line`` (from 1) where it stands, ``why`` how it came about."""

    value: Any
    origin: Origin = "explicit"
    text: str = ""
    line: int | None = None
    why: str = ""


@dataclass(frozen=True)
class Unmapped:
    """A setting that has no place in a preset, and why."""

    name: str
    text: str
    reason: str
    line: int | None = None


@dataclass(frozen=True)
class Note:
    """Something about a recipe that is easily taken for something else; ``key`` is the preset's key or empty."""

    what: str
    why: str = ""
    key: str = ""


@dataclass(frozen=True)
class Recipe:
    """How long and how warm, as it was asked for rather than as it was worked out by the trainer's front end.

    ``rounding`` is how that trainer makes whole steps of a share; ``base`` whether it takes the share of steps that it
    estimates from files or of the steps that are really trained. ``emitted`` are numbers that stand in the file although
    they follow from others.
    """

    epochs: float | None = None
    steps: int | None = None
    warmup_ratio: float | None = None
    warmup_steps: int | None = None
    rounding: Literal["half-even", "floor", "none"] = "none"
    base: Literal["estimated", "exact"] = "exact"
    emitted: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Reading:
    """What one file says, in the words of sd-scripts: ``arguments`` by the option's name without dashes.

    ``keys`` are values of the preset that are no option of it (``launch.threads``). What is neither in ``arguments`` nor
    in ``unknown`` is sd-scripts' own default where ``runs_sd_scripts``, else it is left to lorakit.
    """

    format: str
    title: str
    arguments: Mapping[str, Told]
    era: str = ""
    keys: Mapping[str, Told] = field(default_factory=dict)
    unmapped: tuple[Unmapped, ...] = ()
    notes: tuple[Note, ...] = ()
    recipe: Recipe = field(default_factory=Recipe)
    unknown: frozenset[str] = frozenset()
    runs_sd_scripts: bool = True
    sdxl: bool | None = None


@dataclass(frozen=True)
class Value:
    """One key of the preset: ``value`` as TOML holds it."""

    value: Any
    origin: Origin
    text: str = ""
    line: int | None = None
    why: str = ""


@dataclass(frozen=True)
class Imported:
    """A recipe as a preset: ``values`` by dotted key, ``toml`` the file that says it, with the origin of every value."""

    format: str
    title: str
    era: str
    values: Mapping[str, Value]
    unmapped: tuple[Unmapped, ...]
    notes: tuple[Note, ...]
    recipe: Recipe
    preset: Preset
    findings: tuple[Finding, ...]
    toml: str

    @property
    def toml_keys(self) -> frozenset[str]:
        """The keys that the file says: the others are lorakit's defaults too."""
        from lorakit.interop.preset_text import is_said

        return frozenset(key for key, value in self.values.items() if is_said(self.preset, key, value))

    def to_json(self) -> dict[str, Any]:
        """As ``lorakit import --json`` prints it."""
        return {
            "format": self.format,
            "title": self.title,
            "era": self.era,
            "values": {key: asdict(value) for key, value in self.values.items()},
            "unmapped": [asdict(one) for one in self.unmapped],
            "notes": [asdict(one) for one in self.notes],
            "recipe": asdict(self.recipe),
            "findings": [asdict(one) for one in self.findings],
            "preset": self.toml,
        }
