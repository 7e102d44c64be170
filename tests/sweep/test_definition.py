"""Sweeps in files."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorakit.errors import UsageError
from lorakit.sweep.axes import Axis
from lorakit.sweep.definition import Definition, is_sweep_file, read_definition

WHOLE = """
preset = "hifumi"
seeds = 3
where = ["te_lr <= unet_lr/2"]
zip = ["dim,alpha"]
trainer = "builtin"

[axes]
unet_lr = "1e-5..1e-3 log 3"
optim.te_lr = [1.5e-5, "5e-5/2e-5", [4e-5, 2e-5], 1.5e-5]
dim = [8, 16]
alpha = [8, 8.5]
"loss.debiased" = [true, false]

[set]
length.epochs = 4
description = "a try"
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "grid.toml"
    path.write_text(text)
    return path


def test_a_file_says_what_the_command_line_says(tmp_path: Path) -> None:
    path = written(tmp_path, WHOLE)
    assert is_sweep_file(path)
    found = read_definition(path)
    assert found.axes == (
        Axis("optim.unet_lr", ("1e-5", "1e-4", "1e-3")),
        Axis("optim.te_lr", ("1.5e-5", "5e-5/2e-5", "[4e-5, 2e-5]")),
        Axis("network.dim", ("8", "16")),
        Axis("network.alpha", ("8", "8.5")),
        Axis("loss.debiased", ("true", "false")),
    )
    assert found.fixed == ("length.epochs=4", "description=a try", "trainer.kind=builtin")
    assert found.zips == (("network.dim", "network.alpha"),)
    assert [condition.text for condition in found.where] == ["te_lr <= unet_lr/2"]
    assert (found.seeds, found.preset) == (3, "hifumi")


def test_what_is_typed_besides_wins(tmp_path: Path) -> None:
    file = read_definition(written(tmp_path, WHOLE))
    both = file | Definition.of([Axis("network.dim", ("4", "2"))], where=["dim > 2"], seeds=2)
    assert [axis.key for axis in both.axes][-1] == "network.dim"
    assert len(both.axes) == 5
    assert (both.seeds, len(both.where), both.preset) == (2, 2, "hifumi")


def test_a_preset_beside_the_file_is_found(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("")
    found = read_definition(written(tmp_path, 'preset = "mine.toml"\n[axes]\ndim = "8,16"\n'))
    assert found.preset == str(tmp_path / "mine.toml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("axis = 1\n[axes]\ndim=[1]", "unknown key"),
        ("[axes]\ndim = []", "no values"),
        ('[axes]\ndim = ""', "no values"),
        ("seeds = 0\n[axes]\ndim=[1]", "seeds"),
        ("seeds = true\n[axes]\ndim=[1]", "seeds"),
        ('seeds = 2\n[axes]\nseed = "1,2"', "two things"),
        ("axes = 3", "table"),
        ("where = 3\n[axes]\ndim=[1]", "where"),
        ("zip = [1]\n[axes]\ndim=[1]", "zip"),
        ("[axes]\ndim = [1]\nnetwork.dim = [2]", "twice"),
        ("[axes\n", "TOML"),
    ],
)
def test_a_file_that_is_wrong_is_refused(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        read_definition(written(tmp_path, text))


def test_a_preset_is_no_sweep(tmp_path: Path) -> None:
    assert not is_sweep_file(written(tmp_path, "name = 'x'"))
    assert not is_sweep_file(tmp_path / "nothing.toml")
