"""Presets in files: load with parents and overrides, find by name. What a preset says is checked whole before any of it is used."""

from __future__ import annotations

import functools
import os
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from lorakit.errors import PresetError, Problem
from lorakit.preset.layers import Layer, merge, override_layer
from lorakit.preset.messages import BAD_EXTENDS, BAD_SET, MISSING, UNKNOWN_KEY, gaps, layer_problems
from lorakit.preset.models import Preset
from lorakit.preset.provenance import Provenance
from lorakit.preset.schema import exists, fields, is_open
from lorakit.preset.source import Source, display, parse_source, read_source, similar
from lorakit.preset.suggest import meant
from lorakit.preset.toml_lines import KeyPath, dotted
from lorakit.preset.units import UnitError, printable, shown
from lorakit.workspace import find_workspace

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["PresetFiles", "Provenance", "ResolvedPreset", "find_preset", "load_preset", "load_text", "with_seed"]

_SUFFIX = ".toml"


@dataclass(frozen=True)
class ResolvedPreset:
    """A preset with every value settled, and where each comes from.

    ``provenance`` has one entry per key path (``optim.unet_lr``; free arguments one by one, ``optim.args.betas``),
    ``source_text`` is the user's file verbatim, ``chain`` the files from the user's own to the last parent.
    """

    preset: Preset
    provenance: Mapping[str, Provenance]
    source_text: str
    path: Path
    chain: tuple[Path, ...]


@dataclass(frozen=True)
class PresetFiles:
    """A preset file and its parents, read and checked once, to be resolved with as many overrides as there are trials.

    ``layers`` are nearest first; ``problems`` is what is wrong in the files themselves.
    """

    layers: tuple[Layer, ...]
    source: Source
    chain: tuple[Path, ...]
    problems: tuple[Problem, ...]

    @classmethod
    def of(cls, source: Source) -> PresetFiles:
        """The file with its parents; what is wrong in them is told when it is resolved."""
        problems: list[Problem] = []
        files = _chain(source, problems)
        layers = tuple(Layer("preset" if file is source else "parent", _values(file), file) for file in files)
        for layer in layers:
            problems += _check(layer)
        return cls(layers, source, tuple(file.path for file in files), tuple(problems))

    @classmethod
    def read(cls, path: Path) -> PresetFiles:
        """The files of the preset at ``path``. Raises PresetError when it cannot be read."""
        return cls.of(read_source(path))

    def resolve(self, overrides: Sequence[str] = ()) -> ResolvedPreset:
        """The preset with ``KEY=VALUE`` overrides, later ones winning. Raises PresetError with everything that is wrong."""
        problems = list(self.problems)
        checked = [_override(argument) for argument in overrides]
        sets = [layer for layer, _ in checked if layer is not None]
        for _, wrong in checked:
            problems += wrong
        data, origins = merge([*reversed(self.layers), *sets])
        try:
            preset = Preset.model_validate(data)
        except ValidationError as error:
            problems += gaps(error, self.source)
            preset = None
        if preset is None or problems:
            raise _refusal(self.source, problems)
        return ResolvedPreset(preset, _provenance(preset, origins), self.source.text, self.source.path, self.chain)


def load_preset(path: Path, overrides: Sequence[str] = ()) -> ResolvedPreset:
    """Load a preset file with its parents (``extends``) and ``KEY=VALUE`` overrides, later ones winning.

    Raises PresetError whose ``problems`` hold everything that is wrong in any of the files and overrides.
    """
    return PresetFiles.read(path).resolve(overrides)


def load_text(text: str, path: Path, overrides: Sequence[str] = ()) -> ResolvedPreset:
    """:func:`load_preset` of a text as if it stood at ``path``."""
    return PresetFiles.of(parse_source(path, text)).resolve(overrides)


def _refusal(source: Source, problems: Sequence[Problem]) -> PresetError:
    count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
    return PresetError(f"{display(source.path)} has {count}", problems=tuple(problems))


def _values(source: Source) -> dict[str, Any]:
    return {key: value for key, value in source.data.items() if key != "extends"}


@functools.lru_cache(maxsize=4096)  # the trials of a sweep share most of what is set
def _override(argument: str) -> tuple[Layer | None, tuple[Problem, ...]]:
    """The layer of a ``KEY=VALUE``, and what is wrong with it."""
    try:
        layer = override_layer(argument)
    except UnitError as error:
        where = f"--set {printable(argument)}"
        return None, (Problem(error.why, todo=error.todo, where=where, code=BAD_SET),)
    return layer, tuple(_check(layer))


def _check(layer: Layer) -> Iterator[Problem]:
    if layer.unset and not exists(layer.unset):
        key = dotted(layer.unset)
        yield Problem(f"there is no key {key}", "", meant(layer.unset), key, layer.where(layer.unset), UNKNOWN_KEY)
    try:
        Preset.model_validate(layer.data)
    except ValidationError as error:
        yield from layer_problems(error, layer)


