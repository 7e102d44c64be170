"""A folder for presets, and a short way to write one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

from lorakit.errors import PresetError
from lorakit.preset.files import load_preset

if TYPE_CHECKING:
    from lorakit.errors import Problem

#: The least that a preset says.
LEAST = """\
name = "hifumi"
base.model = "xl.safetensors"
dataset.path = "datasets/hifumi"
optim.unet_lr = 1e-4
optim.te_lr = 5e-5
length.epochs = 10
"""


class Write(Protocol):
    """Writes a preset into the test's folder (the current one) and gives its path."""

    def __call__(self, text: str = LEAST, name: str = "hifumi.toml") -> Path: ...


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    monkeypatch.chdir(tmp_path)

    def write_one(text: str = LEAST, name: str = "hifumi.toml") -> Path:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
        return path

    return write_one


def problems(path: Path, *overrides: str) -> list[Problem]:
    """The problems of a preset that must have some."""
    with pytest.raises(PresetError) as caught:
        load_preset(path, overrides)
    assert caught.value.problems
    for problem in caught.value.problems:
        said = f"{problem.what} {problem.why} {problem.todo}".lower()
        assert "pydantic" not in said
        assert "input should be" not in said
        assert problem.code
        assert problem.where
    return list(caught.value.problems)


def told(path: Path, *overrides: str) -> list[str]:
    """The same as a reader sees them: ``where: what; why; todo``."""
    return [
        f"{problem.where}: " + "; ".join(filter(None, (problem.what, problem.why, problem.todo)))
        for problem in problems(path, *overrides)
    ]
