"""Running `lorakit` in this process, and golden texts."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lorakit.cli.main import main

GOLDEN = Path(__file__).parent / "golden"


@dataclass(frozen=True)
class Done:
    """What a command line came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Cli:
    """``cli("ls", "--json")``; a failure that is not expected shows what was printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *words: str, code: int | None = 0) -> Done:
        self._capsys.readouterr()
        got = main(list(words))
        printed = self._capsys.readouterr()
        assert code is None or got == code, f"exit {got}\n{printed.out}\n{printed.err}"
        assert "Traceback" not in printed.err
        return Done(got, printed.out, printed.err)


def golden(name: str, text: str) -> None:
    """Compare with tests/cli/golden/NAME; LORAKIT_GOLDEN=write takes the text as the new truth."""
    path = GOLDEN / name
    if os.environ.get("LORAKIT_GOLDEN") == "write":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")
