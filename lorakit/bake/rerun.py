"""A new run from an archived one's request; it refuses where what it would train on is no longer what that run had."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lorakit.archive.run import Run, read_record
from lorakit.bake.bake import OnUpdate, carry_out
from lorakit.bake.prepare import OnPrepare, Prepared, dataset_record, look, write_run
from lorakit.errors import ArchiveError, DatasetError, LorakitError, ModelFileError, UsageError
from lorakit.launch.processes import require_linux

if TYPE_CHECKING:
    from lorakit.preset.files import ResolvedPreset
    from lorakit.workspace import Workspace

__all__ = ["PLACES", "archived_preset", "differences", "refuse_differences", "rerun"]

#: What besides the trainer itself decides about its numbers.
_COUNTED_PACKAGES: Final = ("torch",)
#: Keys that only say where something is: its content is what counts.
PLACES: Final = (
    "base.model", "base.vae", "base.tokenizer_cache", "network.weights", "dataset.path", "dataset.reg_path", "dataset.config",
    "sample.prompts",
)  # fmt: skip
#: So many files of a dataset are named; the others are counted.
_NAMED: Final = 3


def rerun(
    run: Run,
    workspace: Workspace,
    *,
    anyway: bool = False,
    detach: bool = False,
    overrides: Sequence[str] = (),
    on_update: OnUpdate | None = None,
    on_prepare: OnPrepare | None = None,
    argv: Sequence[str] = (),
) -> Run:
    """Bake the archived request of ``run`` as a new run, which keeps whose rerun it is; returns it however it ended.

    Same preset with every value and the seed, so on the same machine the same tensors. Raises ArchiveError when the dataset, a model
    file or the trainer is no longer what ``run`` had; with ``anyway`` the new run's lineage keeps what differs. ``overrides``, as
    ``KEY=VALUE``, say where the dataset and the models are by now (:data:`PLACES`); what is there must be the same. Raises
    UsageError for other keys, and what ``bake.prepare`` raises: where a file is missing, with how to name it.
    """
    require_linux()
    _only_places(overrides, run)
    try:
        prepared = look(archived_preset(run, overrides), workspace, argv=argv, on_prepare=on_prepare)
    except (DatasetError, ModelFileError) as error:
        raise _where(error, run) from error
    found = differences(run, prepared)
    if not anyway:
        refuse_differences(run, found, "rerun")
    lineage = {"kind": "rerun", "of": run.id, "differences": list(found)}
    again = write_run(dataclasses.replace(prepared, request={**prepared.request, "lineage": lineage}), workspace)
    carry_out(again, detach=detach, on_update=on_update)
    return again


def _only_places(overrides: Sequence[str], run: Run) -> None:
    for override in overrides:
        if override.partition("=")[0].strip() not in PLACES:
            raise UsageError(
                f"a rerun changes no setting, and {override!r} would",
                why=f"--set says here where files are by now: {', '.join(PLACES)}",
                todo=f"bake with other settings: lorakit bake {run.path}/preset.toml --set {override}",
            )


def _where(error: LorakitError, run: Run) -> LorakitError:
    """An error about a missing file, with what the run had there and how to say where that is now."""
    record = read_record(run.dataset) or {}
    had = []
    models = record.get("models")
    for key, files in (models if isinstance(models, Mapping) else {}).items():
        names = ", ".join(f"{Path(str(one.get('path'))).name} (sha256 {str(one.get('sha256'))[:12]})" for one in files)
        had.append(f"{key}: {names}")
    had.append(f"dataset: {len(record.get('images') or ())} pictures")
    places = "--set base.model=FILE --set dataset.path=FOLDER"
    return type(error)(
        error.what,
        why="\n".join([*([error.why] if error.why else []), "the run had", *(f"  {line}" for line in had)]),
        todo=f"put it there, or say where it is: lorakit rerun {run.short} {places}",
    )


def archived_preset(run: Run, overrides: Sequence[str] = ()) -> ResolvedPreset:
    """The preset as a run kept it: every value settled, with the user's own text and where each value came from.

    Raises ArchiveError when it cannot be read, PresetError when this lorakit no longer knows a key of it.
    """
    from lorakit.preset.files import load_text
    from lorakit.preset.provenance import Provenance

    try:
        text = run.preset.read_text(encoding="utf-8", errors="surrogateescape")
        source = run.source.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise ArchiveError(
            f"{run.id} has no preset to go by",
            why=f"{error.filename}: {error.strerror}",
            todo=f"lorakit verify {run.short} says what else is missing",
        ) from error
    resolved = load_text(text, run.preset, overrides)
    request = read_record(run.request) or {}
    kept = (read_record(run.provenance) or {}).get("values")
    provenance = dict(resolved.provenance)
    for key, value in (kept if isinstance(kept, Mapping) else {}).items():
        if key in provenance and provenance[key].kind != "set" and isinstance(value, Mapping) and value.get("kind"):
            file = value.get("file")
            provenance[key] = Provenance(
                value["kind"], None if file is None else Path(file), value.get("line"), str(value.get("text") or "")
            )
    path = Path(request["preset"]) if isinstance(request.get("preset"), str) else run.preset
    chain = tuple(Path(str(each)) for each in request.get("chain") or (path,))
    return dataclasses.replace(resolved, source_text=source, path=path, chain=chain, provenance=provenance)


def differences(run: Run, prepared: Prepared) -> tuple[str, ...]:
    """How dataset, model files and trainer now differ from what ``run`` had, one line each; empty when they are the same.

    Files count by their content: moved elsewhere they are still the same.
    """
    archived, now = read_record(run.dataset) or {}, dataset_record(prepared)
    environment = read_record(run.environment) or {}
    found = []
    for name, record in (("dataset.json", archived), ("environment.json", environment)):
        if not record or "damaged" in record:
            found.append(f"{name} of the run cannot be read, so nothing can be compared with it")
    if archived.get("digest") != now["digest"]:
        found.append(_data_difference(archived, now))
    found += _model_differences(archived.get("models") or {}, now["models"])
    found += _trainer_differences(environment, prepared.environment)
    return tuple(found)


def refuse_differences(run: Run, found: Sequence[str], verb: str) -> None:
    """Raise ArchiveError when there are any."""
    if found:
        raise ArchiveError(
            f"{run.id} cannot be {'rerun' if verb == 'rerun' else 'resumed'} as it was",
            why="\n".join(found),
            todo=f"put back what it had, or lorakit {verb} {run.short} --anyway, which records the difference",
        )


def _data_difference(archived: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first few pictures that are gone, new, changed or captioned in another way."""
    before = {str(entry.get("path")): entry for entry in archived.get("images") or ()}
    after = {str(entry["path"]): entry for entry in now["images"]}
    told = [
        ("gone", sorted(set(before) - set(after))),
        ("new", sorted(set(after) - set(before))),
        ("changed", _differing(before, after, "sha256")),
        ("captioned in another way", _differing(before, after, "caption")),
    ]
    parts = [f"{len(paths)} {what} ({_some(paths)})" for what, paths in told if paths]
    if not parts:
        parts = ["the same pictures in other buckets, with other repeats, or split in another way"]
    elif len(before) == len(after) and _contents(before) == _contents(after):
        parts = ["the same pictures in another place, and something else about them: buckets, repeats, order"]
    return f"dataset: {'; '.join(parts)}"


