"""From a run folder to facts: its records, progress, checkpoints, samples and what was measured of its text encoders."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from lorakit import protocol
from lorakit.archive.facts import preset_values
from lorakit.archive.records import state
from lorakit.archive.run import Run, read_record
from lorakit.archive.states import checkpoints, whole_checkpoints
from lorakit.errors import LorakitError
from lorakit.evidence.base_model import base_of
from lorakit.evidence.embeddings import Embeddings, measure, question_of, read_all
from lorakit.evidence.pictures import change, grain, open_picture, spread
from lorakit.preset.units import Alpha, TextEncoderRates
from lorakit.verdict.diagnose.facts import CaptionFacts, EmbeddingFacts, Facts, PictureFacts, Setup, Unseen
from lorakit.verdict.diagnose.lora_facts import base_weights, checkpoint, scale_of
from lorakit.verdict.diagnose.thresholds import Scale
from lorakit.workspace import Workspace

__all__ = ["of_run"]

#: Parameters of a LoRA for each rank: SDXL's linear layers have 3.5 million, the largest bench model 0.3 million.
_SDXL_PER_RANK: Final = 1_000_000
#: Samples of so many prompts are looked at.
_PROMPTS: Final = 8


def of_run(
    run: Run, workspace: Workspace, *, embeddings: bool = True, every_checkpoint: bool = True, seen: Sequence[str] = ()
) -> Facts:
    """Everything that can be known of a run; what cannot is in ``unseen`` with the reason, and nothing is raised for it.

    ``embeddings``: measure the text encoders where that has not been done and torch is there (seconds to minutes).
    """
    unseen: list[Unseen] = []
    found = state(run)
    attempt = run.last_attempt
    records = [record for number in range(1, attempt.number + 1) for record in _progress(run, number)]
    setup = _setup(run, unseen)
    paths = whole_checkpoints(run)
    unseen += [
        Unseen(str(entry["path"]), f"not whole: {entry['fault']}") for entry in checkpoints(run) if "fault" in entry
    ]
    if not paths:
        unseen.append(Unseen("weights", "the run has no whole checkpoint"))
    saved = {Path(str(record.get("path"))).name: record.get("step") for record in records if record["type"] == "save"}
    norms = _base_weights(run, workspace, unseen) if paths else {}
    weights = []
    for path in paths if every_checkpoint else paths[-1:]:
        try:
            step = saved.get(path.name)
            weights.append(
                checkpoint(
                    path,
                    norms,
                    file=path.relative_to(run.path).as_posix(),
                    step=step if isinstance(step, int) else None,
                )
            )
        except LorakitError as error:
            unseen.append(Unseen(path.name, _reason(error)))
    steps = _steps(records)
    losses = tuple(_figure(step["loss"]) for step in steps if _finite(step.get("loss")))
    trains_text = bool(setup.te1_lr or setup.te2_lr)
    told = _embeddings(run, workspace, unseen, measure_now=embeddings) if paths and trains_text else ()
    return Facts(
        subject=run.id,
        scale=_scale(run, paths),
        status=found.status.value,
        reason=found.reason.value,
        message=found.message,
        setup=setup,
        losses=losses,
        first_step=int(steps[0].get("step", 1)) if steps else 1,
        nan_since=_nan_since(steps),
        validation=tuple(
            (int(record["step"]), _figure(record["loss"]))
            for record in records
            if record["type"] == "validation" and _finite(record.get("loss")) and isinstance(record.get("step"), int)
        ),
        grads=_by_part(steps, "grad_norm", lambda values: (statistics.median(values), max(values))),
        rates=_by_part(steps, "lr", lambda values: (max(values), values[-1])),
        checkpoints=tuple(weights),
        embeddings=tuple(_embedding(run, one) for one in told),
        captions=_captions(run, unseen),
        pictures=_pictures(run, records, unseen),
        seen=tuple(seen),
        source=attempt.progress.relative_to(run.path).as_posix(),
        # Where the archive lies is nobody's business, and would make the same diagnosis differ.
        unseen=tuple(Unseen(one.what, one.why.replace(f"{run.path}/", "")) for one in unseen),
    )


def _figure(value: Any) -> float:
    """Six digits: enough for every rule, and the same on every machine that adds in another order."""
    return float(f"{float(value):.6g}")


def _reason(error: LorakitError) -> str:
    return ": ".join(part for part in (error.what, error.why) if part)


def _finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _progress(run: Run, number: int) -> Iterable[dict[str, Any]]:
    return protocol.read(run.attempt(number).progress)


def _steps(records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The records of steps in order; steps that a resumed attempt went over again count once, as they were last."""
    by_step = {
        record["step"]: record for record in records if record["type"] == "step" and isinstance(record.get("step"), int)
    }
    return [by_step[step] for step in sorted(by_step)]


def _nan_since(steps: Sequence[Mapping[str, Any]]) -> int | None:
    """The step from which on every loss was NaN or infinite, which the protocol writes as text."""
    last = max((at for at, step in enumerate(steps) if not isinstance(step.get("loss"), str)), default=-1)
    return int(steps[last + 1]["step"]) if last + 1 < len(steps) else None


def _by_part(steps: Iterable[Mapping[str, Any]], key: str, sum_up: Any) -> dict[str, tuple[float, float]]:
    values: dict[str, list[float]] = {}
    for step in steps:
        told = step.get(key)
        for part, value in told.items() if isinstance(told, dict) else ():
            if _finite(value):
                values.setdefault(str(part), []).append(float(value))
    sums = {part: sum_up(found) for part, found in sorted(values.items())}
    return {part: (_figure(one), _figure(other)) for part, (one, other) in sums.items()}


