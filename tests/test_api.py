"""The typed functions that ``import lorakit`` offers, and that they stay what they are."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, assert_type

import pytest

import lorakit
from lorakit import api
from lorakit.archive.run import Run
from lorakit.errors import ArchiveError, PresetError, RuleError, WorkspaceError
from lorakit.plan import Plan
from lorakit.preset.files import ResolvedPreset
from lorakit.workspace import Workspace, find_workspace
from tests.cli.made_runs import make_run

REPO = Path(__file__).parents[1]

#: What users of the library rely on: a change here belongs into the changelog.
SIGNATURES = {
    "bake": "(preset: 'ResolvedPreset | Folder', *, workspace: 'Workspace | Folder | None' = None, "
    "on_update: 'OnUpdate | None' = None, lineage: 'dict[str, Any] | None' = None) -> 'Run'",
    "list_runs": "(*, workspace: 'Workspace | Folder | None' = None) -> 'tuple[Run, ...]'",
    "load_preset": "(preset: 'Folder', overrides: 'Sequence[str]' = (), *, "
    "workspace: 'Workspace | Folder | None' = None) -> 'ResolvedPreset'",
    "open_run": "(run: 'str' = 'latest', *, workspace: 'Workspace | Folder | None' = None) -> 'Run'",
    "plan": "(preset: 'ResolvedPreset | Folder', *, workspace: 'Workspace | Folder | None' = None) -> 'Plan'",
    "render": "(preset: 'ResolvedPreset | Folder', *, workspace: 'Workspace | Folder | None' = None) -> 'tuple[str, ...]'",
}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """The shipped presets and dataset in a folder of its own."""
    for name in ("presets", "datasets/demo"):
        shutil.copytree(REPO / name, tmp_path / name)
    (tmp_path / "lorakit.toml").write_text("")
    return find_workspace(tmp_path)


def test_the_functions_are_these_and_no_others() -> None:
    assert lorakit.__all__ == sorted(lorakit.__all__) == dir(lorakit) == ["__version__", *sorted(SIGNATURES)]
    assert sorted(api.__all__) == sorted(SIGNATURES)


@pytest.mark.parametrize("name", sorted(SIGNATURES))
def test_signatures(name: str) -> None:
    function = getattr(api, name)
    assert str(inspect.signature(function)) == SIGNATURES[name]
    assert function.__doc__


def test_every_name_can_be_called(workspace: Workspace) -> None:
    assert all(callable(getattr(lorakit, name)) for name in SIGNATURES)
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        lorakit.nope  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize(
    "before",
    ["", "import lorakit.plan, lorakit.bake", "from lorakit.plan import Plan", "from lorakit import plan, bake"],
)
def test_a_room_and_the_function_of_its_name_live_side_by_side(before: str, workspace: Workspace) -> None:
    program = f"""{before}
import lorakit
print(lorakit.plan("quickstart").total_steps)
import lorakit.plan as room
from lorakit.plan import Plan
assert isinstance(lorakit.plan("quickstart"), room.Plan) and room.Plan is Plan
assert callable(lorakit.bake)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=workspace.root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0


def test_types_are_visible(workspace: Workspace) -> None:
    preset = assert_type(lorakit.load_preset("quickstart", ["network.dim=4"], workspace=workspace), ResolvedPreset)
    assert preset.preset.network.dim == 4
    numbers = assert_type(lorakit.plan(preset, workspace=workspace.root), Plan)
    assert numbers.total_steps > 0
    argv = assert_type(lorakit.render(preset, workspace=str(workspace.root)), "tuple[str, ...]")
    assert "lorakit.trainers.builtin" in argv
    run = make_run(workspace.runs)
    assert assert_type(lorakit.open_run(run.short, workspace=workspace), Run) == run
    assert assert_type(lorakit.list_runs(workspace=workspace), "tuple[Run, ...]") == (run,)


def test_a_preset_may_be_named_wherever_one_is_asked_for(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace.datasets)  # found upwards
    by_path = lorakit.plan(workspace.presets / "quickstart.toml").to_json()
    by_name = lorakit.plan("quickstart").to_json()
    assert {**by_path, "disk": None} == {**by_name, "disk": None}
    assert lorakit.render("quickstart") == lorakit.render(lorakit.load_preset("quickstart"))


def test_errors_are_those_of_the_tree(workspace: Workspace) -> None:
    with pytest.raises(PresetError):
        lorakit.load_preset("nope", workspace=workspace)
    with pytest.raises(RuleError):
        lorakit.render(
            lorakit.load_preset("quickstart", ["optim.unet_lr=0", "optim.te_lr=0"], workspace=workspace),
            workspace=workspace,
        )
    with pytest.raises(ArchiveError):
        lorakit.open_run(workspace=workspace)
    (workspace.root / "lorakit.toml").write_text("= broken")
    with pytest.raises(WorkspaceError):
        lorakit.list_runs(workspace=workspace.root)


def test_bake_hands_on_what_it_is_given(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    made = make_run(workspace.runs)

    def bake(resolved: ResolvedPreset, place: Workspace, **more: Any) -> Run:
        asked.update(more, name=resolved.preset.name, place=place)
        return made

    def on_update(run: Run, records: Sequence[dict[str, Any]]) -> None: ...

    monkeypatch.setattr("lorakit.bake.bake.bake", bake)
    assert (
        assert_type(lorakit.bake("quickstart", workspace=workspace, on_update=on_update, lineage={"a": 1}), Run) == made
    )
    assert (asked["name"], asked["place"], asked["lineage"]) == ("quickstart", workspace, {"a": 1})
    assert asked["on_update"] is on_update


def test_importing_is_light_until_something_is_asked_for(workspace: Workspace) -> None:
    program = """import sys, json, lorakit
light = sorted(set(sys.modules) & {'pydantic', 'numpy', 'rich', 'typer', 'lorakit.api'})
lorakit.list_runs()
print(json.dumps([light, 'pydantic' in sys.modules]))"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=workspace.root, capture_output=True, text=True, check=True, env=os.environ
    )
    assert json.loads(done.stdout) == [[], False]