def _differing(before: Mapping[str, Any], after: Mapping[str, Any], key: str) -> list[str]:
    return sorted(path for path in set(before) & set(after) if before[path].get(key) != after[path].get(key))


def _contents(entries: Mapping[str, Any]) -> Counter[tuple[Any, Any]]:
    return Counter((entry.get("sha256"), entry.get("caption")) for entry in entries.values())


def _some(paths: Sequence[str]) -> str:
    names = [Path(path).name for path in paths[:_NAMED]]
    return ", ".join(names) + (", …" if len(paths) > _NAMED else "")


def _model_differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    found = []
    for key in sorted(set(before) | set(after)):
        then, now = ([entry.get("sha256") for entry in record.get(key) or ()] for record in (before, after))
        if then != now:
            name = Path(str((before.get(key) or after.get(key) or [{}])[0].get("path", ""))).name
            short = " and ".join(
                f"{(sums[0] or '')[:8] if sums else 'none'} {when}" for sums, when in ((then, "then"), (now, "now"))
            )
            found.append(f"{key}: {name} has another content (sha256 {short})")
    return found


def _trainer_differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    told = {
        "trainer": [str((record.get("trainer") or {}).get("kind")) for record in (before, after)],
        "sd-scripts": [_checkout(record) for record in (before, after)],
    }
    if told["trainer"] == ["builtin", "builtin"]:
        told["the built-in trainer, lorakit"] = [str(record.get("lorakit")) for record in (before, after)]
    for name in _COUNTED_PACKAGES:
        told[name] = [str((record.get("packages") or {}).get(name)) for record in (before, after)]
    return [f"{what}: {then} then, {now} now" for what, (then, now) in told.items() if then != now]


def _checkout(environment: Mapping[str, Any]) -> str:
    checkout = (environment.get("trainer") or {}).get("checkout") or {}
    commit = str(checkout.get("commit") or "none")[:12]
    return f"{commit} with local changes" if checkout.get("dirty") else commit