def _chain(source: Source, problems: list[Problem]) -> list[Source]:
    """The file and its parents, nearest first, as far as they can be read."""
    chain = [source]
    while "extends" in chain[-1].data:
        child = chain[-1]
        try:
            parent = _parent(child)
        except PresetError as error:
            problems += error.problems
            break
        identities = [os.path.realpath(file.path) for file in chain]
        if (identity := os.path.realpath(parent.path)) in identities:
            cycle = [display(file.path) for file in chain[identities.index(identity) :]]
            cycle.append(cycle[0])
            problems.append(
                _extends_problem(child, "presets extend each other in a circle", " → ".join(cycle), "cut it")
            )
            break
        chain.append(parent)
    return chain


def _parent(child: Source) -> Source:
    name = child.data["extends"]
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        problem = _extends_problem(
            child,
            f"extends = {shown(name)}",
            "it is the name or path of one preset",
            'write extends = "sdxl-character"',
        )
        raise PresetError(problem.what, problems=(problem,))
    places = list(_places(child.path, name))
    found = next((place for place in places if os.path.isfile(place)), None)
    if found is None:
        looked = ", ".join(dict.fromkeys(display(place) for place in places))
        near = list(dict.fromkeys(near for place in places for near in similar(place)))[:3]
        todo = f"did you mean {' or '.join(near)}?" if near else "give its name, or its path from this file"
        problem = _extends_problem(child, f"extends = {shown(name)}: no such preset", f"looked for {looked}", todo)
        raise PresetError(problem.what, problems=(problem,))
    return read_source(found)


def _expanded(name: str | Path) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError:  # ~someone who has no home here: then it is a name like any other
        return Path(name)


def _extends_problem(child: Source, what: str, why: str, todo: str) -> Problem:
    return Problem(what, why, todo, "extends", child.where(("extends",)), BAD_EXTENDS)


def _places(child: Path, name: str) -> Iterator[Path]:
    """Where a parent may be: beside the file, then in the presets folders next to it."""
    folder = child.absolute().parent
    names = [name] if name.endswith(_SUFFIX) else [name + _SUFFIX, name]
    presets = find_workspace(folder).presets
    for place in dict.fromkeys((folder, folder / "presets", folder.parent / "presets", presets)):
        yield from (place / _expanded(name) for name in names)


def _provenance(preset: Preset, origins: Mapping[str, Provenance]) -> dict[str, Provenance]:
    default = Provenance("default")
    provenance: dict[str, Provenance] = {}
    for path, key, is_table in _keys():
        inner: Any = functools.reduce(getattr, path, preset) if is_table else None
        if inner:
            provenance |= {name: origins.get(name, default) for name in (dotted((*path, part)) for part in inner)}
        else:
            provenance[key] = origins.get(key, default)
    return provenance


@functools.cache
def _keys() -> tuple[tuple[KeyPath, str, bool], ...]:
    """Every key path of a preset, dotted too, and whether it is a table of free arguments."""
    return tuple((path, dotted(path), is_open(path)) for path, _ in fields())


def with_seed(resolved: ResolvedPreset, rng: random.Random | None = None) -> ResolvedPreset:
    """The same preset with a seed: one is drawn from ``rng`` (the system's, if None) where the preset has none."""
    if resolved.preset.seed is not None:
        return resolved
    seed = (rng or random.SystemRandom()).randrange(2**32)
    provenance = {**resolved.provenance, "seed": Provenance("derived", text="drawn for this run")}
    return replace(resolved, preset=resolved.preset.model_copy(update={"seed": seed}), provenance=provenance)


def find_preset(name_or_path: str | Path, workspace_presets: Path) -> Path:
    """The file meant by a path, or by the NAME of workspace_presets/NAME.toml. Raises PresetError with suggestions."""
    given = _expanded(name_or_path)
    named = given.name == str(name_or_path) and given.suffix != _SUFFIX
    beside = [given, given.with_name(given.name + _SUFFIX)] if given.name else [given]
    inside = [workspace_presets / path for path in reversed(beside)]
    places = [*inside, *beside] if named else [*beside, *inside]
    found = next((place for place in places if os.path.isfile(place)), None)
    if found is not None:
        return found
    if not named and os.path.exists(given):
        return given  # a folder or a device: loading it says so
    raise _not_found(str(name_or_path), given, workspace_presets)


def _not_found(asked: str, given: Path, presets: Path) -> PresetError:
    near = similar(presets / given.name) or similar(given)
    there = sorted(entry.stem for entry in presets.glob(f"*{_SUFFIX}"))
    if near:
        todo = f"did you mean {' or '.join(near)}?"
    elif there:
        todo = f"{display(presets)} has {', '.join(there)}"
    else:
        todo = "`lorakit init` lays out presets to start from"
    what = f"there is no preset {shown(asked)}"
    why = f"neither a file of that path nor {display(presets / given.name)}{_SUFFIX} exists"
    return PresetError(what, why=why, todo=todo, problems=(Problem(what, why, todo, code=MISSING),))
