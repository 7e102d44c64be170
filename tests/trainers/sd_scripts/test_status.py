"""The state of the trainer: every line is right, and what is wrong says what to do."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from lorakit.errors import TrainerError
from lorakit.trainers.sd_scripts import status as module
from lorakit.trainers.sd_scripts.place import find
from lorakit.trainers.sd_scripts.status import Check, is_installed, status
from lorakit.workspace import Workspace
from tests.trainers.sd_scripts.conftest import Bench

#: What an environment tells in which everything works.
WELL: dict[str, Any] = {
    "python": "3.11.7",
    "executable": "/x/python",
    "missing": [],
    "torch": {"version": "2.7.0"},
    "accelerate": {"version": "1.6.0"},
    "cv2": {"version": "4.10.0"},
    "xformers": {"version": "0.0.30"},
    "bitsandbytes": {"version": "0.46.0", "device": "cuda"},
    "cuda": {
        "build": "12.6", "available": True,
        "cards": [{"name": "RTX 4090", "free": 23_000_000_000, "total": 25_300_000_000}],
    },
}  # fmt: skip


def told(**changes: Any) -> dict[str, Check]:
    """Checks by name, of an environment that tells something else in some points."""
    place = find(Workspace(Path("/x")))
    return {check.name: check for check in module._told({**WELL, **changes}, place)}


def named(checks: tuple[Check, ...]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_an_environment_in_which_everything_works() -> None:
    assert {check.state for check in told().values()} == {"ok"}
    assert told()["GPU memory"].found == "RTX 4090: 23.0 GB free of 25.3 GB"
    assert told()["bitsandbytes"].found == "0.46.0, an 8-bit step works on the cuda"


def test_what_keeps_it_from_training() -> None:
    assert told(missing=["imagesize", "toml"])["packages"].found == "missing: imagesize, toml"
    opencv = told(cv2={"error": "ImportError: libGL.so.1: cannot open shared object file"})["OpenCV"]
    assert (opencv.state, "libGL" in opencv.found) == ("problem", True)
    broken = told(torch={"error": "OSError: x"}, cuda={})
    assert broken["torch"].state == "problem"


def test_what_is_good_to_know() -> None:
    unusable = told(bitsandbytes={"version": "0.46.0", "error": "RuntimeError: no kernel\nmore"})["bitsandbytes"]
    assert (unusable.state, unusable.found) == ("note", "not usable: RuntimeError: no kernel")
    assert told(bitsandbytes={})["bitsandbytes"].found == "not installed"
    assert told(xformers={})["xformers"].state == "note"
    small = {**WELL["cuda"], "cards": [{"name": "GTX", "free": 3_000_000_000, "total": 4_000_000_000}]}
    assert "sdxl-8gb" in told(cuda=small)["GPU memory"].todo


@pytest.mark.parametrize(
    ("build", "driver", "state", "todo"),
    [(None, True, "problem", "--torch cu126"), ("12.6", True, "problem", "driver"), (None, False, "note", "trials")],
)
def test_torch_that_sees_no_gpu(
    build: str | None, driver: bool, state: str, todo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if driver else None)
    found = told(cuda={"build": build, "available": False, "cards": []})["torch"]
    assert found.state == state
    assert todo in found.todo


def test_nothing_is_installed(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert not is_installed(workspace)
    (found,) = status(workspace)
    assert (found.state, found.todo) == ("problem", "lorakit trainer install")


def test_an_installation_that_fetched_nothing(bench: Bench) -> None:
    with pytest.raises(TrainerError):
        bench.install(source="http://127.0.0.1:9/x")
    (found,) = status(bench.workspace)
    assert (found.name, found.state, "goes on" in found.todo) == ("receipt", "problem", True)


def test_an_installation_without_packages(bench: Bench) -> None:
    bench.install()
    found = named(status(bench.workspace))
    assert found["checkout"].found.startswith(f"v0.10.1 at {bench.commit[:12]}")
    assert (found["local changes"].state, found["local changes"].found) == ("ok", "none")
    assert found["python"].found.startswith(f"{sys.version_info[0]}.{sys.version_info[1]}.")
    assert found["packages"].state == "problem"
    assert "torch, torchvision" in found["packages"].found
    assert found["options"].found == "196, v0.10.1"
    assert found["disk"].state in {"ok", "note"}
    (bench.folder / "sdxl_train_network.py").write_text("mine")
    assert named(status(bench.workspace))["local changes"].found == "sdxl_train_network.py"


def test_half_an_installation(bench: Bench) -> None:
    bench.install()
    receipt = bench.workspace.vendor / "sd-scripts.receipt.json"
    receipt.write_text(receipt.read_text().replace('"complete": true', '"complete": false'))
    (bench.folder / ".venv" / "bin" / "python").unlink()
    found = named(status(bench.workspace))
    assert (found["receipt"].state, found["python"].state) == ("problem", "problem")
    assert "goes on" in found["receipt"].todo
    shutil.rmtree(bench.folder / ".git")
    (bench.folder / "sdxl_train_network.py").unlink()
    assert named(status(bench.workspace))["checkout"].state == "problem"


def test_a_checkout_of_the_users_own(bench: Bench) -> None:
    shutil.rmtree(bench.source / ".git")
    settings = {"path": str(bench.source), "python": "/bin/false", "script": "nowhere.py"}
    found = named(status(Workspace(bench.workspace.root, {"sd_scripts": settings})))
    assert "no git checkout" in found["checkout"].found
    assert "does not answer" in found["python"].found
    assert found["script"].state == "problem"
    assert found["options"].todo == "lorakit trainer catalogue"
