"""The preset to try next: it extends the run's own, and says of each key that it changes why."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lorakit import atomic
from lorakit.archive.run import Run
from lorakit.archive.states import whole_checkpoints
from lorakit.bake.rerun import archived_preset
from lorakit.errors import DiskError, ModelFileError, UsageError
from lorakit.preset.dump import spell
from lorakit.preset.files import ResolvedPreset, load_text
from lorakit.preset.toml_lines import dotted, parse_key
from lorakit.verdict.diagnose.diagnosis import Diagnosis
from lorakit.verdict.diagnose.facts import PARTS, CheckpointFacts
from lorakit.verdict.diagnose.findings import Road
from lorakit.verdict.diagnose.thresholds import Thresholds
from lorakit.workspace import Workspace

__all__ = ["Change", "NextPreset", "changes_json", "plan_next", "write_next"]

#: A rate that changes no weight beyond rounding. At 0 a trainer would leave the part out of the new file.
_STILL: Final = 1e-9
_HELD: Final = "held still: at 0 the trainer would leave this part out of the new file"
#: Keys that a preset which goes on from a checkpoint takes from its road alone.
_OF_A_ROAD: Final = ("optim.", "length.", "network.", "memory.")


@dataclass(frozen=True)
class Change:
    """One key of the next preset, its value, and why."""

    key: str
    value: Any
    why: str


@dataclass(frozen=True)
class NextPreset:
    """The text of the file, and the changes in it."""

    path: Path
    text: str
    changes: tuple[Change, ...]
    start: Path | None


def plan_next(
    found: Diagnosis, run: Run, workspace: Workspace, path: Path, *, road: Road | None = None, start: str | None = None
) -> NextPreset:
    """What to write to ``path``: the advice of all findings, or, with a ``road``, going on from a checkpoint (``start``, else the advised or the last).

    Raises UsageError when nothing is to be changed or no such checkpoint is there, PresetError when the result would not load.
    """
    road = road or next(
        (
            one.road
            for finding in found.findings
            for one in finding.advice
            if one.road and finding.code.startswith("D5")
        ),
        None,
    )
    before = archived_preset(run)
    begin = None
    if road is not None:
        begin, facts = _checkpoint(found, run, start, road)
        weights = begin.relative_to(workspace.root) if begin.is_relative_to(workspace.root) else begin
        changes = [
            *_on_the_road(road, facts, weights, found.limits, before),
            *(one for one in _advised(found) if not one.key.startswith(_OF_A_ROAD)),
        ]
    elif start is not None:
        raise UsageError(
            "--from names a checkpoint to go on from, and nothing says how",
            todo="add --then refine-unet, refine-te or anneal",
        )
    else:
        changes = list(_advised(found))
    changes = [one for one in changes if _value(before, one.key) != _plain(one.value)]
    if not changes:
        raise UsageError(
            f"the findings of {run.short} change nothing in its preset",
            why="there are none, or what they advise is not a setting",
            todo="go on from it with --then refine-unet, refine-te or anneal",
        )
    parent = Path(os.path.relpath(run.preset.absolute(), path.absolute().parent)).as_posix()
    # Checked by the parent's full path: from a folder that is not there yet no way leads up.
    load_text(_text(run, str(run.preset.absolute()), found, changes, road), path)
    text = _text(run, parent, found, changes, road)
    return NextPreset(path, text, tuple(changes), begin)


def write_next(planned: NextPreset) -> None:
    """Write the file, never over another. Raises UsageError when it exists, DiskError."""
    try:
        planned.path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_once(planned.path, planned.text.encode("utf-8"))
    except FileExistsError as error:
        raise UsageError(f"{planned.path} exists", todo="give another name") from error
    except OSError as error:
        raise DiskError(f"{planned.path} cannot be written", why=error.strerror or str(error)) from error


def _advised(found: Diagnosis) -> Iterator[Change]:
    """The changes of all findings, surest first; of several for one key the first counts. New alpha, old rates: one thing at a time."""
    taken: set[str] = set()
    alpha = any("network.alpha" in one.changes for finding in found.findings for one in finding.advice)
    for finding in found.findings:
        first = finding.evidence[0].text if finding.evidence else finding.title
        for one in finding.advice:
            for key, value in one.changes.items():
                if key not in taken and not (alpha and key in ("optim.unet_lr", "optim.te_lr")):
                    taken.add(key)
                    yield Change(key, value, f"{finding.code} {finding.title} ({finding.confidence}): {first}")


def _checkpoint(found: Diagnosis, run: Run, start: str | None, road: Road) -> tuple[Path, CheckpointFacts]:
    advised = next(
        (one.start for finding in found.findings for one in finding.advice if one.start and one.road == road), None
    )
    wanted = start or advised
    paths = whole_checkpoints(run)
    if not paths:
        raise ModelFileError(f"{run.short} has no whole checkpoint to go on from")
    path = (
        next((one for one in paths if wanted in (one.name, one.stem, one.relative_to(run.path).as_posix())), None)
        if wanted
        else paths[-1]
    )
    if path is None:
        raise UsageError(
            f"{run.short} has no checkpoint {wanted}", why=f"it has {', '.join(one.name for one in paths)}"
        )
    name = path.relative_to(run.path).as_posix()
    facts = next((one for one in found.facts.checkpoints if one.file == name), None)
    if facts is None:
        raise ModelFileError(
            f"{path} could not be measured",
            why="; ".join(one.why for one in found.facts.unseen if one.what == path.name),
        )
    return path, facts


def _on_the_road(
    road: Road, facts: CheckpointFacts, weights: Path, limits: Thresholds, before: ResolvedPreset
) -> Iterator[Change]:
    """What the ready preset of that name does, for a LoRA with these parts."""
    optim = before.preset.optim
    has_unet, has_text = "unet" in facts.parts, bool({"te1", "te2"} & facts.parts.keys())
    parts = " and ".join(name for part, name in PARTS.items() if part in facts.parts)
    yield Change("network.weights", weights.as_posix(), f"goes on from this checkpoint, which holds {parts}")
    if road == "refine-unet":
        yield Change(
            "optim.unet_lr",
            _two(optim.unet_lr * 0.5),
            "half of the first training's: the way is short, and the optimizer starts without memory",
        )
        yield Change("optim.te_lr", _STILL if has_text else 0.0, _HELD)
        yield from _UNCACHED if has_text else ()
        epochs = 3
    elif road == "refine-te":
        yield Change("optim.unet_lr", _STILL if has_unet else 0.0, _HELD)
        yield Change(
            "optim.te_lr",
            limits["change.refine_te"],
            "they are nearly right: at usual rates they would leave what the UNet was trained with",
        )
        yield from _UNCACHED
        epochs = 3
    else:
        rest = limits["change.rest"]
        yield Change(
            "optim.unet_lr",
            _two(optim.unet_lr * rest),
            "a tenth: takes out the noise that a high rate leaves in the weights",
        )
        rates = [_two(rate * rest) for rate in (optim.te_lr.te1, optim.te_lr.te2)]
        yield Change("optim.te_lr", rates[0] if rates[0] == rates[1] else rates, "a tenth as well")
        epochs = 2
    yield Change("optim.schedule", "cosine", "ends at 0: the last steps average, they do not learn")
    yield Change("optim.warmup", "5%", "the optimizer starts without memory, and would leap at first")
    yield Change("length.epochs", epochs, "enough; more is training on")


#: Text encoders that act, or train, cannot be read from a cache.
_UNCACHED: Final = tuple(
    Change(
        f"memory.cache_text_encoder_outputs{end}",
        value=False,
        why="outputs of the base model's text encoders are not theirs",
    )
    for end in ("", "_to_disk")
)


def _two(value: float) -> float:
    return float(f"{value:.1e}")


def _value(before: ResolvedPreset, key: str) -> Any:
    value: Any = before.preset
    for part in key.split("."):
        value = getattr(value, part)
    return _plain(value)


def _plain(value: Any) -> Any:
    plain = value.plain() if hasattr(value, "plain") else value
    return list(plain) if isinstance(plain, tuple) else plain


def _text(run: Run, parent: str, found: Diagnosis, changes: Sequence[Change], road: Road | None) -> str:
    """The file: what it extends, a name of its own, and each changed key below the sentence that says why."""
    what = (
        f"Goes on from {run.id} as the preset {road} does"
        if road
        else f"What `lorakit diagnose {run.short}` advises to try after {run.id}"
    )
    name = f"{run.name}-{road or 'next'}"
    lines = [
        f"# {_line(what)}.",
        "# Everything that is not here is as in that run, whose preset this extends: keep the run for as long as you use this.",
        f"extends = {spell(parent)}",
        f"name = {spell(name[:60])}",
        f"description = {spell(f'after {run.id}: ' + ', '.join(_codes(found, changes, road)))}",
    ]
    tables: dict[str, list[Change]] = {}
    for one in changes:
        tables.setdefault(one.key.split(".")[0], []).append(one)
    for table, members in tables.items():
        lines += ["", f"[{table}]"]
        for one in members:
            key = parse_key(one.key)
            assert key is not None
            lines += [f"# {_line(one.why)}", f"{dotted(key[1:])} = {spell(one.value, key)}"]
    return "\n".join(lines) + "\n"


def _codes(found: Diagnosis, changes: Sequence[Change], road: Road | None) -> list[str]:
    if road:
        return [road]
    used = {one.why.split()[0] for one in changes}
    return [finding.title for finding in found.findings if finding.code in used]


def _line(text: str) -> str:
    """A comment cannot hold a newline or a control character."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def changes_json(changes: Sequence[Change]) -> Mapping[str, Any]:
    """The changes as plain values."""
    return {one.key: {"value": one.value, "why": one.why} for one in changes}
