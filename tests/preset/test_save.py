"""Changing a preset file keeps what its author wrote, and never leaves a broken file."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit.errors import DiskError, PresetError
from lorakit.preset.dump import dump_toml, spell
from lorakit.preset.files import load_preset, load_text
from lorakit.preset.layers import Layer
from lorakit.preset.save import edit_toml, save_preset
from lorakit.preset.schema import EXCLUSIVE
from lorakit.preset.toml_lines import dotted
from lorakit.preset.units import Resolution, TextEncoderRates, Warmup

from .strategies import preset_data, presets

if TYPE_CHECKING:
    from lorakit.preset.models import Preset

WRITTEN = """\
# For the small model.
name = "hifumi"  # what it is called

[base]
model = 'models/xl.safetensors'

[dataset]
path = "datasets/hifumi"

# Rates from run k3f9.
[optim]
unet_lr = 1e-4   # fine so far
te_lr   = 5e-5

[length]
epochs = 10  # ten
"""


def written(folder: Path, text: str = WRITTEN) -> Path:
    path = folder / "hifumi.toml"
    path.write_bytes(text.encode())
    return path


def test_comments_order_and_spelling_stay(tmp_path: Path) -> None:
    path = written(tmp_path)
    save_preset(path, {"optim.unet_lr": 2.5e-4, "optim.te_lr": TextEncoderRates(5e-5, 2e-5), "name": "hifumi 2"})
    assert path.read_text() == WRITTEN.replace("1e-4", "2.5e-4").replace("5e-5", "[5e-5, 2e-5]").replace(
        '"hifumi"  #', '"hifumi 2"  #'
    )


def test_new_keys_tables_and_arguments(tmp_path: Path) -> None:
    path = written(tmp_path)
    save_preset(
        path,
        {
            "network.dim": 32,
            "optim.args.weight_decay": 0.1,
            "dataset.resolution": Resolution(832, 1216),
            "optim.warmup": Warmup(steps=100),
            "extra.console_log_level": "INFO",
            "seed": 7,
        },
    )
    preset = load_preset(path).preset
    assert (preset.network.dim, preset.optim.args, preset.seed) == (32, {"weight_decay": 0.1}, 7)
    assert preset.dataset.resolution == Resolution(832, 1216)
    assert preset.optim.warmup == Warmup(steps=100)
    assert preset.extra == {"console_log_level": "INFO"}
    assert "# Rates from run k3f9." in path.read_text()


def test_none_takes_a_key_out_and_a_rival_goes_by_itself(tmp_path: Path) -> None:
    path = written(tmp_path)
    save_preset(path, {"length.steps": 20, "network.dim": None})
    assert "epochs" not in path.read_text()
    assert load_preset(path).preset.length.steps == 20


def test_windows_line_ends_and_mark_stay(tmp_path: Path) -> None:
    path = written(tmp_path, "\ufeff" + WRITTEN.replace("\n", "\r\n"))
    save_preset(path, {"optim.unet_lr": 2e-4})
    assert path.read_bytes() == ("\ufeff" + WRITTEN.replace("\n", "\r\n").replace("1e-4", "2e-4")).encode()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"network.dmi": 3}, "network.dmi"),
        ({"network": {"dim": 3}}, "network"),
        ({"network.dim": 0}, "network.dim = 0"),
        ({"base.model": None}, "base.model is missing"),
        ({"a b": 1}, "a b"),
        ({"loss.noise_offset": float("inf")}, "loss.noise_offset = inf"),
    ],
)
def test_a_change_that_cannot_be_meant_leaves_the_file(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    path = written(tmp_path)
    with pytest.raises(PresetError) as caught:
        save_preset(path, changes)
    assert said in " ".join(problem.what for problem in caught.value.problems)
    assert path.read_text() == WRITTEN


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lorakit.preset.save.write_bytes", full)
    with pytest.raises(DiskError, match="cannot be written") as caught:
        save_preset(path, {"network.dim": 3})
    assert caught.value.why == "No space left on device"
    assert path.read_text() == WRITTEN


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    path = written(tmp_path / "real")
    link = tmp_path / "link.toml"
    link.symlink_to(path)
    save_preset(link, {"network.dim": 3})
    assert link.is_symlink()
    assert load_preset(path).preset.network.dim == 3


@settings(max_examples=60, deadline=None)
@given(presets(), preset_data(), st.booleans())
def test_any_change_to_any_preset_says_exactly_that(preset: Preset, data: dict[str, Any], commented: bool) -> None:
    text = "".join(
        f"# {n}\n{line}\n" if commented else f"{line}\n" for n, line in enumerate(dump_toml(preset).split("\n"))
    )
    changes = dict(Layer("preset", data).leaves())
    edited = edit_toml(text, {dotted(path): value for path, value in changes.items()}, Path("x.toml"))
    for path, value in changes.items():
        found: Any = tomllib.loads(edited)
        for part in path:
            found = found[part]
        assert found == tomllib.loads(f"value = {spell(value, path)}")["value"]
        assert not any(rival in changes for rival in EXCLUSIVE.get(path, ()))
    load_text(edited, Path("x.toml"))
    if commented:
        assert [line for line in edited.split("\n") if line.startswith("# ")] == [
            line for line in text.split("\n") if line.startswith("# ")
        ]
