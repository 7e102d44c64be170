"""Conditions on trials."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorakit.errors import UsageError
from lorakit.sweep.where import Condition

VALUES = {"te_lr": 5e-5, "unet_lr": 1e-4, "network.dim": 16, "optim.schedule": "cosine", "off": False}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("te_lr <= unet_lr/2", True),
        ("te_lr < unet_lr/2", False),
        ("network.dim == 16 and not off", True),
        ("8 < network.dim < 16", False),
        ("optim.schedule != 'constant' or network.dim > 64", True),
        ("-network.dim + 20 == 4", True),
        ("off == false", True),
        ("(unet_lr * 10) >= 1e-3", True),
    ],
)
def test_conditions_hold_or_not(text: str, holds: bool) -> None:
    assert Condition(text).holds(VALUES.__getitem__) is holds


@pytest.mark.parametrize(
    "text",
    [
        "", "1e-4 <", "te_lr = 1", "__import__('os')", "a if b else c", "x[0]", "2 ** 99", "f(1)", "[1, 2] == 1",
        "lambda: 1", "a in b", "(" * 400, "x" * 2000, "a\nb", "f'{a}'", "a := 1", "b'x' == 1",
    ],
)  # fmt: skip
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="where"):
        Condition(text)


@pytest.mark.parametrize("text", ["optim.schedule / 2 > 1", "te_lr / 0 > 1", "optim.schedule < 3", "'a' * 99 == 'a'"])
def test_a_condition_without_sense_is_refused_when_asked(text: str) -> None:
    with pytest.raises(UsageError, match="no sense"):
        Condition(text).holds(VALUES.__getitem__)


@given(st.text(max_size=40))
def test_hostile_text_is_refused_or_harmless(text: str) -> None:
    def value_of(name: str) -> Any:
        return 1

    with contextlib.suppress(UsageError):
        Condition(text).holds(value_of)
