"""Installing sd-scripts: what is there in the end, what stays, what is refused, and every bad start."""

from __future__ import annotations

import json
import os
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from lorakit.errors import DiskError, LorakitError, TrainerError, UsageError, WorkspaceError
from lorakit.trainers.choose import choose
from lorakit.trainers.sd_scripts import install as installation
from lorakit.trainers.sd_scripts import tokenizers
from lorakit.trainers.sd_scripts.install import adopt, install
from lorakit.trainers.sd_scripts.programs import Runner
from lorakit.trainers.sd_scripts.receipt import read_receipt
from lorakit.workspace import find_workspace
from tests.trainers.presets import shipped
from tests.trainers.sd_scripts.conftest import Bench
from tests.trainers.sd_scripts.made import ROWS, Watched, commit, git, lose_blob, make_python, make_workspace


def test_everything_is_there_and_a_bake_uses_it(bench: Bench) -> None:
    receipt, watched = bench.install()
    assert (receipt.complete, receipt.commit, receipt.changed) == (True, bench.commit, ())
    assert receipt == read_receipt(bench.workspace)
    assert receipt.options == len(ROWS)
    assert watched.warnings == []
    assert [step.partition(":")[0] for step in watched.steps] == list(installation.STEPS)
    found = choose(shipped("quickstart", "trainer.kind=auto"), bench.workspace)
    assert (found.kind, found.checkout) == ("sd-scripts", bench.folder)
    assert found.python == bench.folder / ".venv" / "bin" / "python" == Path(receipt.python)


def test_only_what_training_needs_is_fetched(bench: Bench) -> None:
    lose_blob(bench.source, "images/large.bin")
    bench.install()
    assert not (bench.folder / "images").exists()
    assert {path.name for path in bench.folder.iterdir()} == {
        ".git", ".venv", "library", "networks", "sdxl_train_network.py",
    }  # fmt: skip
    assert git(bench.folder, "status", "--porcelain", "--untracked-files=no") == ""


def test_a_second_time_does_little(bench: Bench) -> None:
    bench.install()
    before = (bench.folder / ".venv" / "pyvenv.cfg").stat().st_mtime_ns
    log = bench.workspace.vendor / "sd-scripts.log"
    printed = log.read_text()
    receipt, _ = bench.install()
    assert receipt.complete
    assert (bench.folder / ".venv" / "pyvenv.cfg").stat().st_mtime_ns == before
    assert log.read_text() == printed


@pytest.mark.slow  # pip itself is put into the environment
def test_packages_are_really_installed(bench: Bench) -> None:
    wheel = bench.root / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("tiny.py", "answer = 42\n")
        file.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        file.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr("tiny-1.0.dist-info/RECORD", "")
    make_workspace(bench.workspace.root, bench.source, bench.commit, packages=(f"tiny @ {wheel.as_uri()}",))
    receipt, watched = bench.install(python=sys.executable)
    assert (receipt.packages["tiny"], receipt.installer) == ("1.0", "pip")
    assert any("tiny" in line for line in watched.lines)


def test_uv_is_used_where_it_is(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    make_workspace(bench.workspace.root, bench.source, bench.commit, packages=("tiny==1",))
    calls = bench.root / "calls"
    uv = bench.root / "uv"
    uv.write_text(
        f'#!/bin/sh\necho "$@" >> "{calls}"\n[ "$1" = venv ] && exec "{sys.executable}" -m venv --without-pip "$5"\nexit 0\n'
    )
    uv.chmod(0o755)
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name, *rest, **more: str(uv) if name == "uv" else which(name))
    receipt, _ = bench.install()
    assert receipt.installer == "uv"
    made, got = calls.read_text().splitlines()
    assert made == f"venv --clear --python {bench.python} {bench.folder / '.venv'}"
    assert got == f"pip install --python {bench.folder / '.venv' / 'bin' / 'python'} tiny==1"


