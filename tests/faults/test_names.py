"""Row 28: hostile names, in folders, printed commands, shells and links."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lorakit.archive.birth import slug
from lorakit.archive.run import Run, list_runs
from lorakit.cli.main import main
from lorakit.trainers.render import shell_line
from tests.faults.places import run_of

hostile = st.text(min_size=1, max_size=300) | st.sampled_from(
    ["--x", "-rf", "a b", "a'b\"c", "a\nb", "$(id)", "`id`", "../..", "/etc/passwd", "花見", "x" * 300, "\u202e", "a;b|c&d", "~", "*", "%s", "\x1b[2J"]
)  # fmt: skip


@given(hostile)
def test_row_28_any_name_makes_a_safe_folder(name: str) -> None:
    made = slug(name)
    assert made.isascii()
    assert len(made) <= 40
    assert "/" not in made
    assert made[0].isalnum()
    assert Run(Path(f"/x/2025-11-21_1429_{made}_abcd")).name == made


@given(st.lists(hostile.filter(lambda word: "\0" not in word and "\\" not in word), min_size=1, max_size=6))
def test_row_28_the_printed_command_is_the_command(argv: list[str]) -> None:
    # The shell joins lines that end in a backslash; shlex does not.
    assert shlex.split(shell_line(["program", *argv]).replace("\\\n", "")) == ["program", *argv]


def test_row_28_a_shell_gets_hostile_words_as_they_are() -> None:
    words = [
        "a b",
        "a'b\"c",
        "a\nb",
        "$(id)",
        "`id`",
        "--x",
        "花見",
        "x" * 300,
        "a;b|c&d",
        "*",
        "~",
        "\\",
        "!x",
        "%s",
        "",
        "\t",
    ]
    line = shell_line([sys.executable, "-c", "import sys, json; print(json.dumps(sys.argv[1:]))", *words])
    assert json.loads(subprocess.run(["sh", "-c", line], capture_output=True, check=True).stdout) == words


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(hostile)
def test_row_28_commands_take_hostile_words(work: Path, capsys: pytest.CaptureFixture[str], word: str) -> None:
    for line in (
        ["show", "--", word],
        ["ls", "--", word],
        ["tag", "aaaa", "--", word],
        ["note", "aaaa", "--", word],
        ["rm", "--", f"{word}x"],
    ):
        main(line)
        told = capsys.readouterr()
        assert "Traceback" not in told.err
        assert "mistake of lorakit" not in told.err, f"{line}: {told.err}"
        assert "\x1b[2J" not in told.out + told.err
    assert {run.short for run in list_runs(work / "runs")} == {"aaaa", "bbbb", "cccc"}


def test_row_28_a_loop_of_links_is_walked_once(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(work)
    (run.analysis / "loop").parent.mkdir(exist_ok=True)
    (run.analysis / "loop").symlink_to("..")
    (work / "runs" / "2025-11-21_1429_loop_eeee").symlink_to(".")
    for line in (["ls"], ["verify", "aaaa"], ["export", "aaaa", "-o", "a.zip"], ["rm", "aaaa"], ["purge", "aaaa"]):
        assert main(line) == 0, capsys.readouterr().err
