"""Secrets and how they are told: by the name they go under, by how they look, by being the value of a secret variable (stdlib only).

What a run folder keeps is archived, exported and shared. So a preset or command line with a secret is refused before anything is
written, and what the trainer itself prints is covered in its files as it comes (see masking).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from lorakit.errors import UsageError

__all__ = ["HIDDEN", "LOOK", "SHORTEST", "hide", "is_secret_name", "refuse_secrets", "secret_values"]

#: What stands in place of a secret.
HIDDEN: Final = "<secret>"

#: Options of the trainer whose value is a secret, and the variable that carries it instead.
_VARIABLES: Final = MappingProxyType({"--wandb_api_key": "WANDB_API_KEY", "--huggingface_token": "HF_TOKEN"})
_LAST_WORDS: Final = frozenset(
    {"token", "secret", "password", "passwd", "pwd", "passphrase", "apikey", "credential", "credentials", "pat"}
)
_BEFORE_KEY: Final = frozenset({"api", "access", "private", "secret", "auth", "license"})
#: How the tokens of well-known services look, and a password inside a URL.
LOOK: Final = (
    r"\bhf_[A-Za-z0-9]{20,}|\bsk-[A-Za-z0-9_-]{20,}|\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_[A-Za-z0-9_]{30,}"
    r"|\bglpat-[A-Za-z0-9_-]{20,}|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bxox[abprs]-[A-Za-z0-9-]{20,}|\bAIza[A-Za-z0-9_-]{35}"
    r"|\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}|://[^/\s:@]+:[^/\s@]+@"
)
_SECRET: Final = re.compile(LOOK)
_ASSIGNED: Final = re.compile(r"""^\s*["']?(?P<name>[\w.-]+)["']?\s*=\s*["']?(?P<value>[^"'#\s]+)""")
#: Shorter values of secret variables ("yes", "none") are words of every log.
SHORTEST: Final = 8


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
        if is_secret_name(name) and len(value) >= SHORTEST and not os.path.exists(value)
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