def test_a_build_of_torch_comes_from_its_own_index(bench: Bench) -> None:
    from lorakit.trainers.sd_scripts.environment import _batches
    from lorakit.trainers.sd_scripts.pin import read_pin
    from lorakit.workspace import Workspace

    pin = read_pin(Workspace(bench.root))  # no pin of its own: the one that ships
    (torch, index), (everything, options) = _batches(pin, "cu126")
    assert torch == pin.torch
    assert index == ("--index-url", "https://download.pytorch.org/whl/cu126")
    assert set(pin.torch) < set(everything)
    assert options == ()
    assert len(list(_batches(pin, "default"))) == 1


# What is there already


def test_local_changes_are_kept_recorded_and_told(bench: Bench) -> None:
    bench.install()
    script = bench.folder / "sdxl_train_network.py"
    script.write_text(script.read_text() + "# mine\n")
    receipt, watched = bench.install()
    assert receipt.complete
    assert receipt.changed == ("sdxl_train_network.py",)
    assert "local changes" in watched.warnings[0]
    assert script.read_text().endswith("# mine\n")


def test_a_new_pin_replaces_the_checkout_and_keeps_the_environment(bench: Bench) -> None:
    bench.install()
    (bench.folder / ".venv" / "kept").touch()
    (bench.source / "library" / "new.py").touch()
    bench.pin(new := commit(bench.source))
    receipt, _ = bench.install()
    assert receipt.commit == new == git(bench.folder, "rev-parse", "HEAD")
    assert (bench.folder / "library" / "new.py").exists()
    assert (bench.folder / ".venv" / "kept").exists()
    assert not [path for path in bench.workspace.vendor.iterdir() if path.name.startswith(".sd-scripts-")]


def test_local_changes_are_never_replaced(bench: Bench) -> None:
    bench.install()
    (bench.folder / "sdxl_train_network.py").write_text("mine")
    (bench.source / "library" / "new.py").touch()
    bench.pin(commit(bench.source))
    with pytest.raises(TrainerError, match=r"local changes in sdxl_train_network\.py") as error:
        bench.install()
    assert "--adopt" in error.value.todo
    assert (bench.folder / "sdxl_train_network.py").read_text() == "mine"


def test_a_folder_that_is_no_checkout_stays(bench: Bench) -> None:
    bench.folder.mkdir()
    (bench.folder / "mine").touch()
    with pytest.raises(TrainerError, match="no git checkout"):
        bench.install()
    assert (bench.folder / "mine").exists()


def test_an_equal_commit_stays(bench: Bench) -> None:
    bench.install()
    pin = bench.workspace.vendor / "sd-scripts.toml"
    text = pin.read_text().replace(f'commit = "{bench.commit}"', f'commit = "{"1" * 40}"\nequal = ["{bench.commit}"]')
    pin.write_text(text)
    assert bench.install()[0].commit == bench.commit


# Bad starts: one line that says what to do, and nothing is lost


def fails(bench: Bench, what: str, todo: str, kind: type[LorakitError] = TrainerError, **options: Any) -> None:
    with pytest.raises(kind, match=what) as error:
        bench.install(**options)
    assert todo in error.value.todo
    receipt = read_receipt(bench.workspace)
    assert receipt is None or not receipt.complete


