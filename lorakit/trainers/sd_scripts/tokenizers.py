"""The tokenizer cache of the trainer, filled without the hub from CLIP's table of merges.

Both of SDXL's tokenizers have the vocabulary of CLIP: 256 bytes, the same at the end of a word, one entry per merge, two special
tokens. The table comes from a local folder, or from the package instant-clip-tokenizer, whose library holds it as plain text.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lorakit.atomic import remove_tree, staging, sweep_beside
from lorakit.errors import TrainerError

if TYPE_CHECKING:
    from lorakit.workspace import Workspace

__all__ = [
    "FOLDERS",
    "cache_of",
    "fill",
    "in_hub_cache",
    "is_complete",
    "merges_of_folder",
    "merges_of_package",
    "provide",
]

#: The two folders of the cache, and the token that fills a caption up to its length.
FOLDERS: Final = {
    "openai_clip-vit-large-patch14": "<|endoftext|>",
    "laion_CLIP-ViT-bigG-14-laion2B-39B-b160k": "!",
}
FILES: Final = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")
_PACKAGE: Final = "instant_clip_tokenizer"
_HEAD: Final = "#version: 0.2"
_COUNT: Final = 49152 - 256 - 2
#: sha256 of the merges, one a line: what is found is CLIP's vocabulary or is not used.
_DIGEST: Final = "f61f2adf497e6f5357c347aeb4646fabe82f341e946de5bdec5d2858e41bef4a"


def cache_of(workspace: Workspace) -> Path:
    """Where a workspace keeps the cache; it may not be there."""
    return workspace.vendor / "tokenizers"


def is_complete(cache: Path) -> bool:
    """Whether every file of both tokenizers is there."""
    return all((cache / folder / name).is_file() for folder in FOLDERS for name in FILES)


def in_hub_cache() -> bool:
    """Whether the hub's own cache on this machine has both, so that the trainer finds them without a cache of ours."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    hub = Path(os.environ.get("HF_HUB_CACHE", home / "hub")).expanduser()
    names = ("models--openai--clip-vit-large-patch14", "models--laion--CLIP-ViT-bigG-14-laion2B-39B-b160k")
    return all(any(hub.glob(f"{name}/snapshots/*/merges.txt")) for name in names)


def provide(workspace: Workspace, source: Path | None = None) -> tuple[Path, str]:
    """The workspace's cache, filled where it is not, and where its vocabulary came from ("" where it was there).

    ``source`` is a folder with merges.txt: a cache, a tokenizer, or a diffusers model. Raises TrainerError when there is none
    and the package is not installed.
    """
    cache = cache_of(workspace)
    if source is None and is_complete(cache):
        return cache, ""
    merges = merges_of_package() if source is None else merges_of_folder(source)
    fill(cache, merges)
    return cache, "the package instant-clip-tokenizer" if source is None else str(source)


def merges_of_folder(folder: Path) -> tuple[str, ...]:
    """CLIP's merges from a folder with merges.txt in it or in a tokenizer's folder below. Raises TrainerError."""
    places = [folder, *(folder / name for name in FOLDERS), folder / "tokenizer"]
    for path in (place / "merges.txt" for place in places):
        if path.is_file():
            try:
                lines = path.read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise TrainerError(f"{path} cannot be read", why=str(error)) from error
            return _checked(lines[1 : 1 + _COUNT], path)
    raise TrainerError(
        f"{folder} holds no tokenizer",
        why="there is no merges.txt in it, in tokenizer/, or in " + " or ".join(FOLDERS),
        todo="give the folder of a CLIP tokenizer, of a tokenizer cache, or of a diffusers model",
    )


def merges_of_package() -> tuple[str, ...]:
    """CLIP's merges from the library of instant-clip-tokenizer, which is read and not run. Raises TrainerError."""
    for path in _libraries():
        content = path.read_bytes()
        start = content.find(f"{_HEAD}\n".encode())
        if start >= 0:
            lines = content[start : start + 1_000_000].decode("utf-8", "replace").split("\n")
            return _checked(lines[1 : 1 + _COUNT], path)
    raise TrainerError(
        "no CLIP vocabulary on this machine",
        why="the package instant-clip-tokenizer is not installed (it has no build for Python 3.13 and newer)",
        todo="pip install instant-clip-tokenizer, or give a folder: lorakit trainer install --tokenizers DIR",
    )


def _libraries() -> Iterator[Path]:
    spec = importlib.util.find_spec(_PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        for path in sorted(Path(folder).iterdir()):
            if path.suffix in {".so", ".pyd", ".dylib"}:
                yield path


def _checked(lines: list[str], path: Path) -> tuple[str, ...]:
    if hashlib.sha256("\n".join(lines).encode()).hexdigest() != _DIGEST:
        raise TrainerError(
            f"{path} holds another vocabulary than CLIP's",
            why="with it every caption would be read as other words",
            todo="take the tokenizer of openai/clip-vit-large-patch14",
        )
    return tuple(lines)


def fill(cache: Path, merges: tuple[str, ...]) -> None:
    """Write the cache; it appears whole or not at all, and what was there before is replaced. Of two that fill it at once one does."""
    if _holds(cache, merges):
        return
    sweep_beside(cache)
    with staging(cache) as folder:
        new = folder / cache.name
        _write(new, merges)
        if _holds(cache, merges):  # somebody else was faster
            return
        try:
            if cache.exists():
                remove_tree(cache)
            new.rename(cache)
        except OSError:
            if not _holds(cache, merges):
                raise


def _holds(cache: Path, merges: tuple[str, ...]) -> bool:
    """Whether a cache is there, complete, of this vocabulary."""
    table = cache / next(iter(FOLDERS)) / "merges.txt"
    try:
        return is_complete(cache) and table.read_text(encoding="utf-8") == _table(merges)
    except FileNotFoundError:  # it is being replaced
        return False


def _write(new: Path, merges: tuple[str, ...]) -> None:
    vocabulary = json.dumps(_vocabulary(merges), ensure_ascii=False)
    for folder, pad in FOLDERS.items():
        special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
        special["pad_token"] = pad
        config = {**special, "do_lower_case": True, "model_max_length": 77, "tokenizer_class": "CLIPTokenizer"}
        contents = (vocabulary, _table(merges), json.dumps(config), json.dumps(special))
        (new / folder).mkdir(parents=True)
        for name, content in zip(FILES, contents, strict=True):
            (new / folder / name).write_text(content, encoding="utf-8")


def _table(merges: tuple[str, ...]) -> str:
    return "\n".join((_HEAD, *merges, ""))


def _vocabulary(merges: tuple[str, ...]) -> dict[str, int]:
    """Every token and its id. Bytes that are no printable characters stand as letters from U+0100 on, as in GPT-2."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = 256 - len(printable)
    letters = [chr(code) for code in printable] + [chr(256 + number) for number in range(others)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *(merge.replace(" ", "") for merge in merges)]
    return {token: number for number, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
