"""Starting is light: what is not needed is not imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.made_runs import make_run

HEAVY = {"torch", "numpy", "pydantic", "safetensors", "PIL", "tomlkit", "diffusers", "transformers", "accelerate"}


def loaded(*words: str, cwd: Path) -> set[str]:
    program = (
        "import sys; from lorakit.cli.main import main; code = main(sys.argv[1:]);"
        "print('MODULES', *sorted(sys.modules), file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program, *words], cwd=cwd, capture_output=True, text=True, check=True)
    return set(done.stderr.rpartition("MODULES")[2].split())


@pytest.mark.parametrize(
    "words",
    [["--version"], ["--help"], ["bake", "--help"], ["ls"], ["ls", "--json"], ["ls", "-a", "-C", "."]],
    ids=" ".join,
)
def test_help_and_ls_import_nothing_heavy(words: list[str], tmp_path: Path) -> None:
    make_run(tmp_path / "runs")
    assert not loaded(*words, cwd=tmp_path) & HEAVY


def test_a_comparison_needs_no_more_than_numbers(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "runs"), make_run(tmp_path / "runs", unet_lr="2e-4")]
    modules = loaded("compare", *(run.short for run in runs), cwd=tmp_path)
    assert not modules & (HEAVY - {"pydantic", "numpy", "safetensors"})


@pytest.mark.parametrize("command", ["show", "verify", "logs"])
def test_reading_runs_needs_no_preset_models(command: str, tmp_path: Path) -> None:
    modules = loaded(command, make_run(tmp_path / "runs").short, cwd=tmp_path)
    # typer itself may load pydantic for an argument with a value; ours stay out.
    assert not modules & (HEAVY - {"pydantic"} | {"lorakit.preset.models", "lorakit.plan"})


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["plan", "--help"]], ids=" ".join)
def test_help_needs_no_rich(words: list[str], tmp_path: Path) -> None:
    assert "rich" not in loaded(*words, cwd=tmp_path)


def test_version_needs_not_even_typer(tmp_path: Path) -> None:
    assert "typer" not in loaded("--version", cwd=tmp_path)


@pytest.mark.parametrize(
    "words", [["check", "quickstart"], ["plan", "quickstart"], ["render", "quickstart"]], ids=" ".join
)
def test_no_command_of_ours_imports_torch(words: list[str]) -> None:
    repo = Path(__file__).parents[2]
    assert not loaded(*words, cwd=repo) & {"torch", "diffusers", "transformers", "accelerate"}
