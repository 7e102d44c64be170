"""How much a rewrite changes what the text encoders read: the cosine of each caption before and after, and its token lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lorakit.cli.options import workspace
from lorakit.errors import PresetError, UsageError

if TYPE_CHECKING:
    from rich.text import Text

    from lorakit.dataset.desk.edits import Edited, Rewriting
    from lorakit.evidence.embeddings import PairSimilarity

__all__ = ["LEAST", "Similarity", "measure"]

#: The mean cosine of each text encoder must exceed this.
LEAST: Final = 0.95
_SHOWN: Final = 3


@dataclass(frozen=True)
class Similarity:
    """The changed captions, each with its cosine in both encoders and its tokens before and after."""

    base: Path
    edited: tuple[Edited, ...]
    pairs: tuple[PairSimilarity, ...]

    @property
    def means(self) -> tuple[float, float]:
        """Of TE1 and TE2; 1 where nothing changed."""
        if not self.pairs:
            return 1.0, 1.0
        return sum(one.te1 for one in self.pairs) / len(self.pairs), sum(one.te2 for one in self.pairs) / len(
            self.pairs
        )

    @property
    def passes(self) -> bool:
        """Whether both means exceed what is asked."""
        return min(self.means) > LEAST

    @property
    def why(self) -> str:
        """The means in words."""
        first, second = self.means
        return f"mean cosine of before and after: TE1 {first:.4f}, TE2 {second:.4f}; both must exceed {LEAST}"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        first, second = self.means
        return {
            "base": str(self.base),
            "least": LEAST,
            "passes": self.passes,
            "mean": {"te1": first, "te2": second},
            "captions": [
                {"path": str(one.path), "te1": pair.te1, "te2": pair.te2, "tokens": [pair.tokens1, pair.tokens2]}
                for one, pair in zip(self.edited, self.pairs, strict=True)
            ],
        }

    def lines(self) -> Sequence[Text]:
        """The verdict, and the captions that changed most."""
        from lorakit.cli import screen

        first, second = self.means
        mark = ("✓ ", "done") if self.passes else ("✗ ", "fail")
        told = f"TE1 {first:.4f}  TE2 {second:.4f}  mean cosine of before and after ({screen.count(len(self.pairs), 'caption')}; more than {LEAST} is asked)"
        lines = [screen.text(mark, told)]
        worst = sorted(zip(self.pairs, self.edited, strict=True), key=lambda pair: min(pair[0].te1, pair[0].te2))
        for pair, one in worst[:_SHOWN]:
            tokens = (
                f"{pair.tokens1} → {pair.tokens2} tokens" if pair.tokens1 != pair.tokens2 else f"{pair.tokens1} tokens"
            )
            lines.append(
                screen.text(
                    ("        ", ""), (f"{one.path.name}  TE1 {pair.te1:.4f}  TE2 {pair.te2:.4f}  {tokens}", "same")
                )
            )
        longer = sum(pair.tokens1 != pair.tokens2 for pair in self.pairs)
        lines.append(
            screen.text(
                ("        ", ""),
                (
                    f"{len(self.pairs) - longer} of {len(self.pairs)} captions have exactly as many tokens as before",
                    "same",
                ),
            )
        )
        return lines


def measure(made: Rewriting, base: str | None) -> Similarity:
    """Ask both text encoders of a base model. Raises UsageError without one, TrainerError without the extra ``builtin``."""
    from lorakit.evidence.embeddings import pair_similarities

    model, length = _model(base)
    pairs = pair_similarities(model, [(one.before, one.after) for one in made.edited], max_token_length=length)
    return Similarity(model, made.edited, tuple(pairs))


def _model(base: str | None) -> tuple[Path, int | None]:
    """The base model's file, and the length captions are read with where a preset says so."""
    from lorakit.preset.files import find_preset, load_preset

    place = workspace()
    if base is None:
        raise UsageError(
            "--check needs a base model, whose text encoders are asked",
            todo="--base models/sdxl.safetensors, or --base PRESET",
        )
    path = place.resolve(base)
    if path.is_dir() or path.suffix.lower() in {".safetensors", ".ckpt"}:
        if not path.exists():
            raise UsageError(f"there is no base model {path}", todo="--base models/sdxl.safetensors, or --base PRESET")
        return path, None
    try:
        preset = load_preset(find_preset(base, place.presets)).preset
    except PresetError as error:
        if path.is_file():
            raise
        raise UsageError(
            f"{base} is neither a base model nor a preset", why=error.what, todo="--base models/sdxl.safetensors"
        ) from error
    length = preset.dataset.max_token_length
    return place.resolve(str(preset.base.model)), None if length == 75 else length
