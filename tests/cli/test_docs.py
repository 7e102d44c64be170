"""Every command and option is documented, and everything documented exists."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from lorakit import errors
from lorakit.cli import listing
from lorakit.cli.app import command
from lorakit.errors import LorakitError
from lorakit.workspace import Workspace
from tests.cli.made_runs import make_run
from tests.cli.running import Cli

PAGE = (Path(__file__).parents[2] / "docs" / "commands.md").read_text(encoding="utf-8")
#: By the command's words: `### `lorakit logs [RUN]`` is "logs", a family's member has two.
SECTIONS = {
    match[1]: match[2]
    for match in re.finditer(
        r"^### `lorakit ([a-z-]+(?: [a-z]+)*)[^\n]*\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL
    )
}


def members(group: Any, prefix: str = "") -> dict[str, Any]:
    """Every command that does something, by its words."""
    found: dict[str, Any] = {}
    for name, one in group.commands.items():
        found |= members(one, f"{prefix}{name} ") if hasattr(one, "commands") else {f"{prefix}{name}": one}
    return found


COMMANDS: dict[str, Any] = members(command())


def options(name: str) -> dict[str, Any]:
    found = COMMANDS[name]
    params = [param for param in found.params if param.param_type_name == "option"]
    return {spelling: param for param in params for spelling in (*param.opts, *param.secondary_opts)}


def test_every_command_is_documented_and_every_documented_command_exists() -> None:
    assert set(SECTIONS) == set(COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_options(name: str) -> None:
    table = [line for line in SECTIONS[name].splitlines() if line.startswith("| `-")]
    documented = {word for line in table for word in re.findall(r"`(--?[\w-]+)", line.split("|")[1])}
    assert documented == set(options(name)) - {"--help", "-h"}


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_command_has_help_that_fits_its_line(name: str) -> None:
    found = COMMANDS[name]
    assert found.help
    assert found.help.splitlines()[0].endswith(".")
    for param in found.params:
        assert param.help, f"{name} {param.name}"


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_head_shows_the_arguments(name: str) -> None:
    (head,) = re.findall(rf"^### `lorakit {name}((?: [^a-z`]*)?)`", PAGE, re.MULTILINE)
    arguments = [param for param in COMMANDS[name].params if param.param_type_name == "argument"]
    expected = "".join(f" {param.metavar}" if param.required else f" [{param.metavar}]" for param in arguments)
    assert head == expected


def test_the_table_of_exit_codes_is_that_of_the_errors() -> None:
    rows = {(int(code), name) for code, name in re.findall(r"^\| (\d+) \| `(\w+)` \|", PAGE, re.MULTILINE)}
    classes = [item for _, item in inspect.getmembers(errors, inspect.isclass) if issubclass(item, LorakitError)]
    assert rows == {(item.exit_code, item.__name__) for item in classes}


def words_of(name: str) -> set[str]:
    (row,) = [line for line in SECTIONS[name].splitlines() if line.startswith("| `--json`")]
    return set(re.findall(r"`(\w+(?:\.\w+)*)`", row))


def test_json_keys_of_runs(workspace: Workspace, cli: Cli) -> None:
    run, other = make_run(workspace.runs), make_run(workspace.runs, unet_lr="2e-4")
    assert words_of("ls") == set(cli("ls", "--json").json[0])
    assert set(cli("show", run.short, "--json").json) == words_of("ls") | {"settings"}
    assert set(cli("verify", run.short, "--json").json) <= words_of("verify")
    found = cli("compare", run.short, other.short, "--json").json
    assert set(found) | set(found["results"]) == words_of("compare")


def test_json_keys_of_presets(workspace: Workspace, cli: Cli) -> None:
    assert set(cli("check", "quickstart", "--json").json) <= words_of("check")
    plan = words_of("plan") - {
        "width",
        "height",
        "count",
        "batches",
        "step",
        "value",
        "from",
        "kind",
        "file",
        "line",
        "text",
    }
    assert plan <= set(cli("plan", "quickstart", "--json").json)
    assert set(cli("init", "--json").json) == words_of("init")


def test_the_number_of_runs_listed_is_the_documented_one() -> None:
    assert f"the newest {listing.SHOWN}" in SECTIONS["ls"]


def test_no_summary_is_cut_in_the_list_of_commands(cli: Cli) -> None:
    assert "..." not in cli("--help").out.partition("Commands:")[2]


def test_help_of_every_command_prints(cli: Cli) -> None:
    for name in COMMANDS:
        done = cli(*name.split(), "--help")
        assert done.out.startswith(f"Usage: lorakit {name}")
        assert "\x1b" not in done.out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_offered(shell: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from lorakit.cli.main import main

    monkeypatch.setenv("_LORAKIT_COMPLETE", f"source_{shell}")
    with pytest.raises(SystemExit):
        main([])
    assert "_LORAKIT_COMPLETE" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("lorakit pl", {"plan"}),
        ("lorakit plan quick", {"quickstart"}),
        ("lorakit show la", {"latest"}),
        ("lorakit show 2025", {"RUN"}),
        ("lorakit show ", {"latest", "SHORT"}),
        ("lorakit bake --de", {"--detach"}),
    ],
)
def test_completion_of_commands_presets_and_runs(
    line: str,
    expected: set[str],
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from lorakit.cli.main import main

    run = make_run(workspace.runs)
    monkeypatch.setenv("_LORAKIT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
    with pytest.raises(SystemExit):
        main([])
    assert set(capsys.readouterr().out.split()) == {
        {"RUN": run.id, "SHORT": run.short}.get(word, word) for word in expected
    }


@pytest.mark.parametrize("option", ["-C {}", "--workspace={}", "--workspace = {}"])
def test_completion_in_another_workspace(
    option: str,
    workspace: Workspace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from lorakit.cli.main import main

    monkeypatch.chdir(tmp_path)
    line = f"lorakit {option.format(workspace.root)} plan quick"
    monkeypatch.setenv("_LORAKIT_COMPLETE", "complete_bash")
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split()) - 1))
    with pytest.raises(SystemExit):
        main([])
    assert capsys.readouterr().out.split() == ["quickstart"]


def test_examples_are_valid_lines() -> None:
    for line in re.findall(r"^    (lorakit [^\n]+)", PAGE, re.MULTILINE):
        if line.startswith("lorakit sweep ") and line.split()[2] not in {name.partition(" ")[2] for name in COMMANDS}:
            line = line.replace("sweep", "sweep run", 1)  # noqa: PLW2901  (run may be left out)
        name = next(name for name in COMMANDS if f"{line} ".startswith(f"lorakit {name} "))
        assert set(re.findall(r" (--[\w-]+)", line)) <= set(options(name)), line
