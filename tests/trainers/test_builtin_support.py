"""A package that the optimizer needs is missed only where the trainer itself is installed."""

from __future__ import annotations

import pytest

from lorakit.trainers import builtin_support
from lorakit.trainers.catalogue import Catalogue


@pytest.mark.parametrize(
    ("missing", "told"), [({"bitsandbytes"}, True), ({"bitsandbytes", "torch"}, False), (set(), False)]
)
def test_a_missing_package(monkeypatch: pytest.MonkeyPatch, missing: set[str], told: bool) -> None:
    monkeypatch.setattr(builtin_support, "_lacks", lambda package: package in missing)
    arguments = Catalogue.load().parser().parse_args(["--optimizer_type", "AdamW8bit"])
    found = [problem.what for problem in builtin_support.not_implemented(arguments)]
    assert any("needs the package bitsandbytes" in what for what in found) == told
