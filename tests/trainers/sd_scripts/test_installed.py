"""What the installed version takes, asked of its own parser, and the rules that hold a preset against it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lorakit.errors import TrainerError
from lorakit.trainers.catalogue import Catalogue
from lorakit.trainers.preflight import preflight
from lorakit.trainers.render import render
from lorakit.trainers.sd_scripts.installed import TABLE, fitting, head_of, make_catalogue, path_of, read_installed
from lorakit.trainers.sd_scripts.place import Place
from tests.trainers.presets import PATHS, shipped
from tests.trainers.sd_scripts.conftest import Bench
from tests.trainers.sd_scripts.made import ROWS, commit, git, write_options


def place_of(bench: Bench) -> Place:
    """The source itself as the checkout: nothing here needs an environment of its own."""
    return Place(bench.source, Path(sys.executable), bench.source / "sdxl_train_network.py", named=True)


def asked(bench: Bench, rows: list[dict[str, Any]] | None = None) -> None:
    """Give the source these options, and have its parser asked."""
    if rows is not None:
        write_options(bench.source, rows)
        commit(bench.source)
    bench.workspace.settings["sd_scripts"] = {"path": str(bench.source), "python": sys.executable}
    make_catalogue(bench.workspace)


def older(release: str) -> list[dict[str, Any]]:
    """The options as they were before a release."""
    return [row for row in ROWS if row["since"] != release]


def codes(bench: Bench, *sets: str) -> list[str]:
    return [finding.code for finding in preflight(shipped("quickstart", *sets), bench.workspace, "sd-scripts")]


def test_the_parser_tells_every_option_as_it_is(bench: Bench) -> None:
    found = make_catalogue(bench.workspace, place_of(bench))
    assert found.catalogue.flags == Catalogue.load().flags
    assert (found.commit, found.version) == (bench.commit, "v0.10.1")
    assert read_installed(bench.workspace) == found
    written = json.loads(path_of(bench.workspace).read_text())
    assert all("help" not in row for row in written["options"])
    assert git(bench.source, "status", "--porcelain") == ""


def test_another_commit_is_named_by_what_it_has(bench: Bench) -> None:
    for rows, version in (
        ([*ROWS, {**ROWS[0], "flag": "--brand_new", "dest": "brand_new"}], "like v0.10.0"),
        (older("v0.10.0"), "like v0.9.0"),
        ([row for row in ROWS if row["since"].startswith("<=")], "like v0.8.7"),
        ([row for row in ROWS if row["flag"] != "--seed"], "older than any that lorakit knows"),
    ):
        asked(bench, rows)
        installed = read_installed(bench.workspace)
        assert installed is not None
        assert installed.version == version
    assert {"--brand_new"} == set(Catalogue.of_rows([*ROWS, {**ROWS[0], "flag": "--brand_new"}]).flags) - set(
        Catalogue.load().flags
    )


def test_a_preset_that_fits_is_left_alone(bench: Bench) -> None:
    assert codes(bench) == []  # nothing was asked
    asked(bench)
    assert codes(bench) == []


def test_an_option_that_is_not_there_names_the_version_that_has_it(bench: Bench) -> None:
    asked(bench, older("v0.10.0"))
    (found,) = (one for one in preflight(shipped("quickstart"), bench.workspace, "sd-scripts") if one.level == "error")
    assert found.code == "LK511"
    assert "--validation_split (validation.split) is there since v0.10.0" in found.what
    assert "installed is like v0.9.0" in found.what
    assert "--huber_scale" not in found.what  # which is left out where it says no more than the trainer did before
    (found,) = preflight(
        shipped(
            "quickstart", "validation.split=0", "loss.type=huber", "loss.huber_schedule=constant", "loss.huber_scale=2"
        ),
        bench.workspace,
        "sd-scripts",
    )
    assert ("--huber_scale" in found.what, "--validation_split" in found.what) == (True, False)
    assert codes(bench, "validation.split=0") == []
    assert not [one for one in preflight(shipped("quickstart"), bench.workspace, "builtin") if one.code == "LK511"]


def test_a_command_is_fitted_to_an_older_version(bench: Bench) -> None:
    whole = render(shipped("sdxl-8gb"), PATHS, kind="sd-scripts")
    assert fitting(whole, bench.workspace) == whole  # nothing was asked
    asked(bench)
    assert fitting(whole, bench.workspace) == whole
    asked(bench, older("v0.10.0"))
    at = whole.index("--huber_scale")
    assert fitting(whole, bench.workspace) == whole[:at] + whole[at + 2 :]
    assert fitting(("--huber_scale", "2"), bench.workspace) == ("--huber_scale", "2")
    (bench.source / "library" / "new.py").touch()
    commit(bench.source)
    assert fitting(whole, bench.workspace) == whole  # asked of another commit


def test_a_renamed_option_is_not_there_either(bench: Bench) -> None:
    asked(bench, [{**row, "flag": "--rank", "dest": "rank"} if row["flag"] == "--network_dim" else row for row in ROWS])
    (found,) = (one for one in preflight(shipped("quickstart"), bench.workspace, "sd-scripts") if one.level == "error")
    assert (found.code, "--network_dim (network.dim)" in found.what) == ("LK511", True)


def test_a_value_that_is_read_otherwise(bench: Bench) -> None:
    def before(row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "choices": ["l2", "huber", "smooth_l1"]} if row["flag"] == "--loss_type" else row

    asked(bench, [before(row) for row in ROWS])
    (found,) = preflight(shipped("quickstart", "loss.type=l1"), bench.workspace, "sd-scripts")
    assert found.code == "LK512"
    assert "--loss_type" in found.what
    assert "v0.10.0: l1 added" in found.what


def test_a_catalogue_of_another_commit_is_told(bench: Bench) -> None:
    asked(bench, older("v0.10.0"))
    (bench.source / "library" / "new.py").touch()
    commit(bench.source)
    assert codes(bench) == ["LK513"]
    make_catalogue(bench.workspace)
    assert codes(bench) == ["LK511"]


def test_local_changes_are_told_and_stop_nothing(bench: Bench) -> None:
    asked(bench)
    (bench.source / "networks" / "__init__.py").write_text("# mine")
    (found,) = preflight(shipped("quickstart"), bench.workspace, "sd-scripts")
    assert (found.code, found.level) == ("LK514", "warning")
    assert "networks/__init__.py" in found.what


def test_every_rule_is_reached() -> None:
    assert {rule.code for rule in TABLE.rules} == {"LK511", "LK512", "LK513", "LK514"}


def test_what_no_command_can_say_is_left_to_its_own_rule(bench: Bench) -> None:
    asked(bench, older("v0.10.0"))
    preset = shipped("quickstart", "optim.unet_lr=0", "optim.te_lr=0")
    assert {one.code for one in preflight(preset, bench.workspace, "sd-scripts")} & {"LK511", "LK512"} == set()


def test_a_catalogue_that_is_torn(bench: Bench) -> None:
    asked(bench)
    path_of(bench.workspace).write_text('{"commit": "')
    with pytest.raises(TrainerError, match="cannot be read") as error:
        codes(bench)
    assert "trainer catalogue" in error.value.todo


@pytest.mark.parametrize("packed", [False, True])
def test_the_commit_is_read_from_the_files_of_git(bench: Bench, packed: bool) -> None:
    if packed:
        git(bench.source, "pack-refs", "--all")
    assert head_of(bench.source) == bench.commit
    git(bench.source, "checkout", "-q", "--detach")
    assert head_of(bench.source) == bench.commit
    assert head_of(bench.root) == ""


def test_the_files_that_run_elsewhere_need_no_lorakit(tmp_path: Path) -> None:
    import lorakit

    room = Path(lorakit.__file__).parent / "trainers" / "sd_scripts"
    for name in ("ask_parser.py", "ask_state.py"):
        # -S: not even this environment's packages.
        program = f"import sys, runpy; runpy.run_path({str(room / name)!r}); print('lorakit' in sys.modules)"
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == "False"
