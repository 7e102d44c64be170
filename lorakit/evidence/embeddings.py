"""How alike the text encoders make the captions of a dataset, with a checkpoint applied and without (starts a program with torch).

The embedding of a caption is the mean, over its tokens and the end mark, of the last layer but one of the encoder; docs/embeddings.md
says why. Pairs are those of distinct captions, each pair once; similarity is the cosine of two embeddings.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from lorakit import atomic
from lorakit.archive.hashing import hash_file
from lorakit.archive.records import require_writable
from lorakit.archive.run import Run, read_record
from lorakit.archive.states import whole_checkpoints
from lorakit.errors import ArchiveError, ModelFileError, UsageError
from lorakit.evidence.base_model import base_of, settings_of
from lorakit.launch.helper import run_helper
from lorakit.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

__all__ = [
    "ALIKE",
    "ENCODERS",
    "FILE",
    "Embeddings",
    "PairSimilarity",
    "Part",
    "Question",
    "measure",
    "pair_similarities",
    "question_of",
    "read",
    "read_all",
    "statistics",
]

ENCODERS: Final = ("te1", "te2")
#: A pair of captions with a cosine above this counts as alike.
ALIKE: Final = 0.9
#: Where a run keeps what was measured, in analysis/.
FILE: Final = "embeddings.json"
#: Of the definition: a new number makes what was measured before count no more.
_VERSION: Final = 1
#: More distinct captions than this are not all taken, but evenly among them: two million pairs tell enough.
_MOST: Final = 2000
_PROGRAM: Final = "lorakit.trainers.builtin.embed"


@dataclass(frozen=True)
class Part:
    """One text encoder over all pairs of captions.

    ``mean`` and ``std`` of the pairwise cosine similarity (population), ``above``: share of pairs above 0.9,
    ``diversity`` = 1 − ``mean``.
    """

    mean: float
    std: float
    above: float
    diversity: float


@dataclass(frozen=True)
class Embeddings:
    """One checkpoint (a file name) against the base model, both as ``{"te1": Part, "te2": Part}``.

    ``captions``: how many distinct captions were compared. ``kept``: mean cosine between a caption's embedding before and after,
    by encoder; 1 means that the checkpoint left the encoder as it was.
    """

    checkpoint: str
    captions: int
    parts: Mapping[str, Part]
    base: Mapping[str, Part]
    kept: Mapping[str, float] = field(default_factory=dict)

    @property
    def diversity(self) -> float:
        """The mean diversity of both encoders: what is called overall diversity."""
        return sum(part.diversity for part in self.parts.values()) / len(self.parts)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "diversity": self.diversity}


@dataclass(frozen=True)
class Question:
    """What is asked of the text encoders: files, captions, and how captions become tokens.

    ``max_token_length`` is 75, 150 or 225; ``tokenizer_cache`` a folder as the trainer takes it, None for the package.
    """

    base: Path
    captions: tuple[str, ...]
    loras: tuple[Path, ...] = ()
    max_token_length: int | None = None
    tokenizer_cache: Path | None = None
    allow_pickle: bool = False


class PairSimilarity(NamedTuple):
    """The cosine of two captions in each encoder, and how many tokens the first and the second have (without the marks)."""

    te1: float
    te2: float
    tokens1: int
    tokens2: int


def read(run: Run) -> Embeddings | None:
    """What was measured of the run's last checkpoint; None when nothing was."""
    found = read_all(run)
    return found[-1] if found else None


def read_all(run: Run) -> tuple[Embeddings, ...]:
    """What was measured of the run's checkpoints, oldest first. What cannot be read counts as not measured."""
    record = read_record(run.analysis / FILE) or {}
    if record.get("version") != _VERSION:
        return ()
    try:
        return tuple(_from_json(entry) for entry in record["checkpoints"])
    except (KeyError, TypeError, ValueError):
        return ()


def _from_json(entry: Mapping[str, Any]) -> Embeddings:
    parts, base = (
        {encoder: Part(**{key: float(value) for key, value in entry[side][encoder].items()}) for encoder in ENCODERS}
        for side in ("parts", "base")
    )
    kept = {encoder: float(entry["kept"][encoder]) for encoder in ENCODERS}
    return Embeddings(str(entry["checkpoint"]), int(entry["captions"]), parts, base, kept)


def statistics(vectors: Vectors) -> Part:
    """Mean, spread and share of alike pairs among ``vectors`` (captions, width); each of the n·(n−1)/2 pairs once.

    Raises UsageError for fewer than two vectors.
    """
    import numpy as np

    if len(vectors) < 2:
        raise UsageError(
            "there is nothing to compare", why=f"{len(vectors)} distinct caption has no pairs", todo="give two or more"
        )
    unit = _unit(vectors)
    similarity = (unit @ unit.T)[np.triu_indices(len(unit), 1)].astype(np.float64)
    mean = float(similarity.mean())
    return Part(mean, float(similarity.std()), float((similarity > ALIKE).mean()), 1.0 - mean)


def _unit(vectors: Vectors) -> Vectors:
    import numpy as np

    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: Vectors = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    return unit


