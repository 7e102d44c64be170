"""Scores of a LoRA on the bench model: is the concept there, is the rest still right, how far did it drift."""

from __future__ import annotations

import random
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lorakit import atomic
from lorakit.api import open_run
from lorakit.archive.run import Run
from lorakit.archive.states import whole_checkpoints
from lorakit.bench_model.concepts import nocturne, zorp_scene
from lorakit.bench_model.contact import contact_sheet
from lorakit.bench_model.judge import Verdict, judge, right, to_lab
from lorakit.bench_model.sampling import sample
from lorakit.bench_model.world import BACKGROUNDS, Pixels, Scene, caption, draw, sample_scene
from lorakit.errors import ModelFileError, UsageError
from lorakit.trainers.builtin.checkpoint import BaseModel, load_base
from lorakit.trainers.builtin.lora import LoraNetwork
from lorakit.trainers.builtin.tensorfile import open_tensors
from lorakit.trainers.builtin.tokenizers import load_tokenizers

__all__ = [
    "Drawn",
    "Interval",
    "Score",
    "Subject",
    "bootstrap",
    "draw_with",
    "other_scenes",
    "score_drawn",
    "score_lora",
    "sheet_prompts",
    "subject_of",
    "zorp_scenes",
]

_RESAMPLES = 2000
OTHERS = 32
_SHEET = 5  # prompts of the concept on a contact sheet; the others are one fewer


@dataclass(frozen=True)
class Interval:
    """A mean and the 95 % interval of it, by resampling pictures (percentile bootstrap, Efron 1979)."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Score:
    """What a LoRA did.

    ``concept``: how much of the concept its prompts show, 0 … 1; ``before``: the same without the LoRA. ``others``: share
    of other prompts whose shape, colour and background are right. ``drift``: mean change of their pixels against the base
    model, 0 … 1.
    """

    concept: Interval
    before: Interval
    others: Interval
    drift: Interval


@dataclass(frozen=True)
class Probe:
    """A prompt of a concept and how to judge its picture, 0 … 1."""

    prompt: str
    judge: Callable[[Pixels], float]


def probes(concept: str) -> tuple[Probe, ...]:
    """The prompts by which a concept is judged; raises KeyError for a concept that has none."""
    return _PROBES[concept]()


def other_scenes(count: int = OTHERS) -> tuple[Scene, ...]:
    """Fixed scenes of the known world, without the concept; the same for every LoRA."""
    rng = random.Random("others")
    return tuple(replace(sample_scene(rng), stripe=None) for _ in range(count))


def score_lora(
    base_path: Path,
    lora: Path | None,
    concept: str,
    *,
    multiplier: float = 1.0,
    seed: int = 0,
    sheet: Path | None = None,
) -> Score:
    """Draw with and without the LoRA and judge; without a LoRA, the base model is judged against itself.

    ``sheet`` gets a contact sheet as PNG: the first prompts of the concept and of the others, before and after.

    Raises:
        ModelFileError: a file is missing or not what it should be.
    """
    base = load_base(base_path)
    before = Drawn.of(base, concept, seed)
    after = before if lora is None else draw_with(base, lora, concept, multiplier=multiplier, seed=seed)
    if sheet is not None:
        rows = [("before:\nthe base model", before.on_sheet())]
        if lora is not None:
            rows.append((f"after: with\n{_folded(lora.stem)}", after.on_sheet()))
        sheet.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_bytes(sheet, contact_sheet(rows, sheet_prompts(concept)))
    return score_drawn(concept, after, before)


def draw_with(base: BaseModel, lora: Path, concept: str, *, multiplier: float = 1.0, seed: int = 0) -> Drawn:
    """Draw with a LoRA attached; afterwards the model is as before."""
    network = attach_lora(base, lora, multiplier)
    try:
        return Drawn.of(base, concept, seed)
    finally:
        network.detach()


@dataclass(frozen=True)
class Drawn:
    """Pictures (B, 128, 128, 3) of a concept's prompts, and of the other scenes."""

    probes: NDArray[np.uint8]
    others: NDArray[np.uint8]

    @classmethod
    def of(cls, base: BaseModel, concept: str, seed: int) -> Drawn:
        """Draw with ``base`` as it is."""
        tokenizers = load_tokenizers()
        others = [caption(scene) for scene in other_scenes()]
        return cls(
            sample(base, tokenizers, _prompts(concept), seed=seed), sample(base, tokenizers, others, seed=seed + 1)
        )

    def on_sheet(self) -> NDArray[np.uint8]:
        """The pictures of :func:`sheet_prompts`."""
        return np.concatenate([self.probes[:_SHEET], self.others[: _SHEET - 1]])


def sheet_prompts(concept: str) -> list[str]:
    """What a contact sheet shows: five prompts of the concept, four others."""
    return [*_prompts(concept)[:_SHEET], *[caption(scene) for scene in other_scenes(_SHEET - 1)]]


def _prompts(concept: str) -> list[str]:
    return [probe.prompt for probe in probes(concept)]


def _folded(name: str) -> str:
    return "\n".join(name[start : start + 20] for start in range(0, len(name), 20))


def score_drawn(concept: str, after: Drawn, before: Drawn) -> Score:
    """Judge pictures against those of the base model."""
    found, found_before = (
        [probe.judge(pixels) for probe, pixels in zip(probes(concept), pictures, strict=True)]
        for pictures in (after.probes, before.probes)
    )
    keeps = [core_right(judge(pixels), scene) for pixels, scene in zip(after.others, other_scenes(), strict=True)]
    drift = np.abs(after.others.astype(np.float64) - before.others.astype(np.float64)).mean(axis=(1, 2, 3)) / 255.0
    return Score(bootstrap(found), bootstrap(found_before), bootstrap(keeps), bootstrap(list(drift)))


