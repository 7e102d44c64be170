"""Secrets and how they are told: by the name they go under, by how they look, by being the value of a secret variable (stdlib only).

What a run folder keeps is archived, exported and shared. So a preset or command line with a secret is refused before anything is
written, and what the trainer itself printed is gone through when it has ended, before the seal.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, Final

from lorakit.atomic import temp_beside
from lorakit.errors import UsageError

__all__ = ["HIDDEN", "hide", "is_secret_name", "refuse_secrets", "scrub", "secret_values"]

#: What stands in place of a secret.
HIDDEN: Final = "<secret>"

#: Options of the trainer whose value is a secret, and the variable that carries it instead.
_VARIABLES: Final = MappingProxyType({"--wandb_api_key": "WANDB_API_KEY", "--huggingface_token": "HF_TOKEN"})
_LAST_WORDS: Final = frozenset(
    {"token", "secret", "password", "passwd", "pwd", "passphrase", "apikey", "credential", "credentials", "pat"}
)
_BEFORE_KEY: Final = frozenset({"api", "access", "private", "secret", "auth", "license"})
#: How the tokens of well-known services look, and a password inside a URL.
_LOOK: Final = (
    r"\bhf_[A-Za-z0-9]{20,}|\bsk-[A-Za-z0-9_-]{20,}|\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_[A-Za-z0-9_]{30,}"
    r"|\bglpat-[A-Za-z0-9_-]{20,}|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bxox[abprs]-[A-Za-z0-9-]{20,}|\bAIza[A-Za-z0-9_-]{35}"
    r"|\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}|://[^/\s:@]+:[^/\s@]+@"
)
_SECRET: Final = re.compile(_LOOK)
_ASSIGNED: Final = re.compile(r"""^\s*["']?(?P<name>[\w.-]+)["']?\s*=\s*["']?(?P<value>[^"'#\s]+)""")
#: Shorter values of secret variables ("yes", "none") are words of every log.
_SHORTEST: Final = 8
_CHUNK: Final = 1 << 20


def is_secret_name(name: str) -> bool:
    """Whether a variable, option or key of this name holds a secret: ``HF_TOKEN``, ``--wandb_api_key``; not ``keep_tokens``."""
    words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]
    if not words:
        return False
    return words[-1] in _LAST_WORDS or (len(words) > 1 and words[-1] == "key" and words[-2] in _BEFORE_KEY)


def secret_values(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The values of secret variables, longest first; short ones and paths that exist are none."""
    found = {
        value
        for name, value in environ.items()
        if is_secret_name(name) and len(value) >= _SHORTEST and not os.path.exists(value)
    }
    return tuple(sorted(found, key=lambda value: (-len(value), value)))


def refuse_secrets(texts: Iterable[str], *, environ: Mapping[str, str] | None = None) -> None:
    """Raise UsageError when words that a run folder is to keep hold a token or a password.

    What is archived and shared must not; the trainer reads secrets from its environment, which is passed on and not kept.
    """
    words = list(texts)
    known = secret_values(os.environ if environ is None else environ)
    for position, word in enumerate(words):
        option, _, value = word.partition("=")
        if option.startswith("--") and is_secret_name(option) and (value or position + 1 < len(words)):
            variable = _VARIABLES.get(option)
            way = f"set the environment variable {variable}" if variable else "hand it over as an environment variable"
            raise UsageError(
                f"{option} is a secret, and a run folder keeps its whole command",
                todo=f"take it out of the preset and {way}: it is passed on, never kept",
            )
        assigned = _ASSIGNED.match(word)
        if assigned and is_secret_name(assigned["name"]):
            raise UsageError(
                f"{assigned['name']} is a secret, and a run folder keeps the preset and the command",
                todo="take it out of the preset and set it as an environment variable: these are passed on, never kept",
            )
        if _SECRET.search(word) or any(secret in word for secret in known):
            raise UsageError(
                "a value looks like a token or password, and a run folder keeps its whole command",
                why=f"it stands in an argument that begins with {word[:4]!r}",
                todo="take it out of the preset and set it as an environment variable: these are passed on, never kept",
            )


def hide(text: str, values: Iterable[str] = ()) -> str:
    """A text with every secret in it replaced."""
    for value in values:
        text = text.replace(value, HIDDEN)
    return _SECRET.sub(lambda found: f"://{HIDDEN}@" if found[0].startswith("://") else HIDDEN, text)


def scrub(path: Path, values: Iterable[str] = ()) -> int:
    """Replace every secret in a text file that nobody writes to any more; how many there were. In bounded memory.

    A file without any is left as it is; otherwise a clean one takes its place. Raises OSError.
    """
    pattern = re.compile(
        b"|".join([*(re.escape(value.encode("utf-8", "surrogateescape")) for value in values), _LOOK.encode()])
    )
    try:
        with open(path, "rb") as file:
            if not any(pattern.search(piece) for piece in _pieces(file)):
                return 0
            file.seek(0)
            return _rewrite(path, pattern, _pieces(file))
    except FileNotFoundError:
        return 0


def _rewrite(path: Path, pattern: re.Pattern[bytes], pieces: Iterable[bytes]) -> int:
    temp = temp_beside(path)
    count = 0
    try:
        with open(temp, "xb") as out:
            for piece in pieces:
                clean, found = pattern.subn(_hidden, piece)
                count += found
                out.write(clean)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temp, path)
    finally:
        temp.unlink(missing_ok=True)
    return count


def _hidden(found: re.Match[bytes]) -> bytes:
    return f"://{HIDDEN}@".encode() if found[0].startswith(b"://") else HIDDEN.encode()


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    """Whole lines, many at once, so that no secret is cut in two; a bar's line without an end is cut at its returns."""
    held = b""
    while data := file.read(_CHUNK):
        held += data
        cut = max(held.rfind(b"\n"), held.rfind(b"\r")) + 1
        if cut or len(held) > 4 * _CHUNK:
            yield held[: cut or len(held)]
            held = held[cut or len(held) :]
    yield held
