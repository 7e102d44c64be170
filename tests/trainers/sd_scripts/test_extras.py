"""Packages on request: installed without what they depend on, kept, recorded, and missed before a bake rather than in it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from lorakit.errors import TrainerError, UsageError
from lorakit.preset.models import Preset
from lorakit.trainers.sd_scripts.extras import check_extras, version_in
from lorakit.trainers.sd_scripts.place import find
from lorakit.trainers.sd_scripts.receipt import read_receipt
from lorakit.trainers.sd_scripts.status import status
from tests.trainers.presets import shipped
from tests.trainers.sd_scripts.conftest import Bench

LYCORIS = ("network.module=lycoris.kohya", "network.algo=loha")


def pip_of(bench: Bench, monkeypatch: pytest.MonkeyPatch, *, works: bool = True) -> Path:
    """A uv that makes environments at once and puts an empty lycoris into them; the file has its calls."""
    calls = bench.root / "calls"
    site = bench.folder / ".venv" / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    module = "touch" if works else "true"
    uv = bench.root / "uv"
    uv.write_text(
        f'#!/bin/sh\necho "$@" >> "{calls}"\n[ "$1" = venv ] && exec "{sys.executable}" -m venv --without-pip "$5"\n'
        f'case "$*" in *lycoris-lora*) mkdir -p "{site}/lycoris" "{site}/lycoris_lora-4.1.3.dist-info"\n'
        f'{module} "{site}/lycoris/kohya.py";; esac\nexit 0\n'
    )
    uv.chmod(0o755)
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name, *rest, **more: str(uv) if name == "uv" else which(name))
    monkeypatch.setenv("PATH", f"{bench.root}:/usr/bin:/bin")
    pin = bench.workspace.vendor / "sd-scripts.toml"
    pin.write_text(pin.read_text() + '[with]\nlycoris = ["lycoris-lora==4.1.3"]\n')
    return calls


def preset() -> Preset:
    return shipped("sdxl-character", *LYCORIS)


def test_lycoris_is_installed_on_request_and_stays(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = pip_of(bench, monkeypatch)
    bench.install()
    (finding,) = check_extras(preset(), bench.workspace)
    assert (finding.code, finding.level, finding.todo) == (
        "LK515", "error", "type: lorakit trainer install --with lycoris",
    )  # fmt: skip
    assert "lycoris-lora" not in calls.read_text()
    receipt, watched = bench.install(extras=["lycoris"])
    assert receipt.extras == ("lycoris",) == getattr(read_receipt(bench.workspace), "extras", None)
    assert any("lycoris" in step for step in watched.steps)
    assert calls.read_text().splitlines()[-1].endswith("bin/python --no-deps lycoris-lora==4.1.3")
    assert version_in(find(bench.workspace), "lycoris-lora") == "4.1.3"
    assert check_extras(preset(), bench.workspace) == ()
    assert [(check.state, check.found) for check in status(bench.workspace) if check.name == "lycoris-lora"] == [
        ("ok", "4.1.3")
    ]
    # Installed again without the word, it is still there.
    again, _ = bench.install()
    assert again.extras == ("lycoris",)


def test_an_unknown_name_is_refused_before_anything_is_done(bench: Bench) -> None:
    with pytest.raises(UsageError, match="--with peft"):
        bench.install(extras=["peft"])
    assert not bench.folder.exists()


def test_what_cannot_be_imported_is_not_installed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    pip_of(bench, monkeypatch, works=False)
    with pytest.raises(TrainerError, match="lycoris is installed, but cannot be imported"):
        bench.install(extras=["lycoris"])
    receipt = read_receipt(bench.workspace)
    assert receipt is not None
    assert not receipt.complete


def test_a_plain_lora_needs_nothing(bench: Bench) -> None:
    assert check_extras(shipped("sdxl-character"), bench.workspace) == ()
    assert check_extras(preset(), bench.workspace) == ()  # no sd-scripts is installed here: other checks say so