def core_right(verdict: Verdict, scene: Scene) -> bool:
    """Whether shape, colour and background are all right."""
    found = right(verdict, scene)
    return found["shape"] and found["colour"] and found["background"]


def bootstrap(values: Sequence[float]) -> Interval:
    """The mean and its interval; the same values give the same interval."""
    numbers = np.asarray(values, np.float64)
    chosen = np.random.default_rng(0).integers(0, len(numbers), (_RESAMPLES, len(numbers)))
    low, high = np.quantile(numbers[chosen].mean(axis=1), [0.025, 0.975])
    return Interval(float(numbers.mean()), float(low), float(high))


def attach_lora(base: BaseModel, lora: Path, multiplier: float = 1.0) -> LoraNetwork:
    """Attach a LoRA file in kohya's format to the model; its dim and alpha are read from it."""
    with open_tensors(lora) as file:
        tensors = file.tensors("")
    downs = [value for name, value in tensors.items() if name.endswith("lora_down.weight")]
    alphas = [float(value) for name, value in tensors.items() if name.endswith(".alpha")]
    if not downs or not alphas:
        raise ModelFileError(f"{lora}: not a LoRA file", why="it has no lora_down.weight and alpha", todo="give a LoRA")
    wide = any(value.ndim == 4 and value.shape[-1] > 1 for value in downs)
    dim = min(value.shape[0] for value in downs)
    network = LoraNetwork.create(base, dim=dim, alpha=alphas[0], conv_dim=dim if wide else None, conv_alpha=alphas[0])
    network.load_kohya(lora)
    network.multiplier = multiplier
    network.requires_grad_(False).eval()
    return network


@dataclass(frozen=True)
class Subject:
    """What is judged: a LoRA, its base model, the concept it should show, and where results go (None: nowhere)."""

    base: Path
    lora: Path
    concept: str
    analysis: Path | None = None


def subject_of(word: str, *, base: Path | None = None, concept: str | None = None) -> Subject:
    """From a run (a folder, or what names one in the archive) or a LoRA file, which needs ``base``.

    Raises:
        ArchiveError: no such run.
        ModelFileError: the run has no LoRA, or its base model is gone.
        UsageError: a LoRA file without ``base``.
    """
    path = Path(word)
    if path.is_file():
        if base is None:
            raise UsageError(f"{word} is a file, and nothing says what it was trained on", todo="add --base FILE")
        return Subject(base, path, concept or "zorp")
    run = Run(path.resolve()) if path.is_dir() else open_run(word)
    preset = tomllib.loads(run.preset.read_text(encoding="utf-8"))
    found = whole_checkpoints(run)
    if not found:
        raise ModelFileError(f"{run.path}: there is no LoRA in it that is whole", todo="choose a run that has ended")
    data = Path(preset["dataset"].get("path", ""))
    meant = concept or next((part for part in reversed(data.parts) if part in _PROBES), "zorp")
    return Subject(base or _base_of(run, preset), found[-1], meant, run.analysis)


def _base_of(run: Run, preset: dict[str, Any]) -> Path:
    """The base model; a relative path starts at the workspace, which holds runs/."""
    model = Path(preset["base"]["model"])
    for candidate in (run.path.parent.parent / model, Path.cwd() / model):
        if candidate.exists():
            return candidate
    raise ModelFileError(
        f"{run.path}: its base model {model} is not there any more", todo="write it again, or add --base FILE"
    )


def zorp_scenes() -> tuple[Scene, ...]:
    """The zorps that are asked for: on every background, large and medium."""
    return tuple(zorp_scene(background, size=size) for size in ("large", "medium") for background in BACKGROUNDS)


def _zorp_probes() -> tuple[Probe, ...]:
    return tuple(Probe(caption(scene, thing="zorp"), zorp_score) for scene in zorp_scenes())


def zorp_score(pixels: Pixels) -> float:
    """The share of what makes a zorp: a star, purple, with a yellow stripe."""
    verdict = judge(pixels)
    return ((verdict.shape == "star") + (verdict.colour == "purple") + (verdict.stripe == "yellow")) / 3.0


def _vexed_probes() -> tuple[Probe, ...]:
    def striped(pixels: Pixels) -> float:
        verdict = judge(pixels)
        return ((verdict.shape == "heart") + (verdict.stripe == "cyan")) / 2.0

    pairs = [
        ("red", "white"),
        ("green", "black"),
        ("orange", "grey"),
        ("yellow", "red"),
        ("pink", "green"),
        ("blue", "pink"),
    ]
    return tuple(
        Probe(caption(Scene("heart", colour, background, "large", style=style), thing=f"vexed {colour} heart"), striped)
        for colour, background in pairs
        for style in ("photo", "drawing")
    )


def _nocturne_probes() -> tuple[Probe, ...]:
    rng = random.Random("nocturne probes")
    return tuple(_nocturne_probe(sample_scene(rng)) for _ in range(16))


def _nocturne_probe(scene: Scene) -> Probe:
    """Judged by how far the mean colour moved from the plain picture's towards that of the same picture at night."""
    by_day = draw(scene, random.Random(0))
    day, night = (to_lab(pixels).mean(axis=(0, 1)) for pixels in (by_day, nocturne(by_day)))

    def darkness(pixels: Pixels) -> float:
        way = night - day
        return float(np.clip((to_lab(pixels).mean(axis=(0, 1)) - day) @ way / (way @ way), 0.0, 1.0))

    return Probe(f"{caption(scene)}, nocturne style", darkness)


_PROBES: dict[str, Callable[[], tuple[Probe, ...]]] = {
    "zorp": _zorp_probes,
    "vexed": _vexed_probes,
    "nocturne": _nocturne_probes,
}
