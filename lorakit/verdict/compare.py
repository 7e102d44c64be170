"""Runs side by side: the values that really differ, then what came of them. Bare LoRA files and log folders as far as they go."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Final

from lorakit.archive.run import SCHEMA, Run
from lorakit.evidence.measured import WeightSummary
from lorakit.verdict.datasets import DatasetChanges, DatasetDifference, dataset_changes, dataset_difference
from lorakit.verdict.results import results
from lorakit.verdict.settings import show_value
from lorakit.verdict.sides import Side, sides

__all__ = ["Comparison", "DatasetDifference", "Row", "compare", "dataset_difference"]

#: Words about a run, not what it was trained with; and where files lay, for their contents are compared.
_NOT_SETTINGS: Final = frozenset({"name", "description", "base.model", "base.vae", "network.weights"})
_DATASET_PATHS: Final = frozenset({"dataset.path", "dataset.reg_path", "dataset.config"})
#: Facts of environment.json that can change a training; the rest (host name, free memory …) cannot.
_ENVIRONMENT: Final = ("lorakit", "python", "implementation", "platform", "machine")
_MODELS: Final = {"base.model": "base model", "base.vae": "VAE", "network.weights": "starting weights"}
#: Settings that change what the loss counts, so that its height tells nothing across them.
_OTHER_LOSS: Final = ("loss.", "base.v_prediction")
#: Bytes of checkpoints that are measured without being asked to: some 20 seconds.
_MEASURED: Final = 4_000_000_000
#: Datasets whose pictures are named one by one; of more only counts are kept.
_NAMED: Final = 20


@dataclass(frozen=True)
class Row:
    """One line of the table: ``values`` as they are, one per side, ``shown`` as they read, ``origins`` where they came from."""

    key: str
    values: tuple[Any, ...]
    shown: tuple[str, ...]
    origins: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """Several runs: ``settings`` and ``inputs`` hold the rows that differ, ``results`` every result.

    ``alike`` are the settings that are equal in all, ``same_inputs`` the names of the inputs that are. ``warnings`` say what
    must not be read out of the numbers, and what could not be read. ``datasets`` names the pictures that differ from the
    first side's, one entry per side (empty beyond twenty sides). ``weights`` is the last checkpoint of each side, where it was measured.
    """

    sides: tuple[Side, ...]
    settings: tuple[Row, ...]
    inputs: tuple[Row, ...]
    results: tuple[Row, ...]
    alike: tuple[Row, ...]
    same_inputs: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    datasets: tuple[DatasetChanges, ...] = ()
    weights: tuple[WeightSummary | None, ...] = ()

    @property
    def same(self) -> int:
        """How many settings are equal."""
        return len(self.alike)

    def to_json(self) -> dict[str, Any]:
        """Plain values; numbers that are not finite as text."""
        return {
            "schema": SCHEMA,
            "runs": [
                {
                    "id": side.run.id if side.run else side.label,
                    "name": side.name,
                    "kind": side.kind,
                    "path": str(side.path),
                    "status": side.state.status.value if side.state else None,
                }
                for side in self.sides
            ],
            "settings": {row.key: [_plain(value) for value in row.values] for row in self.settings},
            "origins": {row.key: list(row.origins) for row in self.settings},
            "inputs": {row.key: list(row.shown) for row in self.inputs},
            "results": {row.key: [_plain(value) for value in row.values] for row in self.results},
            "same": {"settings": self.same, "inputs": list(self.same_inputs)},
            "datasets": [
                {
                    "added": list(one.added),
                    "removed": list(one.removed),
                    "changed": list(one.changed),
                    "recaptioned": [vars(picture) for picture in one.recaptioned],
                }
                for one in self.datasets
            ],
            "warnings": list(self.warnings),
        }


def compare(runs: Sequence[Run | Side], *, measure: bool | None = None) -> Comparison:
    """Compare two or more runs, LoRA files or log folders; the first is what the others' datasets are held against.

    Checkpoints that were not measured before are when ``measure`` says so, or, where it says nothing, when all of them
    together are not too large. Raises UsageError for fewer than two different ones, ArchiveError for a run whose preset cannot be read.
    """
    return side_by_side(sides(runs), measure=measure)


def side_by_side(found: Sequence[Side], *, measure: bool | None = None) -> Comparison:
    """The same for any number of sides, one too: then nothing differs, and its results stand alone."""
    rows, alike = _settings(found)
    inputs, changes, validated = _inputs(found)
    if measure is None:
        measure = sum(side.weight_bytes for side in found) <= _MEASURED
    checkpoints = [side.weights(measure_now=measure) for side in found]
    weights = tuple(one.last for one in checkpoints)
    differing = tuple(row for row in inputs if not _equal(row))
    complaints = [
        f"{side.label}: {complaint}"
        for side, one in zip(found, checkpoints, strict=True)
        for complaint in one.complaints
    ]
    if not measure and any(one is None for one in weights):
        complaints.append("weights were not all measured, for they are large: --weights measures them")
    return Comparison(
        sides=tuple(found),
        settings=rows,
        inputs=differing,
        results=tuple(
            Row(key, values, tuple("–" if value is None else str(value) for value in values))
            for key, values in results(found, weights)
        ),
        alike=alike,
        same_inputs=tuple(row.key for row in inputs if _equal(row)),
        warnings=(*_cautions(rows, differing, validated), *complaints),
        datasets=changes,
        weights=weights,
    )


def _settings(found: Sequence[Side]) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    differing: list[Row] = []
    alike: list[Row] = []
    for key in dict.fromkeys(key for side in found for key in side.settings):
        if key in _NOT_SETTINGS or key in _DATASET_PATHS:
            continue
        known = [side for side in found if side.is_whole or key in side.settings]
        values = tuple(side.settings.get(key) for side in found)
        shown = tuple(show_value(key, side.settings.get(key)) if side in known else "?" for side in found)
        row = Row(key, values, shown, tuple(side.origins.get(key, "") for side in found))
        # Alike as written (5 % of two lengths) or as meant (dim/2 and 8 at dim 16): alike.
        same = any(
            _all_equal([told.get(key) for told in each])
            for each in ([s.settings for s in known], [s.meant for s in known])
        )
        (alike if same else differing).append(row)
    return tuple(differing), tuple(alike)


def _inputs(found: Sequence[Side]) -> tuple[list[Row], tuple[DatasetChanges, ...], bool]:
    """Data, models, trainer, environment: one row each, equal or not; which pictures differ; whether all validate on the same."""
    first = found[0].dataset()
    digests, differences, changes, models, held_out = [], [], [], [], []
    for side in found:
        # One dataset at a time beside the first: they may be large, and there may be hundreds.
        record = side.dataset()
        digests.append(record.get("digest"))
        same = digests[-1] is not None and digests[-1] == digests[0]
        differences.append("?" if digests[-1] is None and not side.is_whole else str(dataset_difference(first, record)))
        if len(found) <= _NAMED:
            changes.append(DatasetChanges() if same or not side.is_whole else dataset_changes(first, record))
        models.append({key: _model(record, key) for key in _MODELS})
        held_out.append(
            sorted(str(image.get("sha256")) for image in record.get("images") or () if image.get("validation"))
        )
    rows = [Row("dataset", tuple(digests), tuple(differences))]
    for key, title in _MODELS.items():
        files = [told[key] for told in models]
        if any(files):
            hashes = tuple(tuple(sha for _, sha in entries) or None for entries in files)
            rows.append(
                Row(
                    title, hashes, tuple(_model_text(entries, side) for entries, side in zip(files, found, strict=True))
                )
            )
    trainers = tuple(side.trainer for side in found)
    rows.append(Row("trainer", trainers, tuple(told or "?" for told in trainers)))
    rows += [_told(key, [side.environment.get(key) for side in found], found) for key in _ENVIRONMENT]
    cards = [
        ", ".join(str(card.get("name")) for card in side.environment.get("gpus") or ()) if side.environment else None
        for side in found
    ]
    rows.append(Row("GPU", tuple(cards), tuple("?" if card is None else card or "none" for card in cards)))
    rows += _packages(found)
    return rows, tuple(changes), len({tuple(pictures) for pictures in held_out}) == 1


def _told(key: str, values: Sequence[Any], found: Sequence[Side]) -> Row:
    shown = tuple(
        "?" if value is None and not side.environment else show_value(key, value)
        for value, side in zip(values, found, strict=True)
    )
    return Row(key, tuple(values), shown)


def _packages(found: Sequence[Side]) -> Iterator[Row]:
    """One row per package of another version, or one for all when they are the same."""
    packages = [side.environment.get("packages") or {} for side in found]
    known = [each for each, side in zip(packages, found, strict=True) if side.environment]
    names = sorted({name for each in known for name in each}, key=str.lower)
    differing = [name for name in names if not _all_equal([each.get(name) for each in known])]
    for name in differing:
        yield _told(f"package {name}", [each.get(name) for each in packages], found)
    if not differing:
        yield Row("packages", tuple(0 for _ in packages), tuple("" for _ in packages))


def _model(record: Mapping[str, Any], key: str) -> list[tuple[str, str]]:
    entries = (record.get("models") or {}).get(key) or []
    return [(PurePath(str(entry.get("path"))).name, str(entry.get("sha256"))) for entry in entries]


def _model_text(entries: Sequence[tuple[str, str]], side: Side) -> str:
    if not entries:
        return "–" if side.is_whole else "?"
    name, sha = entries[0]
    more = f" and {len(entries) - 1} more" if len(entries) > 1 else ""
    return f"{name} {sha[:8]}{more}"


def _cautions(settings: Sequence[Row], inputs: Sequence[Row], validated: bool) -> Iterator[str]:
    """What must not be read out of the numbers, because more than one thing differs."""
    if any(row.key == "base model" for row in inputs):
        yield "the base models differ: neither losses nor weights can be held against each other"
    kinds = [row.key for row in settings if row.key.startswith(_OTHER_LOSS)]
    if kinds:
        listed = ", ".join(kinds[:3]) + (" and others" if len(kinds) > 3 else "")
        yield f"training losses count other things, since {listed} {'differs' if len(kinds) == 1 else 'differ'}: compare samples"
    if not validated:
        yield "validation losses are of different pictures"


def _equal(row: Row) -> bool:
    """Whether all that is known of a row is equal; what nobody knows (shown as ?) differs from nothing."""
    return _all_equal([value for value, shown in zip(row.values, row.shown, strict=True) if shown != "?"])


def _all_equal(values: Sequence[Any]) -> bool:
    return all(value == values[0] for value in values[1:])


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
