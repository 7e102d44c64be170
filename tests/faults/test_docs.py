"""docs/reliability.md names 32 faults, what is so afterwards, and tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"

#: Rows whose tests come with a later issue.
LATER: set[int] = set()


def rows() -> dict[int, list[str]]:
    """The cells of each row of the table of faults, by its number."""
    found = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 4 and cells[0].isdigit():
            found[int(cells[0])] = cells
    return found


def named_in(cell: str) -> list[tuple[str, str]]:
    """``file.py::name`` words of a cell; a name alone stands in the file before it."""
    found = []
    file = ""
    for word in re.findall(r"`([^`]+)`", cell):
        path, _, name = word.rpartition("::")
        file = path or file
        found.append((file, name))
    return found


def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_all_32_faults_are_listed() -> None:
    assert sorted(rows()) == list(range(1, 33))


def test_every_test_that_is_named_exists() -> None:
    for number, (_, _, after, cell) in rows().items():
        for file, name in named_in(cell):
            assert (ROOT / "tests" / file).is_file(), f"row {number}: tests/{file}"
            assert name in functions(ROOT / "tests" / file), f"row {number}: {file}::{name}"
            assert after, f"row {number} has tests and does not say what they hold"


def test_every_other_promise_names_tests_that_exist() -> None:
    section = PAGE.read_text(encoding="utf-8").partition("## What else is promised")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ") and not line.startswith("| promise")]
    assert len(lines) >= 7
    for line in lines:
        named = named_in(line.rpartition(" | ")[2])
        assert named, line
        for file, name in named:
            path = ROOT / "tests" / (file or name)
            assert path.is_file(), path
            assert not file or name in functions(path), f"{file}::{name}"


def test_every_row_is_held_by_a_test_or_says_that_it_is_not() -> None:
    for number, (_, _, _, cell) in rows().items():
        assert named_in(cell) or cell == ("later" if number in LATER else "to come"), f"row {number}: {cell!r}"
