"""Runs side by side: the values that really differ, then what came of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Final

from lorakit.archive.records import RunState, state
from lorakit.archive.run import SCHEMA, Run, read_record
from lorakit.errors import UsageError
from lorakit.verdict.settings import effective, settings, show_value

__all__ = ["Comparison", "DatasetDifference", "Row", "compare", "dataset_difference"]

#: Words about a run, not what it was trained with; and where files lay, for their contents are compared.
_NOT_SETTINGS: Final = frozenset({"name", "description", "base.model", "base.vae", "network.weights"})
_DATASET_PATHS: Final = frozenset({"dataset.path", "dataset.reg_path", "dataset.config"})
#: Facts of environment.json that can change a training; the rest (host name, free memory …) cannot.
_ENVIRONMENT: Final = ("lorakit", "python", "implementation", "platform", "machine")
_MODELS: Final = {"base.model": "base model", "base.vae": "VAE", "network.weights": "starting weights"}


@dataclass(frozen=True)
class Row:
    """One line of the table: ``values`` as they are, one per run, ``shown`` as they read."""

    key: str
    values: tuple[Any, ...]
    shown: tuple[str, ...]


@dataclass(frozen=True)
class DatasetDifference:
    """A run's pictures against another's, in numbers of pictures.

    ``changed``: another picture under the same name; ``rearranged``: other repeats, bucket or side of the validation split.
    """

    images: int
    added: int = 0
    removed: int = 0
    changed: int = 0
    recaptioned: int = 0
    rearranged: int = 0

    def __str__(self) -> str:
        images = f"{self.images} image{'' if self.images == 1 else 's'}"
        signed = ((f"+{self.added}", self.added), (f"−{self.removed}", self.removed))
        worded = (("changed", self.changed), ("recaptioned", self.recaptioned), ("rearranged", self.rearranged))
        parts = [text for text, count in signed if count] + [f"{count} {word}" for word, count in worded if count]
        return f"{images} ({', '.join(parts)})" if parts else images


@dataclass(frozen=True)
class Comparison:
    """Several runs: ``settings`` and ``inputs`` hold the rows that differ, ``results`` every result.

    ``same`` is the number of settings that are equal in all runs, ``same_inputs`` the names of the inputs that are.
    """

    runs: tuple[RunState, ...]
    settings: tuple[Row, ...]
    inputs: tuple[Row, ...]
    results: tuple[Row, ...]
    same: int
    same_inputs: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values; numbers that are not finite as text."""
        return {
            "schema": SCHEMA,
            "runs": [{"id": found.run.id, "name": found.name, "status": found.status.value} for found in self.runs],
            "settings": {row.key: [_plain(value) for value in row.values] for row in self.settings},
            "inputs": {row.key: list(row.shown) for row in self.inputs},
            "results": {row.key: [_plain(value) for value in row.values] for row in self.results},
            "same": {"settings": self.same, "inputs": list(self.same_inputs)},
        }


def compare(runs: Sequence[Run]) -> Comparison:
    """Compare two or more runs; the first is what the others' datasets are held against.

    Raises UsageError for fewer than two different runs, ArchiveError for a run whose preset cannot be read.
    """
    if len({run.path for run in runs}) < len(runs) or len(runs) < 2:
        raise UsageError("two or more different runs can be compared", todo="lorakit compare k3f9 latest")
    states = tuple(state(run) for run in runs)
    rows, same = _settings(runs)
    inputs = list(_inputs(runs))
    return Comparison(
        runs=states,
        settings=rows,
        inputs=tuple(row for row in inputs if not _equal(row.values)),
        results=tuple(_results(states)),
        same=same,
        same_inputs=tuple(row.key for row in inputs if _equal(row.values)),
    )


def _settings(runs: Sequence[Run]) -> tuple[tuple[Row, ...], int]:
    written = [settings(run) for run in runs]
    meant = [effective(run, values) for run, values in zip(runs, written, strict=True)]
    rows = []
    same = 0
    for key in dict.fromkeys(key for values in written for key in values):
        if key in _NOT_SETTINGS or key in _DATASET_PATHS:
            continue
        as_written, as_meant = ([values.get(key) for values in each] for each in (written, meant))
        # Alike as written (5 % of two lengths) or as meant (dim/2 and 8 at dim 16): alike.
        if _equal(as_written) or _equal(as_meant):
            same += 1
        else:
            shown = tuple(show_value(key, value) for value in as_written)
            rows.append(Row(key, tuple(as_written), shown))
    return tuple(rows), same


def _inputs(runs: Sequence[Run]) -> Iterator[Row]:
    """Data, models, trainer, environment: one row each, equal or not."""
    datasets = [read_record(run.dataset) or {} for run in runs]
    differences = [dataset_difference(datasets[0], other) for other in datasets]
    yield Row("dataset", tuple(record.get("digest") for record in datasets), tuple(map(str, differences)))
    for key, title in _MODELS.items():
        files = [_model(record, key) for record in datasets]
        if any(files):
            hashes = tuple(tuple(sha for _, sha in entries) for entries in files)
            yield Row(title, hashes, tuple(_model_text(entries) for entries in files))
    environments = [read_record(run.environment) or {} for run in runs]
    trainers = tuple(_trainer(run, record) for run, record in zip(runs, environments, strict=True))
    yield Row("trainer", trainers, trainers)
    for key in _ENVIRONMENT:
        values = tuple(record.get(key) for record in environments)
        yield Row(key, values, tuple(show_value(key, value) for value in values))
    cards = tuple(", ".join(str(card.get("name")) for card in record.get("gpus") or ()) for record in environments)
    yield Row("GPU", cards, tuple(card or "none" for card in cards))
    yield from _packages(environments)


