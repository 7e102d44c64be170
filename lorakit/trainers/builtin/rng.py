"""Random streams by name: every draw of a training is a function of the seed and of what it is for.

No stream depends on how often another was used. So a resumed run needs no saved generator state, pictures drawn
between steps change nothing, and the number of loader workers or processes does not matter.
"""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["derive", "python_random", "torch_generator"]


def derive(seed: int, *names: str | int) -> int:
    """A number in 0 … 2⁶³-1 that is fixed by ``seed`` and ``names`` and independent between different names."""
    text = "\x1f".join(str(item) for item in (seed, *names))
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big") >> 1


def python_random(seed: int, *names: str | int) -> random.Random:
    """A generator of the standard library on the stream ``names``."""
    return random.Random(derive(seed, *names))


def torch_generator(seed: int, *names: str | int) -> torch.Generator:
    """A torch generator on the CPU on the stream ``names``; drawing there gives every device the same numbers."""
    import torch

    return torch.Generator().manual_seed(derive(seed, *names))