def measure(
    question: Question, *, keep_in: Run | None = None, on_record: Callable[[dict[str, Any]], None] = lambda _: None
) -> tuple[Embeddings, ...]:
    """Each of the question's LoRAs against its base; kept in the run's analysis/, and not measured twice there.

    Duplicate captions count once. ``on_record`` hears phases and progress. Raises UsageError for fewer than two distinct captions,
    ModelFileError for files that are not what they should be, TrainerError without the extra ``builtin``.
    """
    captions = _chosen(question.captions)
    if len(captions) < 2:
        raise UsageError(
            "there is nothing to compare",
            why=f"{len(captions)} distinct {'caption has' if len(captions) == 1 else 'captions have'} no pairs",
            todo="captions that differ are needed",
        )
    mark = _mark(question, captions)
    if keep_in is not None and (known := _known(keep_in, mark)) is not None:
        return known
    vectors, _ = _ask(question, captions, on_record)
    base = {encoder: statistics(vectors[encoder][0]) for encoder in ENCODERS}
    found = tuple(
        Embeddings(
            checkpoint=lora.name,
            captions=len(captions),
            parts={encoder: statistics(vectors[encoder][at]) for encoder in ENCODERS},
            base=base,
            kept={encoder: _kept(vectors[encoder][0], vectors[encoder][at]) for encoder in ENCODERS},
        )
        for at, lora in enumerate(question.loras, 1)
    )
    if keep_in is not None:
        require_writable(keep_in)
        keep_in.analysis.mkdir(exist_ok=True)
        entries = [one.to_json() for one in found]
        atomic.write_json(keep_in.analysis / FILE, {"version": _VERSION, "of": mark, "checkpoints": entries})
    return found


def question_of(run: Run, workspace: Workspace, *, base: Path | None = None, all_checkpoints: bool = True) -> Question:
    """What to ask about a run: its checkpoints, its base model, and the distinct captions of the images it was trained on.

    Images of regularisation and validation do not count. Raises ArchiveError for a run whose records cannot be read, ModelFileError
    where no whole checkpoint or no base model is there.
    """
    record = read_record(run.dataset)
    if record is None or "damaged" in record:
        raise ArchiveError(f"{run.short} does not tell its captions", why="dataset.json is missing or damaged")
    captions = [
        str(image.get("caption") or "")
        for image in record.get("images", [])
        if not image.get("reg") and not image.get("validation")
    ]
    loras = whole_checkpoints(run)
    if not loras:
        raise ModelFileError(f"{run.short} has no whole checkpoint", todo=f"lorakit show {run.short}")
    preset = settings_of(run)
    model = preset.get("base", {})
    cache = model.get("tokenizer_cache")
    return Question(
        base=base or base_of(run, workspace),
        captions=tuple(dict.fromkeys(captions)),
        loras=loras if all_checkpoints else loras[-1:],
        max_token_length=preset.get("dataset", {}).get("max_token_length"),
        tokenizer_cache=workspace.resolve(cache) if cache else None,
        allow_pickle=bool(model.get("allow_pickle")),
    )


def _chosen(captions: Sequence[str]) -> tuple[str, ...]:
    distinct = tuple(sorted(set(captions)))
    if len(distinct) <= _MOST:
        return distinct
    return tuple(distinct[at * len(distinct) // _MOST] for at in range(_MOST))


def _mark(question: Question, captions: Sequence[str]) -> str:
    """What the numbers depend on, as one word."""
    files = [hash_file(path).sha256 if path.is_file() else str(path) for path in (question.base, *question.loras)]
    names = [path.name for path in question.loras]
    cache = str(question.tokenizer_cache)
    told = json.dumps([_VERSION, files, names, list(captions), question.max_token_length, cache])
    return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()


def _known(run: Run, mark: str) -> tuple[Embeddings, ...] | None:
    record = read_record(run.analysis / FILE) or {}
    found = read_all(run)
    return found if found and record.get("of") == mark else None


def _kept(before: Vectors, after: Vectors) -> float:
    return min(1.0, float((_unit(before) * _unit(after)).sum(axis=-1).mean()))


def pair_similarities(
    base: Path,
    pairs: Sequence[tuple[str, str]],
    *,
    max_token_length: int | None = None,
    tokenizer_cache: Path | None = None,
    on_record: Callable[[dict[str, Any]], None] = lambda _: None,
) -> list[PairSimilarity]:
    """How alike the base model's text encoders find each pair of captions. Raises as :func:`measure`."""
    if not pairs:
        return []
    captions = tuple(dict.fromkeys(caption for pair in pairs for caption in pair))
    question = Question(base, captions, max_token_length=max_token_length, tokenizer_cache=tokenizer_cache)
    vectors, tokens = _ask(question, captions, on_record)
    units = {encoder: _unit(vectors[encoder][0]) for encoder in ENCODERS}
    at = {caption: index for index, caption in enumerate(captions)}
    found = []
    for first, second in pairs:
        one, other = at[first], at[second]
        te1, te2 = (min(1.0, float(units[encoder][one] @ units[encoder][other])) for encoder in ENCODERS)
        found.append(PairSimilarity(te1, te2, int(tokens[one]), int(tokens[other])))
    return found


def _ask(
    question: Question, captions: Sequence[str], on_record: Callable[[dict[str, Any]], None]
) -> tuple[Mapping[str, Vectors], NDArray[np.int64]]:
    """Embeddings (1 + LoRAs, captions, width) of each encoder, the base model's first, and the captions' token counts."""
    from safetensors.numpy import load_file

    with tempfile.TemporaryDirectory(prefix="lorakit-embed-") as folder:
        out = Path(folder, "vectors.safetensors")
        job = {
            "base": str(question.base),
            "loras": [str(path) for path in question.loras],
            "captions": list(captions),
            "max_token_length": question.max_token_length,
            "tokenizer_cache": None if question.tokenizer_cache is None else str(question.tokenizer_cache),
            "allow_pickle": question.allow_pickle,
            "out": str(out),
        }
        run_helper(_PROGRAM, job, on_record)
        tensors = load_file(out)
    return {encoder: tensors[encoder] for encoder in ENCODERS}, tensors["tokens"]