def _packages(environments: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    """One row per package of another version, or one for all when they are the same."""
    packages = [record.get("packages") or {} for record in environments]
    names = sorted({name for each in packages for name in each}, key=str.lower)
    differing = [name for name in names if not _equal([each.get(name) for each in packages])]
    for name in differing:
        values = tuple(each.get(name) for each in packages)
        yield Row(f"package {name}", values, tuple(show_value(name, value) for value in values))
    if not differing:
        yield Row("packages", tuple(0 for _ in packages), tuple("" for _ in packages))


def _model(record: Mapping[str, Any], key: str) -> list[tuple[str, str]]:
    entries = (record.get("models") or {}).get(key) or []
    return [(PurePath(str(entry.get("path"))).name, str(entry.get("sha256"))) for entry in entries]


def _model_text(entries: Sequence[tuple[str, str]]) -> str:
    if not entries:
        return "–"
    name, sha = entries[0]
    more = f" and {len(entries) - 1} more" if len(entries) > 1 else ""
    return f"{name} {sha[:8]}{more}"


def _trainer(run: Run, environment: Mapping[str, Any]) -> str:
    """Kind, and the commit of its checkout where it has one."""
    command = (read_record(run.command_json) or {}).get("trainer") or {}
    checkout = (environment.get("trainer") or {}).get("checkout") or {}
    parts = [str(command.get("kind") or (environment.get("trainer") or {}).get("kind") or "?")]
    if isinstance(checkout, dict) and checkout.get("commit"):
        parts.append(str(checkout["commit"])[:8] + (" (changed)" if checkout.get("dirty") else ""))
    return " ".join(parts)


def dataset_difference(first: Mapping[str, Any], other: Mapping[str, Any]) -> DatasetDifference:
    """How the pictures of ``other`` differ from those of ``first``, both as dataset.json records.

    Pictures are known by their contents; one that has gone and one that has come under the same name is a changed one.
    """
    ours, theirs = (record.get("images") or [] for record in (first, other))
    gone = _without(ours, theirs, _content)
    come = _without(theirs, ours, _content)
    changed = len(_paired(gone, come, _name))
    there = Counter(map(_content, ours)) & Counter(map(_content, theirs))
    stayed_ours, stayed_theirs = (_keep(images, there) for images in (ours, theirs))
    recaptioned = len(_without(stayed_theirs, stayed_ours, _captioned))
    rearranged = len(_without(stayed_theirs, stayed_ours, _arranged))
    return DatasetDifference(
        images=len(theirs),
        added=len(come) - changed,
        removed=len(gone) - changed,
        changed=changed,
        recaptioned=recaptioned,
        rearranged=rearranged,
    )


_Image = Mapping[str, Any]


def _content(image: _Image) -> Any:
    return image.get("sha256")


def _captioned(image: _Image) -> Any:
    return image.get("sha256"), image.get("caption"), image.get("caption_sha256")


def _arranged(image: _Image) -> Any:
    return image.get("sha256"), image.get("repeats"), str(image.get("bucket")), image.get("validation")


def _name(image: _Image) -> Any:
    return PurePath(str(image.get("path"))).parts[-2:]


def _without(images: Sequence[_Image], others: Sequence[_Image], key: Callable[[_Image], Any]) -> list[_Image]:
    """The images that have no partner among the others; each partner is used once."""
    left = Counter(map(key, others))
    alone = []
    for image in images:
        if left[key(image)] > 0:
            left[key(image)] -= 1
        else:
            alone.append(image)
    return alone


def _paired(images: Sequence[_Image], others: Sequence[_Image], key: Callable[[_Image], Any]) -> list[Any]:
    return list((Counter(map(key, images)) & Counter(map(key, others))).elements())


def _keep(images: Sequence[_Image], there: Counter[Any]) -> list[_Image]:
    left = Counter(there)
    kept = []
    for image in images:
        if left[_content(image)] > 0:
            left[_content(image)] -= 1
            kept.append(image)
    return kept


def _results(states: Sequence[RunState]) -> Iterator[Row]:
    titles: tuple[tuple[str, Callable[[RunState], Any]], ...] = (
        ("state", lambda found: found.status.value),
        ("steps", lambda found: found.steps),
        ("loss_first", lambda found: found.loss_first),
        ("loss_last", lambda found: found.loss_last),
        ("loss_average", lambda found: found.loss_average),
        ("validation", lambda found: found.validation),
        ("steps_per_second", lambda found: found.steps_per_second),
        ("seconds", lambda found: found.seconds),
        ("peak_vram", lambda found: found.vram),
        ("peak_rss", lambda found: found.rss),
    )
    for key, value_of in titles:
        values = tuple(value_of(found) for found in states)
        yield Row(key, values, tuple("–" if value is None else str(value) for value in values))


def _equal(values: Sequence[Any]) -> bool:
    return all(value == values[0] for value in values[1:])


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