def _setup(run: Run, unseen: list[Unseen]) -> Setup:
    try:
        values = preset_values(run.preset.read_text(encoding="utf-8"))
        rates = TextEncoderRates.parse(values.get("optim.te_lr", 0))
        alpha: float | None = Alpha.parse(values["network.alpha"]).of(values["network.dim"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        unseen.append(Unseen("settings", f"preset.toml cannot be read: {error}"))
        return Setup()
    plan = read_record(run.plan) or {}
    trainer = (read_record(run.command_json) or {}).get("trainer")
    return Setup(
        unet_lr=values.get("optim.unet_lr"),
        te1_lr=rates.te1,
        te2_lr=rates.te2,
        pair=rates.is_pair,
        schedule=values.get("optim.schedule"),
        optimizer=values.get("optim.type"),
        warmup_steps=plan.get("warmup_steps"),
        total_steps=plan.get("total_steps"),
        epochs=plan.get("epochs"),
        dim=values.get("network.dim"),
        alpha=alpha,
        batch_size=values.get("length.batch_size"),
        accumulation=values.get("length.gradient_accumulation", 1),
        processes=plan.get("processes") or 1,
        images=plan.get("images"),
        batches_per_epoch=plan.get("batches_per_epoch"),
        short_batches=plan.get("short_batches"),
        min_snr_gamma=values.get("loss.min_snr_gamma"),
        noise_offset=values.get("loss.noise_offset"),
        trainer=trainer.get("kind") if isinstance(trainer, dict) else None,
        probe=values.get("trainer.probe", True),
        goes_on="network.weights" in values,
    )


def _scale(run: Run, paths: Sequence[Path]) -> Scale:
    for path in reversed(paths):
        try:
            return scale_of(path)
        except LorakitError:
            continue
    plan = read_record(run.plan) or {}
    network = plan.get("network")
    values = preset_values_or_none(run)
    if isinstance(network, dict) and isinstance(network.get("total_parameters"), int) and values.get("network.dim"):
        return "sdxl" if network["total_parameters"] / values["network.dim"] >= _SDXL_PER_RANK else "bench"
    return "sdxl"


def preset_values_or_none(run: Run) -> dict[str, Any]:
    """The run's settings by dotted key; empty where they cannot be read."""
    try:
        return preset_values(run.preset.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _base_weights(run: Run, workspace: Workspace, unseen: list[Unseen]) -> Mapping[str, float]:
    try:
        return base_weights(base_of(run, workspace), workspace)
    except LorakitError as error:
        unseen.append(Unseen("weights against the base model's", _reason(error)))
        return {}


def _embeddings(run: Run, workspace: Workspace, unseen: list[Unseen], *, measure_now: bool) -> tuple[Embeddings, ...]:
    known = read_all(run)
    if known or not measure_now:
        if not known:
            unseen.append(Unseen("similarity of captions", "not measured, and not asked for"))
        return known
    if find_spec("torch") is None:
        unseen.append(Unseen("similarity of captions", "needs the extra builtin: pip install 'lorakit[builtin]'"))
        return ()
    try:
        return measure(question_of(run, workspace), keep_in=run)
    except LorakitError as error:
        unseen.append(Unseen("similarity of captions", _reason(error)))
        return ()


def _embedding(run: Run, one: Embeddings) -> EmbeddingFacts:
    del run
    return EmbeddingFacts(
        file=one.checkpoint,
        captions=one.captions,
        similarity={part: _figure(value.mean) for part, value in one.parts.items()},
        base={part: _figure(value.mean) for part, value in one.base.items()},
    )


def _captions(run: Run, unseen: list[Unseen]) -> CaptionFacts | None:
    images = (read_record(run.dataset) or {}).get("images")
    if not isinstance(images, list):
        unseen.append(Unseen("captions", "dataset.json is missing or damaged"))
        return None
    texts = [
        str(image.get("caption") or "")
        for image in images
        if isinstance(image, dict) and not image.get("reg") and not image.get("validation")
    ]
    if not texts:
        return None
    return CaptionFacts(len(texts), len(set(texts)), Counter(texts).most_common(1)[0][0])


def _pictures(run: Run, records: Iterable[Mapping[str, Any]], unseen: list[Unseen]) -> tuple[PictureFacts, ...]:
    """The last sample of each prompt, against the one before the first step where there is one."""
    series: dict[str, list[tuple[int, Path]]] = {}
    for record in records:
        if record["type"] == "sample" and isinstance(record.get("step"), int):
            path = run.locate(str(record.get("path")))
            if path is not None and path.is_file():
                series.setdefault(str(record.get("prompt")), []).append((record["step"], path))
    found = []
    for shots in list(series.values())[:_PROMPTS]:
        (first_step, first), (step, last) = min(shots), max(shots)
        try:
            picture = open_picture(last)
            before = open_picture(first) if first_step == 0 < step else None
        except LorakitError as error:
            unseen.append(Unseen("a sample", _reason(error)))
            continue
        moved = None if before is None else change(picture, before)
        found.append(
            PictureFacts(
                file=last.relative_to(run.path).as_posix() if last.is_relative_to(run.path) else last.name,
                step=step,
                grain=_figure(grain(picture)),
                spread=_figure(spread(picture)),
                change=None if moved is None else _figure(moved),
            )
        )
    return tuple(found)