def test_no_git(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    fails(bench, "no git on this machine", "install git")


def test_no_network(bench: Bench) -> None:
    fails(bench, "fetching sd-scripts failed: no network", "--source", source="http://127.0.0.1:9/sd-scripts")
    assert not bench.folder.exists()
    assert bench.install()[0].complete  # once there is a way, it goes on


def test_no_such_source(bench: Bench) -> None:
    fails(bench, "fetching sd-scripts failed", "sd-scripts.log", source=str(bench.root / "nowhere"))


def test_the_commit_is_not_there(bench: Bench) -> None:
    bench.pin("0123456789" * 4)
    fails(bench, "has no commit 0123456789", "another --source")
    assert not bench.folder.exists()


def test_a_repository_of_something_else(bench: Bench) -> None:
    git(bench.source, "rm", "-q", "sdxl_train_network.py")
    bench.pin(commit(bench.source))
    fails(bench, "has no sdxl_train_network.py", "repository of sd-scripts")


def test_a_python_that_does_not_work(bench: Bench) -> None:
    fails(bench, "is no working Python", "--python", python="/bin/false")
    fails(bench, "is no working Python", "--python", python=str(bench.root / "nothing"))


@pytest.mark.parametrize(("version", "word"), [("3.8", "too old"), ("3.30", "too new")])
def test_a_python_of_the_wrong_age(bench: Bench, version: str, word: str) -> None:
    python = make_python(bench.root / "other-python", version)
    fails(bench, f"Python {version} is {word}", "--python", python=str(python))


def test_a_build_of_torch_that_is_none(bench: Bench) -> None:
    fails(bench, "no build of torch", "cu126", UsageError, torch="../x")


def test_no_room(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(bench.root)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    text = (bench.workspace.vendor / "sd-scripts.toml").read_text()
    (bench.workspace.vendor / "sd-scripts.toml").write_text(
        text.replace("[torch]\npackages = []", "[torch]\npackages = ['torch']")
    )
    fails(bench, "takes about 3 GB, and 0.0 GB are free", "free some space", DiskError, torch="cpu")


def test_an_environment_in_which_it_cannot_start(bench: Bench) -> None:
    (bench.source / "library" / "__init__.py").write_text("import voluptuous_is_missing\n")
    bench.pin(commit(bench.source))
    fails(bench, "cannot be started", "voluptuous_is_missing")
    with pytest.raises(TrainerError, match="half installed") as error:
        choose(shipped("quickstart", "trainer.kind=auto"), bench.workspace)
    assert "trainer install" in error.value.todo


def test_a_broken_environment_is_made_again(bench: Bench) -> None:
    bench.install()
    python = bench.folder / ".venv" / "bin" / "python"
    python.unlink()
    assert bench.install()[0].complete
    assert python.exists()


def test_an_environment_that_lost_a_package_is_made_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    (bench.source / "library" / "__init__.py").write_text("import only_there\n")
    make_workspace(bench.workspace.root, bench.source, commit(bench.source), packages=("only_there",))
    uv = bench.root / "uv"
    uv.write_text(
        f'#!/bin/sh\n[ "$1" = venv ] && exec "{sys.executable}" -m venv --without-pip "$5"\n'
        "exec \"$4\" -c \"import sysconfig; open(sysconfig.get_path('purelib') + '/only_there.py', 'w')\"\n"
    )
    uv.chmod(0o755)
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name, *rest, **more: str(uv) if name == "uv" else which(name))
    assert bench.install()[0].complete
    (module,) = (bench.folder / ".venv").rglob("only_there.py")
    module.unlink()
    receipt, watched = bench.install()
    assert receipt.complete
    assert "No module named 'only_there'" in watched.warnings[0]
    assert module.exists()


def test_two_at_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "PATIENCE", 0.2)
    watched = Watched()
    with installation._alone(bench.workspace, Watched()), pytest.raises(TrainerError, match="by another lorakit"):
        install(bench.workspace, watched, python=str(bench.python))
    assert watched.warnings == ["another installation is at work here; waiting for it to end"]
    assert bench.install()[0].complete


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "repository is missing|python is missing|commit is missing"),
        ("commit = 'abc'", "no whole commit"),
        ("a = [", "cannot be read"),
    ],
)
def test_a_pin_that_cannot_be_meant(bench: Bench, text: str, message: str) -> None:
    (bench.workspace.vendor / "sd-scripts.toml").write_text(text)
    with pytest.raises(TrainerError) as error:
        bench.install()
    import re

    assert re.search(message, f"{error.value.what} {error.value.why}")
    assert "sd-scripts.toml" in error.value.what


@pytest.mark.parametrize(
    ("output", "kind", "what", "todo"),
    [
        (
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
            DiskError,
            "disk is full",
            "free",
        ),
        ("fatal: unable to access 'https://x/': Could not resolve host: x", TrainerError, "no network", "--adopt"),
        ("error: Failed to fetch\n  Caused by: dns error: failed to lookup", TrainerError, "no network", "online"),
        (
            "ERROR: No matching distribution found for torch==2.99",
            TrainerError,
            "torch==2.99 is not to be had",
            "--torch",
        ),
        ("something\nelse", TrainerError, "doing it failed", "x.log"),
    ],
)
def test_why_a_program_failed(tmp_path: Path, output: str, kind: type[LorakitError], what: str, todo: str) -> None:
    runner = Runner(tmp_path / "x.log")
    with pytest.raises(kind, match=what) as error:
        runner.run([sys.executable, "-c", f"print({output!r}); raise SystemExit(1)"], doing="doing it")
    assert todo in error.value.todo
    assert output.splitlines()[-1] in (tmp_path / "x.log").read_text()


