"""One look at a trial: resolved, checked, planned, told apart. What trials share is looked at once, so that 1,000 take seconds."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorakit.errors import LorakitError, UsageError
from lorakit.sweep.axes import SEED, Axis, Point, key_of, trial_name
from lorakit.sweep.estimate import shape_of
from lorakit.sweep.identity import Identifier

if TYPE_CHECKING:
    from lorakit.archive.run import Run
    from lorakit.dataset.blueprint import Blueprint
    from lorakit.dataset.scan import ScannedData
    from lorakit.plan import Plan
    from lorakit.preset.files import ResolvedPreset
    from lorakit.preset.models import Preset
    from lorakit.preset.rules import Finding, TrainerKind
    from lorakit.sweep.definition import Definition
    from lorakit.trainers.choose import TrainerChoice
    from lorakit.workspace import Workspace

__all__ = ["Looker", "Refused", "Trial", "value_of"]


@dataclass(frozen=True)
class Trial:
    """One point of the grid, checked and planned; ``done`` is the run that baked it before, ``findings`` are warnings.

    ``drawn``: its seed was drawn after it was looked at, for the whole sweep, and does not count for what it is.
    """

    point: Point
    resolved: ResolvedPreset
    plan: Plan
    trainer: TrainerKind
    identity: str
    done: Run | None = None
    findings: tuple[Finding, ...] = ()
    contents: Mapping[str, str] = field(default_factory=dict)
    shape: Mapping[str, Any] = field(default_factory=dict)
    drawn: bool = False


@dataclass(frozen=True)
class Refused:
    """A point that cannot be baked, and why."""

    point: Point
    error: LorakitError

    @property
    def why(self) -> str:
        """What is wrong, in one line: the problems themselves, where there are any."""
        return "; ".join(problem.what for problem in self.error.problems[:3]) or self.error.what

    @property
    def told(self) -> str:
        """Its values, as they would be typed."""
        return " ".join(f"{key}={value}" for key, value in self.point)


class Looker:
    """Looks at the points of one sweep; ``settle`` decides what each preset left open. Making it raises what is wrong with the preset or the sweep."""

    def __init__(
        self,
        preset: Path,
        asked: Definition,
        workspace: Workspace,
        *,
        settle: Callable[[ResolvedPreset], ResolvedPreset] = lambda resolved: resolved,
    ) -> None:
        from lorakit.preset.files import PresetFiles

        self._files = PresetFiles.read(preset)
        self._settle = settle
        self._asked = asked
        self._workspace = workspace
        self._identifier = Identifier(workspace)
        self._scans: list[tuple[tuple[Blueprint, bool], ScannedData | LorakitError]] = []
        self._choices: dict[tuple[str, bool], TrainerChoice] = {}
        self.axes = asked.axes
        if asked.seeds is not None:
            start = self._base().seed
            start = 1 if start is None else start
            self.axes = (*asked.axes, Axis(SEED, tuple(str(start + at) for at in range(asked.seeds))))

    def _base(self) -> Preset:
        return self._resolve(()).preset

    def _resolve(self, point: Point) -> ResolvedPreset:
        """The preset at a point, named after it; the name is put in afterwards, since it takes the preset's own."""
        values = [f"{key}={value}" for key, value in point]
        resolved = self._files.resolve([*self._asked.fixed, *values])
        if not point or "name" in dict(point):
            return resolved
        from lorakit.preset.provenance import Provenance

        name = trial_name(resolved.preset.name, self.axes, point)
        told = f"name={json.dumps(name, ensure_ascii=False)}"
        preset = type(resolved.preset).model_validate({**dict(resolved.preset), "name": name})
        return replace(
            resolved, preset=preset, provenance={**resolved.provenance, "name": Provenance("set", text=told)}
        )

    def look(self, point: Point) -> Trial | Refused | None:
        """The trial of a point, why it cannot be baked, or None where a condition leaves it out.

        Raises UsageError for a condition that has no sense for it.
        """
        from lorakit.bake.checks import check_files, check_rules
        from lorakit.plan import plan

        try:
            resolved = self._settle(self._resolve(point))
        except LorakitError as error:
            return Refused(point, error)
        if not all(condition.holds(lambda name: value_of(resolved.preset, name)) for condition in self._asked.where):
            return None
        try:
            choice = self._choose(resolved.preset)
            findings = check_rules(resolved, choice.kind, allow_warnings=True, workspace=self._workspace)
            check_files(resolved.preset, self._workspace)
            planned = plan(resolved.preset, self._workspace, scan=self._scan)
        except LorakitError as error:
            return Refused(point, error)
        key = self._identifier.identify(resolved.preset, planned.data, choice.kind)
        contents = self._identifier.contents(resolved.preset, planned.data)
        shape = shape_of(resolved.preset, planned, choice.kind, contents.get("base.model"))
        return Trial(point, resolved, planned, choice.kind, key, findings=findings, contents=contents, shape=shape)

    def _choose(self, preset: Preset) -> TrainerChoice:
        from lorakit.trainers.choose import choose

        asked = (preset.trainer.kind, preset.trainer.probe)
        if asked not in self._choices:
            self._choices[asked] = choose(preset, self._workspace)
        return self._choices[asked]

    def _scan(self, blueprint: Blueprint, *, skip_unreadable: bool = False, **more: Any) -> ScannedData:
        from lorakit.dataset.scan import scan

        asked = (_plain(blueprint), skip_unreadable)
        found = next((seen for known, seen in self._scans if known == asked), None)
        if found is None:
            try:
                found = scan(blueprint, skip_unreadable=skip_unreadable, **more)
            except LorakitError as error:
                found = error
            self._scans.append((asked, found))
        if isinstance(found, LorakitError):
            raise found
        return found


def _plain(blueprint: Blueprint) -> Blueprint:
    """The blueprint without what changes nothing in it: a seed for a split that there is not."""
    datasets = (
        replace(spec, validation_seed=None) if not spec.validation_split else spec for spec in blueprint.datasets
    )
    return replace(blueprint, datasets=tuple(datasets))


def value_of(preset: Preset, name: str) -> Any:
    """What a name in a condition stands for: a key, or its short name. ``te_lr`` of a pair is the larger of the two.

    Raises UsageError for a name that no preset has.
    """
    from lorakit.preset.units import Alpha, TextEncoderRates

    if name in ("te1_lr", "te2_lr"):
        return getattr(preset.optim.te_lr, name.removesuffix("_lr"))
    value: Any = preset
    for part in key_of(name).split("."):
        value = value.get(part) if isinstance(value, dict) else getattr(value, part, _MISSING)
        if value is _MISSING:
            raise UsageError(
                f"--where: there is no key {name}",
                todo="write a key such as network.dim, or unet_lr, te_lr, te1_lr, te2_lr, dim, alpha, seed",
            )
    if isinstance(value, TextEncoderRates):
        return max(value.te1, value.te2)
    if isinstance(value, Alpha):
        return value.of(preset.network.dim)
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)


_MISSING = object()
