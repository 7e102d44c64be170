"""Takes chance out of a training, in either trainer: the same noise, timesteps and latents, images in the order of their names.

    python fixed_draws.py SCRIPT arguments…

runs a script so; ``take()`` does it to this process. Stdlib, numpy and torch only, for it runs in the trainer's environment too.
The n-th draw of a kind and shape is a function of kind, shape and n alone: the trainers may draw in another order, but not more often.
"""

from __future__ import annotations

import math
import os
import random
import runpy
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch


def take() -> Callable[[], None]:
    """Replace what draws; the function returned puts everything back."""
    drawn: Counter[str] = Counter()

    def stream(kind: str, shape: tuple[int, ...]) -> np.random.Generator:
        name = f"{kind} {shape}"
        drawn[name] += 1
        return np.random.Generator(np.random.PCG64(zlib.crc32(f"{name} {drawn[name]}".encode())))

    def normal(shape: tuple[int, ...], like: Any = None) -> torch.Tensor:
        values = torch.from_numpy(stream("normal", shape).standard_normal(shape, np.float32))
        return values if like is None else values.to(like.device, like.dtype)

    def randint(low: int, high: int, size: Any, **_: Any) -> torch.Tensor:
        shape = tuple(size)
        uniform = stream("timestep", shape).random(math.prod(shape)).reshape(shape)
        return torch.from_numpy(low + np.floor(uniform * (high - low)).astype(np.int64))

    def size_of(words: tuple[Any, ...]) -> tuple[int, ...]:
        return tuple(words[0]) if len(words) == 1 and not isinstance(words[0], int) else words

    changes: list[tuple[Any, str, Any]] = [
        (torch, "randn_like", lambda like, **_: normal(tuple(like.shape), like)),
        (torch, "randn", lambda *size, **_: normal(size_of(size))),
        (torch, "randint", randint),
        (torch, "rand", lambda *size, **_: torch.full(size_of(size), 0.5)),
        (torch, "randperm", lambda count, **_: torch.arange(count)),
        (random, "random", lambda: 0.5),
        (random, "shuffle", lambda items: None),
        (random.Random, "shuffle", lambda self, items: None),
    ]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in changes]
    for owner, name, value in changes:
        setattr(owner, name, value)

    def back() -> None:
        for owner, name, value in before:
            setattr(owner, name, value)

    return back


def main() -> None:
    """Be the script, without chance; a latent is the mean of what the VAE says."""
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    DiagonalGaussianDistribution.sample = lambda self, generator=None: self.mean
    take()
    sys.argv = sys.argv[1:]
    sys.path.insert(0, os.path.dirname(os.path.abspath(sys.argv[0])))
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