# A checkout of the user's own


def test_adopting_names_it_in_lorakit_toml(bench: Bench) -> None:
    watched = Watched()
    receipt = adopt(bench.workspace, watched, folder=bench.source, python=Path(sys.executable))
    assert (receipt.how, receipt.complete, receipt.commit, receipt.tag) == ("adopt", True, bench.commit, "v0.10.1")
    text = (bench.workspace.root / "lorakit.toml").read_text()
    assert text.startswith("# mine\n")
    workspace = find_workspace(bench.workspace.root)
    found = choose(shipped("quickstart", "trainer.kind=sd-scripts"), workspace)
    assert (found.python, found.checkout) == (Path(sys.executable), bench.source)
    assert git(bench.source, "status", "--porcelain", "--untracked-files=no") == ""
    # Adopting again changes nothing but the receipt; installing beside it would not be used.
    adopt(workspace, watched, folder=bench.source, python=Path(sys.executable))
    assert (bench.workspace.root / "lorakit.toml").read_text() == text
    with pytest.raises(WorkspaceError, match="says that sd-scripts is in"):
        install(workspace, watched)


def test_another_version_is_adopted_and_told(bench: Bench) -> None:
    (bench.source / "library" / "new.py").touch()
    new = commit(bench.source)
    watched = Watched()
    receipt = adopt(bench.workspace, watched, folder=bench.source, python=Path(sys.executable))
    assert (receipt.commit, receipt.tag) == (new, "")
    assert "not at v0.10.1" in watched.warnings[0]


def test_what_cannot_be_adopted_changes_nothing(bench: Bench) -> None:
    for folder, python, what in (
        (bench.root, Path(sys.executable), "has no sdxl_train_network.py"),
        (bench.source, bench.root / "none", "there is no"),
        (bench.source, Path("/bin/false"), "cannot be started"),
    ):
        with pytest.raises(TrainerError, match=what):
            adopt(bench.workspace, Watched(), folder=folder, python=python)
    assert (bench.workspace.root / "lorakit.toml").read_text() == "# mine\n"
    assert read_receipt(bench.workspace) is None


def test_a_script_of_ones_own_stands_in_the_command(bench: Bench) -> None:
    bench.install()
    (bench.root / "wrap.py").touch()
    (bench.workspace.root / "lorakit.toml").write_text('[sd_scripts]\nscript = "../wrap.py"\n')
    found = choose(shipped("quickstart", "trainer.kind=sd-scripts"), find_workspace(bench.workspace.root))
    assert found.program[-1] == str(bench.workspace.root / ".." / "wrap.py")
    assert found.checkout == bench.folder


def test_no_vocabulary_still_gives_a_trainer(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizers, "_PACKAGE", "no_such_package")
    receipt, watched = bench.install()
    assert receipt.complete
    assert receipt.tokenizers == ""
    assert "no CLIP vocabulary" in watched.warnings[0]
    with pytest.raises(TrainerError, match="holds no tokenizer"):
        bench.install(tokenizer_source=bench.root)


def test_a_receipt_that_is_torn(bench: Bench) -> None:
    bench.install()
    (bench.workspace.vendor / "sd-scripts.receipt.json").write_text('{"how":')
    with pytest.raises(TrainerError, match="cannot be read") as error:
        choose(shipped("quickstart", "trainer.kind=sd-scripts"), bench.workspace)
    assert "trainer install" in error.value.todo
    assert bench.install()[0].complete


def test_the_receipt_is_plain_json(bench: Bench) -> None:
    receipt, _ = bench.install()
    written = json.loads((bench.workspace.vendor / "sd-scripts.receipt.json").read_text())
    assert written == json.loads(json.dumps(receipt.to_json()))
    assert os.path.exists(written["python"])
