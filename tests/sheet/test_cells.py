"""What a cell is called in the cache, and how its parameters are written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lorakit._version import __version__
from lorakit.sheet.cells import Cell, Lora, Model, cell_key, parameters
from tests.sheet.made import MODEL

LORA = Lora(Path("a/zorp.safetensors"), "a" * 64, "zorp", "fedcba9876543210")
CELL = Cell("a zorp", "", 7, "Euler a", 20, 6.5, 832, 1216, LORA, 1.0, 1.0)
PACKAGES = {"torch": "2", "diffusers": "0", "transformers": "5"}


def test_parameters_as_the_webui_writes_them() -> None:
    assert parameters(MODEL, replace(CELL, negative="bad")) == (
        "a zorp <lora:zorp:1>\n"
        "Negative prompt: bad\n"
        "Steps: 20, Sampler: Euler a, CFG scale: 6.5, Seed: 7, Size: 832x1216, Model hash: bbbbbbbbbb, "
        f'Model: "bench, small", Lora hashes: "zorp: fedcba987654", Version: lorakit {__version__}'
    )


@pytest.mark.parametrize(
    ("unet", "te", "first"),
    [(0.5, 0.5, "a zorp <lora:zorp:0.5>"), (1.0, 0.25, "a zorp <lora:zorp:0.25:1>"), (0.0, 0.0, "a zorp")],
)
def test_weights_stand_in_the_tag(unet: float, te: float, first: str) -> None:
    told = parameters(MODEL, replace(CELL, unet=unet, te=te))
    assert told.splitlines()[0] == first
    assert ("Lora hashes" in told) == (first != "a zorp")


def test_a_name_cannot_end_the_tag() -> None:
    assert "<lora:a_b__:1>" in parameters(MODEL, replace(CELL, lora=replace(LORA, name="a:b<>")))


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "a zorp "}, {"negative": "bad"}, {"seed": 8}, {"sampler": "Euler"}, {"steps": 21}, {"cfg": 6.0}, {"width": 1216},
        {"height": 832}, {"unet": 0.5}, {"te": 0.5}, {"lora": None}, {"lora": replace(LORA, sha256="c" * 64)},
    ],
)  # fmt: skip
def test_whatever_changes_the_picture_changes_its_name(change: dict[str, Any]) -> None:
    assert cell_key(MODEL, replace(CELL, **change), PACKAGES) != cell_key(MODEL, CELL, PACKAGES)


@pytest.mark.parametrize(
    "change",
    [
        {"sha256": "c" * 64},
        {"vae_sha256": "d" * 64},
        {"v_prediction": True},
        {"zero_terminal_snr": True},
        {"precision": "bf16"},
    ],
)
def test_so_does_another_model(change: dict[str, Any]) -> None:
    assert cell_key(replace(MODEL, **change), CELL, PACKAGES) != cell_key(MODEL, CELL, PACKAGES)
    assert cell_key(MODEL, CELL, {**PACKAGES, "torch": "3"}) != cell_key(MODEL, CELL, PACKAGES)


def test_where_files_are_and_what_they_are_called_does_not() -> None:
    moved = replace(CELL, lora=Lora(Path("b/other.safetensors"), LORA.sha256, "other", "0"), cfg=6.5)
    elsewhere = Model(Path("elsewhere.safetensors"), MODEL.sha256)
    assert cell_key(elsewhere, moved, dict(reversed(PACKAGES.items()))) == cell_key(MODEL, CELL, PACKAGES)


def test_a_lora_at_weight_zero_is_the_base_model() -> None:
    bare = replace(CELL, lora=None, unet=0.0, te=0.0)
    assert cell_key(MODEL, replace(CELL, unet=0.0, te=0.0), PACKAGES) == cell_key(MODEL, bare, PACKAGES)
    assert cell_key(MODEL, replace(bare, unet=1.0), PACKAGES) == cell_key(MODEL, bare, PACKAGES)
