"""Pictures with two captions, tags in one file and a sentence in another: which of them is trained on, in the trainer's own way.

The trainer reads one file a picture, and of it the first line. So one of the two is picked, both are put on one line, or both stand on
lines of their own and the trainer draws one each time (enable_wildcard).
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from lorakit.dataset.captions import CaptionSettings, caption_of_example
from lorakit.dataset.desk.caption_files import images_below, read_caption_file
from lorakit.dataset.desk.rewrite import Change
from lorakit.errors import DatasetError, UsageError

__all__ = ["USES", "Dual", "Use", "dual_captions", "settings_needed"]

Use = Literal["tags", "sentences", "joined", "either"]
USES: Final[tuple[Use, ...]] = ("tags", "sentences", "joined", "either")


@dataclass(frozen=True)
class Dual:
    """What the new caption files hold. ``fallen_back``: pictures of which only the other file is there; ``neither``: pictures with none.

    ``sample``: for one picture, the file's text and what the trainer makes of it.
    """

    changes: tuple[Change, ...]
    same: int
    fallen_back: tuple[Path, ...]
    neither: tuple[Path, ...]
    left: tuple[tuple[Path, str], ...]
    sample: tuple[str, str] | None


def settings_needed(use: Use, target: str, protect: str | None) -> Mapping[str, Any]:
    """What the preset must say for these captions, by its keys."""
    needed: dict[str, Any] = {"dataset.caption_extension": target}
    if use == "either":
        needed["dataset.enable_wildcard"] = True
    if protect and use in {"sentences", "joined", "either"}:
        needed["dataset.secondary_separator"] = protect
    return needed


def dual_captions(
    folder: Path,
    use: Use,
    *,
    tags: str,
    sentences: str,
    target: str,
    sentence_first: bool = False,
    protect: str | None = None,
) -> Dual:
    """Work out the caption files with suffix ``target``; nothing is written.

    ``protect`` stands in place of the commas of a sentence, so that shuffling and dropping tags move it as one: the trainer turns it
    back into commas (secondary_separator). Raises UsageError for suffixes or a mark that cannot be, DatasetError for a folder
    without pictures or without any of the files.
    """
    tags, sentences, target = (_suffix(one) for one in (tags, sentences, target))
    if tags == sentences:
        raise UsageError("tags and sentences are in files of the same suffix", todo="--tags .txt --sentences .caption")
    if protect is not None and ("," in protect or not protect.strip()):
        raise UsageError(f"{protect!r} cannot stand in place of a comma", todo="--protect ';;'")
    changes, fallen, neither, left = [], [], [], []
    same = 0
    sample: tuple[str, str] | None = None
    for image in images_below(folder):
        texts: dict[str, str] = {}
        for suffix in (tags, sentences):
            path = image.with_suffix(suffix)
            if not os.path.isfile(path):
                continue
            file = read_caption_file(path)
            if file.fault:
                left.append((path, file.fault))
                continue
            lines = [line.strip() for line in file.with_caption(file.caption).decode().lstrip("\ufeff").splitlines()]
            text = (", " if suffix == tags else " ").join(line for line in lines if line)
            if text:
                texts[suffix] = text
        if not texts:
            neither.append(image)
            continue
        sentence = texts.get(sentences, "")
        if protect and protect in "".join(texts.values()):
            raise UsageError(f"{protect!r} stands in a caption of {image.name} already", todo="choose another mark")
        if protect and use != "tags":
            sentence = sentence.replace(",", protect)
        text, whole = _text(use, texts.get(tags, ""), sentence, sentence_first=sentence_first)
        if not whole:
            fallen.append(image)
        path = image.with_suffix(target)
        before = path.read_bytes() if path.exists() else None
        after = f"{text}\n".encode()
        if sample is None and whole:
            sample = (text, _trained(text, use, protect))
        if before is not None and before.strip() == after.strip():
            same += 1
        else:
            changes.append(Change(path, before, after))
    if not changes and not same and not left:
        raise DatasetError(
            f"{folder} has neither {tags} nor {sentences} files beside its pictures",
            todo="--tags .txt --sentences .caption",
        )
    return Dual(tuple(changes), same, tuple(fallen), tuple(neither), tuple(left), sample)


def _text(use: Use, tags: str, sentence: str, *, sentence_first: bool) -> tuple[str, bool]:
    """The caption, and whether all that it is to be made of is there."""
    if use == "tags":
        return tags or sentence, bool(tags)
    if use == "sentences":
        return sentence or tags, bool(sentence)
    both = [part for part in ((sentence, tags) if sentence_first else (tags, sentence)) if part]
    if use == "joined":
        # A sentence ends with its full stop; a comma after it would read as a slip.
        text = both[0]
        for part in both[1:]:
            text += (" " if text.endswith((".", "!", "?")) else ", ") + part
        return text, len(both) == 2
    # Braces mean a choice there, doubled they are letters.
    return "\n".join(part.replace("{", "{{").replace("}", "}}") for part in both), len(both) == 2


def _trained(text: str, use: Use, protect: str | None) -> str:
    settings = CaptionSettings(enable_wildcard=use == "either", secondary_separator=protect)
    seen = {
        caption_of_example(text, settings, random.Random(seed), epoch=1, step=0, total_steps=1) for seed in range(16)
    }
    return " | ".join(sorted(seen))


def _suffix(text: str) -> str:
    suffix = text if text.startswith(".") else f".{text}"
    if "/" in suffix or len(suffix) < 2:
        raise UsageError(f"{text!r} is no suffix of a file", todo="--tags .txt --sentences .caption")
    return suffix


def names(paths: Iterable[Path], most: int = 3) -> str:
    """The first few names of files, and how many more there are."""
    all_names = [path.name for path in paths]
    more = f" and {len(all_names) - most} more" if len(all_names) > most else ""
    return ", ".join(all_names[:most]) + more
