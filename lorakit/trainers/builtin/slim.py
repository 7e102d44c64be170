"""A quicker start: keeps diffusers from importing packages that this trainer does not use through it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

__all__ = ["slim_imports"]

#: What diffusers would import just because it is installed. bitsandbytes and peft cost over a second, and bitsandbytes
#: greets a machine without a GPU with a warning. The optimizers import bitsandbytes themselves when they are asked for.
_UNUSED: Final = ("_bitsandbytes_available", "_peft_available")


@contextlib.contextmanager
def slim_imports() -> Iterator[None]:
    """While entered, diffusers takes those packages for not installed.

    The flags are diffusers' own; a version without them imports as it likes.
    """
    from diffusers.utils import import_utils

    before = {name: getattr(import_utils, name) for name in _UNUSED if hasattr(import_utils, name)}
    for name in before:
        setattr(import_utils, name, False)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(import_utils, name, value)
