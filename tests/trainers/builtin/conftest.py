"""Fixtures of the built-in trainer's tests: the tiny base model, on disk and loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lorakit.trainers.builtin.checkpoint import BaseModel, load_base
from lorakit.trainers.builtin.tokenizers import Tokenizers, load_tokenizers
from tests.bench_models import bench_checkpoint

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_base() -> Path:
    """A tiny SDXL checkpoint (28 MB, fp16); treat it as read-only."""
    return bench_checkpoint("tiny")


@pytest.fixture
def loaded(tiny_base: Path) -> BaseModel:
    """The tiny model in fp32, fresh for each test, for LoRA modules hook into it."""
    return load_base(tiny_base)


@pytest.fixture(scope="session")
def tokenizers() -> Tokenizers:
    return load_tokenizers()
