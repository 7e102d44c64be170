"""Errors in words: what, why, what to do, and the exit code of the class."""

from __future__ import annotations

import errno
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from lorakit import errors
from lorakit.cli import main as main_module
from lorakit.cli import trouble
from lorakit.cli.main import main
from lorakit.errors import DatasetError, DiskError, LorakitError, PresetError, Problem, RuleError
from lorakit.workspace import Workspace
from tests.cli.running import Cli, golden

CLASSES = [item for _, item in inspect.getmembers(errors, inspect.isclass) if issubclass(item, LorakitError)]


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def run(arguments: object, folder: object) -> int:
        raise error

    monkeypatch.setattr(main_module, "_run", run)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_each_class_ends_with_its_own_code(kind: type[LorakitError], cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, kind("what happened", why="because", todo="do this"))
    done = cli("ls", code=kind.exit_code)
    assert done.out == ""
    assert done.err == "error  what happened\n  because\n  do this\n"


def test_several_problems_are_told_one_by_one(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    problems = (
        Problem(
            "optim.warmup = 100.0",
            "100.0 could mean 100 steps or 100 times the run",
            'write "100 steps" or "5%"',
            "optim.warmup",
            "presets/hifumi.toml:14",
            "LK101",
        ),
        Problem("there is no key dim", todo="did you mean network.dim?", where="--set dim=4", code="LK902"),
        Problem("the two do not go together", "one excludes the other", key="network.dim", code="LK021"),
    )
    raising(monkeypatch, PresetError("presets/hifumi.toml has 3 problems", problems=problems))
    golden("errors.txt", cli("plan", "x", code=4).err)


def test_a_summary_that_adds_nothing_is_left_out(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem("gone", "it is not there", "look for it")
    raising(monkeypatch, PresetError("gone", why="it is not there", problems=(problem,)))
    assert cli("plan", "x", code=4).err == "error  gone\n  it is not there\n  look for it\n"
    raising(monkeypatch, RuleError("a trial cannot be baked", why="all are checked", problems=(problem,)))
    assert cli("plan", "x", code=5).err.endswith("\n\nerror  a trial cannot be baked\n  all are checked\n")


def test_a_summary_does_not_repeat_its_problems(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    problems = (Problem("a.png is torn"), Problem("b.png is torn"))
    raising(
        monkeypatch,
        DatasetError("2 files are torn", why="a.png is torn; b.png is torn", todo="mend", problems=problems),
    )
    done = cli("plan", "x", code=6)
    assert done.err == "error  a.png is torn\n\nerror  b.png is torn\n\nerror  2 files are torn\n  mend\n"


def test_control_characters_and_markup_in_errors_are_text(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, LorakitError("no [bold]run[/bold] is called 'a\x1b[2J\rb'"))
    assert cli("ls", code=1).err == "error  no [bold]run[/bold] is called 'a\\x1b[2J\\rb'\n"


def test_a_mistake_of_our_own_is_one_sentence_and_a_traceback_on_request(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raising(monkeypatch, ZeroDivisionError("division\nby zero"))
    done = cli("ls", code=1)
    assert done.err == (
        "error  ZeroDivisionError: division by zero\n"
        "  this is a mistake of lorakit's own, not of yours\n"
        "  --debug shows the traceback\n"
    )
    assert main(["ls", "--debug"]) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ls"], (["ls"], False, None)),
        (["--debug", "ls"], (["ls"], True, None)),
        (["ls", "-C", "a b", "--debug"], (["ls"], True, "a b")),
        (["-C", "a", "ls", "--workspace=b=c"], (["ls"], False, "b=c")),
        (["show", "--", "--debug", "-C"], (["show", "--", "--debug", "-C"], False, None)),
    ],
)
def test_debug_and_the_workspace_may_stand_anywhere(words: list[str], expected: object) -> None:
    assert main_module._everywhere(words) == expected


def test_a_workspace_option_without_a_folder(cli: Cli) -> None:
    assert cli("ls", "-C", code=2).err.startswith("error  -C needs a folder")


def test_ctrl_c_is_130(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, KeyboardInterrupt())
    assert cli("ls", code=130).err.startswith("stopped")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_disk_that_fails_where_nobody_looked_is_still_a_disk_error(
    number: int, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    raising(monkeypatch, OSError(number, "the system's words", "/full/disk"))
    done = cli("ls", code=DiskError.exit_code)
    assert done.err.startswith("error  /full/disk: the system's words\n")


@pytest.mark.parametrize("words", [["nonsense"], ["ls", "--nope"], ["plan"], ["logs", "--tail", "x"], ["compare"]])
def test_a_command_line_that_cannot_be_meant_is_2(words: list[str], cli: Cli) -> None:
    done = cli(*words, code=2)
    assert done.err.startswith("error  ")
    assert done.err.rstrip().endswith(("--help", "lorakit compare k3f9 latest"))
    assert done.out == ""


def test_nothing_asked_is_help(cli: Cli) -> None:
    assert cli().out == cli("--help").out


def test_version(cli: Cli) -> None:
    assert cli("--version").out == cli("--debug", "--version").out == cli("-C", "x", "--version").out
    assert cli("--version").out.startswith("lorakit ")


def test_a_workspace_that_is_not_there(cli: Cli, workspace: Workspace) -> None:
    done = cli("-C", "nowhere", "ls", code=3)
    assert done.err == "error  there is no folder nowhere\n  lorakit init nowhere\n"


def test_the_nearer_workspace_wins(cli: Cli, workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    other = str(tmp_path / "empty")
    assert "quickstart" in cli("-C", other, "plan", "quickstart", "-C", str(workspace.root)).out
    assert cli("-C", str(workspace.root), "plan", "quickstart", "-C", other, code=4).out == ""
    assert "quickstart" in cli("-C", str(workspace.root), "plan", "quickstart").out


def test_a_reader_that_goes_away_is_no_error(workspace: Workspace) -> None:
    reading = f"{sys.executable} -m lorakit plan quickstart --why --json | {sys.executable} -c 'pass'"
    done = subprocess.run(["sh", "-c", reading], cwd=workspace.root, capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_a_terminal_that_is_not_utf8_is_no_error(workspace: Workspace) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lorakit", "plan", "quickstart"],
        cwd=workspace.root,
        capture_output=True,
        env={"PYTHONIOENCODING": "ascii", "PATH": "/usr/bin"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"images" in done.stdout


def test_the_codes_in_use_are_those_of_the_tree() -> None:
    assert trouble.INTERNAL == trouble.PIPE_CLOSED == LorakitError.exit_code
