"""CLIP's two tokenizers with the real vocabulary, offline: from a folder or from a package that carries it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lorakit.errors import TrainerError

__all__ = ["BOS", "CHUNK", "EOS", "Tokenizer", "Tokenizers", "load_tokenizers"]

BOS = 49406
EOS = 49407
CHUNK = 75  # caption tokens per chunk; with BOS and EOS a chunk fills the 77 positions of CLIP

_IDS = {"<|startoftext|>": BOS, "<|endoftext|>": EOS}
_SPECIAL = re.compile("(" + "|".join(map(re.escape, _IDS)) + ")")

#: The folders of a tokenizer cache, as the trainer lays it out.
FOLDERS = ("openai_clip-vit-large-patch14", "laion_CLIP-ViT-bigG-14-laion2B-39B-b160k")


@dataclass(frozen=True)
class Tokenizer:
    """Text to CLIP token ids: ``words`` gives the bare ids of a text, ``pad`` fills up to the length."""

    words: Callable[[str], list[int]]
    pad: int

    def encode(self, caption: str, max_token_length: int | None = None) -> torch.Tensor:
        """Token ids, shape (chunks, 77): one chunk for 75 (or None), two for 150, three for 225 tokens.

        Longer captions are cut. A chunk is BOS, 75 positions of the caption, and its last position: EOS for a tokenizer
        that pads with EOS; otherwise EOS where the chunk is full, and a chunk without any word is BOS, EOS, pads.
        """
        length = max_token_length or CHUNK
        if length % CHUNK:
            raise TrainerError(
                f"max_token_length {length} is not a multiple of {CHUNK}", todo="use 75, 150 or 225 tokens"
            )
        ids = [*self.words(caption)[:length], EOS]
        ids += [self.pad] * (length + 1 - len(ids))
        rows = [self._chunk(ids[start : start + CHUNK], ids[-1]) for start in range(0, length, CHUNK)]
        if length == CHUNK:
            rows = [[BOS, *ids]]
        return torch.tensor(rows, dtype=torch.long)

    def _chunk(self, ids: list[int], last: int) -> list[int]:
        row = [BOS, *ids, last]
        if self.pad != EOS:
            if row[-2] not in (EOS, self.pad):
                row[-1] = EOS
            if row[1] == self.pad:
                row[1] = EOS
        return row

    def count(self, caption: str) -> int:
        """How many tokens the caption has, without BOS and EOS, before any cut."""
        return len(self.words(caption))


@dataclass(frozen=True)
class Tokenizers:
    """TE1's tokenizer (pads with EOS) and TE2's (pads with 0), and where their vocabulary came from."""

    first: Tokenizer
    second: Tokenizer
    source: str

    def encode(self, captions: Sequence[str], max_token_length: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids of a batch for TE1 and TE2, each of shape (batch, chunks, 77)."""
        first = torch.stack([self.first.encode(caption, max_token_length) for caption in captions])
        second = torch.stack([self.second.encode(caption, max_token_length) for caption in captions])
        return first, second


def load_tokenizers(cache_dir: Path | None = None) -> Tokenizers:
    """The tokenizers from a cache folder if one is given, else from the package instant-clip-tokenizer.

    Raises:
        TrainerError: the folder is incomplete, or there is neither folder nor package.
    """
    if cache_dir is not None:
        first, second = (_repaired(_from_folder(cache_dir / name)) for name in FOLDERS)
        return Tokenizers(Tokenizer(first, EOS), Tokenizer(second, 0), str(cache_dir))
    words = _repaired(_from_package())
    return Tokenizers(Tokenizer(words, EOS), Tokenizer(words, 0), "instant-clip-tokenizer")


def _repaired(words: Callable[[str], list[int]]) -> Callable[[str], list[int]]:
    # CLIP's own tokenizer, and that of sd-scripts, mends text first: curly quotes become straight, mojibake is undone.
    from ftfy import fix_text

    return lambda text: words(fix_text(text))


def _from_folder(folder: Path) -> Callable[[str], list[int]]:
    from transformers import CLIPTokenizer

    missing = [name for name in ("vocab.json", "merges.txt") if not (folder / name).is_file()]
    if missing:
        raise TrainerError(
            f"{folder}: {' and '.join(missing)} not found",
            why=f"a tokenizer cache holds {' and '.join(FOLDERS)}, each with vocab.json and merges.txt",
            todo="check --tokenizer_cache_dir, or leave it out to use the package instant-clip-tokenizer",
        )
    try:
        tokenizer = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # the tokenizers library raises bare Exceptions
        raise TrainerError(
            f"{folder}: the tokenizer cannot be read", why=str(error), todo="write the folder again"
        ) from error

    def words(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

    return words


def _from_package() -> Callable[[str], list[int]]:
    try:
        from instant_clip_tokenizer import Tokenizer as Instant
    except ImportError as error:
        raise TrainerError(
            "no CLIP vocabulary on this machine",
            why="the package instant-clip-tokenizer is not installed (it has no build for Python 3.13 and newer)",
            todo="give a tokenizer cache folder with --tokenizer_cache_dir, or use Python 3.11 or 3.12",
        ) from error
    tokenizer = Instant()

    def words(text: str) -> list[int]:
        ids: list[int] = []
        for piece in _SPECIAL.split(unicodedata.normalize("NFC", text)):
            ids += [_IDS[piece]] if piece in _IDS else [int(token) for token in tokenizer.encode(piece)]
        return ids

    return words
